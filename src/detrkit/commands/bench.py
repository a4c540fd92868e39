"""`detrkit bench`: measure the speed of a model, print a table, write bench.json and bench.png."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from detrkit.benchmark.machine import measure_machine
from detrkit.benchmark.output import Report, print_report, write_report
from detrkit.benchmark.rows import with_limits
from detrkit.benchmark.suites import PARTS, BenchmarkContext
from detrkit.benchmark.target import make_target
from detrkit.config.commands import BenchConfig
from detrkit.config.train import TrainConfig
from detrkit.errors import OutOfMemoryError, is_out_of_memory
from detrkit.inference import Detector
from detrkit.inference.optimized import chosen_precision, compiles
from detrkit.ops.console import make_console
from detrkit.training.setup import find_processes


def bench(config: BenchConfig) -> Report:
    """Measure the speed of a model, print a table, and write bench.json and bench.png to `config.output_dir`.

    Rows measured before an error or Ctrl-C are printed and written too.

    Raises:
        ConfigError: the settings contradict each other, or there is no such model or device.
        WeightsError: the weights cannot be read.
        DataError: the data set cannot be read.
        OutOfMemoryError: the batch does not fit the memory of the device.
    """
    console, progress = make_console(), make_console(quiet=config.quiet)
    device = torch.device(find_processes(replace(TrainConfig(), device=config.device)).accelerator)
    with tempfile.TemporaryDirectory(prefix="detrkit-bench-") as name, progress.status("Preparing") as status:
        folder = Path(name)
        target = make_target(config, folder)
        half = chosen_precision(config.precision, device)
        precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[half]
        status.update("Measuring the machine")
        precisions = {"fp32", precision}
        machine = measure_machine(device, precisions)
        context = BenchmarkContext(
            target,
            machine,
            device,
            precision,
            lambda: Detector.load(
                target.checkpoint,
                device=device.type,
                image_size=target.image_size,
                precision=config.precision,
                compile=config.compile,
            ),
            compiles(config.compile, device),
            config.batch_size,
            config.images,
            config.evaluation_images,
            config.seconds,
        )
        shape = tuple(target.batch(1).images.shape[-2:])
        report = Report(config, machine, target.name, shape)
        chosen = PARTS if config.part == "all" else {config.part: PARTS[config.part]}
        part = ""
        try:
            for part, measure in chosen.items():
                status.update(f"Measuring {part}")
                for rows in measure(context):
                    report.rows += rows
            status.update("Measuring the machine again")
            report.machine = machine.best(measure_machine(device, precisions))
            report.rows = with_limits(report.rows, report.machine)
        except KeyboardInterrupt:
            report.notes.append(f"interrupted while {part} was measured; the rows before it are complete")
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = f"--batch_size {config.batch_size // 2} or " if config.batch_size > 1 else ""
            sentence = (
                f"memory ran out while {part} was measured with --batch_size {config.batch_size} "
                f"--image_size {target.image_size}; try {smaller}--image_size {target.image_size * 3 // 4}"
            )
            report.notes.append(sentence)
            raise OutOfMemoryError(sentence) from error
        finally:
            status.stop()
            if report.rows:
                print_report(console, report)
                for path in write_report(report):
                    console.print(f"Written: {path}")
    return report
