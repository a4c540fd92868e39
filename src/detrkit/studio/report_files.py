"""The reports of a project: evaluations of its runs, and the images that they were measured on."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from detrkit.errors import DataError
from detrkit.evaluation.image_pairs import NAME as PAIRS
from detrkit.studio.project import Project
from detrkit.studio.run_folders import RunProcess, describe_run, find_runs, name_of, state_of

METRICS = "metrics.json"

SHOWN = (
    *("made_by", "images", "objects", "detections", "coco", "panoptic", "best_threshold", "per_class"),
    *("confusion_matrix", "mistakes", "pr_curves", "intervals"),
)
"""Entries of metrics.json that the page shows."""


def list_reports(project: Project) -> list[dict[str, Any]]:
    """List the reports of all runs, and the evaluations that are under way or have failed; newest first."""
    rows = []
    for run in find_runs(project):
        for folder in [run / "report", *sorted(run.glob("report-*"))]:
            process = RunProcess.read(folder)
            state, message = state_of(folder, process)
            written = (folder / METRICS).is_file()
            alive = process is not None and process.mark.alive
            if not (written or alive or state == "failed"):
                continue
            row = {"report": name_of(project, folder), "run": name_of(project, run), "name": run.name}
            row |= {"state": "running" if alive else "finished" if written else "failed", "message": message}
            rows.append(row | (_headline(folder) if written else {}))
    return rows[::-1]


def _headline(folder: Path) -> dict[str, Any]:
    """What tells a report from others: its data, number of images, and first metric."""
    try:
        content = _load(folder / METRICS)
    except DataError:
        return {}
    made_by = content.get("made_by", {})
    boxes = content.get("coco", {}).get("bbox", {})
    return {
        "data": made_by.get("data", ""),
        "split": made_by.get("split", ""),
        "images": content.get("images"),
        "AP": boxes.get("AP"),
        "pairs": (folder / PAIRS).is_file(),
    }


def read_report(project: Project, report: str) -> dict[str, Any]:
    """The numbers of a report, see `evaluation.report.write_report`.

    Raises:
        DataError: there is no such report, or it cannot be read.
    """
    folder = find_report(project, report)
    content = _load(folder / METRICS)
    run = folder.parent
    return {
        "report": name_of(project, folder),
        "run": describe_run(project, run),
        **{name: content[name] for name in SHOWN if name in content},
    }


def read_pairs(project: Project, report: str) -> dict[str, Any]:
    """The objects and detections of each image of a report, see `evaluation.image_pairs`.

    `name` of an image is that in the project, if it is one of it and can be labeled.

    Raises:
        DataError: there are none, as in a report of an earlier version, or they cannot be read.
    """
    folder = find_report(project, report)
    if not (folder / PAIRS).is_file():
        raise DataError(
            f"expected {PAIRS} in {name_of(project, folder)}, found none; evaluate the run again, since it was "
            "evaluated by an earlier version, or segments alone"
        )
    content = _load(folder / PAIRS)
    for image in content["images"]:
        path = Path(os.path.normpath(folder / (image["path"] or "")))
        name = path.relative_to(project.root).as_posix() if path.is_relative_to(project.root) else ""
        image["name"] = name if name in project.catalog.images else None
    return content


def find_report(project: Project, report: str) -> Path:
    """The folder of a report, by its path in the project.

    Raises:
        DataError: there is no such report.
    """
    folder = project.inside(report)
    if not folder.is_dir() or not (folder / METRICS).is_file():
        raise DataError(f"expected a report of this project, found none at {report[:200]!r}; reload the page")
    return folder


def find_image(project: Project, report: str, image_id: int) -> Path:
    """The file of an image of a report.

    Raises:
        DataError: there is no such image, or it lies outside of the project.
    """
    folder = find_report(project, report)
    pairs = folder / PAIRS
    found = _paths(pairs, pairs.stat().st_mtime_ns).get(image_id) if pairs.is_file() else None
    if not found:
        raise DataError(f"expected an image of the report, found none with the id {image_id}; reload the page")
    path = (folder / found).resolve()
    if not path.is_relative_to(project.root):
        raise DataError(
            f"{Path(found).name[:200]} lies outside of the project folder, which alone is shown here; start the studio "
            "in a folder that has both the images and the runs"
        )
    return path


@lru_cache(maxsize=8)
def _paths(pairs: Path, changed: int) -> dict[int, str | None]:
    """The path of each image of images.json, which is read again when it has changed."""
    return {int(image["id"]): image["path"] for image in _load(pairs)["images"]}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path.name} of the report: {error}; evaluate again") from None
    if not isinstance(content, dict):
        raise DataError(f"expected an object in {path.name} of the report, found {type(content).__name__}")
    return content
