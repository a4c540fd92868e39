"""Images per second on a CPU: exported detectors of detrkit beside those that users pick in their place.

    python benchmarks/cpu_peers.py --data data/bccd [--peer_python peers/bin/python] [--models detrkit_n yolo11n ...]
        [--trained detrkit_n=runs/x yolo11n=best.pt] [--trained_size 320] [--sizes 320 640] [--threads 1 2]
        [--rounds 5] [--parts files time ap] [--output_dir runs/cpu-peers]

Every model is exported to ONNX Runtime and OpenVINO, in fp32 and int8 (`cpu_peers_files.py`), for one square image, and
timed from its input tensor to its output tensors, on one thread and on two. Models of one size and number of threads
take turns. Weights are random, of 80 classes, which takes as long; those of `--trained` are timed too, at the size that
they were trained at, and their AP is measured on the validation images of --data, for each file.

ultralytics is installed by whoever runs this, in an environment of its own that `--peer_python` names; without it,
leave its models out. transformers, onnxruntime, openvino and nncf are needed beside detrkit.

Prints tables, and writes them to table.md and all seconds to results.json. Started again, it continues with the files
and the rows that are missing; `--parts` chooses among writing files, timing and AP.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from cpu_peers_files import (
    OURS,
    PRECISIONS,
    RUNTIMES,
    Model,
    calibration_images,
    letterbox,
    write_files,
)
from detrkit.data.decode.images import read_image
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.validate import check_dataset
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.files import write_atomic

MODELS = ("detrkit_n", "yolo11n", "yolo26n", "dfine_n", "detrkit_s", "rtdetr_r18", "rtdetr_r18_transformers")
LEAST_SECONDS = 0.3
"""A model is run for at least so long per round."""
LOWEST_SCORE, MOST_OVERLAP, MOST_DETECTIONS = 0.001, 0.7, 300
"""Of YOLO's detections when its AP is measured: ultralytics' own values for validation."""
NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}

Results = dict[str, list[dict[str, Any]]]
"""times: rows of a model, runtime, precision, size, threads and seconds; ap: rows of a model, runtime, precision and
AP."""


class Runner:
    """An exported file in its runtime, for float32 arithmetic or int8.

    Args:
        path: a .onnx or .xml file with fixed shapes.
        threads: number of threads.
    """

    def __init__(self, path: Path, threads: int) -> None:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        if path.suffix == ".onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 4
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            types = {"tensor(uint8)": np.uint8, "tensor(bool)": np.bool_, "tensor(float)": np.float32}
            shapes = {each.name: (tuple(each.shape), types[each.type]) for each in session.get_inputs()}
            self.run = lambda inputs: session.run(None, inputs)
        else:
            import openvino

            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
            }
            compiled = openvino.Core().compile_model(path, "CPU", settings)
            for port in compiled.inputs:
                shapes[port.get_any_name()] = (tuple(port.shape), port.get_element_type().to_dtype())
            self.run = lambda inputs: list(compiled(inputs).values())
        rng = np.random.default_rng(0)
        self.noise = {
            name: (rng.random(shape) * (255 if kind == np.uint8 else 1) * (kind != np.bool_)).astype(kind)
            for name, (shape, kind) in shapes.items()
        }

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs for images [1, 3, H, W] in 0..1, for files with this input alone."""
        return cast(list[NDArray[np.float32]], self.run({"images": images}))

    def seconds(self, least: float) -> float:
        """Seconds per image: the mean over as many runs as fill `least` seconds."""
        self.run(self.noise)  # not timed: threads of the file before may still be spinning
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < least:
            self.run(self.noise)
            count += 1
        return (time.perf_counter() - start) / count


def main() -> None:
    """Write the files, time them, measure AP, and print the tables."""
    flags = parse_flags()
    folder: Path = flags.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    models = [Model(name, size) for size in flags.sizes for name in flags.models]
    for each in flags.trained:
        name, _, weights = each.partition("=")
        models.append(Model(name, flags.trained_size, weights))
    path = folder / "results.json"
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"times": [], "ap": []}
    splits = check_dataset(open_dataset(flags.data)).splits if {"files", "ap"} & set(flags.parts) else {}
    if "files" in flags.parts:
        samples = {size: calibration_images(splits["train"], size, flags.calibration) for size in _sizes(models)}
        for model in models:
            write_files(model, folder, flags.data, samples[model.size], flags.peer_python)
    if "ap" in flags.parts:
        measure_ap([model for model in models if model.weights], folder, splits["val"], results)
        write_atomic(path, json.dumps(results, indent=1))
    for size, threads in itertools.product(_sizes(models), flags.threads if "time" in flags.parts else ()):
        results["times"] += time_in_turns([each for each in models if each.size == size], threads, results, flags)
        write_atomic(path, json.dumps(results, indent=1))
    write_atomic(folder / "table.md", tables(results))
    print(tables(results))


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set for calibration and AP")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="with random weights")
    parser.add_argument("--trained", nargs="*", default=[], metavar="MODEL=WEIGHTS", help="run folders or .pt files")
    parser.add_argument("--trained_size", type=int, default=320, help="pixels that these were trained at")
    parser.add_argument("--peer_python", default=sys.executable, help="Python with ultralytics")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640], help="pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibration", type=int, default=32, help="images for int8")
    parser.add_argument("--parts", nargs="+", choices=["files", "time", "ap"], default=["files", "time", "ap"])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/cpu-peers"))
    return parser.parse_args()


def _sizes(models: Sequence[Model]) -> list[int]:
    return sorted({model.size for model in models})


def time_in_turns(
    models: Sequence[Model], threads: int, results: Results, flags: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time all files of the models that have no row yet: in each round every file once."""
    rows = []
    for model, runtime, precision in itertools.product(models, RUNTIMES, PRECISIONS):
        key = {"model": model.label, "runtime": runtime, "precision": precision, "size": model.size, "threads": threads}
        if not any(key.items() <= row.items() for row in results["times"]):
            rows.append((key, Runner(model.file(flags.output_dir, runtime, precision), threads)))
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in range(flags.rounds):
        for (_, runner), times in zip(rows, seconds, strict=True):
            times.append(runner.seconds(LEAST_SECONDS))
    return [key | {"seconds": times} for (key, _), times in zip(rows, seconds, strict=True)]


def measure_ap(models: Sequence[Model], folder: Path, split: Split, results: Results) -> None:
    """AP of every file of trained models that has no row yet."""
    for model, runtime, precision in itertools.product(models, RUNTIMES, PRECISIONS):
        key = {"model": model.label, "runtime": runtime, "precision": precision, "size": model.size}
        if any(key.items() <= row.items() for row in results["ap"]):
            continue
        file = model.file(folder, runtime, precision)
        if model.name in OURS:  # measured when it was exported
            report = json.loads(file.with_name(f"{file.name}.parity.json").read_text(encoding="utf-8"))
            ap = report["accuracy"][0]["exported"]
        else:
            ap = yolo_ap(Runner(file, torch.get_num_threads()), split, model.size)
        results["ap"].append(key | {"AP": ap})


def yolo_ap(runner: Runner, split: Split, size: int) -> float:
    """AP of a file of ultralytics, one class per box, by detrkit's evaluation."""
    detections = []
    for image in split.images:
        pixels, scale, margin = letterbox(read_image(image.path, split.value_range).numpy(), size)
        (out,) = runner(pixels.astype(np.float32) / 255)
        found = yolo_boxes(torch.from_numpy(out[0]), scale, margin, (image.width, image.height))
        for *box, score, label in found.tolist():
            x0, y0, x1, y1 = box
            row = {"image_id": image.id, "category_id": split.categories.ids[int(label)], "score": score}
            detections.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return compute_coco_metrics(split.to_coco(), detections).metrics["AP"]


def yolo_boxes(out: torch.Tensor, scale: float, margin: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Detections of YOLO in the pixels of the image, clipped to it, [n, 6]: x0, y0, x1, y1, score, class.

    Args:
        out: [4 + C, N], centers, sizes and scores, which get non-maximum suppression; or [N, 6], as returned.
        scale: by which the image was resized.
        margin: left and above of it, in pixels.
        size: width and height of the image.
    """
    if out.shape[1] != 6:
        center, sides = out[:2].T, out[2:4].T
        scores, labels = out[4:].max(0)
        boxes = torch.cat([center - sides / 2, center + sides / 2], 1)
        kept = scores > LOWEST_SCORE
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        best = batched_nms(boxes, scores, labels, MOST_OVERLAP)[:MOST_DETECTIONS]
        out = torch.cat([boxes[best], scores[best, None], labels[best, None]], 1)
    shift = torch.tensor([*margin, *margin, 0, 0])
    boxes = ((out - shift)[:, :4] / scale).clamp(min=torch.tensor(0.0), max=torch.tensor([*size, *size]))
    return torch.cat([boxes, out[:, 4:]], 1)


def tables(results: Results) -> str:
    """Images per second by size, in Markdown, and AP."""
    columns = [(runtime, precision) for runtime in RUNTIMES for precision in PRECISIONS]
    head = "".join(f" {NAMES[runtime]} {precision} |" for runtime, precision in columns)
    lines = []
    for size in sorted({row["size"] for row in results["times"]}):
        lines += [f"{size} pixels, images per second:", "", f"| model |{head}", f"|---|{'--:|' * len(columns)}"]
        shown = [row for row in results["times"] if row["size"] == size]
        for name in dict.fromkeys(row["model"] for row in shown):
            cells = [_rates([row for row in shown if row["model"] == name], *column) for column in columns]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    if results["ap"]:
        lines += ["AP:", "", f"| model |{head}", f"|---|{'--:|' * len(columns)}"]
        aps = {(row["model"], row["runtime"], row["precision"]): row["AP"] for row in results["ap"]}
        for name in dict.fromkeys(row["model"] for row in results["ap"]):
            lines.append(f"| {name} | {' | '.join(f'{aps[name, *column]:.3f}' for column in columns)} |")
    return "\n".join(lines) + "\n"


def _rates(rows: Sequence[Mapping[str, Any]], runtime: str, precision: str) -> str:
    """Images per second by number of threads, of the best round: a machine that does more only slows others."""
    found = [row for row in rows if (row["runtime"], row["precision"]) == (runtime, precision)]
    return " / ".join(f"{1 / min(row['seconds']):.1f}" for row in found)


if __name__ == "__main__":
    main()
