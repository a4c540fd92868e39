"""AP after a budget of CPU time: detrkit and what users pick in its place, each from what its installation brings.

    python benchmarks/frontier.py --data data/bccd data/chess --minutes 5 20 --output_dir runs/frontier
    python benchmarks/frontier.py --data data/bccd --models yolo11n yolo26n --peer_python peers/bin/python ...

A minute is a minute of CPU time of the training process, with one thread, so that the load of the machine does not
matter. Every model trains at its own recommended settings and plans its own schedule for the budget: detrkit by
`--max_minutes`, ultralytics by `time`; the models of `peers.py` (fasterrcnn, fcos, rtdetr, dfine_n) have its learning
rates for batches of 16, halved for the batches of 4 that suit short trainings, and a cosine over the budget. All are
evaluated by detrkit, on the whole validation set. ultralytics is installed by whoever runs this, in an environment of
its own that `--peer_python` names.

Prints a table, and writes it to table.md, results.json and frontier.png. Started again, it continues with the trainings
that results.json lacks.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.files import write_atomic
from peers import PEERS

YOLO = ("yolo11n", "yolo26n")
"""Models of ultralytics."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing in results.json, and print the table."""
    flags = parse_flags(arguments)
    folder = Path(flags.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    for data, minutes, model in itertools.product(flags.data, flags.minutes, flags.models):
        key = {"data": Path(data).name, "model": model, "minutes": minutes, "seed": flags.seed}
        if not any(key.items() <= row.items() for row in rows):
            job = {**key, "data": data, "image_size": flags.image_size, "set": flags.set}
            run = folder / "-".join(str(value) for value in key.values())
            if model in YOLO:
                row = train_yolo(job, run, flags.peer_python)
            else:
                row = _in_process([sys.executable, __file__, "--peer" if model in PEERS else "--detrkit"], job, run)
            rows.append(key | row)
            write_atomic(results, json.dumps(rows, indent=1))
            write_atomic(folder / "table.md", table(rows))
            write_atomic(folder / "frontier.png", draw(rows))
    print(table(rows))


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, nargs="+")
    add("--minutes", type=float, nargs="+", default=[5.0, 20.0], help="budgets in minutes of CPU time")
    add(
        "--models",
        nargs="+",
        default=["detrkit_n"],
        help="named models of detrkit, yolo11n, yolo26n, names of peers.py",
    )
    add("--peer_python", default=sys.executable, help="Python with ultralytics")
    add("--image_size", type=int, default=320)
    add("--seed", type=int, default=0)
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of `detrkit train`")
    add("--output_dir", default="runs/frontier")
    return parser.parse_args(arguments)


def train_yolo(job: dict[str, Any], run: Path, python: str) -> dict[str, Any]:
    """Train a model of ultralytics in a process of its own, and evaluate its detections."""
    val = write_yolo_data(job["data"], run / "data")
    result = _in_process([python, str(Path(__file__).with_name("frontier_yolo.py"))], job, run)
    detections = json.loads((run / "detections.json").read_text(encoding="utf-8"))
    ids = {image.path.name: image.id for image in val.images}
    categories = val.categories.ids
    for each in detections:
        each["image_id"] = ids[each.pop("file_name")]
        each["category_id"] = categories[each.pop("class")]
    metrics = compute_coco_metrics(val.to_coco(), detections).metrics
    return result | {"AP": metrics["AP"], "AP50": metrics["AP50"]}


def _in_process(command: list[str], job: dict[str, Any], run: Path) -> dict[str, Any]:
    """Run a training process on one thread; the result that it writes, with its CPU minutes."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (run / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run([*command, str(run)], check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return result


def detrkit_process(run: Path) -> None:
    """Train as `detrkit train --max_minutes` does, on the clock of this process, and write result.json."""
    import yaml

    from detrkit.config.train import TrainConfig
    from detrkit.training import run_training, state

    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    state.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    others = {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in job["set"])}
    config = TrainConfig.from_recipe(
        "fast",
        **{
            "model": job["model"],
            "data": job["data"],
            "image_size": job["image_size"],
            "max_minutes": job["minutes"],
            "seed": job["seed"],
            "epochs": 300,
            "num_threads": 1,
            "num_workers": 0,
            "device": "cpu",
            "output_dir": str(run / "run"),
            **others,
        },
    )
    result = run_training(config, overwrite=True)
    with (result.run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = float(list(csv.DictReader(file))[-1]["epoch"])
    metrics = {name: result.metrics[name] for name in ("AP", "AP50")}
    content = {"cpu_minutes": time.process_time() / 60, "epochs": epochs, **metrics}
    (run / "result.json").write_text(json.dumps(content), encoding="utf-8")


def peer_process(run: Path) -> None:
    """Train a model of `peers.py` on the clock of this process, and write result.json."""
    import torch

    from runner import Job
    from train_one import train_peer

    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    plan = Job(
        name=job["model"],
        base=job["model"],
        settings={"lr": PEERS[job["model"]].lr / 2},
        data=job["data"],
        epochs=1000,
        image_size=job["image_size"],
        batch_size=4,
        seed=job["seed"],
        eval_every=1000,
        max_minutes=job["minutes"],
    )
    last = train_peer(plan, run, torch.device("cpu"), time.process_time).curve[-1]
    content = {"cpu_minutes": time.process_time() / 60, "epochs": last.epoch, "AP": last.AP, "AP50": last.AP50}
    (run / "result.json").write_text(json.dumps(content), encoding="utf-8")


def write_yolo_data(data: str, folder: Path) -> Split:
    """Write a data set for ultralytics, with links to the images; the validation split, to evaluate on."""
    splits = check_dataset(open_dataset(data)).splits
    categories = splits["train"].categories
    for name in ("train", "val"):
        images, labels = folder / "images" / name, folder / "labels" / name
        for each in (images, labels):
            each.mkdir(parents=True, exist_ok=True)
        for image in splits[name].images:
            link = images / image.path.name
            if not link.exists():
                link.symlink_to(image.path.resolve())
            lines = []
            for obj in image.objects:
                x0, y0, x1, y1 = obj.box
                box = (x0 + x1) / 2 / image.width, (y0 + y1) / 2 / image.height
                box += (x1 - x0) / image.width, (y1 - y0) / image.height
                label = categories.ids.index(obj.category_id)
                lines.append(" ".join([str(label), *(f"{value:.6f}" for value in box)]))
            (labels / image.path.with_suffix(".txt").name).write_text("\n".join(lines), encoding="utf-8")
    names = [f"  {index}: {json.dumps(name)}" for index, name in enumerate(categories.names)]
    text = [f"path: {folder.resolve()}", "train: images/train", "val: images/val", "names:", *names]
    (folder / "data.yaml").write_text("\n".join(text), encoding="utf-8")
    return splits["val"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown, by data set and budget, the best AP first."""
    lines = ["| data | budget | model | AP | AP50 | epochs | CPU minutes |", "|---|--:|---|--:|--:|--:|--:|"]
    for row in sorted(rows, key=lambda row: (row["data"], row["minutes"], -row["AP"])):
        cells = [row["data"], f"{row['minutes']:g}", row["model"], f"{row['AP']:.3f}", f"{row['AP50']:.3f}"]
        cells += [f"{row['epochs']:.0f}", f"{row['cpu_minutes']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with one panel per data set: AP by budget, a bar per model, means over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = sorted({row["data"] for row in rows})
    models = list(dict.fromkeys(row["model"] for row in rows))
    budgets = sorted({row["minutes"] for row in rows})
    figure = Figure(figsize=(1.2 + len(sets) * (0.5 + 0.5 * len(models) * len(budgets)), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, data in zip(panels, sets, strict=True):
        for number, model in enumerate(models):
            for place, minutes in enumerate(budgets):
                wanted = (data, model, minutes)
                found = [row["AP"] for row in rows if (row["data"], row["model"], row["minutes"]) == wanted]
                if found:
                    x = place + (number - (len(models) - 1) / 2) * 0.8 / len(models)
                    bar = axes.bar(x, mean(found), 0.76 / len(models), color=f"C{number}", label=model)
                    axes.bar_label(bar, fmt="%.2f", fontsize=8)
        axes.set(title=data, xticks=range(len(budgets)), xticklabels=[f"{minutes:g} min" for minutes in budgets])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AP (IoU 0.50:0.95)")
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--detrkit"]:
        detrkit_process(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--peer"]:
        peer_process(Path(sys.argv[2]))
    else:
        main()
