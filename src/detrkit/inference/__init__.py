"""Using a detector: `Detector` in Python, `predict` as the verb."""

from detrkit.inference.detector import Detector
from detrkit.inference.run import predict

__all__ = ["Detector", "predict"]
