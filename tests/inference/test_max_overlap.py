"""One detection per object: `max_overlap` in Python, in predict and in eval."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import detrkit
from detrkit import Detections, Detector
from detrkit.cli import main
from detrkit.errors import ConfigError
from detrkit.evaluation.arrays import DetectionArrays
from detrkit.inference.postprocess import postprocess
from detrkit.ops.boxes import iou, pairwise_iou
from detrkit.structures import Output
from tests.inference.helpers import run

BOXES = st.lists(
    st.tuples(*(st.integers(0, 20) for _ in range(2)), *(st.integers(1, 20) for _ in range(2)), st.integers(0, 100)),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[4],
)


def detections_of(rows: list[tuple[int, ...]]) -> Detections:
    x, y, w, h, scores = torch.tensor(rows, dtype=torch.float32).unbind(1)
    return Detections(torch.stack([x, y, x + w, y + h], 1), scores / 100, torch.arange(len(rows)) % 3)


def plain_suppression(detections: Detections, limit: float) -> list[int]:
    """Take the best detection, drop those that overlap it, and go on with the rest."""
    left = detections.scores.argsort(descending=True).tolist()
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [k for k in left if not iou(detections.xyxy[best], detections.xyxy[k]) > limit]
    return sorted(kept)


@settings(deadline=None)
@given(BOXES, st.floats(0, 1))
def test_the_best_of_overlapping_boxes_stays_whatever_its_class(rows: list[tuple[int, ...]], limit: float) -> None:
    detections = detections_of(rows)
    kept = detections.without_overlaps(limit)
    assert torch.equal(kept.xyxy, detections[plain_suppression(detections, limit)].xyxy)
    overlaps = pairwise_iou(kept.xyxy, kept.xyxy).fill_diagonal_(0)
    assert overlaps.max() <= limit + 1e-6


@settings(deadline=None)
@given(BOXES, st.floats(0, 1))
def test_arrays_of_several_images_give_the_same(rows: list[tuple[int, ...]], limit: float) -> None:
    detections = detections_of(rows)
    both = DetectionArrays.from_rows([*detections.to_coco(2), *detections.to_coco(1)])
    kept = both.without_overlaps(limit)
    expected = detections.without_overlaps(limit)
    assert list(kept) == [*expected.to_coco(2), *expected.to_coco(1)]


def test_masks_and_names_go_with_their_boxes() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    masks = torch.zeros(3, 40, 40, dtype=torch.bool)
    masks[0, 0], masks[2, 2] = True, True
    detections = Detections(boxes, torch.tensor([0.8, 0.9, 0.1]), torch.tensor([1, 2, 1]), ("a", "b", "a"), masks)
    kept = detections.without_overlaps(0.5)
    assert kept.class_names == ("b", "a")
    assert kept.masks is not None
    assert torch.equal(kept.masks, masks[1:])
    assert len(detections.without_overlaps(1.0)) == len(detections)
    empty = detections[:0]
    assert len(empty.without_overlaps(0.5)) == 0


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "much", None, float("nan")])
def test_a_limit_outside_of_0_to_1_is_refused(wrong: object) -> None:
    detections = detections_of([(0, 0, 5, 5, 50)])
    with pytest.raises(ConfigError, match=r"expected a max_overlap in 0\.\.1, found"):
        detections.without_overlaps(wrong)  # type: ignore[arg-type]


def test_postprocessing_makes_masks_of_the_remaining_queries_alone() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.38], [0.2, 0.2, 0.1, 0.1]]])
    queries: list[torch.Tensor] = []

    def predict_masks(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        queries.append(numbers)
        return torch.ones(len(numbers), 4, 4)

    logits = torch.tensor([[[2.0, 0.0], [3.0, 0.0], [1.0, 0.0]]])
    out = Output(logits, boxes, sigmoid=True, predict_masks=predict_masks)
    (kept,) = postprocess(out, [(20, 20)], top_k=0, max_overlap=0.7)
    assert torch.cat(queries).tolist() == [1, 2]
    assert kept.scores.tolist() == pytest.approx(
        [torch.tensor(3.0).sigmoid().item(), torch.tensor(1.0).sigmoid().item()]
    )
    (all_three,) = postprocess(replace(out, predict_masks=None), [(20, 20)], top_k=0)
    assert len(all_three) == 3


def test_predict_stream_and_files_leave_one_detection_per_object(
    checkpoint: Path, some_images: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    detector = Detector.load(checkpoint, device="cpu")
    source = some_images / "wide.png"
    everything = detector.predict(source, threshold=0)
    expected = everything.without_overlaps(0.3)
    assert 0 < len(expected) < len(everything)
    rows = run(checkpoint, tmp_path / "image", source, max_overlap=0.3, no_images=True, write="coco")
    assert [row["bbox"] for row in rows] == [row["bbox"] for row in expected.to_coco()]
    content = json.loads((tmp_path / "image/coco/annotations/instances_train.json").read_text())
    assert len(content["annotations"]) == len(expected)
    detector.max_overlap = 0.3
    assert torch.equal(detector.predict(source, threshold=0).xyxy, expected.xyxy)
    ((_, streamed),) = detector.stream(source, threshold=0)
    assert torch.equal(streamed.xyxy, expected.xyxy)
    video = make_video(tmp_path / "clip.mp4", frames=2)
    frames = run(checkpoint, tmp_path / "video", video, max_overlap=0.3, no_images=True)
    assert len(frames) == sum(len(detections) for _, detections in detector.stream(video, threshold=0))


def test_tiles_are_merged_before_the_best_is_chosen(checkpoint: Path, some_images: Path) -> None:
    detector = Detector.load(checkpoint, device="cpu", tiles=64, tile_overlap=16)
    detector.max_overlap = 0.3
    detections = detector.predict(some_images / "wide.png", threshold=0)
    overlaps = pairwise_iou(detections.xyxy, detections.xyxy).fill_diagonal_(0)
    assert len(detections) > 1
    assert overlaps.max() <= 0.3 + 1e-6


def test_a_panoptic_map_takes_no_limit(mask_checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected max_overlap or panoptic, found both"):
        run(mask_checkpoint, tmp_path, some_images, panoptic=True, max_overlap=0.5)


def test_eval_counts_the_remaining_detections(checkpoint: Path, some_images: Path, tmp_path: Path) -> None:
    names = ["5.png", "12.png"]
    images = [{"id": k, "file_name": name, "height": 60, "width": 80} for k, name in enumerate(names)]
    annotations = [
        {"id": k + 1, "image_id": k, "category_id": 3, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        for k in (0, 1)
    ]
    categories = [{"id": i, "name": n} for i, n in ((3, "scratch"), (7, "pit"), (20, "stain"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    shared = {"val_json": str(tmp_path / "val.json"), "val_images": str(some_images), "num_workers": 0, "device": "cpu"}

    def ap(limit: float | None) -> dict[str, float]:
        folder = tmp_path / f"report{limit}"
        return detrkit.evaluate(checkpoint, "", max_overlap=limit, output_dir=str(folder), **shared).metrics

    everything, same, best = ap(None), ap(1.0), ap(0.0)
    assert everything == same
    assert best["AR100"] <= everything["AR100"]


def test_the_flag_takes_numbers_in_0_to_1(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "x.png", "--weights", str(checkpoint), "--max_overlap", "2"]) == 2
    assert "--max_overlap must be at most 1, found 2" in capsys.readouterr().err
