"""Postprocessing: outputs become detections in pixels (box, class, score, mask) and panoptic maps.

Carion et al. 2020, section 4, "Technical details", and section 4.4 for masks and panoptic maps. Shapes: B images per
batch, Q queries, C classes, K detections per image, n detections of one image, k queries that a map is made of, H x W
pixels of an image, h x w cells of mask logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detrkit.errors import ConfigError
from detrkit.models.arguments import Size, expect_output, size_pairs, unit_number, whole_number
from detrkit.ops.boxes import best_of_overlapping, cxcywh_to_xyxy
from detrkit.ops.masks import between, resize_masks
from detrkit.ops.tiles import Tiling
from detrkit.results import Detections, PanopticMap
from detrkit.structures import Output

MASKS_AT_ONCE = 64
"""Most masks that are predicted at once: enough to keep a GPU busy, few enough for its memory."""

MASK_BYTES_AT_ONCE = 2**28
"""Most bytes of masks, at the size of the image, that are made at once."""

PIXELS_AT_ONCE = 2**24
"""Most logits of a panoptic map that are resized at once."""

PANOPTIC_THRESHOLD, PANOPTIC_THRESHOLD_SIGMOID = 0.85, 0.4
"""See `usual_threshold`."""

SMALL_SEGMENT = 4
"""Segments of at most this many pixels are dropped from a panoptic map."""


class BoxesOfBatch(NamedTuple):
    """K detections of each of B images, computed together."""

    boxes: Tensor
    """float32 [B, K, 4]; cx, cy, w, h relative to the image without padding."""
    scores: Tensor
    """float32 [B, K], in 0..1."""
    labels: Tensor
    """int64 [B, K], class indices 0..C-1."""
    queries: Tensor
    """int64 [B, K], the query of each detection."""

    def to(self, device: torch.device | str) -> BoxesOfBatch:
        """Move to another device in a single transfer, which is the only wait for a GPU."""
        if self.boxes.device == torch.device(device):
            return self
        columns = [self.boxes, *(column[..., None].float() for column in self[1:])]
        boxes, scores, labels, queries = torch.split(torch.cat(columns, dim=2).to(device), [4, 1, 1, 1], dim=2)
        return BoxesOfBatch(boxes, scores[..., 0], labels[..., 0].long(), queries[..., 0].long())

    def xyxy(self, sizes: Tensor) -> Tensor:
        """Boxes x1, y1, x2, y2 in pixels of images of the given sizes, int [B, 2] (height, width); float32 [B, K,
        4]."""
        height, width = sizes.to(self.boxes.device).unbind(1)
        return cxcywh_to_xyxy(self.boxes) * torch.stack([width, height, width, height], dim=1)[:, None]


@torch.no_grad()
def postprocess(
    out: Output,
    sizes: Tensor | Iterable[Size],
    *,
    top_k: int | None = None,
    processed_sizes: Tensor | Iterable[Size] | None = None,
    threshold: float | None = 0.0,
    mask_threshold: float | None = 0.5,
    best_first: bool = False,
    max_overlap: float | None = None,
    device: torch.device | str | None = None,
) -> list[Detections]:
    """Convert an output to the detections of each image; `class_ids` are class indices 0..C-1.

    For a model with a mask head they have masks, at the size of the image.

    Args:
        out: of the model.
        sizes: int [B, 2] or B pairs, height and width in pixels of the images that boxes and masks are given for.
        top_k: 0 gives every query its best class, Q detections per image in the order of the queries, as in the
            reference DETR. Otherwise the `top_k` best of all pairs of query and class, best first, as newer detectors
            score; a query may then appear under several classes. None follows the model: 0 for one with softmax, Q for
            one with an independent sigmoid per class.
        processed_sizes: int [B, 2] or B pairs, height and width in pixels that the images had in the batch, without
            padding. None: `sizes`; where these cannot be those of the batch, no masks are made.
        threshold: lowest score of a detection to keep, 0..1; None: 0. A query whose class is NaN scores 0.
        mask_threshold: a pixel belongs to an object where the sigmoid of its mask is above this, 0..1; None: 0.5. NaN
            does not.
        best_first: sort by falling score, whatever `top_k` says; of equals the query that comes first.
        max_overlap: of every two detections whose boxes have a larger IoU, only the better stays, whatever their
            classes, 0..1; None: all stay.
        device: where the detections shall be; None: where `out` is. From a GPU to "cpu" the boxes of the whole batch
            take a single transfer; a threshold on the GPU waits for it once per image.

    Raises:
        ConfigError: sizes are not one per image, a setting is out of range, or an image of `processed_sizes` is larger
            than the batch.
    """
    expect_output(out)
    sizes, pairs = size_pairs(sizes, len(out.boxes), "sizes")
    processed_sizes = _checked(out, processed_sizes, "processed_sizes")
    threshold = unit_number(0.0 if threshold is None else threshold, "a threshold")
    mask_threshold = unit_number(0.5 if mask_threshold is None else mask_threshold, "a mask_threshold")
    max_overlap = None if max_overlap is None else unit_number(max_overlap, "a max_overlap")
    top_k = None if top_k is None else whole_number(top_k, "top_k", 0)
    batch = best_boxes(out, top_k, best_first=best_first).to(out.boxes.device if device is None else device)
    boxes = batch.xyxy(sizes)
    processed = _mask_sizes(out, sizes, processed_sizes)
    results = []
    for i, size in enumerate(pairs):
        kept: Any = slice(None) if threshold <= 0 else (batch.scores[i] >= threshold).nonzero().flatten()
        if max_overlap is not None:
            rows = best_of_overlapping(boxes[i, kept], batch.scores[i, kept], max_overlap)
            kept = rows if isinstance(kept, slice) else kept[rows]
        masks = None
        if processed is not None:
            masks = _masks(out, i, batch.queries[i, kept], processed, size, mask_threshold)
        results.append(
            Detections(boxes[i, kept], batch.scores[i, kept], batch.labels[i, kept], masks=masks, image_size=size)
        )
    return results


def best_boxes(out: Output, top_k: int | None = None, *, best_first: bool = False) -> BoxesOfBatch:
    """Detections of a batch without masks, computed on its device without waiting for it; see `postprocess`."""
    scores, labels, queries = best_pairs(out, top_k)
    if best_first:
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        labels, queries = labels.gather(1, order), queries.gather(1, order)
    return BoxesOfBatch(out.boxes.float().take_along_dim(queries[..., None], dim=1), scores, labels, queries)


def best_pairs(out: Output, top_k: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, class indices and queries of the detections, [B, K] each; see `postprocess`."""
    logits = out.logits.float()
    probabilities = logits.sigmoid() if out.sigmoid else logits.softmax(-1)[..., :-1]  # [B, Q, C]
    probabilities = probabilities.nan_to_num(0.0)
    if top_k is None:
        top_k = logits.shape[1] if out.sigmoid else 0
    if top_k:
        classes = probabilities.shape[-1]
        scores, pair = probabilities.flatten(1).topk(min(top_k, probabilities[0].numel()))
        return scores, pair % classes, pair // classes
    scores, labels = probabilities.max(-1)
    return scores, labels, torch.arange(logits.shape[1], device=logits.device).expand_as(scores)


def _masks(
    out: Output, image: int, queries: Tensor, processed_sizes: Tensor, size: Size, mask_threshold: float
) -> Tensor:
    """Masks of the queries [n] of one image's detections; bool [n, H, W] on the device of `queries`.

    A query that occurs several times, with different classes, has its mask made once.
    """
    unique, inverse = torch.unique(queries, return_inverse=True)
    masks = torch.zeros(len(queries), *size, dtype=torch.bool, device=queries.device)
    done = 0
    for part in query_masks(out, image, unique.to(out.boxes.device), processed_sizes, size, mask_threshold):
        rows = ((inverse >= done) & (inverse < done + len(part))).nonzero().flatten()
        masks[rows] = part.to(masks.device)[inverse[rows] - done]
        done += len(part)
    return masks


def query_masks(
    out: Output, image: int, queries: Tensor, processed_sizes: Tensor, size: Size, threshold: float = 0.5
) -> Iterator[Tensor]:
    """Make the masks of queries of one image, a part at a time, so that memory does not grow with their number.

    Args:
        out: of a model with a mask head.
        image: which image of the batch.
        queries: int64 [n].
        processed_sizes: int [B, 2], see `postprocess`.
        size: height and width of the masks in pixels.
        threshold: for the sigmoid of the logits, 0..1.

    Yields:
        bool [m, *size], n rows in all.
    """
    processed = _pairs(processed_sizes)
    padded = out.padded_size or _largest(processed)
    step = max(1, min(MASKS_AT_ONCE, MASK_BYTES_AT_ONCE // (size[0] * size[1])))
    for part in torch.split(queries, step) if len(queries) else ():
        yield resize_masks(_mask_logits(out, image, part), padded, processed[image], size, threshold)


def usual_threshold(sigmoid: bool) -> float:
    """The usual score above which a query takes part in a panoptic map: that of the reference DETR, and a lower one for
    models with an independent sigmoid per class, since their scores often stand for an overlap."""
    return PANOPTIC_THRESHOLD_SIGMOID if sigmoid else PANOPTIC_THRESHOLD


def check_panoptic(makes_masks: bool, tiling: Tiling | None) -> None:
    """Make sure that panoptic maps can be made.

    Raises:
        ConfigError: the model has no mask head, or images are cut into tiles.
    """
    if not makes_masks:
        raise ConfigError(
            "expected a model with a mask head for panoptic maps, found one of boxes alone; train one with "
            "--task panoptic, or call predict for detections"
        )
    if tiling:
        raise ConfigError(f"expected whole images for panoptic maps, found {tiling}; use --tiles off")


@torch.no_grad()
def panoptic(
    out: Output,
    processed_sizes: Tensor | Iterable[Size],
    target_sizes: Tensor | Iterable[Size],
    is_thing: Mapping[int, bool] | Iterable[bool],
    threshold: float | None = 0.85,
) -> list[PanopticMap]:
    """Make a panoptic map of each image of a batch: every pixel goes to the query with the largest mask logit.

    As in the reference DETR, queries of the same stuff class share a segment, segments of 4 pixels or fewer are dropped
    and their pixels reassigned, and ids are 0, 1, ... in the order of the queries. An image in which no query reaches
    the threshold has no segments, and a map of zeros.

    Args:
        out: of a model with a mask head.
        processed_sizes: int [B, 2] or B pairs, height and width in pixels that the images had in the batch, without
            padding. Where `out.padded_size` is None, each mask is taken to cover just its image, as in the
            reference DETR, which holds in a batch without padding.
        target_sizes: int [B, 2] or B pairs, height and width in pixels of the maps.
        is_thing: whether a class index is a countable thing, or else stuff.
        threshold: a query takes part if the score of its best class is above this, 0..1; None: see `usual_threshold`.
            One with NaN takes no part.

    Raises:
        ConfigError: `out` is of a model without a mask head, sizes are not one per image, the threshold is out of
            range, `is_thing` lacks a predicted class, or an image of `processed_sizes` is larger than the
            batch.
    """
    if expect_output(out).masks is None and out.predict_masks is None:
        raise ConfigError(
            "expected the output of a model with a mask head for panoptic maps, found none; build or train it with "
            "masks (--task panoptic)"
        )
    if isinstance(is_thing, str | Set) or not isinstance(is_thing, Iterable):
        raise ConfigError(
            f"expected is_thing as a list or dict of true or false for each class, found a {type(is_thing).__name__}"
        )
    things = is_thing if isinstance(is_thing, Mapping) else list(is_thing)
    threshold = usual_threshold(out.sigmoid) if threshold is None else unit_number(threshold, "a threshold")
    _, processed = size_pairs(processed_sizes, len(out.boxes), "processed_sizes")
    _, targets = size_pairs(target_sizes, len(out.boxes), "target_sizes")
    _check_inside(out, processed)
    logits = out.logits.float()
    probabilities = (logits.sigmoid() if out.sigmoid else logits.softmax(-1)).nan_to_num(0.0)
    scores, labels = probabilities.max(-1)
    sure = (scores > threshold) & (labels < logits.shape[-1] - (not out.sigmoid))
    return [
        _panoptic_map(out, i, sure[i].nonzero().flatten(), scores[i], labels[i], processed[i], size, things)
        for i, size in enumerate(targets)
    ]


def _panoptic_map(
    out: Output,
    image: int,
    queries: Tensor,
    scores: Tensor,
    labels: Tensor,
    processed: Size,
    size: Size,
    is_thing: Mapping[int, bool] | Sequence[bool],
) -> PanopticMap:
    """Make the map of one image from the queries that take part; scores and labels [Q] are of all its queries."""
    logits = torch.cat([_mask_logits(out, image, part) for part in torch.split(queries, MASKS_AT_ONCE)])
    sound = logits.flatten(1).sum(1).isfinite()  # faster than testing every logit
    queries, logits = queries[sound], logits[sound]
    if not len(queries):
        return PanopticMap(torch.zeros(size, dtype=torch.int64, device=labels.device), [])
    classes, things = labels[queries].tolist(), []
    for label in classes:
        if label not in is_thing if isinstance(is_thing, Mapping) else label >= len(is_thing):
            raise ConfigError(f"expected is_thing to have every class, but it lacks class {label}; add it")
        things.append(bool(is_thing[label]))
    # queries of the same stuff class share the segment of the first of them
    firsts: dict[int, int] = {}
    owner = [k if thing else firsts.setdefault(c, k) for k, (c, thing) in enumerate(zip(classes, things, strict=True))]
    owners, kept = torch.tensor(owner, device=labels.device), torch.arange(len(classes), device=labels.device)
    pixels = [_nearest_pixels(*sides, labels.device) for sides in zip(processed, size, strict=True)]
    while True:
        ids = owners[kept][_largest_mask(logits[kept], out.padded_size or processed, pixels)]  # [H, W]
        area = torch.bincount(ids.flatten(), minlength=len(classes))
        large = area[kept] > SMALL_SEGMENT  # those that share the segment of another have an area of 0
        if bool(large.all()):
            break
        kept = kept[large]
        if not len(kept):
            return PanopticMap(torch.zeros(size, dtype=torch.int64, device=labels.device), [])
    rank = torch.zeros_like(owners).scatter(0, kept, torch.arange(len(kept), device=kept.device))
    rows = zip(kept.tolist(), area[kept].tolist(), scores[queries[kept]].tolist(), strict=True)
    segments: list[dict[str, Any]] = [
        {"id": new, "category_id": classes[k], "isthing": things[k], "area": count, "score": score}
        for new, (k, count, score) in enumerate(rows)
    ]
    return PanopticMap(rank[ids], segments)


def _largest_mask(logits: Tensor, covered: Size, pixels: Sequence[Tensor]) -> Tensor:
    """The index of the largest of k masks at each pixel, with logits resized bilinearly; int64 [rows, columns].

    A mask that is largest at all four cells around a pixel is largest at the pixel, so only pixels at the borders
    between segments are computed.

    Args:
        logits: float [k, h, w], finite.
        covered: height and width to resize the logits to.
        pixels: rows and columns of the resized logits to use, int64, in rising order.
    """
    k, height, width = logits.shape
    (rows, again_y), (columns, again_x) = (torch.unique_consecutive(p, return_inverse=True) for p in pixels)
    top, bottom, part_y = between(rows, height, covered[0])
    left, right, part_x = between(columns, width, covered[1])
    largest = logits.argmax(0)
    ids = largest[top][:, left]
    agreed = (ids == largest[top][:, right]) & (ids == largest[bottom][:, left]) & (ids == largest[bottom][:, right])
    at_corner = logits.flatten(1).T.contiguous()  # [h * w, k]
    step = max(1, PIXELS_AT_ONCE // k)
    for border in torch.split((~agreed).nonzero(), step):
        y, x = border.unbind(1)
        upper, lower = (
            torch.lerp(at_corner[line[y] * width + left[x]], at_corner[line[y] * width + right[x]], part_x[x, None])
            for line in (top, bottom)
        )
        ids[y, x] = torch.lerp(upper, lower, part_y[y, None]).argmax(1)
    return ids[again_y][:, again_x]


def _nearest_pixels(count: int, target: int, device: torch.device) -> Tensor:
    """The nearest of `count` pixels for each of `target` pixels over the same extent, int64 [target].

    As PIL resizes the maps of the reference DETR, down to the rounding of its running sum.
    """
    step = count / target
    steps = np.full(target, step)
    steps[0] = step / 2
    return torch.from_numpy(steps.cumsum().astype(np.int64)).clamp(max=count - 1).to(device)


def _mask_logits(out: Output, image: int, queries: Tensor) -> Tensor:
    """Mask logits of queries [n] of one image, float32 [n, h, w]."""
    if out.masks is not None:
        return out.masks[image, queries].float()
    assert out.predict_masks is not None
    return out.predict_masks(torch.full_like(queries, image), queries).float()


def _mask_sizes(out: Output, sizes: Tensor, processed_sizes: Tensor | None) -> Tensor | None:
    """The sizes in the batch, without padding, of images whose masks are made; None: no masks can be made."""
    if out.masks is None and out.predict_masks is None:
        return None
    if processed_sizes is not None:
        _check_inside(out, _pairs(processed_sizes))
        return processed_sizes
    return sizes if out.padded_size in (None, _largest(_pairs(sizes))) else None


def _checked(out: Output, sizes: Tensor | Iterable[Size] | None, name: str) -> Tensor | None:
    """Check sizes and convert them to a tensor, if they are given."""
    return None if sizes is None else size_pairs(sizes, len(out.boxes), name)[0]


def _check_inside(out: Output, processed: Sequence[Size]) -> None:
    largest = _largest(processed)
    if out.padded_size and (largest[0] > out.padded_size[0] or largest[1] > out.padded_size[1]):
        raise ConfigError(
            f"expected processed_sizes of at most the batch's {out.padded_size[0]} x {out.padded_size[1]} (height x "
            f"width), found {largest[0]} x {largest[1]}; give the sizes that the images had in the batch"
        )


def _pairs(sizes: Tensor) -> list[Size]:
    return [(int(height), int(width)) for height, width in sizes.tolist()]


def _largest(sizes: Sequence[Size]) -> Size:
    return max(height for height, _ in sizes), max(width for _, width in sizes)
