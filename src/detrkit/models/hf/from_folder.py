"""Read the folder of a detection transformer of transformers into `Weights`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.errors import WeightsError
from detrkit.models.checkpoints.architecture import Weights
from detrkit.models.checkpoints.hf_files import categories_of, read_preprocessing, read_tensors
from detrkit.models.hf.model_types import MODEL_TYPES, ModelType
from detrkit.models.hf.network import (
    config_of,
    import_transformers,
    missing_package,
    model_args_of,
    quiet_transformers,
    tied_names,
)

_OTHER_USES = {
    "ForImageClassification": "an image classification model",
    "ForInstanceSegmentation": "a segmentation model",
    "ForSegmentation": "a segmentation model",
    "ForSemanticSegmentation": "a segmentation model",
    "ForUniversalSegmentation": "a segmentation model",
    "Model": "a model without heads for classes and boxes",
}
"""End of the name of a class of transformers -> what such a model is."""


_HARMLESS = ("num_batches_tracked", "n_points_scale", "anchors", "valid_mask", "position_ids")
"""Ends of names of counters and constants."""


def check_architecture(config: Mapping[str, Any], folder: Path) -> ModelType:
    """Find the type of the model that a config.json describes.

    Raises:
        WeightsError: it is no detection transformer; the message says what it is.
    """
    model_type = str(config.get("model_type"))
    kind, architecture = MODEL_TYPES.get(model_type), str((config.get("architectures") or [""])[0])
    if kind and architecture in ("", kind.architecture):
        return kind
    use = next((use for end, use in _OTHER_USES.items() if architecture.endswith(end)), "")
    found = f"{architecture or 'a model'} of type {model_type}{f', {use}' if use else ''}"
    if kind:
        raise WeightsError(
            f"expected {kind.architecture} in {folder / 'config.json'}, found {found}; choose weights for boxes"
        )
    known = ", ".join(each.name for each in MODEL_TYPES.values())
    raise WeightsError(
        f"expected a detection transformer ({known}) in {folder / 'config.json'}, found {found}; choose other weights"
    )


def read_transformers(folder: Path, plain: Mapping[str, Any], *, exact: bool = False) -> Weights:
    """Read a detector of transformers; no code of the folder is run and nothing is fetched.

    Args:
        folder: with config.json, the weights and, if the images are prepared otherwise than usual for the type of
            model, preprocessor_config.json.
        plain: content of config.json.
        exact: whether tensors that the model does not have are an error instead of a note.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the folder is incomplete or damaged, or holds another model.
    """
    kind = check_architecture(plain, folder)
    tensors = read_tensors(folder)
    config = config_of(plain, str(folder / "config.json"))
    network, unused = _load(kind, config, tensors, folder)
    if unused:
        found = f"{', '.join(unused[:3])}{f' and {len(unused) - 3} more' if len(unused) > 3 else ''}"
        if exact:
            raise WeightsError(
                f"expected the weights of the {kind.name} that {folder / 'config.json'} describes, found others beside "
                f"them ({found}); download the folder again"
            )
    square = {"height": kind.square, "width": kind.square} if kind.square else {"shortest_edge": 800}
    preprocessing, notes = read_preprocessing(folder, square, kind.normalized)
    return Weights(
        {f"network.{name}": value for name, value in network.state_dict().items()},
        model_args_of(config, tied_names(network)),
        categories_of(plain, int(config.num_labels)),
        preprocessing,
        str(folder),
        (*notes, *([f"{folder} holds tensors that its {kind.name} has no use for: {found}"] if unused else [])),
    )


def _load(kind: ModelType, config: Any, tensors: dict[str, Tensor], folder: Path) -> tuple[Any, list[str]]:
    """The network with the weights of a folder, and the names of tensors that it does not have.

    Raises:
        MissingExtraError: a package that the backbone needs is not installed.
        WeightsError: tensors are missing or have other shapes.
    """
    transformers = import_transformers(f"{folder}, a {kind.name} of transformers,")
    maker = getattr(transformers, kind.architecture)
    try:
        with quiet_transformers(transformers):
            network, info = maker.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except ImportError as problem:
        raise missing_package(str(folder), problem) from problem
    except (RuntimeError, ValueError, OSError) as problem:
        raise WeightsError(
            f"expected the weights of the {kind.name} that {folder / 'config.json'} describes, found others "
            f"({str(problem).strip().splitlines()[0]}); download the folder again"
        ) from problem
    wrong = [f"no {key}" for key in sorted(info["missing_keys"])]
    wrong += [f"{key} {list(found)} for {list(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(
            f"expected the weights of the {kind.name} that {folder / 'config.json'} describes, found "
            f"{', '.join(wrong[:3])}{more}; download the folder again"
        )
    unused = [key for key in sorted(info["unexpected_keys"]) if not key.endswith(_HARMLESS)]
    return network.float().eval(), unused
