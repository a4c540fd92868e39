"""AP of the demo under a limit of time, on a machine that gives the process a certain share of a core.

    python benchmarks/time_limit.py --core_share 1 0.67 0.33 --minutes 1.5 --output_dir runs/time-limit

The clock of a run is replaced by the CPU time of this process, divided by the share: with 0.67, a second of CPU time
counts as a second and a half, as on a machine of two cores on which two other programs run all the time. So the figures
do not depend on the load of the machine that measures. One thread is used. `--cut_off` takes the schedule of a run
without a limit, which the time then cuts off: how it was before limits planned the schedule.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from detrkit.commands.demo import demo_settings
from detrkit.config.commands import DemoConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.training import run_training, state
from detrkit.training.optim import LRSchedule


def main() -> None:
    """Train the demo with each share, and print a line of a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core_share", type=float, nargs="+", default=[1.0, 0.67, 0.33])
    parser.add_argument("--minutes", type=float, default=1.5, help="limit of each training; default 1.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ema", type=float, default=0.99, help="decay of the moving average; 0: none; default 0.99")
    parser.add_argument("--cut_off", action="store_true", help="do not plan the schedule for the limit")
    parser.add_argument("--output_dir", default="runs/time-limit")
    flags = parser.parse_args()
    demo = DemoConfig(output_dir=flags.output_dir, seed=flags.seed, minutes=flags.minutes, quiet=True)
    folder = Path(flags.output_dir) / f"data-{flags.seed}"
    data = make_demo_dataset(folder, images=demo.images, size=demo.size, difficulty=demo.difficulty, seed=demo.seed)
    if flags.cut_off:
        planned = LRSchedule.rates
        LRSchedule.rates = lambda self, epoch, fraction, step, time_share=0.0: planned(self, epoch, fraction, step)  # type: ignore[method-assign]
    print("| core share | schedule | epochs | steps | seconds | AP | AP50 |\n|---|---|---|---|---|---|---|", flush=True)
    for share in flags.core_share:
        state.time = SimpleNamespace(monotonic=lambda share=share: time.process_time() / share)  # type: ignore[assignment]
        config = replace(
            demo_settings(demo, data), ema=flags.ema, num_threads=1, output_dir=str(folder.with_name(f"share-{share}"))
        )
        run_dir = run_training(config, overwrite=True).run_dir
        with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
            row = {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if value}
        schedule, epochs = "cut off" if flags.cut_off else "planned", row["step"] * config.batch_size / demo.images
        cells = [f"{share:g}", schedule, f"{epochs:.1f} of {config.epochs}", f"{row['step']:.0f}"]
        cells += [f"{row['seconds']:.0f}", f"{row['val/AP']:.3f}", f"{row['val/AP50']:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
