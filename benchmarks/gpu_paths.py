"""What surrounds a model on a GPU, for `gpu.py`: engines, batch jobs, tracks, packed training data and the server.

Each function measures one of them on a device and returns rows of a table: what was measured, and its value in words.
All use detrkit_n with the weights of the package. A path whose packages are not installed says so in its row.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import detrkit
from batch import make_links, settings
from detrkit import Detector
from detrkit.config.commands import ExportConfig
from detrkit.config.train import TrainConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.exporting.export_detector import export_detector
from detrkit.inference.batch_job import run_share
from tracking import moving_boxes, write_video

WEIGHTS = "detrkit_n"
Rows = list[tuple[str, str]]


def measure_engines(device: str, scale: float, folder: Path) -> Rows:
    """How far TensorRT's engines are from PyTorch, on noise, and how fast; on a CPU, ONNX Runtime in their place."""
    name, kind = ("TensorRT", "tensorrt") if device == "cuda" else ("ONNX Runtime", "onnx")
    rows = []
    for precision in ("fp32", "fp16") if device == "cuda" else ("fp32",):
        path = folder / f"{WEIGHTS}-{precision}.{'engine' if kind == 'tensorrt' else 'onnx'}"
        config = ExportConfig(weights=WEIGHTS, format=kind, precision=precision, output=str(path), quiet=True)
        report = export_detector(config).report
        scores, boxes = (max(getattr(row, part) for row in report.outputs) for part in ("scores", "boxes"))
        rows.append(
            (f"{name} {precision}: largest difference of a score, of a box", f"{scores:.1e}, {boxes:.1e}"),
        )
        for row in report.outputs:
            rows.append((f"{name} {precision}: ms per image, {row.batch} per batch, {row.size}", f"{row.ms:.2f}"))
    return rows


def measure_batch_job(device: str, scale: float, folder: Path) -> Rows:
    """Images per second of `detrkit predict --shard`, from files to JSON lines, without the first ones."""
    count = max(8, int(20000 * scale))
    make_links(folder / "images", count)
    seconds = []
    for number, part in enumerate((count // 4, count)):
        few = folder / f"part-{number}"
        few.mkdir()
        for path in sorted((folder / "images").glob("0*/*.jpg"))[:part]:
            (few / path.name).hardlink_to(path)
        config = settings(folder, WEIGHTS, device=device, batch_size=16, output_dir=str(few / "out"))
        config = replace(config, source=[str(few)])
        start = time.perf_counter()
        run_share(config)
        seconds.append(time.perf_counter() - start)
    rate = (count - count // 4) / max(1e-9, seconds[1] - seconds[0])
    return [("batch job: images per second", f"{rate:.1f}")]


def measure_tracks(device: str, scale: float, folder: Path) -> Rows:
    """Frames per second of detection alone and with tracks."""
    path = write_video(folder / "moving.avi", moving_boxes(max(20, int(3000 * scale)), 0))
    detector = Detector.load(WEIGHTS, device=device)
    ways = {
        "detection": lambda: detector.stream(path, batch_size=8, prefetch=4),
        "tracks": lambda: detrkit.track(detector, path, batch_size=8),
    }
    rows = []
    for name, frames in ways.items():
        for _ in frames():  # compiles, where the device is a GPU
            pass
        start = time.perf_counter()
        count = sum(1 for _ in frames())
        rows.append((f"video, {name}: frames per second", f"{count / (time.perf_counter() - start):.1f}"))
    return rows


def measure_packed(device: str, scale: float, folder: Path) -> Rows:
    """Seconds of the second epoch from loose and from packed files, and the share of it spent waiting for images."""
    data = make_demo_dataset(folder / "loose", images=max(20, int(4000 * scale)), size=320)
    detrkit.pack(data, folder / "packed")
    rows = []
    for name in ("loose", "packed"):
        config = TrainConfig.from_recipe(
            "fast",
            model=WEIGHTS,
            data=str(folder / name),
            data_format="coco" if name == "loose" else "auto",  # the demo has panoptic files as well
            epochs=3,
            eval_every=3,
            image_size=320 if scale == 1 else 64,
            batch_size=16 if scale == 1 else 4,
            cache_gb=0.0,
            num_workers=0 if device == "cpu" else 8,
            device=device,
            quiet=True,
            output_dir=str(folder / f"run-{name}"),
        )
        run = detrkit.train(config).run_dir
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            first, second = list(csv.DictReader(file))[:2]
        seconds = float(second["seconds"]) - float(first["seconds"])  # which count from the start of the training
        text = f"{seconds:.1f} s, {float(second['loader_share']):.0%}"
        rows.append((f"training from {name} files: an epoch, and share spent waiting for images", text))
    return rows


def measure_server(device: str, scale: float, folder: Path) -> Rows:
    """Images per second of `detrkit serve`, by `serving.py`."""
    script = Path(__file__).with_name("serving.py")
    options = ["--device", device, "--size", "320" if scale == 1 else "64", "--seconds", str(max(0.2, 6 * scale))]
    options += ["--images", str(max(20, int(2000 * scale))), "--output_dir", str(folder)]
    subprocess.run([sys.executable, str(script), *options], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
    return [(f"server, {name}", json.dumps(value)) for name, value in figures.items()]


PATHS: dict[str, Callable[[str, float, Path], Rows]] = {
    "engines": measure_engines,
    "batch-job": measure_batch_job,
    "tracks": measure_tracks,
    "packed": measure_packed,
    "server": measure_server,
}
"""Name -> function of device, share of the full amount of work, and an empty folder."""


def measure_path(name: str, *, dry_run: bool) -> tuple[Rows, bool]:
    """Measure one path.

    Args:
        name: one of `PATHS`.
        dry_run: little work, on the CPU.

    Returns:
        Its rows, and whether it could be measured; if not, a row with the reason, whose traceback is printed.
    """
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = PATHS[name]("cpu" if dry_run else "cuda", 0.002 if dry_run else 1.0, Path(folder))
    except Exception as problem:  # of any kind, which must not cost the figures of the other paths
        traceback.print_exc()
        return [(name, f"not measured: {type(problem).__name__}: {problem}")], False
    return [*rows, (f"{name}: seconds in all", f"{time.perf_counter() - begin:.0f}")], True


def paths_table(rows: Rows) -> str:
    """The rows as a Markdown table."""
    return "\n".join(["| measured | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"
