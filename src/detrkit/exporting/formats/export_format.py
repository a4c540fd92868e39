"""The parts of an export format: a traced graph goes in, a file comes out, and the file opens as a session."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.exporting.formats.metadata import ExportMetadata

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Sample = dict[str, Tensor]
"""Inputs of a graph by name, to measure the ranges of int8 with."""


@dataclass(frozen=True)
class TracedGraph:
    """A traced model with all that its file needs.

    Args:
        program: the graph; its inputs and outputs are described in `exporting/graph.py`.
        metadata: describes the model; each file carries it, as JSON under the key `METADATA_KEY`.
        calibration: inputs to measure ranges with, for int8 alone.
        for_tensorrt: of the formats made from ONNX: as TensorRT takes it, see `formats/tensorrt_graph.py`.
        float_groups: groups of convolutions that int8 leaves in floating point, see `int8.group_of`.
        shared: intermediate results (the ONNX, ranges), which copies with other `float_groups` need not compute again.
    """

    program: ExportedProgram
    metadata: ExportMetadata
    calibration: Sequence[Sample] = ()
    for_tensorrt: bool = False
    float_groups: frozenset[str] = frozenset()
    shared: dict[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """An opened file: a function of named tensors on the CPU."""

    metadata: str | None
    """The metadata in the file, as JSON text; None where the file has none. See `ExportMetadata.from_json`."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by name, from the inputs, by name."""
        ...


@dataclass(frozen=True)
class ExportFormat:
    """A file format of exported models, as `--format` chooses it.

    Args:
        name: the value of `--format`, and the name of the pip extra with its packages.
        suffix: ending of the file name, with the dot; no two formats share one.
        packages: importable names of the packages that write a file and run it for the parity report.
        precisions: values of `--precision` that it can be written in.
        write: writes a traced graph to a path, whole or not at all.
        open: opens a file on a device (cpu, cuda, cuda:1 or auto); raises `WeightsError` for a file that is broken.
        rounds_itself: fp16 and bf16 are up to the writer or the runtime, so the graph is traced in float32.
        device: where a file runs for the parity report.
        companions: suffixes of further files that are written beside the file.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    write: Callable[[TracedGraph, Path], None]
    open: Callable[[Path, str], Session]
    rounds_itself: bool = False
    device: str = "cpu"
    companions: tuple[str, ...] = ()

    def check_packages(self) -> None:
        """Make sure, before anything takes long, that the format can be written and its files run.

        Raises:
            MissingExtraError: a package is not installed.
        """
        if any(importlib.util.find_spec(package) is None for package in self.packages):
            raise MissingExtraError(f"--format {self.name}", self.name)

    def files(self, path: Path) -> list[Path]:
        """The files that an export to `path` consists of."""
        return [path, *(path.with_suffix(suffix) for suffix in self.companions)]


def wants_cuda(device: str, path: Path, *, auto: bool) -> bool:
    """Whether a device is an NVIDIA GPU.

    Args:
        device: cpu, cuda, cuda:1 or auto.
        path: the file to run, for the message.
        auto: the answer for the device auto.

    Raises:
        ConfigError: the device is neither a CPU nor an NVIDIA GPU.
    """
    if device == "auto":
        return auto
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: {path} runs on cpu or cuda; use --device cpu")
    return kind == "cuda"


def unreadable(path: Path, kind: str, problem: Exception) -> WeightsError:
    """The error for a file that its runtime cannot read."""
    reason = " ".join(str(problem).split())[:200] or type(problem).__name__
    return WeightsError(f"expected a model of {kind} in {path}, which cannot be read ({reason}); export it again")
