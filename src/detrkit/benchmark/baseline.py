"""The plain ways of what has no switch to make it plain: short, and straight from the papers."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as tvf

from detrkit.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.structures import Output


class PilRecipe:
    """The images of DETR's training recipe (Carion et al. 2020, appendix A.4) through PIL and torchvision: mirrored
    or not, one of eleven sizes, cropped half the time; then normalised numbers of four bytes."""

    def __init__(self, image_size: int, *, square_resize: bool = False) -> None:
        """Prepare for a largest shorter side in pixels; `square_resize`: of both sides."""
        self.image_size, self.square_resize = image_size, square_resize

    def __call__(self, path: Path, seed: int) -> Tensor:
        """An image file -> float32 [3, h, w]."""
        rng = random.Random(f"{seed} {path}")
        image = Image.open(path).convert("RGB")
        if rng.random() < 0.5:
            image = tvf.horizontal_flip(image)
        if rng.random() < 0.5:
            image = tvf.resize(image, [self._scaled(rng.choice((400, 500, 600)))])
            low, high = self._scaled(384), self._scaled(600)
            w, h = (rng.randint(min(low, side), min(high, side)) for side in image.size)
            left, top = rng.randint(0, image.width - w), rng.randint(0, image.height - h)
            image = tvf.crop(image, top, left, h, w)
        size = self._scaled(rng.choice(range(480, 801, 32)))
        if self.square_resize:
            image = tvf.resize(image, [size, size])
        else:
            image = tvf.resize(image, [size], max_size=max(size + 1, self._scaled(1333)))
        numbers = tvf.to_dtype(tvf.pil_to_tensor(image), torch.float32, scale=True)
        normalised: Tensor = tvf.normalize(numbers, list(IMAGENET_MEAN), list(IMAGENET_STD))
        return normalised

    def _scaled(self, size: int) -> int:
        return max(1, round(size * self.image_size / 800))


@torch.no_grad()
def detections(out: Output, processed: Tensor, sizes: Tensor, threshold: float) -> list[dict[str, Tensor]]:
    """Every query's class, score and box and, with masks, every query's mask in full; then the sure ones of them.

    Args:
        out: of a model.
        processed: int [B, 2], height and width of the images in the batch.
        sizes: int [B, 2], those to give detections in.
        threshold: lowest score to keep.
    """
    found = []
    for i, (height, width) in enumerate(sizes.tolist()):
        numbers = out.logits[i].sigmoid() if out.sigmoid else out.logits[i].softmax(-1)[:, :-1]
        scores, labels = numbers.max(-1)
        boxes = cxcywh_to_xyxy(out.boxes[i]) * torch.tensor([width, height, width, height], device=scores.device)
        kept = scores >= threshold
        row = {"scores": scores[kept].cpu(), "labels": labels[kept].cpu(), "boxes": boxes[kept].cpu()}
        if out.masks is not None and out.padded_size:
            large = functional.interpolate(out.masks[i][:, None], out.padded_size, mode="bilinear")
            h, w = processed[i].tolist()
            inside = (large[..., :h, :w].sigmoid() > 0.5).float()
            row["masks"] = functional.interpolate(inside, (height, width), mode="nearest")[:, 0].bool()[kept].cpu()
        found.append(row)
    return found


@torch.no_grad()
def panoptic_maps(
    out: Output, processed: Tensor, sizes: Tensor, things: Sequence[bool], threshold: float
) -> list[Tensor]:
    """Panoptic maps (section 4.4 of the paper), every mask in full: the query that claims a pixel most has it, queries
    of one kind of stuff share a segment, and tiny segments give theirs away. See `detections`."""
    assert out.masks is not None
    assert out.padded_size is not None
    maps = []
    for i, size in enumerate(sizes.tolist()):
        numbers = out.logits[i].sigmoid() if out.sigmoid else out.logits[i].softmax(-1)
        scores, labels = numbers.max(-1)
        kept = (scores > threshold) & (labels < len(things))
        h, w = processed[i].tolist()
        large = functional.interpolate(out.masks[i][kept][:, None], out.padded_size, mode="bilinear")[..., :h, :w]
        large = large[:, 0]
        classes = labels[kept].tolist()
        owner = [k if things[c] else classes.index(c) for k, c in enumerate(classes)]
        assigned_gt = torch.tensor(owner, device=large.device)
        alive = torch.ones(len(classes), dtype=torch.bool, device=large.device)
        while True:
            ids = assigned_gt[large.masked_fill(~alive[:, None, None], float("-inf")).softmax(0).argmax(0)]
            drawn = Image.fromarray(ids.int().cpu().numpy()).resize(size[::-1], Image.Resampling.NEAREST)
            ids = torch.from_numpy(np.array(drawn)).to(large.device)
            areas = torch.stack([(ids == k).sum() for k in range(len(classes))])
            tiny = alive & (areas <= 4)  # and so those whose kind another one stands for
            if not tiny.any():
                break
            alive &= ~tiny
        maps.append(torch.unique(ids, return_inverse=True)[1].cpu())  # numbered anew: 0, 1, ...
    return maps


def compute_coco_metrics(gt: dict[str, Any], found: list[dict[str, Any]], package: str) -> NDArray[np.float64]:
    """The twelve numbers as a package with the official interface computes them, from COCO's own form.

    Args:
        gt: COCO instances.
        found: COCO results.
        package: pycocotools or faster_coco_eval.
    """
    theirs = importlib.import_module(f"{package}.coco" if package == "pycocotools" else package)
    judge = importlib.import_module(f"{package}.cocoeval" if package == "pycocotools" else f"{package}.core")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = theirs.COCO()
        objects.dataset = gt
        objects.createIndex()
        results = objects.loadRes([dict(row) for row in found])  # which it adds to
        kind = judge.COCOeval if package == "pycocotools" else judge.COCOeval_faster
        measured = kind(objects, results, "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    stats: NDArray[np.float64] = np.asarray(measured.stats)[:12]
    return stats


def detections_to_judge(images: int, classes: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO ground truth of 7 objects per image, and 100 detections of each: some near the objects, most anywhere."""
    rng = np.random.default_rng(seed)
    gt: dict[str, Any] = {
        "images": [{"id": i, "height": 480, "width": 640} for i in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in range(classes)],
        "annotations": [],
    }
    found = []
    for image in range(images):
        boxes = np.concatenate([rng.uniform(0, 300, (7, 2)), rng.uniform(8, 180, (7, 2))], axis=1)
        kinds = rng.integers(classes, size=7)
        for k, (box, kind) in enumerate(zip(boxes.tolist(), kinds.tolist(), strict=True)):
            row = {"id": 7 * image + k + 1, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": 0}
            gt["annotations"].append(row | {"area": box[2] * box[3]})
        others = np.concatenate([rng.uniform(0, 300, (86, 2)), rng.uniform(8, 180, (86, 2))], axis=1)
        moved = np.concatenate([boxes, boxes]) + rng.normal(0, 6, (14, 4))
        guesses = np.concatenate([moved, others]).clip(1)
        guessed = np.concatenate([kinds, kinds, rng.integers(classes, size=86)])
        scores = np.concatenate([rng.uniform(0.2, 1, 14), rng.uniform(0, 0.5, 86)])
        for box, kind, score in zip(guesses.tolist(), guessed.tolist(), scores.tolist(), strict=True):
            found.append({"image_id": image, "category_id": kind, "bbox": box, "score": score})
    return gt, found
