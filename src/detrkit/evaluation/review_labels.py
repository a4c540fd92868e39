"""Review the labels of a data set: suspects as data, as a table, and on one page with images."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detrkit.config.options import config_from_options
from detrkit.config.reviewing import ReviewConfig
from detrkit.errors import DetrkitWarning
from detrkit.evaluation.evaluate_detector import Note
from detrkit.evaluation.label_errors import REASONS, Reason, SuspectRow, find_suspects
from detrkit.evaluation.review_page import write_review_page
from detrkit.evaluation.review_source import ReviewData, read_review_data
from detrkit.files import run_folder, write_atomic
from detrkit.version import __version__

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""

FEW_LABELS = 50
"""With fewer labels, there are too few right ones to tell wrong ones from."""

WEAK = 0.5
"""Lowest expected recall without a note; at random, it is 0.1."""


@dataclass(frozen=True)
class LabelSuspect:
    """A label that is probably wrong, or an object that probably lacks one, under the ids and names of the data set."""

    rank: int
    """From 1; the most suspicious first."""
    reason: Reason
    """`no label`, `no object`, `wrong class`, `wrong box` or `repeated label`."""
    score: float
    """0..1; about the probability of an error, if 2 % of the labels had each kind of error."""
    split: str
    file_name: str
    """Name of the image in the data set."""
    image_id: int
    label_id: int | None
    """Annotation id of the label; None: an object without a label."""
    where: str
    """The label's record in the annotation file, such as `annotations[17]` or `line 3`."""
    label: str
    """Class of the label; empty without one."""
    label_box: Box | None
    detected: str
    """Class of the detection that contradicts the label; empty without one."""
    detected_box: Box | None
    detected_score: float | None
    """Score of the detection, 0..1."""


@dataclass(frozen=True)
class ReviewResult:
    """The suspects of a data set. Printed, it is a sentence per reason."""

    suspects: list[LabelSuspect] = field(repr=False)
    """The most suspicious first."""
    images: int
    """Number of images that were reviewed."""
    labels: int
    """Number of labels that were reviewed."""
    folds: int
    """Number of folds that the detections come from; 0: from one detector."""
    expected_recall: dict[Reason, float]
    """Of errors of each kind, drawn at random in these labels: the share among the first suspects, as many as a tenth
    of the labels. It tells how far the detections can be relied on."""
    output_dir: Path

    def counts(self) -> dict[Reason, int]:
        """Number of suspects listed for each reason."""
        counts = Counter(suspect.reason for suspect in self.suspects)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {reason}" for reason, count in self.counts().items())
        head = f"{len(self.suspects)} suspects among {self.labels} labels of {self.images} images: {kinds}"
        return f"{head}\n{self.expectation()}"

    def expectation(self) -> str:
        """The expected recall as a sentence."""
        mean = sum(self.expected_recall.values()) / len(self.expected_recall)
        kinds = ", ".join(f"{reason} {share:.0%}" for reason, share in self.expected_recall.items())
        return (
            f"Of errors drawn at random in these labels, {mean:.0%} are among the first {self.labels // 10} suspects "
            f"({kinds})"
        )


def review(source: str | os.PathLike[str], data: str | os.PathLike[str] = "", **options: Any) -> ReviewResult:
    """Find labels that are probably wrong, and write report.html, suspects.json and suspects.csv.

        result = detrkit.review("runs/DATA-folds")
        for suspect in result.suspects[:50]:
            print(suspect.reason, suspect.file_name, suspect.label_id)

    Args:
        source: a folder of folds, whose images are reviewed by the model that has not seen them; or a detector (run
            folder, checkpoint, published name, exported file), which finds less on images that it was trained on.
        data: folder or file of the data set; empty: that of the folds or run.
        options: further settings of `detrkit review`, under the names of its flags (`ReviewConfig`).

    Raises:
        ConfigError: there is no such option, a value does not fit it, the folds are not finished, or no data set is
            known.
        DataError: the data set or the detections cannot be read, or they do not belong together.
        WeightsError: weights cannot be read.
    """
    options = {"quiet": True, **options}
    config = config_from_options(ReviewConfig, source=os.fspath(source), data=os.fspath(data), **options)
    return review_labels(config, note=lambda sentence: warnings.warn(DetrkitWarning(sentence), stacklevel=4))


def review_labels(
    config: ReviewConfig, *, note: Note = lambda sentence: None, show_data: Note = lambda line: None
) -> ReviewResult:
    """Review what `config` names, and write report.html, suspects.json and suspects.csv.

    Args:
        config: the settings of `detrkit review`.
        note: takes sentences about assumptions and about what is left out.
        show_data: takes the lines of the data set's check.

    Raises:
        ConfigError, DataError, WeightsError: see `review`.
    """
    data = read_review_data(config, note)
    for line in data.check.summary():
        show_data(line)
    count = int((~data.arrays.crowd).sum())
    if count < FEW_LABELS:
        note(f"{count} labels are few to tell wrong ones from; look at all of them")
    ranked = find_suspects(data.arrays, data.sizes)
    rows = ranked.rows[: config.max_suspects or max(100, count // 5)]
    suspects = [_suspect(data, rank, row) for rank, row in enumerate(rows, 1)]
    output_dir = Path(config.output_dir) if config.output_dir else _default_folder(config.source)
    result = ReviewResult(suspects, len(data.images), count, data.folds, ranked.expected_recall, output_dir)
    write_atomic(output_dir / "suspects.json", _as_json(result, data, config))
    write_atomic(output_dir / "suspects.csv", _as_csv(suspects))
    notes = [result.expectation() + "."]
    write_review_page(output_dir / "report.html", data, rows, suspects, notes, asdict(config), most=config.max_images)
    if sum(ranked.expected_recall.values()) < WEAK * len(ranked.expected_recall):
        note("The detector is too weak to tell wrong labels from right ones; train it longer, or on more images")
    return result


def _default_folder(source: str) -> Path:
    return run_folder(source) / "review" if Path(source).exists() else Path("runs") / Path(source).name / "review"


def _suspect(data: ReviewData, rank: int, row: SuspectRow) -> LabelSuspect:
    """Name a suspect by the ids of the data set."""
    arrays = data.arrays
    label = data.labels[row.object] if row.object >= 0 else None
    position = int(arrays.object_images[row.object] if label else arrays.images[row.detection])
    image, detected = data.images[position], row.detection >= 0
    return LabelSuspect(
        rank=rank,
        reason=row.reason,
        score=round(row.score, 4),
        split=data.split_of[position],
        file_name=image.file_name,
        image_id=image.id,
        label_id=label.id if label else None,
        where=label.where if label else "",
        label=arrays.names[arrays.object_classes[row.object]] if label else "",
        label_box=_box(arrays.object_boxes[row.object]) if label else None,
        detected=arrays.names[arrays.classes[row.detection]] if detected else "",
        detected_box=_box(arrays.boxes[row.detection]) if detected else None,
        detected_score=round(float(arrays.scores[row.detection]), 4) if detected else None,
    )


def _box(values: Any) -> Box:
    x1, y1, x2, y2 = (round(float(value), 2) for value in values)
    return x1, y1, x2, y2


def _as_json(result: ReviewResult, data: ReviewData, config: ReviewConfig) -> str:
    content = {
        "version": __version__,
        "data": data.source,
        "source": config.source,
        "folds": result.folds,
        "images": result.images,
        "labels": result.labels,
        "expected_recall": {reason: round(share, 4) for reason, share in result.expected_recall.items()},
        "reasons": REASONS,
        "counts": result.counts(),
        "suspects": [asdict(suspect) for suspect in result.suspects],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _as_csv(suspects: Sequence[LabelSuspect]) -> str:
    """One row per suspect; boxes are four columns."""
    text = io.StringIO()
    names = list(LabelSuspect.__dataclass_fields__)
    corners = ("x1", "y1", "x2", "y2")
    heads = [f"{name[:-4]}_{c}" if name.endswith("_box") else name for name in names for c in _parts(name, corners)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for suspect in suspects:
        cells: list[Any] = []
        for name, value in asdict(suspect).items():
            cells += (value or [""] * 4) if name.endswith("_box") else ["" if value is None else value]
        writer.writerow(cells)
    return text.getvalue()


def _parts(name: str, corners: Sequence[str]) -> Sequence[str]:
    return corners if name.endswith("_box") else ("",)
