"""Fetch detectors of the Hugging Face hub: settings, preprocessing and tensors into its usual cache, never code."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from detrkit.config.presets import MODELS
from detrkit.errors import WeightsError
from detrkit.models.checkpoints.hf_checks import check_task, missing_weights
from detrkit.models.checkpoints.hf_files import read_json
from detrkit.models.checkpoints.hub_models import HUB_MODELS
from detrkit.models.checkpoints.published import PUBLISHED
from detrkit.models.checkpoints.safe import FROZEN_GRAPHS

_SETTINGS = ["config.json", "preprocessor_config.json"]
_TENSORS = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model.bin"]
"""Files of a model; the last where it has no safetensors."""
_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", *FROZEN_GRAPHS)
"""Endings of files of weights."""


def hub_id_of(name: str) -> str | None:
    """The id on the Hugging Face hub that a name of `--weights` means; None if it means none.

    OWNER/NAME is a path, not an id, if OWNER is a folder here or `runs`, or NAME ends like a checkpoint.
    """
    if name in HUB_MODELS:
        return HUB_MODELS[name].hub_id
    parts = re.fullmatch(r"(\b[\w.-]+\b)/\b[\w.-]{1,96}\b", name)
    if not parts or re.search(r"--|\.\.|\.git$", name):  # which the hub allows in no id
        return None
    if parts[1] == "runs" or Path(parts[1]).is_dir() or name.lower().endswith(_FILES):
        return None
    return name


def unknown_weights(name: str) -> str:
    """The error message for a name of `--weights` that is neither a file, a folder, a named model nor a hub id."""
    if name in MODELS:
        return (
            f"expected trained weights, found {name}, a named model without published ones; train it with "
            f"--model {name} in place of --weights"
        )
    return (
        f"expected weights at {name}, found no such file or folder, nor a model of that name"
        f"{_did_you_mean(name)} (`detrkit models` lists the names)"
    )


def _did_you_mean(name: str) -> str:
    """`; did you mean ...?` with the nearest name or id of published weights, whatever its case, `-` and `_`."""
    known = {_plain(each): each for each in (*PUBLISHED, *HUB_MODELS, *(m.hub_id for m in HUB_MODELS.values()))}
    close = get_close_matches(_plain(name), known, n=1)
    return f"; did you mean {known[close[0]]}?" if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def cached(hub_id: str) -> Path | None:
    """The folder of a model in the cache of the Hugging Face hub ($HF_HUB_CACHE); None unless it is complete."""
    folder = _snapshot(hub_id)
    return folder if folder and not missing_weights(folder) else None


def _snapshot(hub_id: str) -> Path | None:
    """The folder of a model in the cache, complete or not; None if it has no config.json."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def fetch_from_hub(hub_id: str, name: str = "") -> Path:
    """Find a model in the cache of the Hugging Face hub, else download it into that cache, and return its folder.

    Downloaded are config.json, preprocessor_config.json and the safetensors of the model, or pytorch_model.bin if it
    has none. A model for another task is refused after config.json. A complete model in the cache is used without
    access to the network.

    Args:
        hub_id: owner and name on the hub.
        name: its short name, for messages; empty: the id.

    Raises:
        WeightsError: there is no such model, it is gated or for another task, or the hub cannot be reached; the message
            then has the command that fetches the model on another machine.
    """
    folder = cached(hub_id)
    if folder:
        return folder
    folder = _download(hub_id, name, _SETTINGS)
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"expected a model of transformers under the id {hub_id}, found no config.json on the hub or in {folder}; "
            f"if a download was interrupted, {_elsewhere(hub_id, name)}; else choose another: `detrkit models` lists "
            "detectors"
        )
    check_task(read_json(folder / "config.json"), hub_id)
    folder = _download(hub_id, name, [*_SETTINGS, *_TENSORS])
    if not any(folder.glob("*.safetensors")):
        folder = _download(hub_id, name, [*_SETTINGS, *_PICKLED])
    missing = missing_weights(folder)
    if missing:
        raise WeightsError(
            f"expected all weights (model.safetensors or pytorch_model.bin) under the id {hub_id}, found {missing} on "
            f"the hub or in {folder}; if a download was interrupted, {_elsewhere(hub_id, name)}; else choose another: "
            "`detrkit models` lists detectors"
        )
    return folder


def _elsewhere(hub_id: str, name: str) -> str:
    """How to fetch a model on another machine, as a part of a sentence."""
    folder = name or hub_id.rpartition("/")[2]
    return (
        f'on a machine with a network run: hf download {hub_id} --include "*config.json" --include '
        f'"model*.safetensors*" --local-dir {folder}; then copy that folder here and give --weights {folder}'
    )


def _download(hub_id: str, name: str, patterns: list[str]) -> Path:
    """Download the files of a model that match the patterns, and return its folder in the cache.

    Raises:
        WeightsError: there is no such model, it is gated, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except errors.GatedRepoError as problem:
        raise WeightsError(
            f"expected weights that anybody may fetch under the id {hub_id}, found a gated model; ask for access at "
            f"https://huggingface.co/{hub_id}, log in with `hf auth login`, and start again"
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise WeightsError(
            f"expected weights at {hub_id}, found no such file or folder, nor a public model of that id on the Hugging "
            f"Face hub{_did_you_mean(hub_id)} (`detrkit models` lists names and ids)"
        ) from problem
    except Exception as problem:  # of the HTTP library, which differs between versions of huggingface_hub
        raise WeightsError(_unreachable(hub_id, name, problem)) from problem


def _unreachable(hub_id: str, name: str, problem: Exception) -> str:
    """The error message for a model that is not in the cache while the hub cannot be reached."""
    from huggingface_hub import constants

    cause = problem.__cause__ or problem
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{type(cause).__name__}: {cause}"
    meaning = f"{name} ({hub_id} on the Hugging Face hub)" if name else f"a file, a folder or a hub model {hub_id}"
    part = _snapshot(hub_id)
    found = f"only a part of it in the hub's cache ({missing_weights(part)})" if part else "neither"
    return (
        f"expected {meaning} on this machine or on the hub, found {found}, and the hub cannot be reached ({reason}); "
        f"{_elsewhere(hub_id, name)}"
    )
