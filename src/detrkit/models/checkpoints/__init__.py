"""Read weights of detrkit, the reference DETR (facebookresearch/detr) and Hugging Face, and fit them to a model."""

from detrkit.models.checkpoints.architecture import Weights
from detrkit.models.checkpoints.file_kinds import load_weights, read_content
from detrkit.models.checkpoints.fitting import (
    FitRow,
    fit_notes,
    fit_table,
    fit_weights,
    mask_head_note,
    rows_without_names,
    with_new_heads,
)
from detrkit.models.checkpoints.huggingface import read_huggingface, write_huggingface
from detrkit.models.checkpoints.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES, PUBLISHED, Published, fetch
from detrkit.models.checkpoints.safe import read_checkpoint

__all__ = [
    "COCO_CATEGORIES",
    "COCO_PANOPTIC_CATEGORIES",
    "PUBLISHED",
    "FitRow",
    "Published",
    "Weights",
    "fetch",
    "fit_notes",
    "fit_table",
    "fit_weights",
    "load_weights",
    "mask_head_note",
    "read_checkpoint",
    "read_content",
    "read_huggingface",
    "rows_without_names",
    "with_new_heads",
    "write_huggingface",
]
