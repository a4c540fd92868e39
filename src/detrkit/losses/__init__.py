"""Losses: `Output` and targets to scalars. `build_criterion` makes the criterion."""

from detrkit.losses.build import build_criterion
from detrkit.losses.criterion import Criterion, WeightedTerm

__all__ = ["Criterion", "WeightedTerm", "build_criterion"]
