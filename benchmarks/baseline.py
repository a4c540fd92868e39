"""Baselines for data loading, postprocessing and evaluation: short, and straight from the papers.

`benchmarks/others.py` times them beside detrkit's own functions.
"""

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
    """DETR's training augmentation (Carion et al. 2020, appendix A.4) through PIL and torchvision: mirrored or not, one
    of eleven sizes, cropped half the time; then normalized, as float32.

    Args:
        image_size: largest shorter side in pixels.
        square_resize: resize both sides to the same size.
    """

    def __init__(self, image_size: int, *, square_resize: bool = False) -> None:
        self.image_size, self.square_resize = image_size, square_resize

    def __call__(self, path: Path, seed: int) -> Tensor:
        """Load an image file as float32 [3, h, w]."""
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
        pixels = tvf.to_dtype(tvf.pil_to_tensor(image), torch.float32, scale=True)
        normalized: Tensor = tvf.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
        return normalized

    def _scaled(self, size: int) -> int:
        return max(1, round(size * self.image_size / 800))


@torch.no_grad()
def detections(out: Output, processed: Tensor, sizes: Tensor, threshold: float) -> list[dict[str, Tensor]]:
    """Detections of each image: class, score, box and, with masks, the full mask of every query; then a threshold.

    Args:
        out: output of a model.
        processed: int [B, 2], height and width of the images in the batch.
        sizes: int [B, 2], those to give detections in.
        threshold: lowest score to keep.
    """
    results = []
    for i, (height, width) in enumerate(sizes.tolist()):
        probabilities = out.logits[i].sigmoid() if out.sigmoid else out.logits[i].softmax(-1)[:, :-1]
        scores, labels = probabilities.max(-1)
        boxes = cxcywh_to_xyxy(out.boxes[i]) * torch.tensor([width, height, width, height], device=scores.device)
        kept = scores >= threshold
        row = {"scores": scores[kept].cpu(), "labels": labels[kept].cpu(), "boxes": boxes[kept].cpu()}
        if out.masks is not None and out.padded_size:
            large = functional.interpolate(out.masks[i][:, None], out.padded_size, mode="bilinear")
            h, w = processed[i].tolist()
            inside = (large[..., :h, :w].sigmoid() > 0.5).float()
            row["masks"] = functional.interpolate(inside, (height, width), mode="nearest")[:, 0].bool()[kept].cpu()
        results.append(row)
    return results


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
        probabilities = out.logits[i].sigmoid() if out.sigmoid else out.logits[i].softmax(-1)
        scores, labels = probabilities.max(-1)
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


def official_coco_metrics(gt: dict[str, Any], detections: list[dict[str, Any]], package: str) -> NDArray[np.float64]:
    """The twelve metrics as a package with the official interface computes them, from COCO's own form.

    Args:
        gt: COCO instances.
        detections: COCO results.
        package: pycocotools or faster_coco_eval.
    """
    data = importlib.import_module(f"{package}.coco" if package == "pycocotools" else package)
    evaluation = importlib.import_module(f"{package}.cocoeval" if package == "pycocotools" else f"{package}.core")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = data.COCO()
        objects.dataset = gt
        objects.createIndex()
        results = objects.loadRes([dict(row) for row in detections])  # which it adds to
        kind = evaluation.COCOeval if package == "pycocotools" else evaluation.COCOeval_faster
        measured = kind(objects, results, "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    stats: NDArray[np.float64] = np.asarray(measured.stats)[:12]
    return stats
