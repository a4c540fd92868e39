"""`Detector`: load a trained model, give it images, get `Detections` or a `PanopticMap`.

Images are decoded, resized and batched by the functions that evaluation uses, so metrics measured there hold here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, overload

import torch
from PIL.Image import Image
from torch import Tensor

from detrkit.data.loader import collate
from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.errors import ConfigError, DataError, DetrkitWarning
from detrkit.inference.backend import Backend, PlainBackend, torch_model
from detrkit.inference.exported import is_exported, open_exported
from detrkit.inference.guards import check_parts, check_settings, find_device, memory_explained, weights_source
from detrkit.inference.inputs import ImageInput, OneImage, PathOrArray, open_source, read_one
from detrkit.inference.optimized import Compile, OptimizedBackend, Precision, chosen_precision, compiles
from detrkit.inference.postprocess import check_panoptic, panoptic, postprocess, usual_threshold
from detrkit.inference.shape_buckets import ShapeBuckets
from detrkit.inference.streaming import Stream, blank_batch, predict_all, sizes_of, stream_batches, with_names
from detrkit.inference.tiled import TiledDetector
from detrkit.models import DetectionModel
from detrkit.models.arguments import size_pairs, whole_number
from detrkit.models.checkpoints import fit_weights, load_weights, with_new_heads
from detrkit.ops.tiles import Overlap, Tiles, choose_tiling
from detrkit.ops.value_range import ValueRange
from detrkit.results import Detections, PanopticMap
from detrkit.structures import Batch, Categories, Preprocessing, Target


class Detector:
    """A model with everything that is needed to use it.

        detector = Detector.load("runs/mine")
        detections = detector.predict("photo.jpg", threshold=0.5)
        for image, detections in detector.stream("video.mp4"): ...

    Args:
        model: a model, which is moved to `device` and put into evaluation mode; or another backend, such as an exported
            file, which stays on its own device.
        categories: its C classes.
        preprocessing: how images are prepared; or the shorter side of resized images in pixels alone.
        device: where the model runs.

    Raises:
        ConfigError: `model` is neither a model nor a backend, or the categories are not as many as its classes.
    """

    def __init__(
        self,
        model: DetectionModel | Backend,
        categories: Categories,
        preprocessing: Preprocessing | int,
        device: torch.device | str = "cpu",
    ) -> None:
        check_parts(model, categories)
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing(whole_number(preprocessing, "an image_size", 1))
        self.backend: Backend = PlainBackend(model, device) if isinstance(model, DetectionModel) else model
        self.device = self.backend.device
        self.categories = categories
        self.preprocessing = preprocessing
        self.max_overlap: float | None = None
        """Largest IoU of two detections of an image, 0..1; None: any. See `Detections.without_overlaps`."""
        self._warned = False
        self.transform = eval_transform(preprocessing.image_size, square_resize=preprocessing.square_resize)

    @property
    def image_size(self) -> int:
        """Shorter side of resized images in pixels."""
        return self.preprocessing.image_size

    @property
    def value_range(self) -> ValueRange | None:
        """Values that become black and white in images of more than 8 bits; None: no range is known, see `read`."""
        return self.preprocessing.value_range

    @property
    def model(self) -> DetectionModel:
        """The PyTorch model.

        Raises:
            ConfigError: the backend is an exported file, which has no modules.
        """
        return torch_model(self.backend)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = "auto",
        image_size: int | None = 0,
        dilation: bool | None = None,
        nheads: int | None = None,
        precision: Precision = "auto",
        compile: Compile = "auto",
        value_range: ValueRange | tuple[float, float] | None = None,
        tiles: Tiles = "auto",
        tile_overlap: Overlap = "auto",
        new_classes: Callable[[], Categories] | None = None,
    ) -> Detector:
        """Load weights of any known format. What had to be assumed about them is a warning.

        The model is optimized, which changes its outputs by rounding alone: batch norms are folded into convolutions,
        memory is channels-last, and heads of earlier decoder layers are left out. So `detector.model` is that model,
        for evaluation only. Torch's random state stays as it was.

        Args:
            source: a run folder, a checkpoint of detrkit, a .pth of the reference DETR, a Hugging Face folder or id, or
                a name of `list_models` (the last two may be downloaded). Or a file that `detrkit export` has written
                (.onnx, .xml, .pt2, .engine), for which only the device, `image_size` and `value_range` below matter.
            device: cpu, cuda, cuda:1, mps, or auto: a GPU where there is one.
            image_size: shorter side of resized images in pixels; 0: that of the training.
            dilation: whether the backbone is dilated (DC5), for a file that does not say.
            nheads: attention heads, likewise.
            precision: fp32; bf16 or fp16, where boxes stay float32; auto: fp32, but bf16 on CUDA (fp16 on GPUs without
                it); plain: float32 and nothing optimized, as in training, the default of evaluation.
            compile: on, off, or auto: on CUDA. Images are then padded to one of at most 15 shapes (`ShapeBuckets`),
                which changes values a little where convolutions meet the padding, as in a padded batch. The first image
                of each shape takes long; see `warmup`.
            value_range: values that become black and white in images of more than 8 bits (see `read`); None: those of
                the training data, which the weights come with.
            tiles: side in pixels of the tiles that large images are cut into; off: none; auto: as in training.
            tile_overlap: pixels that neighboring tiles share; auto: as in training, else a quarter of `tiles`.
            new_classes: makes the classes of a new, untrained class head, for a file whose own was deleted. None: such
                a file is an error, since its classes have no names.

        Raises:
            WeightsError: the weights cannot be found, read, trusted or understood, or lack a class head.
            ConfigError: there is no such device, precision, compile setting, value range or tiling, or precision is
                plain and compile is on.
        """
        source = weights_source(source)
        image_size = whole_number(image_size or 0, "an image_size", 0)
        given: dict[str, Any] = {"image_size": image_size} if image_size else {}
        given |= {"value_range": ValueRange.of(value_range)} if value_range else {}
        if is_exported(source):
            exported = open_exported(source, "auto" if device is None else str(device))
            metadata = exported.metadata
            given["tiling"] = choose_tiling(tiles, tile_overlap, metadata.preprocessing.tiling)
            return cls(exported, metadata.categories, replace(metadata.preprocessing, **given))
        if precision == "plain" and compile == "on":
            raise ConfigError("expected precision fp32 with compile on, found plain, which is left as it is")
        chosen = find_device(device)
        half, compiled = chosen_precision(precision, chosen), compiles(compile, chosen)
        with torch.random.fork_rng(devices=[]):  # a new model has random weights, for a moment
            weights = load_weights(source, dilation=dilation, nheads=nheads, headless=new_classes is not None)
            if weights.absent and new_classes:
                weights = with_new_heads(weights, new_classes())
            model = weights.build_model()
            fit_weights(model, weights, weights.categories)
        for note in weights.messages:
            warnings.warn(DetrkitWarning(note), stacklevel=2)
        given["tiling"] = choose_tiling(tiles, tile_overlap, weights.preprocessing.tiling)
        preprocessing = replace(weights.preprocessing, **given)
        if precision == "plain":
            return cls(model, weights.categories, preprocessing, chosen)
        size, square = preprocessing.image_size, preprocessing.square_resize
        buckets = ShapeBuckets.of(size, eval_transform(size).longest, square_resize=square) if compiled else None
        backend = OptimizedBackend(model, chosen, half=half, buckets=buckets)
        return cls(backend, weights.categories, preprocessing)

    def warmup(self, sizes: Iterable[tuple[int, int]] = (), batch_sizes: Iterable[int] = (1,)) -> None:
        """Run on blank images, so that the first real ones need not wait for compiling and other work of a first call.

        Compiling takes 10 seconds to a minute per shape and batch size (rounded up to a power of 2).

        Args:
            sizes: (height, width) in pixels of images, before they are resized. Empty: all shapes of a compiled model.
            batch_sizes: how many images per batch.

        Raises:
            ConfigError: a size or batch size is below 1, or there is no compiler where one is needed.
        """
        given = list(sizes)
        pairs = size_pairs(given, len(given), "sizes")[1] if given else []
        counts = [whole_number(count, "a batch size", 1) for count in batch_sizes]
        buckets = self.backend.buckets if isinstance(self.backend, OptimizedBackend) else None
        usual = buckets.shapes() if buckets else [self.transform.output_size(480, 640)]
        shapes = [self.transform.output_size(height, width) for height, width in pairs] or usual
        times = 3 if self.device.type == "cuda" else 1  # CUDA graphs are recorded at the second call
        for (height, width), count in product(dict.fromkeys(shapes), counts):
            batch = blank_batch(height, width, count)
            for _ in range(times):
                self.detect(batch, threshold=1.0)

    @overload
    def predict(
        self, source: Image | bytes, threshold: float | None = 0.5, top_k: int | None = None, batch_size: int = 1
    ) -> Detections: ...
    @overload
    def predict(
        self, source: PathOrArray, threshold: float | None = 0.5, top_k: int | None = None, batch_size: int = 1
    ) -> Any: ...  # a path may be a folder, an array a batch: no type checker can know
    @overload
    def predict(
        self, source: Iterable[OneImage], threshold: float | None = 0.5, top_k: int | None = None, batch_size: int = 1
    ) -> list[Detections]: ...
    def predict(
        self,
        source: OneImage | Iterable[OneImage],
        threshold: float | None = 0.5,
        top_k: int | None = None,
        batch_size: int = 1,
    ) -> Detections | list[Detections]:
        """Detect objects.

        Args:
            source: one image: a path, a PIL image, a numpy array [H, W, 3] (uint8, RGB), a tensor [3, H, W] (uint8, or
                float in 0..1), either of more than 8 bits too (see `read`), the bytes of a file, an open file, or an
                upload of a web framework. Several images: a list, or anything else that gives images when it is
                iterated over, a batch [B, ...], a folder with its subfolders, or a glob such as `photos/*.jpg`.
            threshold: lowest score to keep, 0..1; None: 0.5.
            top_k: keep the best K of all pairs of query and class; 0: one class per query. None: as the model was
                trained, see `postprocess`.
            batch_size: most images per forward pass. Only images of one shape share a pass, so that the result for an
                image does not depend on the others.

        Returns:
            Detections of one image, best first, with the original category ids and names, in pixels of the image, with
            masks if the model has a mask head. For several images a list in their order (folders: by name).

        Raises:
            DataError: `source` is not there, cannot be read, gives nothing, or is a video or a camera (see `stream`).
            ConfigError: threshold, top_k or batch_size is out of range.
        """
        lowest, top_k, batch_size = check_settings(0.5 if threshold is None else threshold, top_k, batch_size)
        return predict_all(source, self._detect_all(lowest, top_k, batch_size), batch_size, "stream")

    @overload
    def panoptic(self, source: Image | bytes, threshold: float | None = None, batch_size: int = 1) -> PanopticMap: ...
    @overload
    def panoptic(self, source: PathOrArray, threshold: float | None = None, batch_size: int = 1) -> Any: ...
    @overload
    def panoptic(
        self, source: Iterable[OneImage], threshold: float | None = None, batch_size: int = 1
    ) -> list[PanopticMap]: ...
    def panoptic(
        self, source: OneImage | Iterable[OneImage], threshold: float | None = None, batch_size: int = 1
    ) -> PanopticMap | list[PanopticMap]:
        """Divide images into segments that do not overlap, things and stuff.

        Args:
            source: one image or several, see `predict`.
            threshold: score above which a query takes part, 0..1. None: 0.85 as in the reference DETR, or 0.4 for a
                model with an independent sigmoid per class.
            batch_size: most images per forward pass, see `predict`.

        Returns:
            One map, of the image's size, with the original category ids and names; for several images a list. Where the
            categories do not say which of them are things, all are.

        Raises:
            DataError: there is nothing at `source`, it cannot be read, or it is a video (see `stream_panoptic`).
            ConfigError: a setting is out of range, or the model has no mask head.
        """
        lowest, _, batch_size = check_settings(self.panoptic_threshold(threshold), None, batch_size)
        segment = self._batches(lambda batch: self.segment(batch, lowest), batch_size)
        return predict_all(source, segment, batch_size, "stream_panoptic")

    def panoptic_threshold(self, threshold: float | None = None) -> float:
        """The threshold of panoptic maps; where none is given, the usual one of the kind of model.

        Raises:
            ConfigError: the model has no mask head, or images are cut into tiles.
        """
        check_panoptic(self.backend.makes_masks, self.preprocessing.tiling)
        return usual_threshold(self.backend.sigmoid) if threshold is None else threshold

    def stream(
        self,
        source: OneImage | Iterable[OneImage | tuple[OneImage, str | None]],
        threshold: float | None = 0.5,
        top_k: int | None = None,
        batch_size: int = 1,
        prefetch: int = 0,
    ) -> Iterator[tuple[Tensor, Detections]]:
        """Detect objects in a video or another stream of images; few images are in memory at a time.

        Args:
            source: the path of a video, or any source of `predict`. What is iterated over may be endless, as the frames
                of a camera are, and may give pairs of an image and the `source` that its detections shall note.
            threshold, top_k, batch_size: see `predict`.
            prefetch: images that are decoded and resized early, in threads; 0 suits a live stream.

        Yields:
            Each image, uint8 [3, H, W] (RGB), with its detections, in order.

        Raises:
            DataError, ConfigError: see `predict`.
        """
        lowest, top_k, batch_size = check_settings(0.5 if threshold is None else threshold, top_k, batch_size)
        prefetch, (_, images) = whole_number(prefetch, "prefetch", 0), open_source(source, pairs=True)
        results = self._detect_all(lowest, top_k, batch_size)(images, prefetch)
        return ((pixels, replace(detections, source=source)) for pixels, source, detections in results)

    def stream_panoptic(
        self,
        source: OneImage | Iterable[OneImage | tuple[OneImage, str | None]],
        threshold: float | None = None,
        batch_size: int = 1,
        prefetch: int = 0,
    ) -> Iterator[tuple[Tensor, PanopticMap]]:
        """Make panoptic maps of a video or another stream of images, see `stream` and `panoptic`."""
        lowest, _, batch_size = check_settings(self.panoptic_threshold(threshold), None, batch_size)
        prefetch, (_, images) = whole_number(prefetch, "prefetch", 0), open_source(source, pairs=True)
        segment = self._batches(lambda batch: self.segment(batch, lowest), batch_size)
        return ((pixels, segments) for pixels, _, segments in segment(images, prefetch))

    def prepare(self, source: Iterable[OneImage]) -> Batch:
        """Resize whole images in any form and pad them to one size, on the CPU; a `DataError` where there is none."""
        samples = [self._sample(self._read(image)[0]) for image in open_source(source)[1]]
        if not samples:
            raise DataError("expected at least one image, found none")
        return collate(samples)

    def read(self, source: OneImage) -> Tensor:
        """Read an image as the model gets it, but not resized: uint8 [3, H, W], RGB, upright.

        Values of more than 8 bits (files, PIL images, arrays and tensors of 16-bit and 32-bit integers or floats) are
        scaled from `value_range` to 0..255 and clipped there; float tensors in 0..1 always from 0..1. Where no range is
        known, it is taken to be 0..65535 for integers and 0..1 for floats, with one warning.

        Raises:
            DataError: it cannot be read, or has another shape or type; see `data.decode.images.to_tensor`.
        """
        return read_one(source, self.value_range, self._warn_once)

    def _detect_all(self, lowest: float, top_k: int | None, batch_size: int) -> Stream[Detections]:
        tiling = self.preprocessing.tiling
        if tiling:
            cut = tiling, self._sample, self.detect, self.categories
            tiled = TiledDetector(*cut, batch_size, self.max_overlap)
            return lambda images, limit: tiled.stream(images, self._read, lowest, top_k, limit)
        return self._batches(lambda batch: self.detect(batch, lowest, top_k), batch_size)

    def _batches(self, predict: Callable[[Batch], list[Any]], batch_size: int) -> Stream[Any]:
        return lambda images, limit: stream_batches(images, self._read, self._sample, predict, batch_size, limit)

    def _read(self, image: ImageInput) -> tuple[Tensor, str | None]:
        return image.read(self.value_range, self._warn_once)

    def _warn_once(self, sentence: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(DetrkitWarning(sentence), stacklevel=2)

    def _sample(self, pixels: Tensor) -> tuple[Tensor, Target]:
        if pixels.dtype != torch.uint8:
            pixels = self.read(pixels)
        image, target = self.transform(pixels)
        target["original_size"] = (pixels.shape[1], pixels.shape[2])
        return image, target

    @torch.no_grad()  # not inference_mode, whose tensors could not be changed in place by those who get them
    def detect(self, batch: Batch, threshold: float = 0.0, top_k: int | None = None) -> list[Detections]:
        """Detect objects in each image of a batch: best first, original ids and names, pixels of the original image.

        Args:
            batch: made by `prepare`, or by a loader whose targets have `original_size`.
            threshold: lowest score to keep, 0..1.
            top_k: see `predict`.

        Raises:
            ConfigError: `batch` is no such batch, or a setting is out of range.
        """
        with memory_explained():
            processed, sizes = sizes_of(batch)
            out = self.backend.forward_detection(batch.images, batch.padding_mask)
            kept = postprocess(
                out,
                sizes,
                top_k=top_k,
                processed_sizes=processed,
                threshold=threshold,
                best_first=True,
                max_overlap=self.max_overlap,
                device="cpu",
            )
        return [detections.with_categories(self.categories) for detections in kept]

    @torch.no_grad()
    def segment(self, batch: Batch, threshold: float | None = None) -> list[PanopticMap]:
        """Make a panoptic map of each image of a batch, see `detect` and `panoptic`."""
        threshold = self.panoptic_threshold(threshold)
        things = self.categories.isthing or (True,) * len(self.categories)
        with memory_explained():
            sizes = sizes_of(batch)
            maps = panoptic(self.backend.forward_detection(batch.images, batch.padding_mask), *sizes, things, threshold)
        return [with_names(each, self.categories) for each in maps]
