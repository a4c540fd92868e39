"""Dense assignment: hand-made cases, and the three rules once more as loops."""

import pytest
import torch

from detrkit import Output
from detrkit.errors import ConfigError
from detrkit.losses.assigner import DenseAssigner
from detrkit.ops.boxes import cxcywh_to_xyxy, pairwise_iou
from detrkit.structures import Locations

KINDS = ["fcos", "atss", "tood"]
GRIDS = ((4, 4), (2, 2))


def make_locations(grids=GRIDS, batch=1, width=1.0):
    """Locations of square maps of (h, w) cells; only the left `width` of each is image, the rest padding."""
    centers, cells, padding = [], [], []
    for height, columns in grids:
        valid = round(columns * width)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        centers.append(torch.stack([x / valid, y / height], -1).flatten(0, 1))
        cells.append(torch.tensor([1 / valid, 1 / height]).expand(height * columns, 2))
        padding.append((x > valid).flatten())
    sizes = tuple(h * w for h, w in grids)
    every = (torch.cat(part).expand(batch, *torch.cat(part).shape) for part in (centers, cells, padding))
    return Locations(*every, sizes)


def blank(locations, classes=3, cells=4.0):
    """Predictions of an untrained dense head: equal scores, boxes of some cells around each location."""
    boxes = torch.cat([locations.centers, cells * locations.cells], -1)
    return Output(torch.full((*boxes.shape[:2], classes), -4.6), boxes, sigmoid=True)


def objects(*boxes, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"labels": torch.zeros(len(boxes), dtype=torch.int64) if labels is None else labels, "boxes": boxes}


def many(count, seed=0, low=0.02, high=0.3):
    generator = torch.Generator().manual_seed(seed)
    sizes = low + (high - low) * torch.rand(count, 2, generator=generator)
    centers = sizes / 2 + (1 - sizes) * torch.rand(count, 2, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return {"labels": labels, "boxes": torch.cat([centers, sizes], 1)}


def assign(kind, target, locations=None, out=None):
    """The set of locations of each object of a single image."""
    locations = locations or make_locations()
    chosen, assigned_gt = DenseAssigner(kind)(out or blank(locations), locations, [target])[0]
    assert chosen.dtype == assigned_gt.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    actual = {}
    for location, gt in zip(chosen.tolist(), assigned_gt.tolist(), strict=True):
        actual.setdefault(gt, set()).add(location)
    return actual


# Locations of the 4x4 + 2x2 grid, by row: 0..3, 4..7, 8..11, 12..15, then 16 17 / 18 19.


def test_locations_of_each_rule_on_a_small_grid():
    box = objects([0.375, 0.375, 0.55, 0.55])  # 0.1 to 0.65: the centers of 9 fine cells and one coarse cell
    nine = {0, 1, 2, 4, 5, 6, 8, 9, 10}
    assert assign("fcos", box) == {0: nine}  # all nine within 1.5 cells; too small for the coarse level
    assert assign("tood", box) == {0: {*nine, 16}}  # all that lie inside, being fewer than 13
    # Candidates are 9 of the fine locations, whose anchors have 2 x 2 in size, and the 4 coarse ones, of 4 x 4. The
    # object lies in each of them, so that fine locations have IoU 0.3025 / 4 and coarse ones 0.3025 / 16. Mean 0.0582 +
    # standard deviation 0.0273 is more than any has, and the object is left with the nearest location.
    assert assign("atss", box) == {0: {5}}


def test_atss_takes_the_level_whose_anchor_fits():
    """Anchors of 8 cells: 0.25 and 0.5 wide. The coarse ones around the center fit an object of 0.5."""
    grids = ((32, 32), (16, 16))
    actual = assign("atss", objects([0.5, 0.5, 0.5, 0.5]), make_locations(grids))[0]
    assert actual == {1024 + 16 * row + column for row in (7, 8) for column in (7, 8)}
    # One of 0.25, at the center of a fine cell: that one, and its neighbors by side and corner.
    actual = assign("atss", objects([16.5 / 32, 16.5 / 32, 0.25, 0.25]), make_locations(grids))[0]
    assert {32 * 16 + 16, 32 * 16 + 15, 32 * 15 + 16} <= actual
    assert max(actual) < 1024


def test_fcos_divides_sizes_among_levels_without_gaps():
    """Cells of 1/32 and, four times as large, 1/8: the coarse level begins where the fine one ends, at 8/32."""
    locations, center = make_locations(((32, 32), (8, 8))), 16.5 / 32
    levels = {}
    for size in (0.2, 0.3, 0.4, 0.49, 0.51, 0.6, 0.9):
        actual = assign("fcos", objects([center, center, size, size]), locations)[0]
        assert len(actual) > 1  # not by the last resort, which gives one
        levels[size] = {location >= 1024 for location in actual}
    assert levels[0.2] == levels[0.3] == {False}
    assert levels[0.51] == levels[0.6] == levels[0.9] == {True}


def test_fcos_keeps_to_the_middle_and_the_smaller_object_wins():
    grids = ((8, 8),)
    # Centers of cells within 1.5 cells of 0.5: the four in the middle.
    assert assign("fcos", objects([0.5, 0.5, 0.9, 0.9]), make_locations(grids)) == {0: {27, 28, 35, 36}}
    # 0.4375 = column 3: the inner object takes the 9 cells around it but those outside it; the outer is left 35 and 36,
    # which lie below the inner one.
    inner, outer = [0.4375, 0.4375, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]
    for first, second, small in ((inner, outer, 0), (outer, inner, 1)):
        actual = assign("fcos", objects(first, second), make_locations(grids))
        assert actual == {small: {27}, 1 - small: {28, 35, 36}}


def test_tood_takes_the_best_predictions():
    # 36 centers lie in the box, rows and columns 1 to 6
    locations, box = make_locations(((8, 8),)), objects([0.5, 0.5, 0.7, 0.7])
    out = blank(locations)  # score 0.01
    out.boxes[:] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # IoU 0.25 / 0.49 = 0.51
    right, sure, outside = [9, 10, 11, 12, 13, 14, 17, 18, 19, 20], [49, 50, 51], [0, 7, 56, 63]
    out.boxes[0, right] = box["boxes"][0]  # 0.01 * 1^6 = 0.01
    out.logits[0, sure, 0] = 4.0  # 0.98 * 0.51^6 = 0.017
    out.logits[0, [52, 53], 0] = -2.0  # 0.12 * 0.51^6 = 0.002
    out.logits[0, [54], 1] = 9.0  # another class
    out.logits[0, outside, 0], out.boxes[0, outside] = 9.0, box["boxes"][0]
    assert assign("tood", box, locations, out) == {0: {*right, *sure}}


def test_tood_gives_a_location_to_the_object_it_fits_better():
    """Two objects that share columns 3 and 4 of rows 2 to 5; the upper half speaks of the first."""
    locations = make_locations(((8, 8),))
    both = objects([0.4, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.5])
    out = blank(locations)
    out.boxes[0, :32], out.boxes[0, 32:] = both["boxes"][0], both["boxes"][1]
    actual = assign("tood", both, locations, out)
    assert {19, 20, 27, 28} <= actual[0]
    assert {35, 36, 43, 44} <= actual[1]


@pytest.mark.parametrize("logit", [-4.6, 3.0])
def test_tood_at_the_very_start_when_no_box_meets_any_object(logit):
    """Equal scores and all boxes in a corner: locations near the center, on the level whose cells suit the object."""
    grids = ((32, 32), (16, 16), (8, 8))
    locations = make_locations(grids)
    out = blank(locations)
    out.logits[:] = logit
    out.boxes[:] = torch.tensor([0.01, 0.01, 0.005, 0.005])
    small, large = objects([0.703125, 0.703125, 0.2, 0.2]), objects([0.5625, 0.5625, 0.8, 0.8])
    for target, level in ((small, range(1024)), (large, range(1280, 1344))):
        actual = assign("tood", target, locations, out)[0]
        assert len(actual) == 13
        assert actual <= set(level)
        middle = target["boxes"][0, :2]
        distance = (locations.centers[0] - middle).abs().amax(-1)
        of_level = distance[level.start : level.stop]
        assert distance[list(actual)].max() <= of_level.sort().values[24]  # of the 5 x 5 around the center


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_smaller_than_a_cell_gets_the_nearest_location(kind):
    tiny = [0.52, 0.22, 0.01, 0.01]  # between four centers, nearest to that of row 0, column 2
    assert assign(kind, objects(tiny)) == {0: {2}}
    assert assign(kind, objects([0.52, 0.22, 0.0, 0.0])) == {0: {2}}  # without any size
    assert assign(kind, objects(tiny, tiny)) == {0: {2}, 1: {1}}  # the next nearest


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_location_is_measured_in_pixels_outside_of_padding(kind):
    """A map of 4 x 8 of which the left half is image: what lies on its right edge goes to column 3."""
    locations = make_locations(((4, 8), (2, 4)), width=0.5)
    assert locations.padding[0].tolist() == 4 * (4 * [False] + 4 * [True]) + 2 * (2 * [False] + 2 * [True])
    assert assign(kind, objects([0.999, 0.1, 0.002, 0.002]), locations) == {0: {3}}
    actual = assign(kind, many(15), locations)
    assert set(actual) == set(range(15))
    assert not locations.padding[0, sorted(set.union(*actual.values()))].any()
    # 100 wide and 400 high: 0.1 to the side is nearer than 0.05 up or down.
    wide = Locations(
        torch.tensor([[[0.4, 0.5], [0.5, 0.55]]]), torch.tensor([[[0.4, 0.1]] * 2]), torch.zeros(1, 2).bool(), (2,)
    )
    assert assign(kind, objects([0.5, 0.5, 0.001, 0.001]), wide) == {0: {0}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_gets_a_location_while_there_are_enough(kind):
    grids = ((40, 40), (20, 20), (10, 10))
    actual = assign(kind, many(151, high=0.1), make_locations(grids))
    assert set(actual) == set(range(151))
    same = objects(*[[0.5, 0.5, 0.4, 0.4]] * 12)  # one on another
    assert set(assign(kind, same)) == set(range(12))
    actual = assign(kind, many(25))
    assert len(actual) == 20  # as many as there are locations
    assert {len(mine) for mine in actual.values()} == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_are_assigned_as_if_alone(kind):
    locations = make_locations(((16, 16), (8, 8)), batch=3)
    targets = [many(7), many(0), many(30, seed=1)]
    together = DenseAssigner(kind)(blank(locations), locations, targets)
    assert len(together[1][0]) == len(together[1][1]) == 0
    alone = make_locations(((16, 16), (8, 8)))
    for (chosen, assigned_gt), target in zip(together, targets, strict=True):
        one = DenseAssigner(kind)(blank(alone), alone, [target])[0]
        assert torch.equal(chosen, one[0])
        assert torch.equal(assigned_gt, one[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_predictions_do_not_crash(kind, bad):
    locations = make_locations()
    out = blank(locations)
    out.logits[:, ::2], out.boxes[:, 1::3] = bad, bad
    assert set(assign(kind, many(5), locations, out)) == set(range(5))


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="expected dense_head to be"):
        DenseAssigner("retina")


# The rules once more, one location and one object at a time.


def naive(kind, target, locations, out):
    centers, cells = locations.centers[0].tolist(), locations.cells[0].tolist()
    level_of = [k for k, size in enumerate(locations.level_sizes) for _ in range(size)]
    corners = cxcywh_to_xyxy(target["boxes"]).tolist()
    anchors = torch.tensor([[x, y, 8 * w, 8 * h] for (x, y), (w, h) in zip(centers, cells, strict=True)])
    fit = pairwise_iou(cxcywh_to_xyxy(anchors), cxcywh_to_xyxy(target["boxes"])).tolist()
    overlap = pairwise_iou(cxcywh_to_xyxy(out.boxes[0]), cxcywh_to_xyxy(target["boxes"])).tolist()
    owner, best = [-1] * len(centers), [0.0] * len(centers)

    def inside(s, j):
        (x, y), (x1, y1, x2, y2) = centers[s], corners[j]
        return x1 < x < x2 and y1 < y < y2

    def distance(s, j):  # in cells
        (x, y), (w, h), (cx, cy, *_) = centers[s], cells[s], target["boxes"][j].tolist()
        return abs(x - cx) / w, abs(y - cy) / h

    for j in sorted(range(len(corners)), key=lambda j: target["boxes"][j, 2:].prod()):
        chosen = {}
        if kind == "fcos":
            for s, ((x, y), (w, h)) in enumerate(zip(centers, cells, strict=True)):
                x1, y1, x2, y2 = corners[j]
                farthest = max((x - x1) / w, (x2 - x) / w, (y - y1) / h, (y2 - y) / h)
                low = 4 if level_of[s] else 0
                high = 8 if level_of[s] < level_of[-1] else 1e9
                if inside(s, j) and max(distance(s, j)) < 1.5 and low < farthest <= high:
                    chosen[s] = 1.0
        if kind == "atss":
            candidates = []
            for k in range(level_of[-1] + 1):
                level = [s for s in range(len(centers)) if level_of[s] == k]
                candidates += sorted(level, key=lambda s: sum(d * d for d in distance(s, j)))[:9]
            values = torch.tensor([fit[s][j] for s in candidates], dtype=torch.float64)
            limit = values.mean() + values.std()
            chosen = {s: fit[s][j] for s in candidates if inside(s, j) and fit[s][j] >= limit - 1e-6}
        if kind == "tood":
            label = target["labels"][j]

            def metric(s, j=j, label=label):
                return out.logits[0, s, label].sigmoid().item() * max(overlap[s][j], fit[s][j] / 10) ** 6

            within = [s for s in range(len(centers)) if inside(s, j)]
            top = sorted(within, key=metric, reverse=True)[:13]
            chosen = {s: max(overlap[s][j], fit[s][j] / 10) for s in top}
        for s, quality in chosen.items():
            if quality > best[s]:
                owner[s], best[s] = j, quality
    for j in range(len(corners)):
        if j not in owner:
            spare = [s for s in range(len(centers)) if owner[s] < 0 or owner.count(owner[s]) > 1]
            nearest = min(
                spare, key=lambda s: sum(((c - b) ** 2) for c, b in zip(centers[s], target["boxes"][j], strict=False))
            )
            owner[nearest] = j
    return owner


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_rules_equal_their_loops(kind, seed):
    locations = make_locations(((24, 24), (12, 12), (6, 6)))
    target = many(9, seed, low=0.05, high=0.8)
    generator = torch.Generator().manual_seed(seed)
    out = blank(locations)
    out = Output(
        out.logits + torch.randn(out.logits.shape, generator=generator),
        out.boxes * (0.7 + 0.6 * torch.rand(out.boxes.shape, generator=generator)),
        sigmoid=True,
    )
    chosen, assigned_gt = DenseAssigner(kind)(out, locations, [target])[0]
    expected = naive(kind, target, locations, out)
    assert chosen.tolist() == [s for s, j in enumerate(expected) if j >= 0]
    assert assigned_gt.tolist() == [j for j in expected if j >= 0]
    assert len(set(assigned_gt.tolist())) == 9
