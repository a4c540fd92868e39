"""How long a training step takes, and what each thing that makes it fast adds, beside the plain step.

    python benchmarks/training_step.py criterion
    python benchmarks/training_step.py step --model detrkit_n --size 128 --batch 16
    python benchmarks/training_step.py step --model detr_resnet50 --size 800 --width 1066 --batch 16 --device cuda

All variants take turns in one process; the best time of each counts. The plain criterion is that of the reference
DETR, see `plain_criterion.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detrkit.config.train import TrainConfig
from detrkit.losses import Criterion, build_criterion
from detrkit.structures import Branch, Categories, Locations, Output, Target
from detrkit.training.compilation import compile_parts
from detrkit.training.ema import Ema
from detrkit.training.optim import build_optimizer
from detrkit.training.setup import build_training_model
from plain_criterion import plain_losses

CLASSES = 80
OBJECTS = 7
"""Objects an image on average, as in COCO."""


class _Count(TorchDispatchMode):
    """Operators called; on a GPU nearly each of them is a kernel to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


def some_targets(batch: int, device: torch.device) -> list[Target]:
    """Images of 0 to twice `OBJECTS` objects."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for i in range(batch):
        n = int(torch.randint(0, 2 * OBJECTS + 1, (1,), generator=generator))
        centers, sides = (torch.rand(n, 2, generator=generator) for _ in range(2))
        boxes = torch.cat([0.2 + 0.6 * centers, 0.05 + 0.3 * sides], 1).to(device)
        labels = torch.randint(0, CLASSES, (n,), generator=generator).to(device)
        targets.append(Target(labels=labels, boxes=boxes, noise_seed=i))
    return targets


def some_output(layers: int, batch: int, queries: int, sigmoid: bool, device: torch.device) -> Output:
    """Random layers of a decoder, that want gradients."""
    generator = torch.Generator().manual_seed(1)
    outs = []
    for _ in range(layers):
        logits = torch.randn(batch, queries, CLASSES + (not sigmoid), generator=generator)
        boxes = 0.1 + 0.5 * torch.rand(batch, queries, 4, generator=generator)
        outs.append(Output(logits.to(device).requires_grad_(), boxes.to(device).requires_grad_(), sigmoid=sigmoid))
    return Output(outs[-1].logits, outs[-1].boxes, aux=outs[:-1], sigmoid=sigmoid)


def with_dense_head(out: Output, batch: int, device: torch.device) -> Output:
    """The same and a dense head at three levels of an image of 320 pixels."""
    centers, cells, sizes = [], [], (40, 20, 10)
    for n in sizes:
        y, x = torch.meshgrid(torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij")
        centers.append(torch.stack([x, y], -1).flatten(0, 1) / n)
        cells.append(torch.full((n * n, 2), 1 / n))
    tokens = sum(n * n for n in sizes)
    located = Locations(
        torch.cat(centers).expand(batch, -1, -1).to(device),
        torch.cat(cells).expand(batch, -1, -1).to(device),
        torch.zeros(batch, tokens, dtype=torch.bool, device=device),
        tuple(n * n for n in sizes),
    )
    dense = some_output(1, batch, tokens, True, device)
    return Output(
        out.logits, out.boxes, aux=out.aux, sigmoid=True, branches=[Branch("dense", dense, locations=located)]
    )


def timed(variants: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of each variant, the best of `rounds` in turns, after one that does not count."""
    best = dict.fromkeys(variants, float("inf"))
    for k in range(rounds + 1):
        for name, variant in variants.items():
            _wait(device)
            begun = time.perf_counter()
            variant()
            _wait(device)
            if k:
                best[name] = min(best[name], time.perf_counter() - begun)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_criterion(batch: int, rounds: int, device: torch.device) -> None:
    """Forward and backward of the criterion alone, plain and ours."""
    print(f"| criterion of {batch} images | plain ms | ours ms | ratio | plain operators | ours |")
    print("|---|--:|--:|--:|--:|--:|")
    targets = some_targets(batch, device)
    softmax, varifocal = build_criterion(CLASSES), build_criterion(CLASSES, class_loss="varifocal")
    cases = {
        "classic, 6 layers x 100 queries": (softmax, some_output(6, batch, 100, False, device)),
        "fast, 3 layers x 100 queries": (varifocal, some_output(3, batch, 100, True, device)),
    }
    cases["fast, with its dense head"] = (
        varifocal,
        with_dense_head(cases["fast, 3 layers x 100 queries"][1], batch, device),
    )
    for name, (criterion, out) in cases.items():
        variants = {
            "plain": lambda c=criterion, o=out: c.weighted_sum(plain_losses(c, o, targets)).backward(),
            "ours": lambda c=criterion, o=out: c.weighted_sum(c(o, targets)).backward(),
        }
        operators = {}
        for variant, run in variants.items():
            with _Count() as count:
                run()
            operators[variant] = count.operators
        seconds_of = timed(variants, rounds, device)
        plain, ours = (1e3 * seconds_of[variant] for variant in variants)
        print(
            f"| {name} | {plain:.1f} | {ours:.1f} | {plain / ours:.2f} | {operators['plain']} | {operators['ours']} |",
            flush=True,
        )


class Step:
    """A training step with some of the optimizations."""

    def __init__(self, args: argparse.Namespace, *, criterion: bool, at_once: bool, half: bool, more: str = "") -> None:
        categories = Categories(tuple(range(CLASSES)), tuple(map(str, range(CLASSES))))
        recipe = "fast" if args.model.startswith("detrkit") else "classic"
        config = TrainConfig.from_recipe(recipe, model=args.model, num_queries=100, backbone_weights="none")
        torch.manual_seed(0)
        start = build_training_model(config, categories, None)
        self.device = torch.device(args.device)
        self.model, self.criterion = start.model.train().to(self.device), start.criterion
        self.plain = None if criterion else plain_losses
        self.half, self.at_once = half, at_once
        rates = {"lr": 1e-4, "lr_backbone": 1e-5, "weight_decay": 1e-4}
        self.optimizer = build_optimizer(self.model, **rates, fused=at_once)
        self.ema = Ema(0.998, self.model)
        if more == "checkpointed":
            self.model.checkpoint_activations()
        if more == "compiled":
            compile_parts(self.model)
        generator = torch.Generator().manual_seed(2)
        size = (args.batch, 3, args.size, args.width or args.size)
        self.images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(self.device)
        self.padding = torch.zeros(size[0], *size[2:], dtype=torch.bool, device=self.device)
        self.targets = some_targets(args.batch, self.device)
        self.shares = dict.fromkeys(("forward", "criterion", "backward", "optimizer"), float("inf"))

    def __call__(self) -> None:
        """All of it, with the time of each part."""
        marks = [self._now()]
        images = self.images.contiguous(memory_format=torch.channels_last) if self.half else self.images
        with torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext():
            out = self.model(images, self.padding, self.targets)
        marks.append(self._now())
        losses = self._losses(self.criterion, out)
        total = self.criterion.weighted_sum(losses)
        marks.append(self._now())
        total.backward()
        marks.append(self._now())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.at_once:
            self.ema.update(self.model)
        else:
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    self.ema.average[name].lerp_(value, 0.002) if value.is_floating_point() else None
        marks.append(self._now())
        for name, a, b in zip(self.shares, marks, marks[1:], strict=False):
            self.shares[name] = min(self.shares[name], b - a)

    def _losses(self, criterion: Criterion, out: Output) -> dict[str, Tensor]:
        return self.plain(criterion, out, self.targets) if self.plain else criterion(out, self.targets)

    def _now(self) -> float:
        _wait(self.device)
        return time.perf_counter()


def measure_step(args: argparse.Namespace) -> None:
    """Whole steps, each with one more thing that makes it fast."""
    device = torch.device(args.device)
    variants = {
        "plain": Step(args, criterion=False, at_once=False, half=False),
        "+ criterion of all layers": Step(args, criterion=True, at_once=False, half=False),
        "+ optimizer and average at once": Step(args, criterion=True, at_once=True, half=False),
        "+ bf16, channels last": Step(args, criterion=True, at_once=True, half=True),
        "the same, checkpointed": Step(args, criterion=True, at_once=True, half=True, more="checkpointed"),
    }
    if args.compile:
        variants["the same, compiled"] = Step(args, criterion=True, at_once=True, half=True, more="compiled")
    seconds_of = timed(dict(variants), args.rounds, device)
    parts = " | ".join(variants["plain"].shares)
    print(f"\n| step of {args.model}, {args.size} pixels, batch {args.batch} | ms | images/s | ratio | {parts} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, seconds in seconds_of.items():
        shares = " | ".join(f"{1e3 * share:.0f}" for share in variants[name].shares.values())
        rate, ratio = args.batch / seconds, seconds_of["plain"] / seconds
        print(f"| {name} | {1e3 * seconds:.0f} | {rate:.1f} | {ratio:.2f} | {shares} |", flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["criterion", "step"])
    parser.add_argument("--model", default="detrkit_n")
    parser.add_argument("--size", type=int, default=128, help="height in pixels, a multiple of 32")
    parser.add_argument("--width", type=int, default=0, help="likewise; 0: as the height")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also the compiled step, after minutes of compiling")
    args = parser.parse_args()
    if args.what == "criterion":
        measure_criterion(args.batch, args.rounds, torch.device(args.device))
    else:
        measure_step(args)


if __name__ == "__main__":
    main()
