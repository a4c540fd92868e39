"""Find the checkpoint that `--resume` names, and keep or set aside the best checkpoint so far."""

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

    Args:
        config: settings of the run. If `resume` is a run folder, the checkpoint is its last.ckpt or checkpoint.pth.
        run_dir: run folder, in which `resume="auto"` looks for last.ckpt.
        classes: number of classes of the data. Of a detrkit run with another number only the weights are taken, as the
            reference DETR does; None: such a run is an error later.

    Raises:
        WeightsError: there is no such checkpoint, or it cannot be read.
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
    """Make sure that best.ckpt in the run folder was chosen by the metric and the images of this run.

    A run that resumes in another folder gets a copy of the best checkpoint.

    Args:
        resume_point: checkpoint to resume from.
        run_dir: run folder.
        monitored: metric and validation images of this run, see `TrainingState`.

    Returns:
        The new name of a best.ckpt that was chosen by another metric or other images, or None.
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
