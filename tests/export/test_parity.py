"""What the parity report says of a file that says something else."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detrkit import Detector
from detrkit.errors import ConfigError
from detrkit.exporting.parity import compare_outputs
from detrkit.inference.backend import PlainBackend
from detrkit.structures import Output

from .small import CATEGORIES, batch, small_model


class Other(PlainBackend):
    """A model whose queries come in another order, with what a test does to its output."""

    def __init__(self, kind: str, **change: float) -> None:
        super().__init__(small_model(kind))
        self.change = change

    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        out = self.model(images, padding_mask)
        out = Output(
            *(each.flip(1) for each in (out.logits, out.boxes)),
            masks=None if out.masks is None else out.masks.flip(1),
            sigmoid=out.sigmoid,
        )
        return replace(out, **{name: getattr(out, name) + more for name, more in self.change.items()})


def rows(kind: str, **change: float) -> list:
    some_images = [batch(size, seed=k)["images"][0] for k, size in enumerate(((64, 80), (90, 64)))]
    reference = Detector(small_model(kind), CATEGORIES, 64)
    return compare_outputs(reference, Detector(Other(kind, **change), CATEGORIES, 64), some_images, (1, 3))


@pytest.mark.parametrize("kind", ["masks", "anchors"])
def test_the_order_of_queries_does_not_matter(kind: str) -> None:
    for row, (count, size, padded) in zip(rows(kind), ((1, (64, 80), False), (3, (90, 80), True)), strict=True):
        assert (row.batch, row.size, row.padded) == (count, size, padded)
        assert max(row.scores, row.boxes) < 1e-5
        assert (row.masks or 0.0) < 1e-4
        assert (row.masks is None) == (kind == "anchors")


def test_differences_are_reported() -> None:
    for row in rows("masks", boxes=0.003):
        assert row.boxes == pytest.approx(0.003, abs=1e-5)
    for row in rows("masks", masks=0.5):
        assert row.masks == pytest.approx(0.5, abs=1e-3)
    for row in rows("anchors", logits=-30.0):  # the file finds nothing, and that is not nothing to compare
        assert row.scores > 0.1


def test_the_best_queries_of_a_model_that_is_sure_of_nothing_are_compared() -> None:
    model = small_model("anchors")
    for head in model.class_embed if isinstance(model.class_embed, torch.nn.ModuleList) else [model.class_embed]:
        head.bias.data -= 8.0
    reference, other = Detector(model, CATEGORIES, 64), Other("anchors", boxes=0.01)
    other.model = model
    (row,) = compare_outputs(reference, Detector(other, CATEGORIES, 64), [batch((64, 64))["images"][0]], (1,))
    assert row.boxes == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("name", ["logits", "boxes", "masks"])
def test_non_finite_outputs_are_errors(name: str) -> None:
    with pytest.raises(ConfigError, match="NaN"):
        rows("masks", **{name: torch.nan})
