"""Weights of every origin: published, ours, the original's, Hugging Face's; and fitting them to a model."""

from detrkit.models.weights.architecture import Weights
from detrkit.models.weights.fit import FitRow, fit_table, fit_weights, mask_head_note
from detrkit.models.weights.formats import load_weights
from detrkit.models.weights.huggingface import read_huggingface, write_huggingface
from detrkit.models.weights.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES, PUBLISHED, Published, fetch
from detrkit.models.weights.safe import read_checkpoint

__all__ = [
    "COCO_CATEGORIES",
    "COCO_PANOPTIC_CATEGORIES",
    "PUBLISHED",
    "FitRow",
    "Published",
    "Weights",
    "fetch",
    "fit_table",
    "fit_weights",
    "load_weights",
    "mask_head_note",
    "read_checkpoint",
    "read_huggingface",
    "write_huggingface",
]
