"""Speed of exported files on this CPU, beside the model in PyTorch, in one run and in turns.

    python benchmarks/export.py [--weights runs/x] [--model detrkit_n] [--size 800 1066] [--batch_size 1] [--threads 2]
        [--repeats 5] [--variants plain,onnx,onnx-lookups] [--fixed] [--clock user] [--output_dir runs/export]
    python benchmarks/export.py --weights runs/x --data DATA --variants onnx-int8,onnx-searched [--max_ap_drop 0.005]

Prints a table and writes it to export.md and export.json. Without --weights they are random, which takes as long; int8
is calibrated on noise then; `lookups` is the graph for TensorRT, without GridSample. With --data, files are exported
as `detrkit export` does, and the table has their AP: `int8` is everything in int8 however much AP it loses, `searched`
the file that loses at most --max_ap_drop. Seconds by the clock, or with --clock user those of the process on all its
threads, the least of all turns and their median; files that exist already in the output folder are not exported again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

import detrkit
from detrkit import Categories, Detector
from detrkit.config.commands import ExportConfig
from detrkit.exporting.formats.table import export_format
from detrkit.exporting.writing import make_metadata, write_file
from detrkit.inference.backend import Backend, PlainBackend
from detrkit.inference.exported import ExportedBackend
from detrkit.inference.optimized import OptimizedBackend
from inference import make_model

VARIANTS = ("plain", "optimized", "torch", "onnx", "onnx-int8", "openvino", "openvino-bf16", "openvino-int8")
ALSO = ("onnx-lookups", "openvino-lookups", "onnx-searched", "openvino-searched")
"""Variants that are measured when named."""
CLOCKS = {"wall": time.perf_counter, "user": time.process_time}


def main() -> None:
    """Export, measure, print, write."""
    options = parsed()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    size = tuple(options.size)
    if options.weights:
        detector = Detector.load(options.weights, device="cpu", precision="plain")
    else:
        model = make_model(options.model)
        detector = Detector(model, Categories.unnamed(model.num_classes), min(size))
    images = torch.randint(0, 256, (options.batch_size, 3, *size), dtype=torch.uint8)
    padding = torch.zeros(options.batch_size, *size, dtype=torch.bool)
    backends = {}
    for variant in options.variants.split(","):
        if variant == "plain":
            backends[variant] = PlainBackend(detector.model)
        elif variant == "optimized":
            backends[variant] = OptimizedBackend(detector.model, torch.device("cpu"))
        else:
            backends[variant] = Detector.load(exported(variant, detector, options), device="cpu").backend
    times: dict[str, list[float]] = {variant: [] for variant in backends}
    with torch.no_grad():
        for turn in range(options.repeats + 1):
            for variant, backend in backends.items():
                # not timed: threads of the variant before may still be spinning
                backend.forward_detection(images, padding)
                clock = CLOCKS[options.clock]
                start = clock()
                backend.forward_detection(images, padding)
                if turn:  # the first one warms up
                    times[variant].append((clock() - start) / options.batch_size)
    report(times, {variant: accuracy_of(backend) for variant, backend in backends.items()}, options)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="", help="a trained model instead of random weights")
    parser.add_argument("--model", default="classic", help="classic or a named model")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1066], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"some of these, or {ALSO}, by commas")
    parser.add_argument("--data", default="", help="data set for AP and for the ranges of int8")
    parser.add_argument("--max_ap_drop", type=float, default=0.005, help="of the files that are searched for")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="user: not of other processes")
    parser.add_argument("--fixed", action="store_true", help="graphs of this size and batch alone")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/export"))
    return parser.parse_args()


def exported(variant: str, detector: Detector, options: argparse.Namespace) -> Path:
    """Return the file of a variant such as onnx-int8, and write it unless it exists."""
    kind, _, precision = variant.removesuffix("-lookups").partition("-")
    lookups = "-lookups" * variant.endswith("-lookups")
    name = Path(options.weights).name or options.model
    fixed = f"-{options.size[0]}x{options.size[1]}-{options.batch_size}" if options.fixed else ""
    path: Path = options.output_dir / f"{name}{fixed}-{precision or 'fp32'}{lookups}{export_format(kind).suffix}"
    if path.exists():
        return path
    if options.data:
        searched = precision == "searched"
        drop = options.max_ap_drop if searched else 1.0
        precision = "int8" if searched else precision or "fp32"
        return detrkit.export(options.weights, kind, path, precision=precision, data=options.data, max_ap_drop=drop)
    config = ExportConfig(
        weights=name,
        format=kind,
        precision=precision or "fp32",
        data="noise" if precision == "int8" else "",
        size="x".join(map(str, options.size)) if options.fixed else "",
        fixed_batch=options.batch_size if options.fixed else 0,
    )
    shape = (options.batch_size if options.fixed else 1, *options.size)
    samples = []
    for _ in range(4 if precision == "int8" else 0):
        noise = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
        samples.append({"images": noise, "padding_mask": torch.zeros(shape, dtype=torch.bool)})
    metadata = make_metadata(config, detector)
    write_file(detector, path, metadata, replace(config, for_tensorrt=bool(lookups)), samples)
    return path


def accuracy_of(backend: Backend) -> dict[str, float]:
    """AP of an exported file and of its model, from the report beside the file; empty without one."""
    if not isinstance(backend, ExportedBackend):
        return {}
    report = backend.path.with_name(f"{backend.path.name}.parity.json")
    rows = json.loads(report.read_text(encoding="utf-8"))["accuracy"] if report.is_file() else []
    return {"AP": rows[0]["exported"], "drop": rows[0]["drop"]} if rows else {}


def report(times: dict[str, list[float]], accuracy: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Print and write one row per variant."""
    first = min(next(iter(times.values())))
    lines = ["| variant | ms per image | median | speed-up | AP | drop |", "|---|--:|--:|--:|--:|--:|"]
    for variant, seconds in times.items():
        least, middle = min(seconds), statistics.median(seconds)
        aps = [f"{accuracy[variant][name]:.4f}" if accuracy[variant] else "" for name in ("AP", "drop")]
        cells = [f"{least * 1000:.1f}", f"{middle * 1000:.1f}", f"{first / least:.2f}", *aps]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    print("\n".join(lines))
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "export.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"settings": {name: str(value) for name, value in vars(options).items()}, "seconds": times}
    (options.output_dir / "export.json").write_text(json.dumps(content | {"accuracy": accuracy}, indent=1))


if __name__ == "__main__":
    main()
