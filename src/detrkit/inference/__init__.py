"""Using a detector: images, videos and folders to detections."""

from detrkit.inference.detector import Detector

__all__ = ["Detector"]
