"""Every figure about a GPU, in one go, meant to take less than ten minutes, and whether each target is met.

    python benchmarks/gpu.py [--output_dir runs/gpu] [--dry_run]

It calls `detrkit bench` for the classic ResNet-50 at 800 x 1066 pixels with random weights: the plain model in float32
and the fast path (bf16, compiled), in one run and in turns. Each run's table, json and plot lie in a folder of the
output folder, and `targets.md` there says how far each target was reached. Then come engines, batch jobs, tracks,
packed training data and the server, with detrkit_n (`gpu_paths.py`), whose figures are in `paths.md`.
`--dry_run` does the same on the CPU with small images, to see that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit import cli
from gpu_paths import PATHS, measure_path, paths_table

RUNS: dict[str, list[str]] = {
    "inference-1": ["inference", "--batch_size", "1", "--images", "256"],
    "inference-32": ["inference", "--batch_size", "32", "--images", "1024"],
    "training-16": ["training", "--batch_size", "16"],
    "panoptic-1": ["inference", "--masks", "--batch_size", "1", "--images", "64"],
    "postprocessing-32": ["postprocessing", "--batch_size", "32"],
    "postprocessing-masks": ["postprocessing", "--masks", "--batch_size", "1"],
}
"""Folder -> arguments of `detrkit bench` besides model, size and device."""

DRY = ["--image_size", "64", "--seconds", "0.05", "--device", "cpu"]
SMALLER = {"--batch_size": "2", "--images": "4"}
"""Of the flags in a dry run."""

Rows = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(run, what, variant) -> a row of its bench.json."""


@dataclass(frozen=True)
class Target:
    """A speed or share of memory to reach."""

    name: str
    run: str
    """The run that it is about."""
    goal: float
    measure: Callable[[Rows], float]
    at_most: bool = False
    """Whether less is better."""

    def line(self, rows: Rows) -> str:
        """A row of a Markdown table."""
        if not any(run == self.run for run, _, _ in rows):
            return f"| {self.name} | not measured | {self.goal_text} | - |"
        value = self.measure(rows)
        met = value <= self.goal if self.at_most else value >= self.goal
        return f"| {self.name} | {value:.2f} | {self.goal_text} | {'yes' if met else 'no'} |"

    @property
    def goal_text(self) -> str:
        """The goal in words."""
        return f"at {'most' if self.at_most else 'least'} {self.goal:g}"


def _times(run: str, what: str) -> Callable[[Rows], float]:
    """Speed of the fast variant relative to the plain one."""
    return lambda rows: float(rows[run, what, "fast"]["ratio"])


def _share(run: str) -> Callable[[Rows], float]:
    """Images per second from files to detections, beside those of the model alone."""

    def share(rows: Rows) -> float:
        ends, alone = (rows[run, what, "fast"] for what in ("from files", "model"))
        return float(ends["images_per_second"] / alone["images_per_second"])

    return share


def _memory(rows: Rows) -> float:
    fast, plain = (rows["training-16", "step", variant]["memory_bytes"] for variant in ("fast", "plain"))
    return float(fast / plain)


TARGETS = (
    Target("inference, batch 1: times the plain model", "inference-1", 6, _times("inference-1", "model")),
    Target("inference, batch 32: times the plain model", "inference-32", 4.5, _times("inference-32", "model")),
    Target("from files, batch 1: share of the model's rate", "inference-1", 0.7, _share("inference-1")),
    Target("from files, batch 32: share of the model's rate", "inference-32", 0.7, _share("inference-32")),
    Target("training, batch 16: times the plain step", "training-16", 4, _times("training-16", "step")),
    Target("training, batch 16: share of the plain memory", "training-16", 0.6, _memory, at_most=True),
)


def targets_table(rows: Rows) -> str:
    """All targets as a Markdown table."""
    lines = ["| target | measured | goal | met |", "|---|---:|---|---|", *(target.line(rows) for target in TARGETS)]
    return "\n".join(lines) + "\n"


def arguments(name: str, folder: Path, *, dry_run: bool) -> list[str]:
    """The arguments of `detrkit` for a run."""
    chosen = list(RUNS[name])
    if dry_run:
        chosen = [SMALLER.get(flag, value) for flag, value in zip(["", *chosen], chosen, strict=False)]
    sizes = DRY if dry_run else ["--image_size", "800", "--seconds", "5", "--device", "cuda"]
    return ["bench", *chosen, *sizes, "--output_dir", str(folder / name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; 0 if every run could be done, whether or not a target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--dry_run", action="store_true", help="small images, on the CPU")
    parser.add_argument("--only", choices=[*RUNS, *PATHS], nargs="+", help="these runs alone")
    args = parser.parse_args(argv)
    rows: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    failed = []
    chosen = args.only or [*RUNS, *PATHS]
    for name in [name for name in chosen if name in RUNS]:
        print(f"\n{name}", flush=True)
        if cli.main(arguments(name, args.output_dir, dry_run=args.dry_run)):
            failed.append(name)
            continue
        content = json.loads((args.output_dir / name / "bench.json").read_text(encoding="utf-8"))
        rows |= {(name, row["what"], row["variant"]): row for row in content["rows"]}
    measured = []
    for name in [name for name in chosen if name in PATHS]:
        print(f"\n{name}", flush=True)
        found, done = measure_path(name, dry_run=args.dry_run)
        measured += found
        failed += [] if done else [name]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for file, table in (("targets.md", targets_table(rows)), ("paths.md", paths_table(measured))):
        table += "\nA dry run: these figures mean nothing.\n" * args.dry_run
        (args.output_dir / file).write_text(table, encoding="utf-8")
        print(f"\n{table}")
    if failed:
        print(f"could not be done: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
