"""Every number of a forward, backward and training pass beside those of the reference DETR."""

import pytest
import torch

from detrkit import postprocess
from detrkit.ops.boxes import cxcywh_to_xyxy, pairwise_giou
from tests.parity.cases import NAMES, Case


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case.load(request.param)


@pytest.fixture(scope="module")
def passed(case):
    """The model after one forward and backward pass in eval mode."""
    model = case.model().eval()
    criterion = case.criterion()
    out = model(*case.batch)
    losses = criterion(out, case.targets)
    total = criterion.weighted_sum(losses)
    total.backward()
    return model, criterion, out, losses, total


def test_parameter_counts(case):
    model = case.model()
    assert sum(p.numel() for p in model.parameters()) == case.expected["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case.expected["trainable_parameters"]


def test_outputs_of_every_decoder_layer(case, passed):
    out = passed[2]
    layers = [*out.aux, out]
    for name, actual in (("pred_logits", [x.logits for x in layers]), ("pred_boxes", [x.boxes for x in layers])):
        torch.testing.assert_close(torch.stack(actual), torch.from_numpy(case.arrays[name]), rtol=0, atol=1e-4)


def test_masks(case, passed):
    if not case.masks:
        assert passed[2].masks is None
        return
    expected = torch.from_numpy(case.arrays["pred_masks"]).float()  # kept in float16
    torch.testing.assert_close(passed[2].masks, expected, rtol=0, atol=1e-3)


def test_assignments(case, passed):
    """Those of the reference DETR, or others that cost the same but for rounding.

    Queries start alike in post-norm models, so exchanging two of them may change the sum of the costs by less than
    rounding does: a choice of the reference DETR is 1.4e-7 of 27 above the best even by its own outputs in float64.
    """
    _, criterion, out, _, _ = passed
    for i, (target, actual) in enumerate(zip(case.targets, criterion.match(out, case.targets), strict=True)):
        expected = tuple(torch.from_numpy(case.arrays[f"match{i}_{side}"]) for side in ("queries", "targets"))
        for queries, objects in (actual, expected):
            assert queries.tolist() == sorted(set(queries.tolist()))
            assert sorted(objects.tolist()) == list(range(len(target["labels"])))
        costs = costs_in_float64(out, i, target)
        rounding = 1e-6 * len(target["labels"])  # of float32 costs up to 8, two to four units in their last place
        assert costs[actual].sum().item() == pytest.approx(costs[expected].sum().item(), rel=0, abs=rounding)


def costs_in_float64(out, i, target):
    """The costs [Q, n] of image i by the formula of the paper, with the default weights of the reference DETR."""
    pred_boxes, target_boxes = out.boxes[i].detach().double(), target["boxes"].double()
    likely = out.logits[i].detach().double().softmax(-1)[:, target["labels"]]
    overlap = pairwise_giou(cxcywh_to_xyxy(pred_boxes), cxcywh_to_xyxy(target_boxes))
    return 5 * torch.cdist(pred_boxes, target_boxes, p=1) - likely - 2 * overlap


def test_losses(case, passed):
    losses, total = passed[3:]
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(case.expected["losses"], rel=1e-4)
    assert total.item() == pytest.approx(case.expected["weighted_loss"], rel=1e-4)


def test_gradient_norms(case, passed):
    """Within 1e-3, or where a norm is small, within a few float32 roundings of the whole gradient's.

    Queries start alike in post-norm models, so that what reaches them nearly cancels: one of these norms is 0 but for
    rounding, and another is 8.6e-4 beside a whole gradient of 395. Other instruction sets, float64, and noise of a unit
    in the last place of every intermediate result move such norms by up to 0.7 roundings (7e-8) of the whole.
    """
    parameters = dict(passed[0].named_parameters())
    actual = {
        name: parameters[name.removeprefix("detr.")].grad.norm().item() for name in case.expected["gradient_norms"]
    }
    _, whole = case.expected["training"]["weighted_loss_and_gradient_norm_per_step"][0]
    rounding = torch.finfo(torch.float32).eps * whole
    assert actual == pytest.approx(case.expected["gradient_norms"], rel=1e-3, abs=2 * rounding)


def test_detections(case, passed):
    for i, actual in enumerate(postprocess(passed[2], case.sizes)):
        torch.testing.assert_close(
            actual.xyxy, torch.from_numpy(case.arrays[f"detections{i}_boxes"]), rtol=0, atol=1e-3
        )
        torch.testing.assert_close(
            actual.scores, torch.from_numpy(case.arrays[f"detections{i}_scores"]), rtol=0, atol=1e-4
        )
        assert actual.class_ids.tolist() == case.arrays[f"detections{i}_labels"].tolist()


def test_short_training_run(case):
    """Losses within 1e-3 at every step, and gradient norms too as long as they are determined that well.

    AdamW makes whole steps of gradients that are hardly more than rounding, so training is chaotic: another instruction
    set, two threads instead of one, float64, or noise of four units in the last place of every intermediate result move
    the third gradient norm by up to 2e-3, the fourth by 1e-2 and the seventh by 6e-2. The losses move by up to 4e-4.
    """
    model = case.model().train()
    criterion = case.criterion()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in trained if not name.startswith("backbone.0")]},
            {"params": [p for name, p in trained if name.startswith("backbone.0")], "lr": 1e-5},
        ],
        lr=1e-4,
        weight_decay=1e-4,
    )
    steps = case.expected["training"]["weighted_loss_and_gradient_norm_per_step"]
    for step, (loss, norm) in enumerate(steps):
        total = criterion.weighted_sum(criterion(model(*case.batch), case.targets))
        optimizer.zero_grad()
        total.backward()
        actual = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        assert total.item() == pytest.approx(loss, rel=1e-3)
        assert actual.item() == pytest.approx(norm, rel=1e-3 if step < 2 else 5e-2 if step < 4 else 1e-1)
