"""The classification losses against loops written from their papers' formulas."""

import math

import pytest
import torch

from detrkit import Output, build_criterion
from detrkit.losses.class_losses import FocalLoss, MatchabilityLoss, SoftmaxLoss, VarifocalLoss
from detrkit.losses.matcher import LayerOutputs
from detrkit.losses.supervision import Matched
from detrkit.ops.boxes import cxcywh_to_xyxy, iou

B, Q, C = 2, 5, 3


def matched(logits, boxes=None, ignored=None, *, num_boxes=4.0, class_agnostic=False):
    """Pairs (image, query, class): (0, 1, 2), (0, 3, 0), (1, 0, 2)."""
    images, queries, labels = torch.tensor([[0, 0, 1], [1, 3, 0], [2, 0, 2]])
    target_boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.3], [0.6, 0.6, 0.3, 0.3]], dtype=logits.dtype)
    if boxes is None:
        boxes = torch.full((B, Q, 4), 0.4, dtype=logits.dtype)
        boxes[images, queries] = target_boxes * 1.1
    counts = (torch.tensor(value, dtype=logits.dtype) for value in (num_boxes, 3.0, float(B * Q)))
    preds, pred_boxes = LayerOutputs(logits[None], boxes[None], sigmoid=True), boxes[images, queries]
    pairs = (torch.zeros_like(images), images, queries)
    return Matched(preds, *pairs, pred_boxes, labels, target_boxes, [2, 1], *counts, ignored, class_agnostic)


def random_logits():
    generator = torch.Generator().manual_seed(3)
    return (3 * torch.randn(B, Q, C, generator=generator, dtype=torch.float64)).requires_grad_()


def by_hand(case, positive, negative):
    """Sum over the cells of positive(p, q) or negative(p), divided by `num_boxes`."""
    pairs = {
        (i, k, c): n
        for n, (i, k, c) in enumerate(
            zip(case.image_index.tolist(), case.query_index.tolist(), case.target_labels.tolist(), strict=True)
        )
    }
    quality = iou(cxcywh_to_xyxy(case.pred_boxes), cxcywh_to_xyxy(case.target_boxes))
    total = 0.0
    for i in range(B):
        for k in range(Q):
            for c in range(C):
                if case.ignored is not None and case.ignored[i, k]:
                    continue
                p = 1 / (1 + math.exp(-case.preds.logits[0, i, k, c].item()))
                total += positive(p, quality[pairs[i, k, c]].item()) if (i, k, c) in pairs else negative(p)
    return total / case.num_boxes.item()


FORMULAS = [
    pytest.param(
        FocalLoss(C),
        lambda p, q: -0.25 * (1 - p) ** 2 * math.log(p),
        lambda p: -0.75 * p**2 * math.log(1 - p),
        id="focal",
    ),
    pytest.param(
        VarifocalLoss(C),
        lambda p, q: -q * (q * math.log(p) + (1 - q) * math.log(1 - p)),
        lambda p: -0.75 * p**2 * math.log(1 - p),
        id="varifocal",
    ),
    pytest.param(
        MatchabilityLoss(C),
        lambda p, q: -(q**1.5) * math.log(p) - (1 - q**1.5) * math.log(1 - p),
        lambda p: -(p**1.5) * math.log(1 - p),
        id="matchability",
    ),
]
LOSSES = [pytest.param(case.values[0], id=case.id) for case in FORMULAS]


@pytest.mark.parametrize(("loss", "positive", "negative"), FORMULAS)
def test_the_formula_cell_by_cell(loss, positive, negative):
    ignored = torch.zeros(B, Q, dtype=torch.bool)
    ignored[1, 2:4] = True
    for case in (matched(random_logits()), matched(random_logits(), ignored=ignored)):
        assert loss(case).item() == pytest.approx(by_hand(case, positive, negative), rel=1e-9)


def test_known_values():
    """All probabilities 1/2, the matched boxes exact: 3 cells say yes, 27 say no, 4 boxes."""
    logits, ln2 = torch.zeros(B, Q, C, dtype=torch.float64), math.log(2)
    case = matched(logits)
    case.pred_boxes.copy_(case.target_boxes)
    assert FocalLoss(C)(case).item() == pytest.approx((3 * 0.25 + 27 * 0.75) / 4 * ln2 / 4)
    assert VarifocalLoss(C)(case).item() == pytest.approx((3 + 27 * 0.75 / 4) * ln2 / 4)
    assert MatchabilityLoss(C)(case).item() == pytest.approx((3 + 27 * 0.5**1.5) * ln2 / 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss):
    """Focal is differentiated as it stands; in the others the weight p^gamma of a "no" is a constant."""
    logits = random_logits()
    case = matched(logits)
    loss(case).backward()
    indices = (case.image_index, case.query_index, case.target_labels)
    no = torch.ones_like(logits, dtype=torch.bool).index_put(indices, torch.tensor(False))
    p = logits.detach().sigmoid()
    if isinstance(loss, FocalLoss):
        assert torch.autograd.gradcheck(lambda x: loss(matched(x)), (random_logits(),))
    else:
        alpha = getattr(loss, "alpha", 1)
        torch.testing.assert_close(logits.grad[no], (alpha * p**loss.gamma * p / 4)[no])
        assert (logits.grad[no] > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_iou_target_has_no_gradient(loss):
    boxes = torch.full((B, Q, 4), 0.4, requires_grad=True)
    total = loss(matched(random_logits().float(), boxes))
    assert torch.autograd.grad(total, boxes, allow_unused=True) == (None,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("level", [-50.0, 50.0])
def test_saturated_logits_have_finite_losses_and_gradients(loss, level):
    logits = torch.full((B, Q, C), level, requires_grad=True)
    total = loss(matched(logits))
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()


def test_a_match_of_low_iou_still_weighs_in_matchability_but_not_in_varifocal():
    logits = torch.zeros(B, Q, C, requires_grad=True)
    far = torch.full((B, Q, 4), 0.01)  # all IoU 0
    indices = (torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 2]))
    (grad,) = torch.autograd.grad(VarifocalLoss(C)(matched(logits, far)), logits)
    assert (grad[indices] == 0).all()
    (grad,) = torch.autograd.grad(MatchabilityLoss(C)(matched(logits, far)), logits)
    torch.testing.assert_close(grad[indices], torch.full((3,), 0.5 / 4))


def test_ignored_queries_have_no_loss():
    ignored = torch.zeros(B, Q, dtype=torch.bool)
    ignored[1, 4] = True
    for loss, width in [(SoftmaxLoss(C), C + 1), *((case.values[0], C) for case in FORMULAS)]:
        logits = torch.randn(B, Q, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        other = torch.where(ignored[..., None], 7.0, logits.detach()).requires_grad_()
        totals = [loss(matched(x, ignored=ignored)) for x in (logits, other)]
        assert totals[0] == totals[1]
        assert totals[0] != loss(matched(logits))
        (grad,) = torch.autograd.grad(totals[1], other)
        assert (grad[1, 4] == 0).all()
        assert (grad[0] != 0).any()


def test_a_wrong_number_of_classes_is_refused_unless_class_agnostic():
    logits = torch.zeros(B, Q, C)
    for kind in ("focal", "varifocal", "matchability"):
        criterion = build_criterion(9, class_loss=kind)
        out = Output(logits, torch.full((B, Q, 4), 0.5), sigmoid=True)
        nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
        with pytest.raises(Exception, match="expected a model of num_classes=9, as the criterion has, found one of 3"):
            criterion(out, [nothing, nothing])
        assert criterion.terms[0].term(matched(logits, class_agnostic=True)).isfinite()
