"""Resuming a run: the checkpoint that `--resume` names, and the best checkpoint so far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detrkit.config.train import TrainConfig
from detrkit.files import BEST, LAST, checkpoint_in
from detrkit.models.checkpoints import PUBLISHED
from detrkit.training.checkpoint import ResumePoint, link
from detrkit.training.detr_checkpoint import ReferenceCheckpoint


def find_resume(
    config: TrainConfig, run_dir: Path, classes: int | None = None
) -> tuple[ResumePoint | None, ReferenceCheckpoint | None]:
    """Find the checkpoint that `--resume` names: of a run of detrkit, of the reference DETR, or none yet.

    A run folder means its last checkpoint, last.ckpt or the reference DETR's checkpoint.pth. With a number of
    `classes`, a run of detrkit with another number of classes lends its weights alone, as the reference DETR does.
    """
    if not config.resume:
        return None, None
    if config.resume == "auto":
        last = run_dir / LAST
        return (ResumePoint.read(last) if last.exists() else None), None
    path = Path(config.resume)
    if not (path / "config.json").is_file():  # a Hugging Face folder
        path = checkpoint_in(path, (LAST, "checkpoint.pth"))
    reference = ReferenceCheckpoint.read(path) if path.exists() or str(path) in PUBLISHED else None
    if reference:
        return None, reference
    resume_point = ResumePoint.read(path)
    if classes not in (None, len(resume_point.metadata["categories"])):
        return None, ReferenceCheckpoint.of_run(resume_point.path)
    return resume_point, None


def carry_best(resume_point: ResumePoint, run_dir: Path, monitored: Mapping[str, str]) -> Path | None:
    """Make sure that best.ckpt is the best of what this run compares.

    One that was found on other images or by another number is kept under another name, which is returned. A run that
    goes on in another folder takes its best along.
    """
    best, before = run_dir / BEST, resume_point.path.parent / BEST
    if monitored != resume_point.monitored:
        if not best.is_file():
            return None
        aside = best.with_name(f"best_until_epoch_{resume_point.epoch:04d}.ckpt")
        best.replace(aside)
        return aside
    if not best.is_file() and before.is_file():
        link(before, best)
    return None
