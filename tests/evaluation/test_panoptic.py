"""Panoptic quality equals the official implementation, and follows its definition on small maps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit.data.decode.mask_files import read_ids
from detrkit.errors import DataError
from detrkit.evaluation.panoptic_quality import UNIT, PanopticSums
from detrkit.structures import Categories

CATEGORIES = Categories((3, 7, 20), ("cell", "tool", "ground"), (True, True, False))


def measure(*some_images: tuple[Any, Any, Any, Any]) -> PanopticSums:
    sums = PanopticSums(CATEGORIES)
    for number, (gt_ids, gt, ids, segments) in enumerate(some_images):
        sums.add(np.array(gt_ids), gt, np.array(ids), segments, image_id=number)
    return sums


def plain(sums: PanopticSums) -> np.ndarray:
    """IoU, true positives, false positives, false negatives of each class."""
    return sums.sums / [UNIT, 1, 1, 1]


def rows(*pairs: tuple[int, int], crowd: tuple[int, ...] = ()) -> list[dict[str, int]]:
    return [{"id": i, "category_id": c, "iscrowd": int(i in crowd)} for i, c in pairs]


def random_map(seed: int) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Overlapping boxes in a small image, some pixels of none, every fourth segment a crowd."""
    random = np.random.default_rng(seed)
    ids = np.zeros((12, 14), dtype=np.int64)
    for number in range(1, 6):
        (top, bottom), (left, right) = np.sort(random.integers(0, 13, 2)), np.sort(random.integers(0, 15, 2))
        ids[top:bottom, left:right] = 100 * number
    kept = [i for i in np.unique(ids).tolist() if i]
    return ids, [
        {"id": i, "category_id": int(random.choice(CATEGORIES.ids)), "iscrowd": int(random.random() < 0.25)}
        for i in kept
    ]


def oracle(gt_ids: Any, gt: Any, ids: Any, segments: Any) -> np.ndarray:
    """The paper's words with sets of pixels; of several crowds of a class the last counts, as in the official tool."""
    sums = np.zeros((3, 4))
    void = set(np.flatnonzero(gt_ids == 0))
    there = {row["id"]: set(np.flatnonzero(gt_ids == row["id"])) for row in gt}
    guessed = {row["id"]: set(np.flatnonzero(ids == row["id"])) for row in segments}
    actual, hits = set(), set()
    for a in gt:
        for b in segments:
            if a["iscrowd"] or a["category_id"] != b["category_id"]:
                continue
            shared = there[a["id"]] & guessed[b["id"]]
            iou = len(shared) / len(there[a["id"]] | (guessed[b["id"]] - void))
            if iou > 0.5:
                actual.add(a["id"])
                hits.add(b["id"])
                sums[CATEGORIES.index_of_id[a["category_id"]], :2] += iou, 1
    for b in segments:
        crowds = [a["id"] for a in gt if a["iscrowd"] and a["category_id"] == b["category_id"]]
        free = guessed[b["id"]] & (void | (there[crowds[-1]] if crowds else set()))
        if b["id"] not in hits and len(free) / len(guessed[b["id"]]) <= 0.5:
            sums[CATEGORIES.index_of_id[b["category_id"]], 2] += 1
    for a in gt:
        if not a["iscrowd"] and a["id"] not in actual:
            sums[CATEGORIES.index_of_id[a["category_id"]], 3] += 1
    return sums


def test_equal_to_the_official_tool_on_real_data(shared: Path) -> None:
    annotations, made = shared / "data/coco_panoptic_mini/annotations", shared / "reference/panoptic_predictions"
    content = json.loads((annotations / "panoptic_val2017.json").read_text())
    predictions = {row["image_id"]: row for row in json.loads((made / "predictions.json").read_text())["annotations"]}
    expected = json.loads((made / "expected_pq.json").read_text())
    sums = PanopticSums(Categories.from_plain(content["categories"]))
    for row in content["annotations"]:
        actual = predictions[row["image_id"]]
        gt_ids = read_ids(annotations / "panoptic_val2017" / row["file_name"])
        ids = read_ids(made / "png" / actual["file_name"])
        sums.add(gt_ids, row["segments_info"], ids, actual["segments_info"], image_id=row["image_id"])
    result = sums.result()
    for group, numbers in result.groups.items():
        assert numbers == pytest.approx(expected[group], abs=1e-6)
    assert len(result.per_class) == len(expected["per_class"]) == 133
    for entry in result.per_class:
        numbers = {name: getattr(entry, name) for name in ("pq", "sq", "rq")}
        assert numbers == pytest.approx(expected["per_class"][str(entry.id)], abs=1e-6)
    assert result.metrics["PQ_stuff"] == pytest.approx(expected["Stuff"]["pq"], abs=1e-6)


def test_equal_to_the_paper_written_out() -> None:
    every = np.zeros(4)
    for seed in range(150):
        case = (*random_map(seed), *random_map(1000 + seed))
        expected = oracle(*case)
        assert plain(measure(case)) == pytest.approx(expected, abs=1e-11), seed
        every += expected.sum(0)
    assert every.min() > 5  # all kinds of outcome came up


def test_the_ground_truth_is_perfect_under_any_segment_ids() -> None:
    gt = [[5, 5, 0], [5, 9, 9]]
    actual = [[1, 1, 1], [1, 0, 0]]  # 0 may be a segment
    result = measure((gt, rows((5, 3), (9, 20)), actual, rows((1, 3), (0, 20)))).result()
    assert result.metrics["PQ"] == result.metrics["PQ_things"] == result.metrics["PQ_stuff"] == 1
    assert result.groups["All"]["n"] == 2
    tool = result.per_class[1]
    assert (tool.pq, tool.segments, tool.predicted) == (0, 0, 0)


def test_void_is_left_out_of_the_union_and_forgives() -> None:
    gt = [[1, 1, 1, 0, 0, 0, 0, 0]]
    quality = measure((gt, rows((1, 3)), [[4, 4, 4, 4, 4, 4, 4, 4]], rows((4, 3)))).result().per_class[0]
    assert quality.pq == 1
    forgiven = measure((gt, rows((1, 3)), [[4, 4, 6, 6, 6, 6, 6, 6]], rows((4, 3), (6, 7)))).result()
    assert forgiven.per_class[0].pq == pytest.approx(2 / 3)
    assert forgiven.per_class[1].predicted == 0  # 5 of 6 pixels in void
    half = measure((gt, rows((1, 3)), [[4, 4, 6, 6, 0, 0, 0, 0]], rows((4, 3), (6, 7)))).result()
    assert half.per_class[1].predicted == 1  # no more than half of it


def test_a_crowd_is_optional_and_excuses_its_class_alone() -> None:
    gt, ids = [[1, 1, 1, 1, 2, 2, 2, 2]], [[5, 5, 5, 6, 7, 7, 7, 7]]
    sums = measure((gt, rows((1, 3), (2, 20), crowd=(1,)), ids, rows((5, 3), (6, 7), (7, 20))))
    assert plain(sums).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]


def test_unknown_classes_are_unlabeled() -> None:
    sums = measure(([[1, 1], [2, 2]], rows((1, 3), (2, 20)), [[8, 8], [9, 9]], rows((8, 3), (9, 555))))
    assert plain(sums).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_empty_predictions_and_empty_ground_truth() -> None:
    missed = measure(([[1, 1]], rows((1, 3)), [[0, 0]], [])).result()
    assert missed.metrics["PQ"] == missed.metrics["PQ_things"] == 0
    assert missed.metrics["PQ_stuff"] == -1
    assert set(PanopticSums(CATEGORIES).result().metrics.values()) == {-1.0}


def test_parts_add_up_to_the_whole() -> None:
    cases = [(*random_map(seed), *random_map(500 + seed)) for seed in range(6)]
    whole, left, right = measure(*cases), measure(*cases[:2]), measure(*cases[2:])
    left.merge(right.counts)
    left.merge(measure().counts)  # a process without images
    assert np.array_equal(left.sums, whole.sums)  # exactly, whatever the order


def test_tensors_are_fine() -> None:
    ids, gt = random_map(1)
    sums = PanopticSums(CATEGORIES)
    sums.add(torch.from_numpy(ids), gt, torch.from_numpy(ids), gt, image_id=1)
    assert np.array_equal(sums.sums, measure((ids, gt, ids, gt)).sums)


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="of the image's size 1 x 2, found 2 x 1"):
        measure(([[1, 1]], rows((1, 3)), [[1], [1]], rows((1, 3))))
    with pytest.raises(DataError, match="found id 4"):
        measure(([[1, 1]], rows((1, 4)), [[1, 1]], rows((1, 3))))
