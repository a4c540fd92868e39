"""Exported files as the backend of a `Detector`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from detrkit.errors import ConfigError, DataError, WeightsError, is_out_of_memory
from detrkit.exporting.formats.export_format import Session
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.formats.table import format_of_suffix
from detrkit.models.checkpoints.safe import check_content
from detrkit.structures import Output


class ExportedBackend:
    """A `Backend` that runs an exported file.

    Args:
        session: the opened file.
        metadata: of the file.
        path: of the file, for messages.
    """

    def __init__(self, session: Session, metadata: ExportMetadata, path: Path) -> None:
        self.session, self.metadata, self.path = session, metadata, path
        self.device = torch.device("cpu")
        self.sigmoid, self.makes_masks = metadata.sigmoid, metadata.masks
        self.num_queries = metadata.num_queries

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Predict a batch, see `Backend.forward_detection`; images must be uint8 pixels.

        For a graph of fixed size, smaller images are padded; for one of a fixed batch, the batch is split.

        Raises:
            ConfigError: the images are normalized already, larger than a fixed size, or padded for a graph that
                resizes them itself.
            DataError: the graph cannot run on images of such a size.
        """
        if images.dtype != torch.uint8:
            raise ConfigError(f"expected pixels of uint8 for {self.path}, which normalizes them, found {images.dtype}")
        if self.metadata.builtin and padding_mask.any():
            raise ConfigError(
                f"expected images of one size for {self.path}, which resizes them itself, found padded ones"
            )
        images, padding_mask = images.cpu(), padding_mask.cpu()
        size = images.shape[-2], images.shape[-1]
        if self.metadata.size and not self.metadata.builtin:
            images, padding_mask = self._padded(images, padding_mask, self.metadata.size)
            size = self.metadata.size
        count = self.metadata.batch_size or len(images)
        parts = [
            self._run(part, padding, count)
            for part, padding in zip(torch.split(images, count), torch.split(padding_mask, count), strict=True)
        ]
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self.metadata.builtin:
            return self._from_detections(outputs, size)
        out = Output(outputs["logits"].float(), outputs["boxes"].float(), sigmoid=self.metadata.sigmoid)
        return replace(out, masks=outputs["masks"].float(), padded_size=size) if self.metadata.masks else out

    def _run(self, images: Tensor, padding_mask: Tensor, count: int) -> dict[str, Tensor]:
        """The outputs for at most `count` images; the graph gets exactly so many, the last one repeated."""
        given = len(images)
        rows = torch.arange(count).clamp(max=given - 1)
        inputs = {"images": images[rows]} | ({} if self.metadata.builtin else {"padding_mask": padding_mask[rows]})
        try:
            outputs = self.session(inputs)
        except Exception as problem:  # each runtime has its own
            if is_out_of_memory(problem):
                raise
            reason = " ".join(str(problem).split())[:300]
            raise DataError(
                f"{self.path} cannot run on a batch of shape {list(inputs['images'].shape)}; images may be too small "
                f"for it, or not of the size it was exported for: {reason}"
            ) from problem
        missing = [name for name in [*self.metadata.outputs, *["masks"] * self.metadata.masks] if name not in outputs]
        if missing:
            raise WeightsError(f"expected the output {missing[0]!r} of {self.path}, found {', '.join(outputs)}")
        return {name: tensor[:given] for name, tensor in outputs.items()}

    def _padded(self, images: Tensor, padding_mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        height, width = size[0] - images.shape[-2], size[1] - images.shape[-1]
        if height < 0 or width < 0:
            raise ConfigError(
                f"expected images of at most {size[0]} x {size[1]} (height x width) after resizing for {self.path}, "
                f"found {images.shape[-2]} x {images.shape[-1]}; choose a smaller --image_size, or export it again "
                "with a larger --size, or none"
            )
        missing = (0, width, 0, height)
        return F.pad(images, missing), F.pad(padding_mask, missing, value=True)

    def _from_detections(self, outputs: Mapping[str, Tensor], size: tuple[int, int]) -> Output:
        """Turn the graph's detections into the output of a model each of whose queries knows a single class."""
        scores, labels = outputs["scores"].float(), outputs["labels"].long()  # [B, K]
        logits = scores.new_full((*scores.shape, len(self.metadata.categories)), -torch.inf)
        logits.scatter_(2, labels[..., None], scores.logit()[..., None])
        x1, y1, x2, y2 = outputs["boxes"].float().unbind(-1)
        height, width = size
        boxes = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], -1)
        out = Output(logits, boxes, sigmoid=True)
        return replace(out, masks=outputs["masks"].float(), padded_size=size) if self.metadata.masks else out


def is_exported(source: str | Path) -> bool:
    """Whether a path ends like an exported file."""
    return format_of_suffix(Path(source).suffix) is not None


def open_exported(path: str | Path, device: str = "auto") -> ExportedBackend:
    """Open an exported file; the `metadata` of the backend has its classes and image size.

    Args:
        path: a file with the suffix of an export format.
        device: cpu, cuda, cuda:1, or auto: a GPU where there is one that the file's runtime can use.

    Raises:
        WeightsError: there is no such file, it cannot be read, or detrkit has not written it.
        MissingExtraError: the package that runs such files is not installed.
        ConfigError: the runtime has no such device.
    """
    path = Path(path)
    file_format = format_of_suffix(path.suffix)
    if file_format is None or not path.is_file():
        raise WeightsError(f"expected an exported model at {path}, found no such file; look at the path")
    check_content(path, exported=True)
    session = file_format.open(path, device)
    return ExportedBackend(session, ExportMetadata.from_json(session.metadata, path), path)
