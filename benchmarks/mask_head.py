"""Cost of masks in a training step: for matched queries alone, as in detrkit, and for all, as in the reference DETR.

    python benchmarks/mask_head.py                # DETR on ResNet-50, batch 4, 256 pixels: two minutes on a core
    python benchmarks/mask_head.py --size 800 --device cuda

Three kinds of step run one after another, each in a process of its own, so that its peak memory is its own: `none`
(boxes alone), `matched` and `all`. Each is forward, losses, backward and AdamW, whose states are there before the
measurement begins. Prints a table, and the ratios of `all` to `matched` for the whole step and for the masks, which are
a step less one of `none`.

Time is that of the processor on the CPU, which other work does not change, and wall time on a GPU. Memory is the most
that the step took beyond what was there before it: of the process on the CPU, of tensors on a GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

KINDS = ("none", "matched", "all")


@dataclass(frozen=True)
class Cost:
    """Of one training step."""

    seconds: float
    mib: float
    masks: int
    """How many were made."""


def measure(args: argparse.Namespace) -> Cost:
    """Steps of one kind, in this process."""
    import torch

    from detrkit import build_criterion, build_model
    from detrkit.models.mask_predictor import all_queries

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    masks, cuda = args.kind != "none", args.device == "cuda"
    model = build_model(args.classes, masks=masks, num_queries=args.queries, dropout=0.0, backbone=args.backbone)
    model = model.to(args.device).train()
    criterion = build_criterion(args.classes, masks=masks)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    padding = torch.zeros(args.batch, args.size, args.size, dtype=torch.bool, device=args.device)
    targets = [_target(torch, args) for _ in range(args.batch)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    made: list[int] = []
    if model.mask_head is not None:
        model.mask_head.register_forward_hook(lambda head, given, found: made.append(len(found)))

    def step() -> None:
        out = model.forward_detection(images, padding)
        if args.kind == "all":
            found = out.predict_masks(*all_queries(out.boxes))
            out = replace(out, masks=found.view(*out.boxes.shape[:2], *found.shape[1:]))
        criterion.weighted_sum(criterion(out, targets)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for parameter in model.parameters():  # states of the optimizer, and every gradient
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    before = torch.cuda.memory_allocated() if cuda else _resident()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter() if cuda else time.process_time()
        step()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() if cuda else time.process_time()) - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost(median(times), (peak - before) / 2**20, made[-1] if made else 0)


def _target(torch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Random objects of an image, with the rectangles of their boxes as masks."""
    center, extent = 0.3 + 0.4 * torch.rand(args.objects, 2), 0.1 + 0.3 * torch.rand(args.objects, 2)
    pixels = (torch.arange(args.size) + 0.5) / args.size
    inside = [((pixels - center[:, i, None]).abs() * 2 < extent[:, i, None]) for i in (0, 1)]
    target = {
        "labels": torch.randint(0, args.classes, (args.objects,)),
        "boxes": torch.cat([center, extent], 1),
        "masks": inside[1][:, :, None] & inside[0][:, None],
    }
    return {name: value.to(args.device) for name, value in target.items()}


def _resident() -> float:
    """Memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def compare(args: argparse.Namespace) -> dict[str, Cost]:
    """The cost of each kind, measured in a process of its own."""
    found = {}
    for kind in KINDS:
        command = [sys.executable, str(Path(__file__).resolve()), *args.given, "--kind", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[kind] = Cost(**json.loads(done.stdout.splitlines()[-1]))
    return found


def ratios(costs: dict[str, Cost]) -> dict[str, tuple[float, float]]:
    """How many times more all masks cost than matched ones, (memory, time): of the step, and of the masks alone."""
    none, matched, every = (costs[kind] for kind in KINDS)
    return {
        "whole step": (every.mib / matched.mib, every.seconds / matched.seconds),
        "masks alone": (
            (every.mib - none.mib) / max(matched.mib - none.mib, 1.0),
            (every.seconds - none.seconds) / max(matched.seconds - none.seconds, 1e-3),
        ),
    }


def table(costs: dict[str, Cost]) -> str:
    """Markdown: the costs and the ratios."""
    rows = ["| step | masks made | MiB | seconds |", "|---|---:|---:|---:|"]
    rows += [f"| {kind} | {cost.masks} | {cost.mib:.0f} | {cost.seconds:.2f} |" for kind, cost in costs.items()]
    rows += ["", "| all : matched | memory | time |", "|---|---:|---:|"]
    rows += [f"| {name} | {memory:.1f} | {seconds:.1f} |" for name, (memory, seconds) in ratios(costs).items()]
    return "\n".join(rows)


def parse(given: list[str]) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--objects", type=int, default=7, help="objects per image; COCO has 7.3 on average")
    parser.add_argument("--queries", type=int, default=100, help="queries per image")
    parser.add_argument("--classes", type=int, default=91, help="classes")
    parser.add_argument("--backbone", default="resnet50", help="of the model")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--steps", type=int, default=3, help="of which the median counts")
    parser.add_argument("--kind", choices=KINDS, help="measure one kind alone, and print it as JSON")
    args = parser.parse_args(given)
    args.given = given
    return args


def main() -> None:
    """Compare, or be one of the compared."""
    args = parse(sys.argv[1:])
    if args.kind:
        print(json.dumps(asdict(measure(args))))
    else:
        print(table(compare(args)))


if __name__ == "__main__":
    main()
