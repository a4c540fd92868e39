"""Mask losses: by hand, with padding and without, of matched queries alone, and what is refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from detrkit import Output, build_criterion
from detrkit.errors import ConfigError, DataError
from detrkit.losses.mask_losses import mask_dice, mask_focal
from detrkit.losses.supervision import MaskPairs, Matched
from tests.models.small import small_model, some_images, some_targets

LEVELS: dict[str, Any] = {
    "backbone": "nano", "feature_levels": "8,16,32", "encoder": "hybrid", "decoder": "deformable",
    "query_init": "mixed_selection",
    "denoising": "contrastive", "query_groups": 2, "dense_head": "tood", "sigmoid": True, "box_refine": True,
    "dropout": 0.0, "backbone_norm": "batch",
}  # fmt: skip
SIZES = ((64, 96), (96, 64))


def model_and_criterion(kind: str, **changes: Any):
    if kind == "classic":
        return small_model(masks=True, **changes), build_criterion(4, masks=True)
    return small_model(masks=True, **LEVELS, **changes), build_criterion(
        4, masks=True, class_loss="varifocal", dense_head="tood"
    )


def output(masks: torch.Tensor | None, **further: Any) -> Output:
    """Two images and three queries that lie about the objects of `some_targets`, in their order."""
    boxes = torch.cat([t["boxes"] for t in some_targets(1, 2)])
    boxes = torch.stack([boxes, boxes[[1, 2, 0]]])
    return Output(torch.zeros(2, 3, 5), boxes, masks=masks, **further)


def test_both_by_hand() -> None:
    logits, targets = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4) > 0.5
    inside = torch.ones(2, 3, 4, dtype=torch.bool)
    inside[1, 2:] = inside[1, :, 3:] = False
    targets &= inside
    p = 1 / (1 + (-logits).exp())
    focal = torch.where(targets, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    for mask, keep in ((None, torch.ones_like(inside)), (inside, inside)):
        pairs = Matched(*[None] * 8, num_boxes=5.0, num_matched=None, num_queries=None)
        pairs = replace(pairs, masks=MaskPairs(logits, targets.double(), mask))
        expected = sum(focal[k][keep[k]].mean() for k in range(2)) / 5
        torch.testing.assert_close(mask_focal(pairs)[0], expected)
        overlap, total = (sum_of(p * targets, keep), sum_of(p + targets.double(), keep))
        torch.testing.assert_close(mask_dice(pairs)[0], (1 - (2 * overlap + 1) / (total + 1)).sum() / 5)


def sum_of(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return torch.stack([value[k].sum() for value, k in zip(values, keep, strict=True)])


def test_padding_counts_as_background_or_not_at_all() -> None:
    targets = some_targets(1, 2, mask_sizes=SIZES)
    masks = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    other = masks.clone()
    other[0, :, 17:], other[1, :, :, 17:] = 9.0, 9.0  # beyond the images, and what their pixels are mixed of
    for ignored in (False, True):
        criterion = build_criterion(4, masks=True, ignore_mask_padding=ignored)
        actual, changed = (criterion(output(each), targets) for each in (masks, other))
        same = [torch.allclose(actual[name], changed[name]) for name in ("loss_mask", "loss_dice")]
        assert same == [ignored] * 2


def test_without_padding_a_loss_does_not_depend_on_the_batch() -> None:
    criterion = build_criterion(4, masks=True, ignore_mask_padding=True)
    targets = some_targets(1, 2, mask_sizes=((64, 64), (64, 64)))
    masks = torch.randn(2, 3, 16, 16)
    alone = criterion(output(masks, padded_size=(64, 64)), targets)
    wide = torch.nn.functional.pad(masks, (0, 8, 0, 4), mode="replicate")
    padded = criterion(output(wide, padded_size=(80, 96)), targets)
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(padded[name], alone[name])


def test_masks_cover_the_padded_size() -> None:
    """A mask that is right is right, also where the batch is larger than all of its images."""
    targets = some_targets(1, 2, mask_sizes=((64, 64), (64, 64)))
    masks = torch.full((2, 3, 24, 24), -20.0)
    order = [(0, 0, 0, 0), (1, 0, 1, 0), (1, 1, 1, 1)]  # image, query, image, object
    for one_image, query, _, k in order:
        small = torch.nn.functional.avg_pool2d(targets[one_image]["masks"][k][None, None].float(), 4)[0, 0]
        masks[one_image, query, :16, :16] = 40 * small - 20
    criterion = build_criterion(4, masks=True)
    assert [q.tolist() for q, _ in criterion.match(output(masks), targets)] == [[0], [0, 1]]
    right = criterion(output(masks, padded_size=(96, 96)), targets)["loss_dice"]
    stretched = criterion(output(masks), targets)["loss_dice"]
    assert right < 0.1 < stretched


@pytest.mark.parametrize("kind", ["classic", "levels"])
def test_masks_of_matched_queries_give_the_losses_of_the_masks_of_all(kind: str) -> None:
    """The same losses and gradients, of a fraction of the masks."""
    targets = some_targets(2, 1, mask_sizes=SIZES)
    batch = some_images(*SIZES)
    results = []
    for every in (False, True):
        model, criterion = model_and_criterion(kind)
        made: list[int] = []
        model.mask_head.register_forward_hook(lambda head, given, masks, made=made: made.append(len(masks)))
        out = model.eval()(*batch) if every else model.eval().forward_detection(*batch)
        assert (out.masks is not None) is every
        out = replace(out, predict_masks=None) if every else out
        losses = criterion(out, targets)
        criterion.weighted_sum(losses).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients))
        assert made == [12 if every else 3]
    (losses, gradients), (others, other_gradients) = results
    assert gradients.keys() == other_gradients.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, others[name], msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["classic", "levels"])
def test_without_objects_the_loss_is_0_and_every_parameter_has_a_gradient(kind: str) -> None:
    model, criterion = model_and_criterion(kind)
    targets = some_targets(0, 0)  # which may do without masks
    losses = criterion(model.train()(*some_images(*SIZES), targets), targets)
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    criterion.weighted_sum(losses).backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert not any(p.grad.any() for p in model.mask_head.parameters())


def test_earlier_layers_and_branches_have_no_masks() -> None:
    model, criterion = model_and_criterion("levels")
    targets = some_targets(2, 1, mask_sizes=SIZES)
    losses = criterion(model.train()(*some_images(*SIZES), targets), targets)
    assert {"loss_ce_0", "groups/loss_ce", "dn/loss_ce", "dense/loss_ce"} <= losses.keys()
    assert [name for name in losses if "mask" in name or "dice" in name] == ["loss_mask", "loss_dice"]


def test_weights() -> None:
    criterion = build_criterion(4, masks=True, mask_loss_coef=2, dice_loss_coef=3, dense_head="tood")
    out, targets = output(torch.zeros(2, 3, 24, 24)), some_targets(1, 2, mask_sizes=SIZES)
    losses = criterion(out, targets)
    without = build_criterion(4, dense_head="tood")
    rest = without.weighted_sum(without(out, targets))
    torch.testing.assert_close(criterion.weighted_sum(losses), rest + 2 * losses["loss_mask"] + 3 * losses["loss_dice"])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda t: t.pop("masks"), DataError, "expected masks in every target, found none in image 2 of the batch"),
        (
            lambda t: t.update(masks=t["masks"][:1]),
            DataError,
            "expected masks of shape [2, h, w], one per object, found [1, 96, 64] in image 2",
        ),
        (
            lambda t: t.update(masks=torch.ones(2, 99, 99, dtype=torch.bool)),
            DataError,
            "of at most 96 x 96 (height x width) in this batch, found 99 x 99",
        ),
        (None, ConfigError, "expected a model with masks=True"),
    ],
    ids=["missing", "too few", "too large", "no head"],
)
def test_targets_that_do_not_fit_are_refused(change: Any, error: type[Exception], sentence: str) -> None:
    targets = some_targets(1, 2, mask_sizes=SIZES)
    masks = torch.zeros(2, 3, 24, 24) if change else None
    if change:
        change(targets[1])
    with pytest.raises(error, match=re.escape(sentence)):
        build_criterion(4, masks=True)(output(masks, padded_size=(96, 96)), targets)
