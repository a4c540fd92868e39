"""Propose the settings of a training from the data, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrkit.config.presets import MODELS, WITH_WEIGHTS, WITHOUT_GPU
from detrkit.config.train import TrainConfig
from detrkit.data.auto_tiles import suggest_tiles
from detrkit.data.formats.detect import open_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.files import BEST
from detrkit.studio.project import Project
from detrkit.studio.run_folders import find_runs, name_of

RECIPE = "fast"
"""Recipe of trainings that are started in the studio."""

MOST_CANDIDATES = 40
"""Most places that are listed as data sets."""

MOST_OPENED = 8
"""Most of them that are tried in search of the first choice."""


def list_data(project: Project) -> dict[str, Any]:
    """List the places of a project that may be data sets, and the first one that is."""
    write_labels(project)
    places = list(_places(project))[:MOST_CANDIDATES]
    first = None
    for place in places[:MOST_OPENED]:
        try:
            dataset = open_dataset(place, segmentations=False)
        except (DataError, ConfigError):
            continue
        if any(image.objects for split in dataset.splits.values() for image in split.images):
            first = name_of(project, place)
            break
    return {"places": [name_of(project, place) for place in places], "first": first}


def _places(project: Project) -> Iterator[Path]:
    """The labels of the studio, the project folder, its annotation files, and its folders with theirs."""
    if project.labels.saved:
        yield project.labels.folder
    yield project.root
    yield from _files(project.root)
    others = {*find_runs(project), project.runs, project.labels.folder} - {project.root}
    with os.scandir(project.root) as entries:
        folders = sorted(
            Path(entry.path)
            for entry in entries
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        )
    for folder in folders:
        if folder not in others and folder.name not in ("report", "tensorboard"):
            yield folder
            yield from _files(folder)


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.glob("*.json") if path.name not in _OURS)
    except OSError:
        return


_OURS = ("categories.json", "process.json", "split.json", "metrics.json", "images.json", "folds.json")


def write_labels(project: Project) -> None:
    """Write what was labeled in the studio into its data set, which otherwise follows within seconds."""
    if project.labels.saved:
        project.catalog.wait()
        project.labels.write_coco()


def propose(project: Project, data: str, choices: dict[str, Any]) -> dict[str, Any]:
    """Propose the settings of a training on a data set.

    Args:
        project: project folder.
        data: the data set, a path in the project.
        choices: settings that are chosen already: model, weights and task.

    Returns:
        JSON-like: `summary`, lines about the data, `classes`, and `settings`, each with name, value, choices (null:
        any), reason, and needed: whether training finds this value only if it is told.

    Raises:
        DataError: the data set cannot be trained on.
        ConfigError: a choice does not fit.
    """
    import torch

    from detrkit.training.resolve_auto import resolve_auto
    from detrkit.training.setup import load_data

    write_labels(project)
    path = project.inside(data)
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    task, weights = str(choices.get("task") or "detect"), str(choices.get("weights") or "auto")
    default_model = WITHOUT_GPU[RECIPE] if on_cpu else str(TrainConfig.from_recipe(RECIPE).model)
    from_run = weights not in ("auto", "none")
    model = "" if from_run else str(choices.get("model") or default_model)
    given = {"weights": name_of(project, project.inside(weights))} if from_run else {"weights": weights, "model": model}
    config = TrainConfig.from_recipe(RECIPE, **given, task=task, data=str(path))
    loaded = load_data(config)
    resolved, reasons = resolve_auto(config, loaded.train, None, on_cpu=on_cpu)
    why = {word: text.partition(": ")[2] for word, text in reasons.items()}
    assert isinstance(resolved.image_size, int)
    assert isinstance(resolved.batch_size, int)
    tiles, why_tiles = suggest_tiles(loaded.train, resolved.image_size, square_resize=config.square_resize)
    steps = -(-len(loaded.train.images) // resolved.batch_size)
    runs = [name_of(project, run) for run in find_runs(project) if (run / BEST).is_file()]
    masks = loaded.train.has_masks
    rows: list[tuple[str, Any, list[str] | None, str]] = [
        (
            "task",
            task,
            ["detect", "instance"],
            "boxes alone" + ("; the objects have masks, which instance learns as well" if masks else ""),
        ),
        (
            "weights",
            weights,
            ["auto", "none", *runs],
            _why_weights(weights, model),
        ),
        (
            "model",
            model,
            None if from_run else list(MODELS),
            "that of the weights" if from_run else _why_model(on_cpu, model == default_model),
        ),
        ("epochs", resolved.epochs, None, f"the recipe's; each has {steps} steps"),
        ("max_minutes", resolved.max_minutes, None, "0 is no limit; with one, the schedule is fitted into it"),
        ("image_size", resolved.image_size, None, why.get("Size", "that of the weights")),
        ("batch_size", resolved.batch_size, None, why.get("Batch", "the recipe's")),
        ("num_queries", resolved.num_queries, None, why.get("Queries", "that of the weights")),
        ("lr", resolved.lr, None, f"the recipe's, for {resolved.lr_base_size or 'any number of'} images per step"),
        ("tiles", "off" if tiles is None else "auto", ["off", "auto"], why_tiles),
        ("seed", resolved.seed, None, "the same seed gives the same run"),
    ]
    return {
        "summary": loaded.summary,
        "classes": list(loaded.categories.names),
        "settings": [
            {
                "name": name,
                "value": value,
                "choices": choice,
                "reason": reason,
                "needed": name == "tiles" and value != config.tiles,
            }
            for name, value, choice, reason in rows
        ],
    }


def _why_weights(weights: str, model: str) -> str:
    if weights == "none":
        return "random ones, from scratch"
    if weights != "auto":
        return "goes on from this run's detector, with its architecture; classes are matched by name"
    if model in WITH_WEIGHTS:
        return f"those of {model} that come with detrkit, a better start than random ones"
    return "no weights of this model come with detrkit, so it starts from random ones"


def _why_model(on_cpu: bool, is_default: bool) -> str:
    if not is_default:
        return "your choice"
    return "the fastest, since there is no GPU here" if on_cpu else "the recipe's; this machine has a GPU"
