"""Matching, criterion and post-processing on small outputs; their numbers are held in tests/parity."""

import os
from dataclasses import asdict, replace

import pytest
import torch

from detrkit import Output, build_criterion, postprocess
from detrkit.config.loss import LossConfig
from detrkit.errors import ConfigError, DataError
from detrkit.losses.matcher import HungarianMatcher, LayerOutputs, MatchingProblem
from tests.models.small import some_targets


def output(batch=2, queries=6, classes=4, layers=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outs = [
        Output(
            torch.randn(batch, queries, classes + 1, generator=generator, requires_grad=True),
            (0.2 + 0.5 * torch.rand(batch, queries, 4, generator=generator)).requires_grad_(),
        )
        for _ in range(layers)
    ]
    return replace(outs[-1], aux=outs[:-1])


def test_defaults_and_names_are_those_of_the_reference():
    assert asdict(LossConfig()) == {
        "num_classes": 91, "set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "bbox_loss_coef": 5,
        "giou_loss_coef": 2, "eos_coef": 0.1, "mask_loss_coef": 1, "dice_loss_coef": 1, "masks": False,
        "class_loss": "softmax", "cls_loss_coef": 1, "dense_loss_coef": 1, "dn_loss_coef": 1, "dense_head": "none",
        "ignore_mask_padding": False,
    }  # fmt: skip
    losses = build_criterion(4)(output(), some_targets(2, 1))
    each = ["loss_ce", "loss_bbox", "loss_giou", "cardinality_error"]
    assert set(losses) == {"class_error", *each, *(f"{name}_{i}" for name in each for i in (0, 1))}
    assert all(loss.shape == () for loss in losses.values())


def test_weighted_sum_counts_every_layer_and_no_log_entry():
    criterion = build_criterion(4, bbox_loss_coef=3, giou_loss_coef=0)
    losses = criterion(output(), some_targets(2, 1))
    expected = sum(losses[f"loss_ce{s}"] + 3 * losses[f"loss_bbox{s}"] for s in ("", "_0", "_1"))
    torch.testing.assert_close(criterion.weighted_sum(losses), expected)


def test_every_layer_is_matched_as_if_alone():
    out, targets, matcher = output(), some_targets(3, 2), HungarianMatcher()
    together = matcher.match_all([MatchingProblem(LayerOutputs.of([out, *out.aux]), targets)])[0]
    for layer, pairs in zip([out, *out.aux], together, strict=True):
        for (q, t), (q_alone, t_alone) in zip(pairs, matcher(layer, targets), strict=True):
            assert torch.equal(q, q_alone)
            assert torch.equal(t, t_alone)
            assert q.tolist() == sorted(q.tolist())


def test_the_class_loss_has_a_weight_too():
    criterion = build_criterion(4, bbox_loss_coef=0, giou_loss_coef=0, cls_loss_coef=2)
    losses = criterion(output(), some_targets(2, 1))
    expected = sum(2 * losses[f"loss_ce{s}"] for s in ("", "_0", "_1"))
    torch.testing.assert_close(criterion.weighted_sum(losses), expected)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"class_loss": "hinge"}, "class_loss must be softmax, focal, varifocal or matchability"),
        ({"dense_head": "retina"}, "dense_head must be none, fcos, atss or tood"),
        ({"cls_loss_coef": 0, "bbox_loss_coef": 0, "giou_loss_coef": 0}, "must be above 0, found none"),
    ],
)
def test_unknown_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_criterion(4, **settings)


@pytest.mark.parametrize(("sigmoid", "most"), [(False, 3), (True, 4)])
@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_label_outside_of_the_classes_is_refused(sigmoid, most, wrong):
    targets = some_targets(2, 3)
    targets[1]["labels"][1] = wrong
    with pytest.raises(DataError, match=rf"expected labels in 0\.\.{most}, found {wrong} in image 2 of the batch"):
        build_criterion(4)(replace(output(layers=1), sigmoid=sigmoid), targets)


@pytest.mark.parametrize("no_object_weight", [0.1, 0.0])
def test_losses_without_objects_and_weights_are_not_nan(no_object_weight):
    losses = build_criterion(4, eos_coef=no_object_weight)(output(), some_targets(0, 0))
    assert all(loss.isfinite() for loss in losses.values())


def test_more_objects_than_queries():
    pairs = build_criterion(4).match(output(batch=1), some_targets(9))
    assert len(pairs[0][0]) == 6


def test_no_objects_are_no_class_error():
    losses = build_criterion(4)(output(), some_targets(0, 0))
    assert losses["class_error"] == 0
    assert losses["loss_bbox"] == 0
    assert losses["loss_giou"] == 0
    assert losses["loss_ce"] > 0


def test_losses_of_half_precision_outputs_are_float32():
    out, targets, criterion = output(layers=1), some_targets(2, 1), build_criterion(4)
    halved = Output(out.logits.bfloat16(), out.boxes.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(halved, targets)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    expected = criterion(Output(halved.logits.float(), halved.boxes.float()), targets)
    assert losses == expected


def test_a_wrong_number_of_classes_is_refused():
    with pytest.raises(ConfigError, match="expected a model of num_classes=91, as the criterion has, found one of 4"):
        build_criterion()(output(), some_targets(2, 1))


def _one_of_two(rank, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    counts = [(4, 1), (0, 0)][rank]
    losses = build_criterion(4)(output(seed=rank), some_targets(*counts))
    torch.save({name: loss.detach() for name, loss in losses.items()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_number_of_boxes_is_averaged_over_processes(tmp_path):
    """Two processes on the CPU, one of them without any object: sums over boxes are divided by 5 / 2."""
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    alone = build_criterion(4)(output(seed=0), some_targets(4, 1))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first["loss_bbox"], alone["loss_bbox"] * 2)
    torch.testing.assert_close(first["loss_giou_1"], alone["loss_giou_1"] * 2)
    queries = output().logits[..., 0].numel()
    own, mean = ((n + 0.1 * (queries - n)) for n in (5, 2.5))  # the weights of the queries' classes
    torch.testing.assert_close(first["loss_ce"], alone["loss_ce"] * own / mean)
    assert second["loss_bbox"] == 0


def test_one_class_a_query_in_the_order_of_the_queries():
    out, sizes = output(), torch.tensor([[100, 200], [50, 40]])
    for i, actual in enumerate(postprocess(out, sizes)):
        probabilities = out.logits[i].softmax(-1)[:, :-1]
        torch.testing.assert_close(actual.scores, probabilities.amax(-1))
        assert actual.class_ids.tolist() == probabilities.argmax(-1).tolist()
        assert actual.image_size == tuple(sizes[i].tolist())
        cx, cy, w, h = out.boxes[i, 0].tolist()
        height, width = sizes[i].tolist()
        expected = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        assert actual.xyxy[0].tolist() == pytest.approx(expected, abs=1e-4)
        assert not actual.scores.requires_grad


def test_top_k_ranks_all_pairs_of_query_and_class():
    out, sizes = output(), torch.tensor([[100, 200], [50, 40]])
    every = postprocess(out, sizes)
    for i, actual in enumerate(postprocess(out, sizes, top_k=9)):
        probabilities = out.logits[i].softmax(-1)[:, :-1]
        ranked = sorted(
            ((p, q, c) for q, row in enumerate(probabilities.tolist()) for c, p in enumerate(row)), reverse=True
        )
        assert actual.scores.tolist() == pytest.approx([p for p, _, _ in ranked[:9]])
        assert actual.class_ids.tolist() == [c for _, _, c in ranked[:9]]
        torch.testing.assert_close(actual.xyxy, every[i].xyxy[[q for _, q, _ in ranked[:9]]])
    assert len(postprocess(out, sizes, top_k=1000)[0]) == 6 * 4


def test_sigmoid_outputs_give_the_best_pairs_by_default():
    logits = torch.tensor([[[2.0, 1.0], [-1.0, 0.5], [-3.0, -2.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2]]])
    out, sizes = Output(logits, boxes, sigmoid=True), torch.tensor([[100, 100]])
    actual = postprocess(out, sizes)[0]  # as many as there are queries
    torch.testing.assert_close(actual.scores, torch.tensor([2.0, 1.0, 0.5]).sigmoid())
    assert actual.class_ids.tolist() == [0, 1, 1]
    torch.testing.assert_close(actual.xyxy[:, 0], torch.tensor([40.0, 40.0, 30.0]))
    actual = postprocess(out, sizes, top_k=0)[0]  # one class per query, in their order
    torch.testing.assert_close(actual.scores, torch.tensor([2.0, 0.5, -2.0]).sigmoid())
    assert actual.class_ids.tolist() == [0, 1, 1]
    assert postprocess(out, sizes, top_k=5)[0].class_ids.tolist() == [0, 1, 1, 0, 1]
