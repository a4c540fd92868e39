"""Going on with a run of the original: its checkpoint.pth with model, optimiser and epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from detrkit.errors import WeightsError
from detrkit.models.weights import read_checkpoint


@dataclass(frozen=True)
class OriginalCheckpoint:
    """What the original saves after an epoch.

    Its scheduler is not needed: learning rates here are a function of the epoch and of the settings given now (the
    original silently went back to the saved ones).
    """

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    """None in files for evaluation only, such as the published ones."""
    epoch: int
    """Epochs finished."""

    @classmethod
    def read(cls, path: Path) -> OriginalCheckpoint | None:
        """Read such a file; None where it is a checkpoint of ours.

        Raises:
            WeightsError: it cannot be read or trusted, or holds no model.
        """
        content = read_checkpoint(path)
        if "detrkit" in content:
            return None
        if not isinstance(content.get("model"), dict):
            raise WeightsError(f"expected a checkpoint with a model to resume from in {path}, found {_keys(content)}")
        epoch = int(content["epoch"]) + 1 if "optimizer" in content and "epoch" in content else 0
        return cls(path, content["model"], content.get("optimizer"), epoch)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Load model and optimiser.

        The optimiser's groups fit by position: everything but the backbone, then the backbone, each in the order of
        `named_parameters`, which is the original's. Learning rates and weight decay stay those given now.

        Raises:
            WeightsError: keys or shapes differ.
        """
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise WeightsError(
                f"{self.path} does not fit the model: {first} Resume with the settings it was trained with, and "
                "--recipe classic"
            ) from None
        if self.optimizer is None:
            return
        state, groups = self.optimizer["state"], self.optimizer["param_groups"]
        for number, (given, own) in enumerate(zip(groups, optimizer.param_groups, strict=False)):
            shapes = [state[i]["exp_avg"].shape for i in given["params"] if i in state]
            if len(groups) != len(optimizer.param_groups) or shapes != [p.shape for p in own["params"]][: len(shapes)]:
                raise WeightsError(
                    f"the optimiser state in {self.path} does not fit: group {number} has {len(given['params'])} "
                    f"parameters, but {len(own['params'])} learn now; take only its weights with --weights"
                )
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        try:
            optimizer.load_state_dict(self.optimizer)
        except ValueError as error:
            raise WeightsError(f"the optimiser state in {self.path} does not fit: {error}") from None
        for group, kept in zip(optimizer.param_groups, settings, strict=True):
            group.update(kept)


def _keys(content: dict[str, Any]) -> str:
    return ", ".join(list(content)[:4]) or "nothing"
