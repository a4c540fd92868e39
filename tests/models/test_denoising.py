"""Denoising queries: how many, how noised, what they may see."""

import pytest
import torch

from detrkit.errors import ConfigError
from detrkit.models.denoising import UNUSED, Denoising
from detrkit.models.layers.attention import MultiheadAttention
from detrkit.models.queries import build_attn_mask
from detrkit.ops.boxes import cxcywh_to_xyxy, iou
from tests.models.small import some_targets

CLASSES, DIM = 4, 8
BOTH = pytest.mark.parametrize("contrastive", [False, True], ids=["plain", "contrastive"])


def denoising(budget=100, contrastive=False, **noise):
    torch.manual_seed(0)
    return Denoising(DIM, CLASSES, budget, contrastive, **noise)


def seeded(*counts, seed=0, first=0):
    """Targets whose noise depends on nothing but themselves."""
    return [{**t, "noise_seed": first + i} for i, t in enumerate(some_targets(*counts, seed=seed))]


def same_boxes(n, box):
    return [{"labels": torch.zeros(n, dtype=torch.int64), "boxes": torch.tensor(box).expand(n, 4), "noise_seed": 5}]


def classes_of(noised, module):
    """The class that each content is the vector of."""
    return torch.cdist(noised.content, module.label_embed.weight[None]).argmin(-1)


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "contrastive", "groups"),
    [(1, False, 100), (3, False, 33), (51, False, 1), (100, False, 1), (1, True, 50), (3, True, 16), (50, True, 1)],
)
def test_as_many_groups_as_the_budget_holds_each_with_every_object(objects, contrastive, groups):
    noised = denoising(100, contrastive)(seeded(objects))
    size = objects * (2 if contrastive else 1)
    assert noised.group_ids.tolist() == [[g for g in range(1, groups + 1) for _ in range(size)]]
    slots, actual = noised.pairs[0]
    assert actual.tolist() == list(range(objects)) * groups
    expected = [start + i for start in range(0, groups * size, size) for i in range(objects)]  # near ones come first
    assert slots.tolist() == expected
    assert not noised.unused.any()


@pytest.mark.parametrize(("contrastive", "fit"), [(False, 100), (True, 50)])
def test_objects_beyond_the_budget_are_chosen_at_random(contrastive, fit):
    module = denoising(100, contrastive, label_noise=0, box_noise=0)
    targets = seeded(151)
    noised = module(targets)
    assert noised.group_ids.tolist() == [[1] * 100]
    slots, objects = noised.pairs[0]
    assert len(slots) == fit == len(set(objects.tolist()))
    torch.testing.assert_close(noised.boxes[0, slots], targets[0]["boxes"][objects])  # corners there and back round
    assert torch.equal(classes_of(noised, module)[0, slots], targets[0]["labels"][objects])
    other = module([{**targets[0], "noise_seed": 1}]).pairs[0][1]
    assert set(other.tolist()) != set(objects.tolist())
    often = torch.cat([module([{**targets[0], "noise_seed": s}]).pairs[0][1] for s in range(200)]).bincount(
        minlength=151
    )
    assert often.min() > 0.5 * 200 * fit / 151  # every object has its turns


@pytest.mark.parametrize(("contrastive", "budget"), [(False, 0), (True, 1)])
def test_a_budget_that_holds_no_object_is_refused(contrastive, budget):
    with pytest.raises(ConfigError, match=f"dn_queries must be at least {budget + 1} .*found {budget}"):
        denoising(budget, contrastive)
    assert denoising(budget + 1, contrastive)(seeded(2)).pairs[0][0].tolist() == [0]


def test_the_widest_image_sets_the_number_of_slots_and_the_rest_is_unused():
    noised = denoising(10)(seeded(3, 10, 0, 4))
    assert (~noised.unused).sum(1).tolist() == [9, 10, 0, 8]
    assert noised.group_ids[0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, UNUSED]
    assert [len(slots) for slots, _ in noised.pairs] == [9, 10, 0, 8]
    assert noised.content.shape == (4, 10, DIM)


# --- what an image's queries depend on -----------------------------------------------------------------------------


@BOTH
def test_a_image_has_the_same_queries_in_any_batch(contrastive):
    module, targets = denoising(20, contrastive), seeded(3, 0, 25, 7)
    together = module(targets)
    for i, target in enumerate(targets):
        alone = module([target])
        used = int((~alone.unused).sum())
        assert together.unused[i, used:].all()
        for field in ("content", "boxes", "group_ids"):
            assert torch.equal(getattr(alone, field)[0, :used], getattr(together, field)[i, :used])
        assert all(map(torch.equal, alone.pairs[0], together.pairs[i]))


def test_noise_depends_on_its_seed_alone():
    module, (target,) = denoising(), seeded(3)
    first = module([target])
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = module([target]), module([{**target, "noise_seed": 1}])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.content, again.content)
    assert not torch.equal(first.boxes, other.boxes)


def test_without_a_seed_noise_is_torchs_own():
    module, targets = denoising(), some_targets(3)
    torch.manual_seed(1)
    first, second = module(targets), module(targets)
    torch.manual_seed(1)
    assert torch.equal(module(targets).boxes, first.boxes)
    assert not torch.equal(first.boxes, second.boxes)


# --- no object at all -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (3,)], ids=str)
def test_label_embed_always_has_a_gradient_which_unused_slots_alone_do_not_move(counts, contrastive):
    module = denoising(10, contrastive)
    noised = module(seeded(*counts))
    assert noised.content.shape[1] >= 1
    assert noised.boxes.isfinite().all()
    (noised.content * ~noised.unused[..., None]).square().sum().backward()
    assert module.label_embed.weight.grad.isfinite().all()
    assert module.label_embed.weight.grad.any() == any(counts)


def test_without_any_object_there_is_one_unused_slot():
    noised = denoising()(seeded(0, 0))
    assert noised.group_ids.tolist() == [[UNUSED], [UNUSED]]
    assert noised.boxes.tolist() == [[[0.5, 0.5, 1, 1]]] * 2
    assert [(len(slots), len(objects)) for slots, objects in noised.pairs] == [(0, 0)] * 2


# --- noise ----------------------------------------------------------------------------------------------------------


def test_without_noise_queries_are_the_objects():
    module, targets = denoising(12, label_noise=0, box_noise=0), seeded(3)
    noised = module(targets)
    assert torch.equal(noised.boxes[0], targets[0]["boxes"].repeat(4, 1))
    assert torch.equal(noised.content[0], module.label_embed.weight[targets[0]["labels"]].repeat(4, 1))


@BOTH
@pytest.mark.parametrize("label_noise", [0.5, 2.0])
def test_labels_flip_to_a_random_class_with_half_the_chance_of_the_setting(label_noise, contrastive):
    module = denoising(8000, contrastive, label_noise=label_noise)
    actual = classes_of(module(same_boxes(10, [0.5, 0.5, 0.2, 0.2])), module)[0].bincount(minlength=CLASSES) / 8000
    others = label_noise / 2 / CLASSES  # a random class may be the object's own
    assert actual.tolist() == pytest.approx([1 - 3 * others, others, others, others], abs=0.02)


def test_plain_noise_moves_the_center_and_scales_the_sides_up_to_its_bounds():
    box, noise = torch.tensor([0.5, 0.4, 0.2, 0.1]), 0.4
    noised = denoising(8000, box_noise=noise)(same_boxes(8, box.tolist())).boxes[0]
    moved = (noised - box) / box[2:].repeat(2)  # in sides
    most = torch.tensor([noise / 2, noise / 2, noise, noise])
    assert (moved.abs() <= most + 1e-5).all()
    torch.testing.assert_close(moved.abs().mean(0), most / 2, rtol=0.05, atol=0)  # evenly spread, both ways
    torch.testing.assert_close(moved.mean(0), torch.zeros(4), rtol=0, atol=0.01)
    assert moved.T.corrcoef().sub(torch.eye(4)).abs().max() < 0.05  # each side for itself


@pytest.mark.parametrize("noise", [0.4, 1.0])
def test_contrastive_noise_moves_corners_of_negatives_further(noise):
    box = torch.tensor([0.5, 0.4, 0.2, 0.1])
    noised = denoising(8000, contrastive=True, box_noise=noise)(same_boxes(8, box.tolist()))
    moved = (cxcywh_to_xyxy(noised.boxes[0]) - cxcywh_to_xyxy(box)) / box[2:].repeat(2)  # in sides
    near = torch.zeros(8000, dtype=torch.bool)
    near[noised.pairs[0][0]] = True
    assert near.sum() == 4000
    assert (moved[near].abs() <= noise / 2 + 1e-5).all()
    torch.testing.assert_close(moved[near].abs().mean(0), torch.full((4,), noise / 4), rtol=0.05, atol=0)
    away = moved[~near]
    if noise == 1:  # some are turned inside out, and become slivers; each coordinate of the rest is far
        away = away[(noised.boxes[0, ~near, 2:] > 2e-4).all(1)]
    assert (away.abs() >= noise / 2 - 1e-5).all()
    assert (away.abs() <= noise + 1e-5).all()
    if noise == 0.4:
        torch.testing.assert_close(away.abs().mean(0), torch.full((4,), 0.3), rtol=0.05, atol=0)
        torch.testing.assert_close(away.mean(0), torch.zeros(4), rtol=0, atol=0.03)
    overlap = iou(cxcywh_to_xyxy(noised.boxes[0]), cxcywh_to_xyxy(box))
    assert overlap[near].mean() > 1.5 * overlap[~near].mean()
    assert overlap[~near].max() < 0.55  # so none of them is a good box


@BOTH
def test_noised_boxes_stay_in_the_image_and_have_sides(contrastive):
    module = denoising(400, contrastive, box_noise=1.0)
    for box in ([0.5, 0.5, 1.0, 1.0], [0.01, 0.99, 0.02, 0.02], [0.5, 0.5, 1e-6, 1e-6], [0.5, 0.5, 0.0, 0.0]):
        noised = module(same_boxes(1, box)).boxes
        assert ((noised >= 0) & (noised <= 1)).all()
        assert (noised[..., 2:] >= 1e-4 - 1e-9).all()
        if contrastive:
            corners = cxcywh_to_xyxy(noised)
            assert ((corners > -1e-4) & (corners < 1 + 1e-4)).all()


def test_negatives_at_the_border_are_no_ground_truth_boxes():
    box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    noised = denoising(2000, contrastive=True)(same_boxes(1, box.tolist()))
    away = torch.ones(2000, dtype=torch.bool)
    away[noised.pairs[0][0]] = False
    assert iou(cxcywh_to_xyxy(noised.boxes[0, away]), cxcywh_to_xyxy(box)).max() < 0.55


# --- who sees whom --------------------------------------------------------------------------------------------------


def may_see(row, column):
    if row == column:
        return True
    return row > 0 and column == 0


def test_the_attention_mask_is_its_table():
    torch.manual_seed(0)
    ids = torch.randint(-3, 4, (3, 40))
    ids[:, ::7] = UNUSED
    attn_mask = build_attn_mask(ids)
    assert attn_mask.dtype == torch.bool
    expected = [[[[may_see(a, b) for b in row] for a in row]] for row in ids.tolist()]
    assert attn_mask.tolist() == expected
    assert {-3, -1, 0, 1, 3, UNUSED} <= set(ids.flatten().tolist())


def test_unused_slots_see_and_are_seen_by_no_query():
    ids = torch.tensor([[UNUSED, UNUSED, *range(-1000, 1001)]])  # more groups than anyone has
    attn_mask = build_attn_mask(ids)[0, 0]
    assert attn_mask[:2, :2].all()
    assert not attn_mask[:2, 2:].any()
    assert not attn_mask[2:, :2].any()


def test_attention_leaks_nothing_from_denoising_queries():
    torch.manual_seed(0)
    first, second = MultiheadAttention(DIM, 2), MultiheadAttention(DIM, 2)
    noised = denoising(12, contrastive=True)(seeded(2, 4))
    assert noised.unused.any()
    learned = torch.randn(2, 5, DIM)
    groups = torch.tensor([-1, -1, -2, -2]).expand(2, -1)
    ids = torch.cat([torch.zeros(2, 5, dtype=torch.int64), noised.group_ids, groups], 1)
    attn_mask = build_attn_mask(ids)

    def through(queries):
        for layer in (first, second):  # two layers: no way round either
            queries = queries + layer(queries, queries, queries, attn_mask)
        return queries

    queries = torch.cat([learned, noised.content, torch.randn(2, 4, DIM)], 1).detach().requires_grad_()
    for attending, blind in (
        (ids == 0, ids != 0),
        (ids == 1, (ids != 1) & (ids != 0)),
        (ids == -1, ids != -1),
        (ids == UNUSED, ids != UNUSED),
    ):
        (gradient,) = torch.autograd.grad(through(queries)[attending].square().sum(), queries)
        assert (gradient[blind] == 0).all()
        assert gradient[attending].abs().min() > 0
    (gradient,) = torch.autograd.grad(through(queries)[ids == 1].square().sum(), queries)
    assert gradient[ids == 0].abs().min() > 0  # denoising queries do see those of inference
    other = torch.where((ids == 0)[..., None], queries, torch.randn_like(queries) * 100)
    assert torch.equal(through(other)[:, :5], through(queries)[:, :5])
