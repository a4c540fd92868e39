"""Project folders for the tests of runs, results and trials."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detrkit.evaluation.report import write_report
from detrkit.files import PROCESS
from detrkit.ops.processes import ProcessMark
from tests.serving.conftest import encode, noise

METRICS = """epoch,step,seconds,train/loss,val/loss,val/AP,val/AP50
1,5,2.5,9.5,8.5,0.1,0.2
2,10,2.5,7.5,,,
3,15,2.5,6.5,6,-1,0.4
"""


def make_run(folder: Path, checkpoint: Path | None = None, **settings: Any) -> Path:
    """A run folder as a finished epoch leaves it, with a detector if `checkpoint` is given."""
    folder.mkdir(parents=True)
    content = {"data": "data", "recipe": "fast", "model": "detrkit_n", "epochs": 4} | settings
    (folder / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in content.items()))
    (folder / "metrics.csv").write_text(METRICS)
    if checkpoint:
        for name in ("best.ckpt", "last.ckpt"):
            shutil.copy(checkpoint, folder / name)
    return folder


def make_report(folder: Path, images: Path, *, shift: float = 0.0) -> dict[str, Any]:
    """A report on three images: two objects found, one taken for another class, one missed, and one false alarm."""
    files = {k: images / f"{k}.png" for k in (1, 2, 3)}
    objects = ((1, 7, [10, 10, 20, 20]), (2, 7, [5, 5, 20, 20]), (3, 9, [30, 20, 20, 20]), (3, 7, [5, 5, 20, 20]))
    gt = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 80, "height": 60} for k in files],
        "annotations": [
            {"id": n, "image_id": k, "category_id": c, "bbox": box, "area": 400, "iscrowd": 0}
            for n, (k, c, box) in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "<img src=x onerror=alert(1)>"}, {"id": 9, "name": "nut"}],
    }
    found = (
        (1, 7, [10 + shift, 10, 20, 20], 0.9),
        (2, 9, [5, 5, 20, 20], 0.8),
        (1, 9, [50, 30, 20, 20], 0.7),
        (3, 7, [5, 5, 20, 20], 0.6),
    )
    rows = [{"image_id": k, "category_id": c, "bbox": box, "score": score} for k, c, box, score in found]
    return write_report(
        gt, rows, folder, image_paths=files, bootstrap=10, meta={"data": "data", "split": "val", "weights": "x"}
    )


def mark_running(folder: Path, pid: int, **content: Any) -> None:
    """Write process.json of a process."""
    record = {**asdict(ProcessMark.of(pid)), "activity": "training"} | content
    (folder / PROCESS).write_text(json.dumps(record))


def wait_for(condition: Any, seconds: float = 240) -> Any:
    """What a function returns, once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    raise TimeoutError(f"not true after {seconds} s")


def make_project(folder: Path, checkpoint: Path) -> Path:
    """A project with the runs `one` and `two`, each with a report on three images."""
    (folder / "data").mkdir(parents=True)
    for k in (1, 2, 3):
        (folder / f"data/{k}.png").write_bytes(encode(noise(seed=k)))
    for name, shift in (("one", 0.0), ("two", 40.0)):
        run = make_run(folder / f"runs/{name}", checkpoint)
        make_report(run / "report", folder / "data", shift=shift)
    return folder
