"""detrkit: detection transformers in PyTorch, exactly as published, for people with images and boxes.

    import detrkit

    config = detrkit.TrainConfig.from_recipe("fast", data="DATA")
    result = detrkit.train(config)
    detector = detrkit.Detector.load(result.run_dir)
    detections = detector.predict("photo.jpg")

The names in `__all__` are the public ones, and every error class in `detrkit.errors`. They are imported when first
used, so that `detrkit --help` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detrkit.version import __version__ as __version__

if TYPE_CHECKING:
    from detrkit import errors as errors
    from detrkit.config.model import ModelConfig
    from detrkit.config.train import TrainConfig
    from detrkit.data.conversion import ConversionResult, convert_data
    from detrkit.data.shards.pack_dataset import PackResult, pack
    from detrkit.errors import DetrkitError
    from detrkit.evaluation.compare_detectors import compare
    from detrkit.evaluation.comparison import ComparisonResult
    from detrkit.evaluation.evaluate_detector import EvaluationResult, evaluate
    from detrkit.evaluation.review_labels import ReviewResult, review
    from detrkit.exporting.export_detector import export
    from detrkit.inference import Detector
    from detrkit.inference.batch_job import ShardResult, predict_shard
    from detrkit.inference.batch_merge import MergeResult, merge
    from detrkit.inference.postprocess import panoptic, postprocess
    from detrkit.inference.tracking import TrackedFrame, track
    from detrkit.losses import build_criterion
    from detrkit.models import build_model
    from detrkit.models.named_models import NamedModel, list_models
    from detrkit.results import Detections, PanopticMap
    from detrkit.structures import Batch, Categories, Output, Preprocessing, Target
    from detrkit.training import TrainResult, train

_HOME = {
    "Batch": "detrkit.structures",
    "Categories": "detrkit.structures",
    "ComparisonResult": "detrkit.evaluation.comparison",
    "ConversionResult": "detrkit.data.conversion",
    "Detections": "detrkit.results",
    "Detector": "detrkit.inference",
    "DetrkitError": "detrkit.errors",
    "EvaluationResult": "detrkit.evaluation.evaluate_detector",
    "MergeResult": "detrkit.inference.batch_merge",
    "ModelConfig": "detrkit.config.model",
    "NamedModel": "detrkit.models.named_models",
    "Output": "detrkit.structures",
    "PackResult": "detrkit.data.shards.pack_dataset",
    "PanopticMap": "detrkit.results",
    "Preprocessing": "detrkit.structures",
    "ReviewResult": "detrkit.evaluation.review_labels",
    "ShardResult": "detrkit.inference.batch_job",
    "Target": "detrkit.structures",
    "TrackedFrame": "detrkit.inference.tracking",
    "TrainConfig": "detrkit.config.train",
    "TrainResult": "detrkit.training",
    "build_criterion": "detrkit.losses",
    "build_model": "detrkit.models",
    "compare": "detrkit.evaluation.compare_detectors",
    "convert_data": "detrkit.data.conversion",
    "evaluate": "detrkit.evaluation.evaluate_detector",
    "export": "detrkit.exporting.export_detector",
    "list_models": "detrkit.models.named_models",
    "merge": "detrkit.inference.batch_merge",
    "pack": "detrkit.data.shards.pack_dataset",
    "panoptic": "detrkit.inference.postprocess",
    "postprocess": "detrkit.inference.postprocess",
    "predict_shard": "detrkit.inference.batch_job",
    "review": "detrkit.evaluation.review_labels",
    "track": "detrkit.inference.tracking",
    "train": "detrkit.training",
}

__all__ = [
    "Batch",
    "Categories",
    "ComparisonResult",
    "ConversionResult",
    "Detections",
    "Detector",
    "DetrkitError",
    "EvaluationResult",
    "MergeResult",
    "ModelConfig",
    "NamedModel",
    "Output",
    "PackResult",
    "PanopticMap",
    "Preprocessing",
    "ReviewResult",
    "ShardResult",
    "Target",
    "TrackedFrame",
    "TrainConfig",
    "TrainResult",
    "build_criterion",
    "build_model",
    "compare",
    "convert_data",
    "evaluate",
    "export",
    "list_models",
    "merge",
    "pack",
    "panoptic",
    "postprocess",
    "predict_shard",
    "review",
    "track",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "errors":
        return import_module("detrkit.errors")
    raise AttributeError(f"module 'detrkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "errors"])
