"""Masks and panoptic quality while training: in one process and over ranks, and no more memory for more images."""

import gc
import multiprocessing
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from detrkit.evaluation.accumulator import DetectionAccumulator
from detrkit.evaluation.panoptic_quality import PanopticGroundTruth, PanopticSums
from detrkit.losses import build_criterion
from detrkit.ops.masks import decode_segmentation, encode_rle
from detrkit.structures import Batch, Categories, Output
from detrkit.training.evaluation import Validation, Validator

CATEGORIES = Categories((3, 7, 20), ("red", "green", "ground"), (True, True, False))
HEIGHT, WIDTH, PADDED = 32, 40, (36, 48)
QUERIES = 5


def scene(image_id: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Up to three rectangles on ground: segment ids [HEIGHT, WIDTH] and their rows; at multiples of 4 pixels, so that
    masks of a quarter of the size hold them exactly."""
    rng = np.random.default_rng(image_id)
    ids, rows = torch.full((HEIGHT, WIDTH), 900), [{"id": 900, "category_id": 20, "iscrowd": 0}]
    for k in range(int(rng.integers(0, 4))):
        top, left = 4 * int(rng.integers(0, 6)), 12 * k
        ids[top : top + 8, left : left + 8] = 10 + k
        rows.append({"id": 10 + k, "category_id": int(rng.choice([3, 7])), "iscrowd": 0})
    return ids, rows


def target_of(image_id: int) -> Any:
    ids, rows = scene(image_id)
    masks = torch.stack([ids == row["id"] for row in rows])
    boxes = []
    for mask in masks:
        y, x = mask.nonzero().unbind(1)
        x1, x2, y1, y2 = x.min(), x.max() + 1, y.min(), y.max() + 1
        boxes.append(
            torch.stack([(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT])
        )
    index_of = CATEGORIES.index_of_id
    return {
        "labels": torch.tensor([index_of[row["category_id"]] for row in rows]),
        "boxes": torch.stack(boxes),
        "masks": masks,
        "image_id": image_id,
        "original_size": (HEIGHT, WIDTH),
        "size": (HEIGHT, WIDTH),
    }


class Seer(nn.Module):
    """Stands for a DETR: sees everything in the image whose id stands in its first pixel, and now and then takes
    red for green, overlooks something, or sees half of it."""

    def __init__(self, *, perfect: bool = False) -> None:
        super().__init__()
        self.perfect, self.asked = perfect, 0

    def forward_detection(self, images: torch.Tensor, padding_mask: torch.Tensor) -> Output:
        logits = torch.zeros(len(images), QUERIES, 4)
        logits[..., 3] = 8
        boxes = torch.full((len(images), QUERIES, 4), 0.5)
        masks = torch.full((len(images), QUERIES, PADDED[0] // 4, PADDED[1] // 4), -20.0)
        for i, image_id in enumerate(images[:, 0, 0, 0].int().tolist()):
            target = target_of(image_id)
            for k, (label, box, mask) in enumerate(
                zip(target["labels"], target["boxes"], target["masks"], strict=True)
            ):
                wrong = 0 if self.perfect else (image_id + k) % 6
                logits[i, k] = torch.tensor([0.0, 0.0, 0.0, 0.0]).scatter(
                    0, 1 - label if wrong == 5 and k else label, 9
                )
                boxes[i, k] = box
                small = mask[::4, ::4] if wrong != 4 else mask[::4, ::4] & (torch.arange(WIDTH // 4) % 3 > 0)
                masks[i, k, : HEIGHT // 4, : WIDTH // 4] = torch.where(small, 20.0, -20.0)
                if wrong == 3:
                    logits[i, k, 3] = 30

        def predict_masks(images: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
            self.asked += len(queries)
            return masks[images, queries]

        return Output(logits, boxes, predict_masks=predict_masks, padded_size=PADDED)


def batches(image_ids: list[int], size: int = 2) -> list[Batch]:
    actual = []
    for start in range(0, len(image_ids), size):
        part = image_ids[start : start + size]
        images, padding = torch.zeros(len(part), 3, *PADDED), torch.ones(len(part), *PADDED, dtype=torch.bool)
        images[:, 0, 0, 0] = torch.tensor(part, dtype=torch.float32)
        padding[:, :HEIGHT, :WIDTH] = False
        actual.append(Batch(images, padding, [target_of(image_id) for image_id in part]))
    return actual


def things(image_ids: list[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id in image_ids:
        ids, rows = scene(image_id)
        target = target_of(image_id)
        for row, (cx, cy, w, h) in zip(rows, target["boxes"].tolist(), strict=True):
            if row["category_id"] != 20:
                w, h = w * WIDTH, h * HEIGHT
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": row["category_id"],
                        "bbox": [cx * WIDTH - w / 2, cy * HEIGHT - h / 2, w, h],
                        "iscrowd": 0,
                        "segmentation": encode_rle(ids == row["id"]),
                    }
                )
    return {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}],
    }


def validator(image_ids: list[int], **settings: Any) -> Validator:
    settings = {"masks": True, "panoptic": PanopticGroundTruth(CATEGORIES, scene), **settings}
    criterion = build_criterion(num_classes=3, masks=True)
    return Validator(criterion, things(image_ids), CATEGORIES.ids, **settings)


def measure(image_ids: list[int], model: Any, **settings: Any) -> Validation:
    actual = validator(image_ids, **settings).run(model, batches(image_ids), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert actual is not None
    return actual


def test_one_who_sees_everything() -> None:
    actual = measure(list(range(9)), Seer(perfect=True))
    for name in ("AP", "AP50", "mask_AP50", "mask_AP75", "RQ", "RQ_things", "RQ_stuff"):
        assert actual.metrics[name] == pytest.approx(1), name
    for name in ("mask_AP", "mask_AR100", "PQ", "SQ_stuff", "SQ_things"):
        assert 0.9 < actual.metrics[name] <= 1, name  # corners of rectangles come out round
    assert len(actual.metrics) == 12 + 12 + 9
    assert actual.losses["loss_dice"] < 0.1
    assert {row["category_id"] for row in actual.detections} == {3, 7}  # stuff is for the maps
    for row in actual.detections[:3]:
        assert decode_segmentation(row["segmentation"], HEIGHT, WIDTH).shape == (HEIGHT, WIDTH)


def test_one_who_errs() -> None:
    ids = list(range(30))
    actual = measure(ids, Seer())
    assert 0.3 < actual.metrics["mask_AP"] < actual.metrics["AP"] < 0.95
    assert 0.3 < actual.metrics["PQ"] < 0.95
    assert actual.panoptic is not None
    assert [row.name for row in actual.panoptic.per_class] == ["red", "green", "ground"]
    expected = PanopticSums(CATEGORIES)
    for image_id in ids:
        ids_map, rows = scene(image_id)
        expected.add(ids_map, rows, ids_map, rows, image_id=image_id)
    segments = sum(row.segments for row in expected.result().per_class)
    assert sum(row.segments for row in actual.panoptic.per_class) == segments


def test_masks_are_made_only_where_requested() -> None:
    model = Seer()
    boxes = measure([1, 2, 3], model, masks=False, panoptic=None)
    of_losses = sum(len(target_of(i)["labels"]) for i in (1, 2, 3))
    assert model.asked == of_losses  # matched pairs, for the criterion
    assert len(boxes.metrics) == 12
    assert boxes.panoptic is None
    assert not any("segmentation" in row for row in boxes.detections)
    model.asked = 0
    best = measure([1, 2, 3], model, max_masks=2, panoptic=None)
    assert model.asked <= of_losses + 3 * 2
    assert sum("segmentation" in row for row in best.detections) == 3 * 2
    assert best.metrics["AP"] == boxes.metrics["AP"]  # boxes of the others still count
    assert "PQ" not in best.metrics


def test_objects_without_a_mask_have_their_box_as_one() -> None:
    judge = validator([0, 1, 2, 3])
    gt = things([0, 1, 2, 3])
    for row in gt["annotations"]:
        del row["segmentation"]
    plain = Validator(judge.criterion, gt, CATEGORIES.ids, masks=True)
    actual = plain.run(Seer(perfect=True), batches([0, 1, 2, 3]), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert actual is not None
    assert actual.metrics["mask_AP75"] == pytest.approx(1)  # they are rectangles
    assert "segmentation" not in gt["annotations"][0]


def one_rank(rank: int, shares: list[list[int]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=len(shares))
    every = sorted(i for share in shares for i in share)
    actual = validator(every).run(Seer(), batches(shares[rank]), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert actual is not None
    torch.save(
        {"metrics": actual.metrics, "losses": actual.losses, "rows": list(actual.detections)}, folder / f"{rank}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("shares", [[[0, 3, 6, 1, 8], [2, 7, 4, 5]], [[5, 4, 3, 2, 1], []]], ids=["both", "one idle"])
def test_ranks_together_find_what_one_process_finds(shares: list[list[int]], tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detrkit.training", "timm"])
    ranks = [context.Process(target=one_rank, args=(rank, shares, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    expected = measure(sorted(i for share in shares for i in share), Seer())
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert actual["metrics"] == expected.metrics
        assert actual["rows"] == list(expected.detections)


def test_memory_does_not_grow_with_the_images() -> None:
    """An image leaves behind some numbers and some run lengths: here a hundredth of what its masks take."""
    size, queries = (240, 320), 8
    masks = torch.full((1, queries, 60, 80), -20.0)
    for k in range(queries):
        masks[0, k, k : k + 30, 2 * k : 2 * k + 30] = 20
    logits = torch.zeros(1, queries, 2)
    out = Output(logits, torch.full((1, queries, 4), 0.5), masks=masks, padded_size=size)
    gt = torch.ones(size, dtype=torch.int64), [{"id": 1, "category_id": 1}]
    collector = DetectionAccumulator(
        {0: 1},
        masks=True,
        panoptic_gt=PanopticGroundTruth(Categories((1,), ("x",)), lambda _: gt),
        panoptic_threshold=0.2,
    )

    def look(first: int, count: int) -> tuple[int, int]:
        for k in range(first, first + count):
            target: Any = {"image_id": k, "original_size": size, "size": size}
            collector.add(out, [target])
        gc.collect()
        tensors = sum(t.nbytes for t in gc.get_objects() if type(t) is torch.Tensor and t.layout is torch.strided)
        return tensors, tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        tensors, python = look(0, 10)
        more_tensors, more_python = look(10, 30)
    finally:
        tracemalloc.stop()
    assert more_tensors == tensors
    assert (more_python - python) / 30 < queries * size[0] * size[1] / 50
    assert collector.sums is not None
    assert collector.sums.result().per_class[0].segments == 40
