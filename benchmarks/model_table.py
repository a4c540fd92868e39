"""Parameters, GFLOPs and CPU time of the named models: the figures of the README's table.

    python benchmarks/model_table.py [--size 640] [--models detrkit_n,detr_resnet50] [--rounds 5]

Weights are random, which takes as long. A multiply-add counts as two operations, as for RT-DETR and YOLO; the papers of
DETR and Deformable DETR count it as one. Times are those of what `Detector.load` makes of a model (batch norms folded,
channels last, float32), for one image on one core: seconds of the process, the least of all rounds.
"""

from __future__ import annotations

import argparse
import time

import torch

from detrkit.benchmark.machine import count_work
from detrkit.config.presets import MODELS
from detrkit.inference.optimized import OptimizedBackend
from inference import make_model


def main() -> None:
    """Print a row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640, help="height and width of the image in pixels")
    parser.add_argument("--models", default=",".join(MODELS), help="some of the named models, with commas between")
    parser.add_argument("--rounds", type=int, default=5, help="0: do not measure times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | M parameters | GFLOPs | ms |\n|---|--:|--:|--:|")
    for name in options.models.split(","):
        parameters, flops, seconds = measure(name, options.size, options.rounds)
        print(f"| `{name}` | {parameters / 1e6:.1f} | {flops / 1e9:.0f} | {seconds * 1000:.0f} |", flush=True)


def measure(name: str, size: int, rounds: int) -> tuple[int, int, float]:
    """Parameters, floating-point operations and CPU seconds per image of a named model."""
    torch.manual_seed(0)
    model = make_model(name)
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    padding = torch.zeros(1, size, size, dtype=torch.bool)
    network = OptimizedBackend(model, torch.device("cpu"))
    flops = count_work(lambda: network.forward_detection(images, padding)).flops
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        network.forward_detection(images, padding)
        seconds.append(time.process_time() - start)
    return sum(p.numel() for p in model.parameters()), flops, min(seconds, default=0.0)


if __name__ == "__main__":
    main()
