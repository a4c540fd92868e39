"""Check that a Hugging Face folder holds a detector and all of its weights, before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrkit.errors import WeightsError
from detrkit.models.checkpoints.hf_files import read_json

_TASKS = {
    "ForImageClassification": "an image classification model",
    "ForImageClassificationWithTeacher": "an image classification model",
    "ForSemanticSegmentation": "a semantic segmentation model",
    "ForUniversalSegmentation": "a segmentation model",
    "ForInstanceSegmentation": "an instance segmentation model",
    "ForZeroShotObjectDetection": "a detector of objects that a text describes",
    "ForZeroShotImageClassification": "an image classification model",
    "ForMaskedImageModeling": "a backbone without a detector",
    "ForPreTraining": "a backbone without a detector",
    "ForDepthEstimation": "a depth estimation model",
    "ForKeypointDetection": "a keypoint model",
    "ForPoseEstimation": "a keypoint model",
    "ForVideoClassification": "a video classification model",
    "ForMaskGeneration": "a mask model that needs prompts",
    "ForCausalLM": "a language model",
    "ForMaskedLM": "a language model",
    "ForConditionalGeneration": "a language model",
    "ForSequenceClassification": "a text classification model",
    "ForQuestionAnswering": "a language model",
    "Backbone": "a backbone without a detector",
}
"""Ending of a class of transformers -> its task, for tasks other than detection."""


def check_folder(folder: Path, name: str = "") -> None:
    """Check that a folder with a config.json holds a detector, and its weights completely.

    Args:
        folder: the Hugging Face folder.
        name: its name in messages; empty: the path.

    Raises:
        WeightsError: the model is for another task or of other software, or weights are missing.
    """
    check_task(read_json(folder / "config.json"), name or str(folder))
    missing = missing_weights(folder)
    if missing:
        raise WeightsError(
            f"expected all weights (model.safetensors or pytorch_model.bin) beside {folder / 'config.json'}, found "
            f"{missing}; download {name or 'the model'} again"
        )


def check_task(config: Mapping[str, Any], name: str) -> None:
    """Check that a config.json is that of a detector of transformers. Its family is not checked.

    Args:
        config: the settings.
        name: the model's path or id, for the message.

    Raises:
        WeightsError: it is that of another task, or of other software.
    """
    architectures = config.get("architectures") or [""]
    architecture = str(architectures[0])
    if not architecture and "model_type" not in config:
        timm = "pretrained_cfg" in config
        found = "a backbone of timm" if timm else f"a config.json of other software ({', '.join(list(config)[:4])})"
        raise WeightsError(
            f"expected a detector of transformers in {name}, found {found}; "
            + ("give it as --backbone timm:NAME, or " if timm else "")
            + "choose a detector: `detrkit models` lists them"
        )
    task = next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), "")
    if task:
        raise WeightsError(
            f"expected a detector in {name}, found {task} ({architecture}); choose a detector: `detrkit models` lists "
            "them"
        )


def missing_weights(folder: Path) -> str:
    """The weights that a Hugging Face folder lacks, in words; empty if it has them all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({Path(str(name)).name for name in read_json(index).get("weight_map", {}).values()})
        lacking = [shard for shard in shards if not (folder / shard).is_file()]
        if shards and not lacking:
            return ""
        words = f"{len(shards) - len(lacking)} of the {len(shards)} files that {index.name} lists"
        return f"{words}, without {_some(lacking)}{_unfinished(folder)}"
    if any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        return ""
    return content_of(folder)


def content_of(folder: Path) -> str:
    """The files and unfinished downloads of a folder, in words."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return f"{_some(names) if names else 'an empty folder'}{_unfinished(folder)}"


def _unfinished(folder: Path) -> str:
    """The unfinished downloads of a folder or of its cache, in words that continue a sentence; empty if there are none.

    `hf download --local-dir` keeps them below the folder, the cache of the hub beside its snapshots.
    """
    places = [folder, folder / ".cache" / "huggingface" / "download"]
    if folder.parent.name == "snapshots":
        places.append(folder.parent.parent / "blobs")
    files = [path for place in places if place.is_dir() for path in place.glob("*.incomplete")]
    size = sum(path.stat().st_size for path in files)
    return f" and an unfinished download of {size:,} bytes ({files[0].name})" if files else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
