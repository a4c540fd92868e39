"""The one facade over a trained model: load it, show it pictures, get `Detections`.

Pictures take the same way as in evaluation (`decode`, `eval_transform`, `collate`), so a number measured there holds
here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

from detrkit.data.decode import to_tensor
from detrkit.data.loader import collate
from detrkit.data.transforms import eval_transform
from detrkit.errors import ConfigError, DataError
from detrkit.inference.sources import find_pictures, is_several, is_video
from detrkit.inference.video import read_frames
from detrkit.models import DETR, build_model
from detrkit.models.weights import fit_weights, load_weights
from detrkit.postprocessing import postprocess
from detrkit.structures import Batch, Categories, Detections

Picture = Image | npt.NDArray[Any] | Tensor
"""A picture in memory, in any form that `data.decode.to_tensor` knows."""

Item = TypeVar("Item")

WINDOW = 4
"""Batches' worth of pictures that are held while pictures of one shape are looked for."""


class Detector:
    """A model in evaluation mode with all that is needed to use it."""

    def __init__(
        self, model: DETR, categories: Categories, image_size: int, device: torch.device | str = "cpu"
    ) -> None:
        """Take over a model.

        Args:
            model: moved to `device` and put into evaluation mode.
            categories: its C classes.
            image_size: shorter side in pixels to which pictures are resized.
            device: where it shall run.
        """
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.categories = categories
        self.image_size = image_size
        self.transform = eval_transform(image_size, model.input_mean, model.input_std)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        image_size: int = 0,
        dilation: bool | None = None,
        nheads: int | None = None,
    ) -> Detector:
        """A detector from weights of any known format. What had to be assumed about them is a warning.

        Args:
            source: a run folder, a checkpoint of detrkit, a .pth of the original, a Hugging Face folder, or a
                published name (which may be fetched).
            device: cpu, cuda, cuda:1, mps, or auto: a GPU where there is one.
            image_size: shorter side in pixels to which pictures are resized; 0: what the weights were trained with.
            dilation: whether the backbone is dilated (DC5), for a file that does not say.
            nheads: attention heads, likewise.

        Raises:
            WeightsError: the weights cannot be found, read, trusted or understood.
            ConfigError: there is no such device.
        """
        chosen = _find_device(device)
        weights = load_weights(source, dilation=dilation, nheads=nheads)
        for note in weights.notes:
            warnings.warn(note, stacklevel=2)
        model = build_model(**weights.model_args)
        fit_weights(model, weights, weights.categories)
        return cls(model, weights.categories, image_size or weights.image_size, chosen)

    @overload
    def predict(
        self, source: Picture, threshold: float = 0.5, top_k: int | None = None, batch_size: int = 1
    ) -> Detections: ...
    @overload
    def predict(
        self, source: str | Path, threshold: float = 0.5, top_k: int | None = None, batch_size: int = 1
    ) -> Any: ...  # what comes back depends on what lies there
    @overload
    def predict(
        self,
        source: Sequence[Picture | str | Path],
        threshold: float = 0.5,
        top_k: int | None = None,
        batch_size: int = 1,
    ) -> list[Detections]: ...
    def predict(
        self,
        source: Picture | str | Path | Sequence[Picture | str | Path],
        threshold: float = 0.5,
        top_k: int | None = None,
        batch_size: int = 1,
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Find objects.

        Args:
            source: one picture: a path, a PIL image, a numpy array [H, W, 3] (uint8, RGB), a tensor [3, H, W] (uint8,
                or float in 0..1); several: a list of these, a folder (with the folders in it), a glob such as
                `photos/*.jpg`; or the path of a video.
            threshold: lowest score to keep, 0..1.
            top_k: keep the best K of all pairs of query and class; 0: one class a query. None: as the model was
                trained, see `postprocess`.
            batch_size: most pictures a forward pass. Only pictures of one shape share a pass, so that the result for
                a picture does not depend on the others.

        Returns:
            For one picture its detections, best first, with the original category ids and names, in pixels of the
            picture. For several a list in their order (that of the names for folders and globs). For a video an
            iterator over its frames that reads as it goes.

        Raises:
            DataError: there is nothing at `source`, or it cannot be read.
            ConfigError: threshold, top_k or batch_size is out of range.
        """
        check_settings(threshold, top_k, batch_size)
        settings = (threshold, top_k, batch_size)
        if isinstance(source, str | Path):
            if is_video(source):
                return self._in_video(Path(source), *settings)
            if not is_several(source):
                return self._in_order([source], *settings)[0]
            return self._in_order(find_pictures(source), *settings)
        if isinstance(source, Image | np.ndarray | Tensor | bytes) or not isinstance(source, Iterable):
            return self._in_order([source], *settings)[0]
        for item in source:
            if isinstance(item, str | Path) and is_video(item):
                raise DataError(f"expected pictures in a list, found the video {item}; give it by itself")
        expanded = chain.from_iterable(
            find_pictures(item) if isinstance(item, str | Path) and is_several(item) else [item] for item in source
        )
        return self._in_order(expanded, *settings)

    def stream(
        self,
        pictures: Iterable[tuple[Tensor, str | None]],
        threshold: float = 0.5,
        top_k: int | None = None,
        batch_size: int = 1,
    ) -> Iterator[tuple[Tensor, Detections]]:
        """Detections of a stream of pictures, in its order; few pictures are held at a time.

        Args:
            pictures: uint8 [3, H, W] (RGB), and what to note as the detections' `source`.
            threshold, top_k, batch_size: see `predict`.

        Yields:
            Each picture with its detections.
        """
        window = batch_size if batch_size == 1 else WINDOW * batch_size
        for held in _batched(pictures, window):
            found: dict[int, Detections] = {}
            for places in self._of_one_shape([picture for picture, _ in held], batch_size):
                batch = self.prepare([held[k][0] for k in places])
                for k, detections in zip(places, self.detect(batch, threshold, top_k), strict=True):
                    found[k] = replace(detections, source=held[k][1])
            for k, (picture, _) in enumerate(held):
                yield picture, found[k]

    def prepare(self, pictures: Sequence[Tensor]) -> Batch:
        """Pictures uint8 [3, H, W] resized, normalised and padded to one size, on the CPU, as evaluation does it."""
        samples = []
        for picture in pictures:
            image, target = self.transform(picture)
            target["original_size"] = (picture.shape[1], picture.shape[2])
            samples.append((image, target))
        return collate(samples)

    @torch.no_grad()  # not inference_mode, whose tensors could not be changed in place by those who get them
    def detect(self, batch: Batch, threshold: float = 0.0, top_k: int | None = None) -> list[Detections]:
        """Detections of each picture of a batch: best first, original ids and names, in pixels of the original.

        Args:
            batch: of `prepare`, or of a loader whose targets have `original_size`.
            threshold: lowest score to keep, 0..1.
            top_k: see `predict`.
        """
        out = self.model(batch.images.to(self.device), batch.padding_mask.to(self.device))
        sizes = torch.tensor([target["original_size"] for target in batch.targets], dtype=torch.int64)
        found = []
        for detections in postprocess(out, sizes, top_k=top_k):
            order = detections.scores.argsort(descending=True, stable=True)
            kept = detections[order[detections.scores[order] >= threshold]].cpu()
            found.append(kept.with_categories(self.categories))
        return found

    def _of_one_shape(self, pictures: Sequence[Tensor], batch_size: int) -> Iterator[tuple[int, ...]]:
        """Places of pictures that share a shape after resizing, at most `batch_size` together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for k, picture in enumerate(pictures):
            groups.setdefault(self.transform.output_size(picture.shape[1], picture.shape[2]), []).append(k)
        for group in groups.values():
            yield from _batched(group, batch_size)

    def _in_order(
        self, items: Iterable[Picture | str | Path], threshold: float, top_k: int | None, batch_size: int
    ) -> list[Detections]:
        pictures = ((to_tensor(item), str(item) if isinstance(item, str | Path) else None) for item in items)
        return [detections for _, detections in self.stream(pictures, threshold, top_k, batch_size)]

    def _in_video(self, path: Path, threshold: float, top_k: int | None, batch_size: int) -> Iterator[Detections]:
        for _, detections in self.stream(read_frames(path), threshold, top_k, batch_size):
            yield detections


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`itertools.batched`, which Python 3.11 does not have."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch


def check_settings(threshold: float, top_k: int | None, batch_size: int) -> None:
    """Make sure that the settings of `Detector.predict` are in range.

    Raises:
        ConfigError: one is not.
    """
    for fine, expected, value in (
        (0 <= threshold <= 1, "a threshold in 0..1", threshold),
        (top_k is None or top_k >= 0, "top_k of at least 0", top_k),
        (batch_size >= 1, "a batch_size of at least 1", batch_size),
    ):
        if not fine:
            raise ConfigError(f"expected {expected}, found {value}")


def _find_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA says so by an AssertionError
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} finds no such device here; leave it at auto or say cpu"
        ) from error
    return device
