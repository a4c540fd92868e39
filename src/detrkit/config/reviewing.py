"""The settings of `detrkit review`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrkit.config.commands import QuietChoice, RuntimeChoice, TilesChoice
from detrkit.config.data import DataChoice
from detrkit.config.fields import NonNegativeInt, PositiveInt


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(QuietChoice, TilesChoice, RuntimeChoice, DataChoice):
    """Find labels that are probably wrong: objects without a label, labels without an object, wrong classes, boxes that
    fit badly and repeated labels, ranked over the whole data set. Folds are best: there each image is reviewed by a
    model that has not seen it, while a model repeats wrong labels that it was trained on."""

    source: str
    """A folder of folds (`detrkit train DATA --folds 5`); or a detector: a run folder, a checkpoint, a name of `detrkit
    models`, a Hugging Face folder or id, or an exported file."""
    data: str = ""
    """Folder or file of the data set; empty: that of the folds or run."""
    split: Literal["all", "train", "val"] = "all"
    """Split of the data set to review."""
    output_dir: str = ""
    """Folder of report.html, suspects.json and suspects.csv; empty: review/ in the folder of the folds or run."""
    max_suspects: NonNegativeInt = 0
    """Number of suspects to list; 0: a fifth as many as there are labels, at least 100."""
    max_images: NonNegativeInt = 200
    """Number of suspects to show in report.html, the first."""
    batch_size: PositiveInt = 1
    """Images per forward pass; only images of one shape share a pass."""
    num_workers: NonNegativeInt = 2
    """Processes that load images; 0 loads in the main process."""
