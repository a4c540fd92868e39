"""Programs of torch.export (.pt2), which run in PyTorch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detrkit.exporting.formats.export_format import TracedGraph, unreadable, wants_cuda
from detrkit.exporting.formats.metadata import METADATA_KEY
from detrkit.files import write_atomic


def write_torch(graph: TracedGraph, path: Path) -> None:
    """Write a program of torch.export."""
    content = io.BytesIO()  # PyTorch itself aborts the process where a disk is full
    torch.export.save(graph.program, content, extra_files={METADATA_KEY: graph.metadata.to_json()})
    write_atomic(path, content.getvalue())


class TorchSession:
    """A program of torch.export in PyTorch. The file is code that is run: open only files that you trust.

    Args:
        path: of the file.
        device: cpu, cuda, cuda:1, or auto: a GPU where there is one.
    """

    def __init__(self, path: Path, device: str) -> None:
        extra_files = {METADATA_KEY: ""}
        cuda = wants_cuda(device, path, auto=torch.cuda.is_available())
        self.device = torch.device("cpu" if not cuda else "cuda" if device == "auto" else device)
        try:
            program = torch.export.load(str(path), extra_files=extra_files)
            if cuda:
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, self.device)
            self.run = program.module()
        except Exception as problem:  # zip, JSON, pickle and version errors alike
            raise unreadable(path, "torch.export", problem) from problem
        self.metadata: str | None = extra_files[METADATA_KEY] or None

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by name, from the inputs, by name."""
        outputs = self.run(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return {name: tensor.cpu() for name, tensor in outputs.items()}
