"""The last thing a run does: write the report of its best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from detrkit.data.records import Split
from detrkit.evaluation.report import write_report
from detrkit.files import BEST
from detrkit.training.checkpoint import read
from detrkit.training.cycle import EpochCycle
from detrkit.training.evaluation import Validation
from detrkit.training.module import DetectionTraining
from detrkit.visualization.plots import plot_training, read_curves


class FinalReport(pl.Callback):
    """Writes report/ once training is over, from the best checkpoint; not when it was interrupted."""

    def __init__(
        self, cycle: EpochCycle, run_dir: Path, val: Split, validate: Callable[..., Validation | None]
    ) -> None:
        self.cycle, self.run_dir, self.val, self.validate = cycle, run_dir, val, validate

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it, on rank 0; where the best evaluation was in an earlier process, all ranks repeat it first."""
        if self.cycle.interrupted or not self.cycle.best_epoch:
            return
        assert isinstance(pl_module, DetectionTraining)
        found = self.cycle.best
        if found is None:
            pl_module.model.load_state_dict(read(self.run_dir / BEST)["model"])
            found = self.validate(trainer, pl_module, should_stop=lambda: False, advance=lambda done, total: None)
            assert found is not None
        if trainer.is_global_zero:
            curves = read_curves(self.run_dir)
            if curves:
                plot_training(self.run_dir / "report" / "training_curves.png", {self.run_dir.name: curves})
            write_report(
                self.val.to_coco(masks=found.detections.segmentations is not None),
                found.detections,
                self.run_dir / "report",
                panoptic=found.panoptic,
                image_paths={image.id: image.path for image in self.val.images},
                value_range=self.val.value_range,
                meta={"weights": str(self.run_dir / BEST), "data": self.val.source, "split": self.val.name},
            )
