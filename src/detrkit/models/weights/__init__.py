"""Weights of every origin: published, ours, the original's, Hugging Face's; and fitting them to a model."""

from detrkit.models.weights.architecture import Weights
from detrkit.models.weights.fit import FitRow, fit_table, fit_weights
from detrkit.models.weights.formats import load_weights
from detrkit.models.weights.huggingface import read_huggingface, write_huggingface
from detrkit.models.weights.published import COCO_CATEGORIES, PUBLISHED, Published, fetch
from detrkit.models.weights.safe import read_checkpoint

__all__ = [
    "COCO_CATEGORIES",
    "PUBLISHED",
    "FitRow",
    "Published",
    "Weights",
    "fetch",
    "fit_table",
    "fit_weights",
    "load_weights",
    "read_checkpoint",
    "read_huggingface",
    "write_huggingface",
]
