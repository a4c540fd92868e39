"""Weights of a backbone alone, published ones or files, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from detrkit.errors import WeightsError
from detrkit.files import checkpoint_in


def published_resnet(name: str) -> dict[str, Tensor]:
    """Download the weights that the reference DETR starts from, once: torchvision's first ones for ImageNet.

    Raises:
        WeightsError: the download failed.
    """
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as problem:  # no network, or a file whose hash is wrong
        cache = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        raise WeightsError(
            f"could not get the published weights of {name} ({problem}); download {url} to {cache} or give the file as "
            "--backbone_weights PATH, or start without: --backbone_weights none"
        ) from problem
    return state


def read_state_dict(path: str) -> Mapping[str, Any]:
    """Read the state dict of a file (bare, or under "model" or "state_dict"; .pth or .safetensors) or a run folder.

    Raises:
        WeightsError: there is no such file, or it is of another kind.
    """
    # imported here, since that package imports models
    from detrkit.models.checkpoints.safe import read_checkpoint, read_safetensors

    if path.endswith(".safetensors") and Path(path).is_file():
        return read_safetensors(Path(path))
    state = read_checkpoint(checkpoint_in(path))
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return state


def load_body(body: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load every entry of `body` from weights of a classifier or a DETR; other entries of these are ignored.

    Raises:
        WeightsError: an entry is missing or has another shape; the message names `source`.
    """
    available = {_plain(key): value for key, value in state.items() if isinstance(value, Tensor)}
    expected = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in expected if _plain(key) not in available]
    if missing:
        raise WeightsError(
            f"expected weights for the backbone in {source}, found none for {len(missing)} of {len(expected)} entries, "
            f"the first {missing[0]}; check that --backbone names the architecture of the file"
        )
    for key, value in expected.items():
        if available[_plain(key)].shape != value.shape:
            raise WeightsError(
                f"expected {key} of shape {list(value.shape)} in {source}, found {list(available[_plain(key)].shape)}; "
                "check that --backbone names the architecture of the file"
            )
    if any(isinstance(m, nn.GroupNorm) for m in body.modules()) and any(k.endswith("running.mean") for k in available):
        raise WeightsError(
            f"expected weights that were trained with group norm, found batch-norm statistics in {source}; "
            "use --backbone_norm frozen or batch with them"
        )
    body.load_state_dict(body.state_dict() | {key: available[_plain(key)] for key in expected})


def _plain(key: str) -> str:
    """A key without the prefixes of wrappers; timm's feature extractors also write _ for some dots."""
    key = re.sub(r"^(module\.|model\.|net\.|backbone\.)+", "", key.rpartition("backbone.0.body.")[2])
    return key.replace("_", ".")
