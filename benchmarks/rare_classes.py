"""AP of rare classes with and without `--repeat_threshold`, on a data set in which classes are thinned out on purpose.

    python benchmarks/rare_classes.py --data path/to/chess --rare black-bishop white-queen --output_dir runs/rare

Of the training images that show a class of `--rare`, `--keep` per class stay; the other images all stay, and so does
the validation split. detrkit_n is trained at each threshold and seed, without repetition for as many more epochs as
repetition adds images, so that all trainings of a data set have equally many steps, and evaluated at their end.

Prints a table: mean AP of the rare classes, of the others, and of all, over seeds. results.json keeps the trainings;
started again, the script continues with those that it lacks.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.repeat_factors import repeat_factors
from detrkit.data.validation.validate import check_dataset
from detrkit.files import write_atomic
from detrkit.training import run_training
from limited import copy_images

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what results.json lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True)
    add("--rare", nargs="+", required=True, help="names of the classes to thin out")
    add("--keep", type=int, default=6, help="training images that stay per class of --rare; default 6")
    add("--thresholds", type=float, nargs="+", default=[0.0, 0.3], help="0: without repetition; default 0 0.3")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=20, help="of the trainings with repetition; default 20")
    add("--image_size", type=int, default=224)
    add("--precision", default="32", help="as in `detrkit train`; default 32")
    add("--output_dir", default="runs/rare")
    flags = parser.parse_args(arguments)
    folder = Path(flags.output_dir)
    data = thin_out(flags.data, flags.rare, flags.keep, folder / "data")
    results = folder / "results.json"
    rows: list[Row] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    for seed in range(flags.seeds):
        for threshold in flags.thresholds:
            key = {"threshold": threshold, "seed": seed}
            if not any(key.items() <= row.items() for row in rows):
                epochs = flags.epochs if threshold else equal_steps(data, max(flags.thresholds), flags.epochs)
                rows.append(key | train(data, threshold, seed, epochs, flags))
                write_atomic(results, json.dumps(rows, indent=1))
    print(table(rows, flags.rare))


def thin_out(data: str, rare: Sequence[str], keep: int, folder: Path) -> Path:
    """Write a COCO copy with at most `keep` training images per class of `rare`, evenly spaced, unless it is there."""
    if (folder / "val.json").exists():  # written last
        return folder
    splits = check_dataset(open_dataset(data)).splits
    split = splits["train"]
    ids = {
        category_id
        for category_id, name in zip(split.categories.ids, split.categories.names, strict=True)
        if name in rare
    }
    classes = {image.id: {obj.category_id for obj in image.objects} for image in split.images}
    chosen = {image for image, shown in classes.items() if not shown & ids}
    for category in sorted(ids):
        missing = keep - sum(category in classes[image] for image in chosen)
        others = [image for image, shown in classes.items() if category in shown and image not in chosen]
        chosen |= {others[k * len(others) // missing] for k in range(missing)} if missing > 0 else set()
    copy_images(splits, {name: chosen if name == "train" else None for name in splits}, folder)
    return folder


def equal_steps(data: Path, threshold: float, epochs: int) -> int:
    """Epochs without repetition that have about as many images as `epochs` with it."""
    split = check_dataset(open_dataset(str(data))).splits["train"]
    factors = repeat_factors(split, threshold)
    return epochs if factors is None else math.ceil(epochs * factors.sum() / len(split))


def train(data: Path, threshold: float, seed: int, epochs: int, flags: argparse.Namespace) -> Row:
    """Train detrkit_n; the AP of each class on the validation images at the end."""
    config = TrainConfig.from_recipe(
        "fast",
        model="detrkit_n",
        data=str(data),
        repeat_threshold=threshold,
        seed=seed,
        epochs=epochs,
        eval_every=epochs,
        image_size=flags.image_size,
        batch_size=4,
        precision=flags.precision,
        device="cpu",
        num_workers=0,
        output_dir=str(Path(flags.output_dir) / f"{threshold}-seed{seed}"),
    )
    run_dir = run_training(config, overwrite=True).run_dir
    with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    prefix = "val/class_AP/"
    per_class = {name.removeprefix(prefix): float(value) for name, value in last.items() if name.startswith(prefix)}
    return {"epochs": epochs, "AP": float(last["val/AP"]), "per_class": per_class}


def table(rows: Sequence[Row], rare: Sequence[str]) -> str:
    """Markdown: AP of the rare classes, of the others and of all, mean and each seed, per threshold."""
    lines = ["| threshold | epochs | AP, rare | AP, others | AP |", "|--:|--:|---|---|--:|"]
    for threshold in sorted({row["threshold"] for row in rows}):
        chosen = [row for row in rows if row["threshold"] == threshold]
        cells = []
        for wanted in (True, False):
            values = [mean(ap for name, ap in row["per_class"].items() if (name in rare) == wanted) for row in chosen]
            cells.append(f"{mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        total = mean(row["AP"] for row in chosen)
        lines.append(f"| {threshold:g} | {chosen[0]['epochs']} | {cells[0]} | {cells[1]} | {total:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
