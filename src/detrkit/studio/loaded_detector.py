"""The detector that the pages Try and Label run: loaded when it is first used, and kept until another one is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.config.serving import ServeLimits
from detrkit.errors import ConfigError
from detrkit.files import checkpoint_in, run_folder
from detrkit.serving.answers import PredictQuery, image_answer
from detrkit.serving.check_image import Upload, decode_upload
from detrkit.serving.service import ImageResult

if TYPE_CHECKING:
    from detrkit.inference import Detector
    from detrkit.visualization.draw import ImageArray

LOWEST = 0.05
"""Lowest score of a detection that is sent to the page, which chooses among them."""

MOST = 300
"""Most detections of an image that are sent."""

LIMITS = ServeLimits(max_upload_mb=64, max_megapixels=100)
"""What is refused of an image that is dropped on the page."""


class LoadedDetector:
    """One detector, which requests share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[Path, int] | None = None
        self._detector: Detector | None = None

    def get(self, weights: Path) -> Detector:
        """The detector of a run folder or a file; loaded again when the file has changed.

        Raises:
            WeightsError: it cannot be read.
        """
        from detrkit.inference import Detector

        file = checkpoint_in(weights)
        with self._lock:
            key = (file, file.stat().st_mtime_ns if file.exists() else 0)
            if self._detector is None or self._key != key:
                self._detector = None  # before the next one takes memory
                self._detector, self._key = Detector.load(weights if weights.is_dir() else file), key
            return self._detector

    def predict(self, weights: Path, name: str, data: bytes) -> dict[str, Any]:
        """Find objects in an image.

        Args:
            weights: run folder or file.
            name: name of the image, for messages.
            data: bytes of its file.

        Returns:
            JSON-like: name, height, width and detections, see `serving.answers.ImageAnswer`, and the classes.

        Raises:
            RefusedError: the image is damaged, too large or of an unknown format.
            WeightsError: the detector cannot be loaded.
        """
        detector = self.get(weights)
        image, notes = decode_upload(Upload(name, data), detector.value_range, LIMITS)
        with self._lock:
            detections = detector.predict(image, threshold=LOWEST)[:MOST]
        answer = image_answer(ImageResult(name, detections, notes), PredictQuery(), "polygon")
        return {**answer, "classes": list(detector.categories.names), "run": run_folder(weights).name}

    def explain(self, weights: Path, data: bytes, class_id: int, box: tuple[float, float, float, float]) -> ImageArray:
        """Draw where the query of a detection looks, as uint8 RGB [H, W, 3].

        Args:
            weights: run folder or file.
            data: bytes of the image's file.
            class_id: class of the detection.
            box: its box, x1, y1, x2, y2 in pixels.

        Raises:
            ConfigError: the model is none of detrkit's own, or an exported file.
            RefusedError: see `predict`.
        """
        from detrkit.visualization.attention import SAMPLED, compute_attention, draw_attention
        from detrkit.visualization.draw import as_image, resized

        detector = self.get(weights)
        image, _ = decode_upload(Upload("the image", data), detector.value_range, LIMITS)
        with self._lock:
            attention = compute_attention(detector, image)
        corners = attention.detections.xyxy
        if not len(corners):
            raise ConfigError("expected a detection to explain, found none in this image")
        away = (corners - corners.new_tensor(box)).abs().sum(1)
        away += 1e4 * (attention.detections.class_ids != class_id)
        query = int(np.argmin(away.nan_to_num(1e9).numpy()))
        return draw_attention(resized(as_image(image), 900), attention.decoder[query], SAMPLED)
