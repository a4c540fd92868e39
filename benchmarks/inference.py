"""Speed of inference with each optimization, one on top of the other, in one run and in turns.

    python benchmarks/inference.py [--model detrkit_n] [--size 800 1066] [--batch_size 1] [--device cpu] [--threads 2]
        [--compile] [--files 8] [--repeats 5] [--output_dir runs/inference]

Prints a table and writes it to inference.md and inference.json. The first row is the model as it is in training:
float32 with all its heads, operation by operation that of the reference DETR for the classic model. `transformers` DETR
of the same sizes is beside it where installed. Weights are random, which takes as long. `--files` also times the way
from JPEG files to detections. Seconds of CPU, all threads together, are given besides seconds by the clock: on a
machine that does other things too, they are the steadier ones, and the speed-up is of them; on a GPU it is of the
clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detrkit import Categories, Detector, build_model
from detrkit.config.presets import MODELS
from detrkit.config.train import TrainConfig
from detrkit.inference.backend import PlainBackend
from detrkit.inference.optimized import OptimizedBackend
from detrkit.inference.shape_buckets import ShapeBuckets
from detrkit.models import DETR
from detrkit.models.fuse_bn import fold_norms

Variant = Callable[[], object]


def main() -> None:
    """Measure, print, write."""
    options = parsed()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = make_model(options.model).eval().to(device)
    height, width = options.size
    images = torch.randint(0, 256, (options.batch_size, 3, height, width), dtype=torch.uint8).to(device)
    padding = torch.zeros(options.batch_size, height, width, dtype=torch.bool, device=device)
    with torch.no_grad():
        rows = measured(variants(model, images, padding, options), options.repeats, device)
        if options.files:
            rows |= measured(file_variants(model, options), options.repeats, device)
    report(rows, options)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="classic", choices=["classic", *MODELS])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1066], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes on a CPU")
    parser.add_argument("--files", type=int, default=0, help="JPEG files to detect in, of 480 x 640 pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/inference"))
    return parser.parse_args()


def make_model(name: str) -> DETR:
    """The reference DETR with ResNet-50, or a named model; random weights."""
    if name == "classic":
        return build_model(num_classes=91)
    return build_model(**asdict(TrainConfig.from_recipe("classic", model=name).model_config(num_classes=20)))


def variants(
    model: DETR, images: torch.Tensor, padding: torch.Tensor, options: argparse.Namespace
) -> dict[str, Variant]:
    """Each row of the table; every one keeps what the rows before it have."""
    device = images.device
    folded = fold_norms(model)
    backends: dict[str, PlainBackend | OptimizedBackend] = {"channels-last": OptimizedBackend(model, device)}
    backends["bf16"] = OptimizedBackend(model, device, half=torch.bfloat16)
    if options.compile:
        exact = ShapeBuckets((min(images.shape[-2:]),), (max(images.shape[-2:]),))
        backends["compiled, fp32"] = OptimizedBackend(model, device, buckets=exact)
        backends["compiled, bf16"] = OptimizedBackend(model, device, half=torch.bfloat16, buckets=exact)
    rows: dict[str, Variant] = {"plain": lambda: model.forward_detection(images, padding)}
    other = of_transformers(images, padding) if options.model == "classic" else None
    if other:
        rows["transformers"] = other
    rows["last heads alone"] = lambda: model.forward_detection(images, padding, last_only=True)
    rows["norms folded"] = lambda: folded.forward_detection(images, padding, last_only=True)
    for name, backend in backends.items():
        rows[name] = lambda backend=backend: backend.forward_detection(images, padding)
    return rows


def of_transformers(images: torch.Tensor, padding: torch.Tensor) -> Variant | None:
    """`DetrForObjectDetection` with the same backbone and sizes, given normalized images; None: not installed."""
    try:
        from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    except ImportError:
        return None
    backbone = ResNetConfig(out_features=["stage4"])
    config = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, num_labels=91)
    model = DetrForObjectDetection(config).eval().to(images.device)
    pixels, mask = images.float() / 128 - 1, (~padding).long()
    return lambda: model(pixel_values=pixels, pixel_mask=mask)


def file_variants(model: DETR, options: argparse.Namespace) -> dict[str, Variant]:
    """From JPEG files to detections: one file after another, and with threads that decode ahead; and what the model
    takes of that, the same images being in memory at their final size."""
    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    for k in range(options.files):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
    paths = sorted(folder.iterdir())
    categories, side = Categories.unnamed(model.num_classes), min(options.size)
    half = torch.bfloat16 if options.device.startswith("cuda") else None
    plain = Detector(model, categories, side, options.device)
    optimized = Detector(OptimizedBackend(model, options.device, half=half), categories, side)
    batches = [optimized.prepare([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)]) for path in paths]

    def repeated(run: Callable[[Any], object], items: list[Any]) -> Variant:
        return lambda: [run(item) for item in items]

    return {
        f"{len(paths)} files, plain": repeated(plain.predict, paths),
        f"{len(paths)} files, optimized": repeated(optimized.predict, paths),
        f"{len(paths)} files, optimized, prepared ahead": lambda: optimized.predict(paths),
        f"{len(paths)} files, the optimized model alone": repeated(optimized.detect, batches),
    }


def measured(rows: dict[str, Variant], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of each variant by the clock and of CPU, the median and the least of several turns."""
    clock: dict[str, list[float]] = {name: [] for name in rows}
    cpu: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, run in rows.items():
            wall, used = time.perf_counter(), time.process_time()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first one prepares, and compiles
                clock[name].append(time.perf_counter() - wall)
                cpu[name].append(time.process_time() - used)
    first = next(iter(rows))
    return {
        name: {
            "clock_median": statistics.median(clock[name]),
            "clock_least": min(clock[name]),
            "cpu_median": statistics.median(cpu[name]),
            "cpu_least": min(cpu[name]),
            "speed_up": statistics.median(cpu[first] if device.type == "cpu" else clock[first])
            / statistics.median(cpu[name] if device.type == "cpu" else clock[name]),
        }
        for name in rows
    }


def report(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Print and write the table."""
    lines = ["| | seconds by the clock, median (least) | seconds of CPU, median (least) | speed-up |"]
    lines.append("|---|---:|---:|---:|")
    for name, row in rows.items():
        clock, cpu = (f"{row[f'{of}_median']:.3f} ({row[f'{of}_least']:.3f})" for of in ("clock", "cpu"))
        lines.append(f"| {name} | {clock} | {cpu} | {row['speed_up']:.2f} |")
    table = "\n".join(lines)
    print(table)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "inference.md").write_text(table + "\n")
    settings = {key: str(value) for key, value in vars(options).items()} | {"torch": torch.__version__}
    (options.output_dir / "inference.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
