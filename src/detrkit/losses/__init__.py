"""Losses: `Output` and targets to scalars. `build_criterion` makes the criterion."""

from detrkit.losses.build import build_criterion
from detrkit.losses.criterion import Criterion, DetectionCriterion, WeightedTerm

__all__ = ["Criterion", "DetectionCriterion", "WeightedTerm", "build_criterion"]
