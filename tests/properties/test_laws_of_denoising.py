"""Denoising queries know the objects; nothing of that may reach what the model says in inference, nor the other
branches of training."""

from dataclasses import replace

import pytest
import torch

from detrkit import build_criterion
from detrkit.models import decoder
from tests.models.small import small_model, some_images, some_targets

DEFORMABLE = {"encoder": "deformable", "decoder": "deformable", "feature_levels": "16,32", "num_points": 2}
REFINE = {"box_refine": True, "look_forward_twice": True}
MODELS = {
    "everything": {
        **DEFORMABLE, **REFINE, "query_init": "mixed_selection", "score_refine": True, "query_nms_iou": 0.7,
        "dense_head": "fcos", "query_groups": 3,
        "num_queries_one2many": 5, "denoising": "contrastive", "sigmoid": True,
    },
    "anchors": {"query_init": "anchors", "decoder": "conditional", "query_groups": 2, "denoising": "plain"},
    "two_stage": {
        **DEFORMABLE, **REFINE, "query_init": "two_stage", "num_queries_one2many": 5, "denoising": "contrastive",
    },
    "features": {
        **DEFORMABLE, **REFINE, "query_init": "topk_features", "two_stage_head": "dense", "dense_head": "fcos",
        "sigmoid": True, "score_refine": True, "denoising": "plain",
    },
}  # fmt: skip
IMAGES = some_images((96, 128), (128, 64))


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    model = small_model(dec_layers=3, dn_queries=16, **MODELS[request.param]).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what starts at zero would let nothing through
            if not name.startswith("backbone"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def targets(*counts, seed=0):
    return [{**target, "noise_seed": i + 10 * seed} for i, target in enumerate(some_targets(*counts, seed=seed))]


def parts(out):
    """Everything the model says, by branch: the logits and boxes of all layers."""
    parts_of_out = {"": out, **{branch.name: branch.output for branch in out.branches}}
    return {k: [x for layer in (*v.aux, v) for x in (layer.logits, layer.boxes)] for k, v in parts_of_out.items()}


def apart(out):
    """What denoising queries say, and all else."""
    parts_of_out = parts(out)
    return parts_of_out.pop("dn"), parts_of_out


def test_other_objects_change_denoising_queries_alone(model):
    dn, rest = apart(model(*IMAGES, targets(3, 2)))
    other_dn, other_rest = apart(model(*IMAGES, targets(3, 2, seed=1)))
    assert rest.keys() == other_rest.keys()
    for name, values in rest.items():
        assert all(map(torch.equal, values, other_rest[name])), name
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(dn, other_dn, strict=True))


def test_no_gradient_runs_from_other_outputs_to_the_objects(model):
    given = targets(3, 2)
    for target in given:
        target["boxes"].requires_grad_()
    dn, rest = apart(model(*IMAGES, given))
    inputs = [model.denoising.label_embed.weight, *(target["boxes"] for target in given)]
    total = sum(x.square().sum() for values in rest.values() for x in values)
    blind = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in blind)
    seen = torch.autograd.grad(sum(x.square().sum() for x in dn), inputs)
    assert all(gradient.abs().max() > 1e-3 for gradient in seen)  # so there is something that could leak


@pytest.mark.parametrize("counts", [(3, 2), (0, 0), (40, 1)], ids=str)
def test_denoising_changes_nothing_of_the_rest(model, counts):
    plain = parts(model(*IMAGES))  # training without targets
    _, rest = apart(model(*IMAGES, targets(*counts)))
    assert rest.keys() == plain.keys()
    for name, values in rest.items():
        for with_them, without in zip(values, plain[name], strict=True):
            torch.testing.assert_close(with_them, without, rtol=0, atol=2e-5)


def test_training_outputs_equal_evaluation_outputs(model):
    parts_of_out = parts(model(*IMAGES, targets(3, 2)))[""]
    evaluated = model.eval()(*IMAGES, targets(3, 2))
    model.train()
    assert not evaluated.branches
    for training, evaluation in zip(parts_of_out, parts(evaluated)[""], strict=True):
        torch.testing.assert_close(training, evaluation, rtol=0, atol=2e-5)


def test_a_model_without_the_mask_breaks_these_laws(model, monkeypatch):
    monkeypatch.setattr(decoder, "build_attn_mask", lambda ids: torch.ones(*ids.shape, ids.shape[1]).bool()[:, None])
    _, rest = apart(model(*IMAGES, targets(3, 2)))
    _, other = apart(model(*IMAGES, targets(3, 2, seed=1)))
    assert max((a - b).abs().max() for a, b in zip(rest[""], other[""], strict=True)) > 1e-3


def test_denoising_queries_of_an_image_do_not_depend_on_its_batch(model):
    images, padding = some_images((96, 64), (96, 64), (96, 64))
    given = targets(1, 7, 0)
    together = model(images, padding, given)
    (branch,) = (b for b in together.branches if b.name == "dn")
    assert branch.ignored.any()
    for i in range(3):
        (alone,) = (
            b for b in model(images[i : i + 1], padding[i : i + 1], given[i : i + 1]).branches if b.name == "dn"
        )
        used = int((~alone.ignored).sum())
        assert used == (~branch.ignored[i]).sum()
        assert all(map(torch.equal, alone.pairs[0], branch.pairs[i]))
        torch.testing.assert_close(alone.output.logits[0, :used], branch.output.logits[i, :used], rtol=0, atol=2e-5)
        torch.testing.assert_close(alone.output.boxes[0, :used], branch.output.boxes[i, :used], rtol=0, atol=2e-5)


def criterion_for(model):
    return build_criterion(4, class_loss="varifocal" if model.sigmoid else "softmax", dense_head="fcos")


def test_unused_slots_have_no_loss(model):
    given = targets(1, 7)
    out = model(*IMAGES, given)
    (i, branch), *_ = [(i, b) for i, b in enumerate(out.branches) if b.name == "dn"]
    assert branch.ignored.any()

    def elsewhere(layer):
        unused = branch.ignored[..., None]
        logits, boxes = layer.logits.masked_fill(unused, 30.0), layer.boxes.masked_fill(unused, 0.9)
        return replace(layer, logits=logits, boxes=boxes, aux=[elsewhere(x) for x in layer.aux])

    branches = [*out.branches[:i], replace(branch, output=elsewhere(branch.output)), *out.branches[i + 1 :]]
    before, after = (criterion_for(model)(x, given) for x in (out, replace(out, branches=branches)))
    assert {k: v.item() for k, v in before.items()} == {k: v.item() for k, v in after.items()}
    assert before["dn/loss_bbox"] > 0


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (40, 1)], ids=str)
def test_every_parameter_has_a_gradient_for_any_objects(model, counts):
    criterion, given = criterion_for(model), targets(*counts)
    total = criterion.weighted_sum(criterion(model(*IMAGES, given), given))
    model.zero_grad()
    total.backward()
    assert total.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert model.denoising.label_embed.weight.grad.any() == any(counts)
