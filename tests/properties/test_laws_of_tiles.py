"""Laws of tiles: they cover the image, show every object, and their merged detections do not depend on their order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.errors import ConfigError
from detrkit.inference.tile_merging import MaskPatch, TileDetections, merge_tiles
from detrkit.ops.tiles import Tile, Tiling, choose_tiling, visible_share

SIDES = st.integers(1, 500)
FEW = settings(max_examples=40, deadline=None)


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    size = draw(st.integers(20, 300))
    return Tiling(size, draw(st.integers(0, size // 2)))


@FEW
@given(tilings(), SIDES, SIDES)
def test_tiles_cover_the_image_lie_inside_and_overlap_enough(tiling: Tiling, height: int, width: int) -> None:
    grid = tiling.grid(height, width)
    covered = np.zeros((height, width), np.bool_)
    for number, tile in enumerate(grid):
        x1, y1, x2, y2 = tile.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert (tile.height, tile.width) == (min(tiling.size, height), min(tiling.size, width))
        assert (tile.number, tile.total, tile.image_height, tile.image_width) == (number, len(grid), height, width)
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    for starts, length in (({t.left for t in grid}, width), ({t.top for t in grid}, height)):
        steps = np.diff(sorted(starts))
        assert (steps <= tiling.size - tiling.overlap).all()
        fewest = 1 + max(0, -(-(length - tiling.size) // (tiling.size - tiling.overlap)))
        assert len(starts) == fewest


@FEW
@given(st.data())
def test_some_tile_shows_an_object_whole_that_is_no_longer_than_the_overlap(data: st.DataObject) -> None:
    tiling, height, width = data.draw(tilings()), data.draw(SIDES), data.draw(SIDES)
    w, h = (data.draw(st.integers(1, max(1, min(tiling.overlap, side)))) for side in (width, height))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    if tiling.overlap:
        shares = [visible_share((x, y, x + w, y + h), tile) for tile in tiling.grid(height, width)]
        assert any(part == pytest.approx((part[0], part[1], part[0] + w, part[1] + h)) for _, part in shares)
        assert max(share for share, _ in shares) == pytest.approx(1)


@FEW
@given(st.data())
def test_some_tile_shows_at_least_a_quarter_of_any_object(data: st.DataObject) -> None:
    tiling, height, width = data.draw(tilings()), data.draw(SIDES), data.draw(SIDES)
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    shares = [visible_share((x1, y1, x2, y2), tile)[0] for tile in tiling.grid(height, width)]
    assert 0.25 - 1e-6 <= max(shares) <= 1
    assert min(shares) >= 0


@FEW
@given(tilings())
def test_a_tiling_survives_json_and_an_image_of_its_size_is_one_tile(tiling: Tiling) -> None:
    assert Tiling.from_plain(tiling.to_plain()) == tiling
    assert tiling.grid(tiling.size, 1) == [Tile(0, 0, tiling.size, 1, tiling.size, 1, 0, 1)]


@pytest.mark.parametrize(
    ("size", "overlap", "words"), [(0, 0, "at least 1"), (10, -1, "found -1"), (10, 6, "half of"), (10, 10, "half of")]
)
def test_tilings_that_are_none(size: int, overlap: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Tiling(size, overlap)
    with pytest.raises(ValueError, match="tile"):
        Tiling.from_plain({"size": size, "overlap": overlap})


def test_inference_takes_the_tiles_of_the_training_unless_told_otherwise() -> None:
    trained = Tiling(100, 30)
    assert choose_tiling("auto", "auto", trained) == trained
    assert choose_tiling("auto", "auto", None) is None
    assert choose_tiling("off", "auto", trained) is None
    assert choose_tiling("auto", 10, trained) == Tiling(100, 10)
    assert choose_tiling(200, "auto", None) == Tiling(200, 50)
    assert choose_tiling(50, "auto", trained) == Tiling(50, 25)
    with pytest.raises(ConfigError, match="whole number of pixels, auto or off"):
        choose_tiling(2.5, "auto", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="half of the 100"):
        choose_tiling("auto", 60, trained)
    with pytest.raises(ConfigError, match="add tiles"):
        choose_tiling("auto", 10, None)


def random_parts(seed: int, masks: bool = False) -> list[TileDetections]:
    """Random detections, many of them alike, in the tiles of an image of 100 x 140 pixels."""
    rng = np.random.default_rng(seed)
    anchors = rng.uniform(0, 100, (6, 2))
    parts = []
    for tile in Tiling(60, 20).grid(100, 140):
        x1, y1, x2, y2 = tile.box
        n = int(rng.integers(0, 12))
        corners = anchors[rng.integers(0, 6, n)] + rng.normal(0, 2, (n, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (n, 2))], axis=1)
        boxes = boxes.clip([x1, y1, x1, y1], [x2, y2, x2, y2])
        patches = tuple(MaskPatch(int(b[1]), int(b[0]), np.ones((2, 3), np.bool_)) for b in boxes.clip(0, 90))
        parts.append(
            TileDetections(tile, boxes, rng.integers(1, 9, n) / 10, rng.integers(0, 2, n), patches if masks else None)
        )
    return parts


def assert_equal(one: TileDetections, other: TileDetections) -> None:
    assert one.tile == other.tile
    for name in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.masks is None) == (other.masks is None)
    for mine, its in zip(one.masks or (), other.masks or (), strict=True):
        assert mine
        assert its
        assert mine[:2] == its[:2]
        assert np.array_equal(mine.mask, its.mask)


@FEW
@given(st.integers(0, 10_000), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_tiles_changes_nothing(seed: int, masks: bool, shuffle: object) -> None:
    parts = random_parts(seed, masks)
    expected = merge_tiles(parts)
    shuffle.shuffle(parts)  # type: ignore[attr-defined]
    assert_equal(merge_tiles(parts), expected)
    assert (np.diff(expected.scores) <= 0).all()
    assert np.array_equal(expected.best(3).scores, expected.scores[:3])
    assert len(expected.best(3).masks or ()) == (min(3, len(expected)) if masks else 0)
    assert len(expected) <= sum(map(len, parts))


@FEW
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]))
def test_a_higher_threshold_only_leaves_out_detections(seed: int, threshold: float) -> None:
    parts = random_parts(seed)
    whole = merge_tiles(parts)
    fewer = []
    for part in parts:
        kept = part.scores >= 0.3 * threshold
        fewer.append(TileDetections(part.tile, part.boxes[kept], part.scores[kept], part.labels[kept]))
    merged = merge_tiles(fewer)
    for name in ("boxes", "scores", "labels"):
        kept = merged.scores >= threshold
        assert np.array_equal(getattr(merged, name)[kept], getattr(whole, name)[whole.scores >= threshold])


@FEW
@given(st.integers(0, 10_000))
def test_detections_of_one_tile_stay_as_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.tile(rng.uniform(0, 50, (1, 4)), (5, 1))
    only = TileDetections(Tile.whole(60, 60), boxes, rng.random(5), np.zeros(5, np.int64))
    assert merge_tiles([only]) is only
    empty = [
        TileDetections(t, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)) for t in Tiling(60, 20).grid(60, 100)
    ]
    left = TileDetections(empty[0].tile, boxes, only.scores, only.labels)
    assert len(merge_tiles([left, *empty[1:]])) == 5


def two_tiles(*detections: tuple[int, tuple[float, ...], float, int]) -> TileDetections:
    """Merge detections (tile, box, score, class) of the two tiles of an image of 60 x 100 pixels, that share 40..60."""
    parts = []
    for number, tile in enumerate(Tiling(60, 20).grid(60, 100)):
        rows = [row for row in detections if row[0] == number]
        boxes = np.array([row[1] for row in rows], np.float64).reshape(-1, 4)
        scores, labels = np.array([row[2] for row in rows]), np.array([row[3] for row in rows], np.int64)
        parts.append(TileDetections(tile, boxes, scores.astype(np.float64), labels))
    return merge_tiles(parts)


def test_the_whole_object_replaces_its_piece_which_may_have_the_higher_score() -> None:
    merged = two_tiles((0, (50, 10, 60, 20), 0.9, 0), (1, (50, 10, 70, 20), 0.6, 0))
    assert merged.boxes.tolist() == [[50, 10, 70, 20]]
    assert merged.scores.tolist() == [0.9]


def test_pieces_of_an_object_that_no_tile_shows_whole_are_joined() -> None:
    merged = two_tiles((0, (10, 10, 60, 20), 0.8, 0), (1, (40, 11, 95, 20), 0.6, 0))
    assert merged.boxes.tolist() == [[10, 10, 95, 20]]


def test_an_object_that_both_tiles_show_whole_keeps_its_best_box() -> None:
    merged = two_tiles((0, (44, 10, 56, 20), 0.6, 0), (1, (45, 10, 56, 20), 0.8, 0))
    assert merged.boxes.tolist() == [[45, 10, 56, 20]]
    assert merged.scores.tolist() == [0.8]


def test_doubtful_detections_do_not_change_a_certain_one() -> None:
    merged = two_tiles((0, (50, 10, 60, 20), 0.9, 0), (1, (45, 5, 75, 25), 0.1, 0))
    assert merged.boxes[0].tolist() == [50, 10, 60, 20]


def test_other_classes_neighbors_and_nested_objects_stay_apart() -> None:
    other_class = two_tiles((0, (50, 10, 60, 20), 0.9, 0), (1, (50, 10, 70, 20), 0.6, 1))
    beside = two_tiles((0, (40, 10, 49, 20), 0.9, 0), (1, (50, 10, 58, 20), 0.6, 0))
    small_in_large = two_tiles((0, (45, 10, 50, 15), 0.9, 0), (1, (42, 5, 58, 25), 0.6, 0))
    no_common_pixel = two_tiles((0, (10, 10, 38, 20), 0.9, 0), (1, (62, 10, 70, 20), 0.6, 0))
    for merged in (other_class, beside, small_in_large, no_common_pixel):
        assert len(merged) == 2
