"""Propose the settings of a training from the data, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detrkit.config.presets import MODELS, WITH_WEIGHTS, WITHOUT_GPU
from detrkit.config.train import TrainConfig
from detrkit.data.auto_tiles import suggest_tiles
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
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
    with suppress(OSError):  # a full disk; what reads the labels says so
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
    if project.labels.has_changes:
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
    if project.labels.has_changes:
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
    runs = [name_of(project, run) for run in find_runs(project) if (run / BEST).is_file()]
    masks = "; the objects have masks, which instance learns as well" if loaded.train.has_masks else ""
    why_model = "that of the weights" if from_run else _why_model(on_cpu, model == default_model)
    rows = [
        _row("task", task, f"boxes alone{masks}" if task == "detect" else "boxes and masks", ["detect", "instance"]),
        _row("weights", weights, _why_weights(weights, model), ["auto", "none", *runs]),
        _row("model", model, why_model, None if from_run else list(MODELS)),
        *_numbers(resolved, {word: text.partition(": ")[2] for word, text in reasons.items()}, loaded.train),
    ]
    return {"summary": loaded.summary, "classes": list(loaded.categories.names), "settings": rows}


def _numbers(config: TrainConfig, why: Mapping[str, str], train: Split) -> list[dict[str, Any]]:
    """Rows of the settings that are numbers, and of the tiles."""
    assert isinstance(config.image_size, int)
    assert isinstance(config.batch_size, int)
    steps = -(-len(train.images) // config.batch_size)
    tiles, why_tiles = suggest_tiles(train, config.image_size, square_resize=config.square_resize)
    return [
        _row("epochs", config.epochs, f"the recipe's; each has {steps} step{'' if steps == 1 else 's'}"),
        _row("max_minutes", config.max_minutes, "0 is no limit; with one, the schedule is fitted into it"),
        _row("image_size", config.image_size, why.get("Size", "that of the weights")),
        _row("batch_size", config.batch_size, why.get("Batch", "the recipe's")),
        _row("num_queries", config.num_queries, why.get("Queries", "that of the weights")),
        _row("lr", config.lr, f"the recipe's, for {config.lr_base_size or 'any number of'} images per step"),
        _row("tiles", "off" if tiles is None else "auto", why_tiles, ["off", "auto"], needed=tiles is not None),
        _row("seed", config.seed, "the same seed gives the same run"),
    ]


def _row(
    name: str, value: Any, reason: str, choices: list[str] | None = None, *, needed: bool = False
) -> dict[str, Any]:
    return {"name": name, "value": value, "choices": choices, "reason": reason, "needed": needed}


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
