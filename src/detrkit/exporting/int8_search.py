"""int8 that keeps its AP: the groups of convolutions that cost the most accuracy stay in floating point.

First all groups are quantized. If AP then falls by more than is allowed, each group is quantized alone to see how far
it moves scores and boxes, and the groups are left out of int8 one by one, the worst first, until AP is in the limit.
Each step is a file of the format that is wanted, measured on the data set; a file is written only if it has passed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from detrkit.config.commands import ExportConfig
from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.exporting.formats.export_format import ExportFormat, Sample, TracedGraph
from detrkit.exporting.formats.onnx import to_onnx
from detrkit.exporting.int8 import groups_of
from detrkit.exporting.parity import Accuracy, compare_accuracy, measure_aps, prediction_error
from detrkit.inference.detector import Detector
from detrkit.structures import Output

MOST_STEPS = 12
"""So many files are measured at most; with more groups than this, several are left out per step."""
COMPARED_IMAGES = 8
"""Images on which the groups are ranked."""
TIMED_RUNS = 7
"""Runs of which the shortest is the time of a step."""


@dataclass(frozen=True)
class Int8Step:
    """A file that was measured on the way."""

    float_groups: tuple[str, ...]
    """Groups of convolutions in floating point."""
    accuracy: list[Accuracy]
    """AP of the model and of this file."""
    ms: float
    """Milliseconds per image."""
    megabytes: float
    """Size of the file with its companions, in MiB."""

    @property
    def drop(self) -> float:
        """The largest loss of AP."""
        return max(row.drop for row in self.accuracy)


def write_int8(
    graph: TracedGraph, path: Path, file_format: ExportFormat, reference: Detector, split: Split, config: ExportConfig
) -> list[Int8Step]:
    """Write the first file on the way from int8 to floating point that keeps its AP.

    Args:
        graph: the model, with samples to measure ranges with.
        path: of the file.
        file_format: its format.
        reference: the model in PyTorch.
        split: images to measure AP on.
        config: `max_ap_drop`, and settings of the measurement.

    Returns:
        The steps; the last is that of the file.

    Raises:
        ConfigError: no file is within `max_ap_drop`; nothing is written then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        candidate = Path(folder) / path.name
        groups = groups_of(to_onnx(replace(graph, metadata=replace(graph.metadata, precision="fp32"))))
        aps: list[float] | None = None
        steps: list[Int8Step] = []
        ranked: list[str] = []
        per_step = -(-len(groups) // MOST_STEPS)
        for count in range(0, max(1, len(groups)), per_step):
            if count and not ranked:
                ranked = _ranked(graph, candidate, file_format, groups)
            left = tuple(ranked[:count])
            exported = _written(graph, candidate, file_format, left)
            if aps is None:
                masks = exported.backend.makes_masks and split.has_masks
                aps = measure_aps(config, reference, split, masks=masks)
            accuracy = compare_accuracy(config, reference, exported, split, aps)
            files = [each for each in file_format.files(candidate) if each.is_file()]
            size = sum(each.stat().st_size for each in files) / 2**20
            steps.append(Int8Step(left, accuracy, _least_ms(exported, graph.calibration[0]), size))
            if steps[-1].drop <= config.max_ap_drop:
                for each in reversed(files):  # the file itself last: its companions are there before it
                    each.replace(path.with_name(each.name))
                return steps
    raise ConfigError(_not_found(steps, config))


def _not_found(steps: Sequence[Int8Step], config: ExportConfig) -> str:
    best = min(steps, key=lambda step: step.drop)
    row = max(best.accuracy, key=lambda row: row.drop)
    kept = f"with {', '.join(best.float_groups)} in fp32" if best.float_groups else "with all in int8"
    return (
        f"expected an int8 file whose AP falls by at most --max_ap_drop {config.max_ap_drop:g}, found none: at best, "
        f"{kept}, {row.name} falls from {row.reference:.4f} to {row.exported:.4f}; nothing was written: export with "
        "another --precision, or another number of images for --calibration"
    )


def _written(graph: TracedGraph, path: Path, file_format: ExportFormat, left: Sequence[str]) -> Detector:
    """Write a file with these groups in floating point, and open it."""
    file_format.write(replace(graph, float_groups=frozenset(left)), path)
    return Detector.load(path, device=file_format.device)


def _ranked(graph: TracedGraph, path: Path, file_format: ExportFormat, groups: Sequence[str]) -> list[str]:
    """The groups by how far each, quantized alone, moves the predictions on images of the calibration: worst first."""
    samples = graph.calibration[:COMPARED_IMAGES]
    expected = _predictions(_written(graph, path, file_format, groups), samples)
    errors = {}
    for group in groups:
        predicted = _predictions(
            _written(graph, path, file_format, [each for each in groups if each != group]), samples
        )
        errors[group] = sum(prediction_error(*pair) for pair in zip(expected, predicted, strict=True))
    return sorted(groups, key=lambda group: -errors[group])


def _predictions(exported: Detector, samples: Sequence[Sample]) -> list[Output]:
    return [exported.backend.forward_detection(*_inputs(sample)) for sample in samples]


def _inputs(sample: Sample) -> tuple[Tensor, Tensor]:
    """Images and padding mask of a sample; graphs with built-in steps have no padding."""
    images = sample["images"]
    none = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)
    return images, sample.get("padding_mask", none)


def _least_ms(exported: Detector, sample: Sample) -> float:
    """Milliseconds per image, the least of several runs."""
    inputs, seconds = _inputs(sample), []
    for _ in range(TIMED_RUNS + 1):
        start = time.perf_counter()
        exported.backend.forward_detection(*inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) * 1000 / len(inputs[0])
