"""CPU time per step of whole training runs, of two or more checkouts in turns.

    python benchmarks/training_loop.py --src src --src ../other/src --rounds 5

Each round trains the same short run with the package of each folder, in a process of its own: once for one epoch, then
for several; the difference is what the further steps took, data loading (in the same process) included. Seconds are
those of the CPU, so that other programs on the machine disturb little. The losses are printed too: of the same seed,
they should be the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

MODELS = {
    "tiny": {
        "backbone": "nano",
        "backbone_norm": "group",
        "hidden_dim": 32,
        "nheads": 2,
        "enc_layers": 1,
        "dec_layers": 2,
        "dim_feedforward": 32,
        "num_queries": 10,
    },
    "detrkit_n": {"recipe": "fast", "model": "detrkit_n"},
}
"""By name the settings of a model: one whose step is nearly all overhead of the loop, and the smallest real one."""


def child(data: str, model: str, size: int, batch: int, epochs: int) -> None:
    """Train for one epoch, then for `epochs`; print seconds per step and the last loss."""
    import time

    import torch

    from detrkit.config.train import TrainConfig
    from detrkit.training import final_report, train

    torch.set_num_threads(1)
    final_report.write_report = lambda *args, **kwargs: {}
    settings = {"recipe": "classic", **MODELS[model]}
    times, rows = [], []
    for count in (1, epochs):
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig.from_recipe(
                **settings,
                data=data,
                image_size=size,
                batch_size=batch,
                epochs=count,
                eval_every=1000,
                backbone_weights="none",
                device="cpu",
                num_workers=0,
                quiet=True,
                output_dir=str(Path(folder) / "run"),
            )
            begun = time.process_time()
            run_dir = train(config).run_dir
            times.append(time.process_time() - begun)
            header, *lines = (run_dir / "metrics.csv").read_text().splitlines()
            rows.append(dict(zip(header.split(","), lines[-1].split(","), strict=True)))
    steps = int(rows[1]["step"]) - int(rows[0]["step"])
    print("RESULT", (times[1] - times[0]) / steps, rows[1]["train/loss"], flush=True)


def main() -> None:
    """Run the checkouts in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", action="append", required=True, help="folder that holds the package; several times")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--size", type=int, default=64, help="shorter side of the images in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="", help="data set; by itself, 64 images are made")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.data, args.model, args.size, args.batch, args.epochs)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or make_data(Path(folder) / "data", args.src[0], args.size)
        seconds: dict[str, list[float]] = {src: [] for src in args.src}
        losses: dict[str, set[str]] = {src: set() for src in args.src}
        own = ["--model", args.model, "--size", str(args.size), "--batch", str(args.batch)]
        own += ["--epochs", str(args.epochs), "--data", data]
        for k in range(args.rounds):
            for src in args.src if k % 2 else args.src[::-1]:
                words = run(src, [__file__, "--child", "--src", src, *own]).split()
                seconds[src].append(float(words[1]))
                losses[src].add(words[2])
                print(f"round {k + 1}: {src} {1e3 * seconds[src][-1]:.2f} ms", file=sys.stderr, flush=True)
    first = args.src[0]
    print(f"| {args.model}, {args.size} pixels, batch {args.batch} | CPU ms per step, median | least | ratio | loss |")
    print("|---|--:|--:|--:|--:|")
    for src in args.src:
        ratio = median(a / b for a, b in zip(seconds[src], seconds[first], strict=True))
        loss = " ".join(sorted(losses[src]))
        middle, least = 1e3 * median(seconds[src]), 1e3 * min(seconds[src])
        print(f"| {src} | {middle:.2f} | {least:.2f} | {ratio:.3f} | {loss} |")


def make_data(folder: Path, src: str, size: int) -> str:
    """A synthetic data set of 64 images."""
    code = (
        "import sys; from detrkit.data.synthetic.generate import make_demo_dataset as make; "
        "make(sys.argv[1], images=64, size=int(sys.argv[2])); print('RESULT')"
    )
    run(src, ["-c", code, str(folder), str(size)])
    return str(folder)


def run(src: str, argv: list[str]) -> str:
    """The line after RESULT that Python prints with the package of `src`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(src).resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *argv], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))


if __name__ == "__main__":
    main()
