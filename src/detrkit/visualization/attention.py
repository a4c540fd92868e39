"""Attention of the decoder's queries over the image, and of the encoder between its tokens.

As in figures 3 and 6 of Carion et al. 2020: the last layer of each, averaged over the heads. Where attention samples
points, the points of all heads, as in figure 6 of Zhu et al. 2021, "Deformable DETR".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.inference import Detector
from detrkit.inference.postprocess import postprocess, query_masks
from detrkit.models import DETR
from detrkit.models.hybrid_encoder import HybridEncoder
from detrkit.results import Detections
from detrkit.visualization.attention_maps import AttentionMap, SampledPoints, record_attention, to_finest_level
from detrkit.visualization.draw import ImageArray, color_of, draw_detections, grid, resized, titled
from detrkit.visualization.fonts import name_of, write
from detrkit.visualization.matplotlib_backend import import_matplotlib

FEW = 3
"""Number of detections that are shown where none reaches the threshold."""

POINTS = 4
"""Number of points of the encoder that are shown where none are given."""

PANEL = 420
"""Pixels of the longer side of each drawn image."""

DOT = 0.016
"""Radius of the dot of largest weight, relative to the longer side of the image."""

MARK, SAMPLED = (46, 204, 255), (255, 225, 25)
"""RGB of the given points of the encoder, and of the points that their tokens sample."""


@dataclass(frozen=True)
class Attention:
    """The attention of a model's last layers in one image."""

    detections: Detections
    """Best class of each query, in the order of the queries, with original ids and names."""
    decoder: AttentionMap | SampledPoints
    """Attention of each query in the last decoder layer: weights [Q, h, w], or [Q, P] of points."""
    encoder: AttentionMap | SampledPoints | None
    """Attention of each token in the last encoder layer: weights [h, w, h, w], or [h, w, P] of points. The tokens are
    those of the finest level, in the hybrid encoder those of the coarsest. None: no attention in the encoder."""
    covered: tuple[float, float]
    """Height and width that these tokens cover, relative to the image: 1 or a little more."""
    mask_head: AttentionMap | None = None
    """Attention of each query in the mask head, summed over the heads: weights [Q, h, w]. None: the model has no mask
    head, or one without attention."""
    segment: Callable[[int], Tensor] | None = None
    """Makes the mask of a query, bool [1, H, W]; None: the model makes none."""


@torch.no_grad()
def compute_attention(detector: Detector, image: Tensor) -> Attention:
    """Run a detector on an image, uint8 [3, H, W] (RGB), and keep the attention of its last layers.

    Raises:
        ConfigError: the model is one of transformers, or an exported file.
    """
    model = detector.model
    if not isinstance(model, DETR):
        raise ConfigError(
            "expected a model of detrkit's own architectures to explain, found one of transformers, whose layers do "
            "not give their attention; predict and eval show what it detects"
        )
    maps: list[Tensor] = []
    hooks = [model.input_proj.register_forward_hook(lambda module, given, out: maps.extend(out))]
    mask_logits: list[Tensor] = []
    if model.bbox_attention is not None:  # logits [1, Q, heads, h, w]; the softmax is over heads and tokens
        hooks.append(model.bbox_attention.register_forward_hook(lambda module, given, out: mask_logits.append(out[0])))
    batch = detector.prepare([image])
    decoder = _last_attention(model.transformer.decoder, "multihead_attn")
    encoder = _last_attention(model.transformer.encoder, "self_attn")
    try:
        with record_attention(decoder) as recorded, record_attention(encoder) as encoder_recorded:
            out = model.forward_detection(batch.images.to(detector.device), batch.padding_mask.to(detector.device))
    finally:
        for hook in hooks:
            hook.remove()
    shapes: list[tuple[int, int]] = [(each.shape[-2], each.shape[-1]) for each in maps]
    height, width = batch.images.shape[-2:]

    def covered(level: int) -> tuple[float, float]:
        stride = model.backbone.strides[model.backbone.num_high_res] * 2**level
        return shapes[level][0] * stride / height, shapes[level][1] * stride / width

    def segment(query: int) -> Tensor:
        size = (image.shape[1], image.shape[2])
        queries = torch.tensor([query], device=out.boxes.device)
        (mask,) = query_masks(out, 0, queries, torch.tensor([[height, width]]), size)
        return mask.cpu()

    mask_map = (
        mask_logits[0].float().flatten(1).softmax(1).view_as(mask_logits[0]).sum(1).cpu() if mask_logits else None
    )
    (attention_map,) = recorded
    asking = len(shapes) - 1 if isinstance(model.transformer.encoder, HybridEncoder) else 0
    return Attention(
        detections=postprocess(replace(out, predict_masks=None), torch.tensor([image.shape[1:]]), top_k=0)[0]
        .cpu()
        .with_categories(detector.categories),
        decoder=attention_map
        if isinstance(attention_map, SampledPoints)
        else AttentionMap(to_finest_level(attention_map, shapes), covered(0)),
        encoder=_by_token(encoder_recorded[0], shapes[asking:], covered(asking)) if encoder_recorded else None,
        covered=covered(asking),
        mask_head=None if mask_map is None else AttentionMap(mask_map, covered(0)),
        segment=segment if out.predict_masks else None,
    )


def _by_token(
    attention_map: Tensor | SampledPoints, shapes: Sequence[tuple[int, int]], covered: tuple[float, float]
) -> AttentionMap | SampledPoints:
    """Arrange the attention of the tokens of the first level by row and column."""
    h, w = shapes[0]
    if isinstance(attention_map, SampledPoints):
        return SampledPoints(
            attention_map.locations[: h * w].reshape(h, w, -1, 2), attention_map.weights[: h * w].reshape(h, w, -1)
        )
    return AttentionMap(to_finest_level(attention_map[: h * w], shapes).reshape(h, w, h, w), covered)


def strongest(detections: Detections, threshold: float, most: int) -> list[int]:
    """Indices of the detections to explain, best first: those that reach `threshold`, else a few; `most` at most."""
    order = detections.scores.argsort(descending=True, stable=True)
    reaching = int((detections.scores >= threshold).sum())
    return [int(k) for k in order[: min(reaching or FEW, most)]]


def parse_point(text: str, height: int, width: int) -> tuple[float, float]:
    """Parse a point `x,y` in pixels of an image of height x width.

    Raises:
        ConfigError: it is something else, or outside of the image.
    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"expected a point as x,y in pixels, found {text!r}") from None
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError(f"expected a point inside the image of {width} x {height} pixels, found {text}")
    return x, y


def token_at(point: tuple[float, float], height: int, width: int, attention: Attention) -> tuple[int, int]:
    """Row and column of the encoder's token at a point x, y in pixels of an image of height x width."""
    assert attention.encoder is not None
    h, w = attention.encoder.weights.shape[:2]
    row = int(point[1] / height / attention.covered[0] * h)
    column = int(point[0] / width / attention.covered[1] * w)
    return min(row, h - 1), min(column, w - 1)


def draw_decoder(rgb: ImageArray, attention: Attention, chosen: list[int]) -> ImageArray:
    """Draw each chosen detection beside the attention of its query and of its mask."""
    cells = []
    small = resized(rgb, PANEL)
    scale = small.shape[1] / rgb.shape[1]
    for k in chosen:
        one = attention.detections[[k]]
        name = one.class_names[0] if one.class_names else str(int(one.class_ids[0]))
        attention_map, color = attention.decoder[k], color_of(int(one.class_ids[0]))
        drawn = draw_attention(small, attention_map, color)
        _outline(drawn, [v * scale for v in one.xyxy[0].tolist()], color)
        if attention.segment:
            one = replace(one, masks=attention.segment(k))
        parts = [("detection", draw_detections(rgb, one, side=PANEL))]
        parts.append((f"where its query looks, {_peak(attention_map.weights)}", drawn))
        if attention.mask_head:
            mask_map = attention.mask_head[k]
            parts.append((f"where its mask looks, {_peak(mask_map.weights)}", draw_attention(small, mask_map, color)))
        cells.append(titled(parts, f"{name_of(name)} {float(one.scores[0]):.2f}, query {k}"))
    return grid(cells, columns=1 if len(cells) == 1 else 2)


def draw_encoder(rgb: ImageArray, attention: Attention, points: list[tuple[float, float]]) -> ImageArray:
    """Draw the image with the points (x, y in its pixels), then the attention of the token at each point."""
    assert attention.encoder is not None
    height, width = rgb.shape[:2]
    small = resized(rgb, PANEL)
    scale = small.shape[1] / width
    marked = small.copy()
    cells = []
    for number, point in enumerate(points, start=1):
        xy = (point[0] * scale, point[1] * scale)
        _mark(marked, xy, str(number))
        attention_map = attention.encoder[token_at(point, height, width, attention)]
        drawn = draw_attention(small, attention_map, SAMPLED)
        _mark(drawn, xy, str(number))
        cells.append(titled([(f"where point {number} looks, {_peak(attention_map.weights)}", drawn)]))
    return grid([titled([("points", marked)]), *cells], columns=min(3, len(cells) + 1))


def draw_attention(
    rgb: ImageArray, attention_map: AttentionMap | SampledPoints, color: tuple[int, int, int]
) -> ImageArray:
    """Draw the attention of one query or token over the grayed image: a map as heat, points as dots of a color."""
    if isinstance(attention_map, AttentionMap):
        return overlay(rgb, attention_map.weights, attention_map.covered)
    return dotted(rgb, attention_map, color)


def dotted(rgb: ImageArray, points: SampledPoints, color: tuple[int, int, int]) -> ImageArray:
    """Draw points [P] as dots over the grayed image; the larger the weight, the larger and clearer the dot.

    Points outside of the image are not visible.
    """
    height, width = rgb.shape[:2]
    canvas = Image.fromarray(_grayed(rgb).round().astype(np.uint8).repeat(3, axis=2))
    pen = ImageDraw.Draw(canvas, "RGBA")  # so that dots let through what lies below
    level = points.weights / points.weights.max().clamp(min=1e-12)
    for k in level.argsort().tolist():
        x, y = (points.locations[k] * torch.tensor([width, height])).tolist()
        radius = DOT * max(height, width) * (0.2 + 0.8 * float(level[k]) ** 0.5)
        opacity = 70 + round(185 * float(level[k]))
        if np.isfinite([x, y]).all():
            circle = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(circle, fill=(*color, opacity), outline=(0, 0, 0, opacity))
    return np.asarray(canvas, dtype=np.uint8).copy()


def overlay(rgb: ImageArray, weights: Tensor, covered: tuple[float, float]) -> ImageArray:
    """Draw weights [h, w] as heat over the grayed image; the largest weight is the brightest color."""
    import_matplotlib()
    import matplotlib as mpl

    height, width = rgb.shape[:2]
    whole = (max(height, round(height * covered[0])), max(width, round(width * covered[1])))
    heat = torch.nn.functional.interpolate(weights[None, None], size=whole, mode="bilinear", align_corners=False)
    level: npt.NDArray[np.float32] = (heat[0, 0, :height, :width] / weights.max().clamp(min=1e-12)).clamp(0, 1).numpy()
    gray = _grayed(rgb)
    color = mpl.colormaps["inferno"](level)[..., :3] * 255
    share = 0.1 + 0.6 * level[..., None]
    return np.asarray((gray * (1 - share) + color * share).round(), dtype=np.uint8)


def _last_attention(stack: nn.Module, name: str) -> nn.Module | None:
    """The attention of the last layer of an encoder or decoder; None of an encoder without layers."""
    layers = stack.layers
    assert isinstance(layers, nn.ModuleList)
    attention = getattr(layers[-1], name) if len(layers) else None
    assert attention is None or isinstance(attention, nn.Module)
    return attention


def _grayed(rgb: ImageArray) -> npt.NDArray[np.float64]:
    """Convert an image to dim gray, [H, W, 1]."""
    return np.asarray(rgb.mean(axis=2, keepdims=True) * 0.7)


def _centers(detections: Detections, height: int, width: int) -> list[tuple[float, float]]:
    """Centers x, y of detections, moved into the image."""
    boxes = detections.xyxy.nan_to_num()
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    return [(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)) for x, y in centers]


def points_to_show(attention: Attention, chosen: list[int], height: int, width: int) -> list[tuple[float, float]]:
    """Centers x, y in pixels of the first few chosen detections that lie at different tokens.

    Args:
        attention: result of `compute_attention`.
        chosen: indices of its detections, best first.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    points = _centers(attention.detections[chosen], height, width)
    by_token: dict[tuple[int, int], tuple[float, float]] = {}
    for point in points:
        by_token.setdefault(token_at(point, height, width, attention), point)
    return list(by_token.values())[:POINTS]


def _peak(weights: Tensor) -> str:
    """Format the largest weight as a multiple of uniform attention."""
    return f"peak {float(weights.max()) * weights.numel():.1f} × even"


def _outline(rgb: ImageArray, box: list[float], color: tuple[int, int, int]) -> None:
    canvas = Image.fromarray(rgb)
    limits = (rgb.shape[1] - 1, rgb.shape[0] - 1) * 2
    corners = [min(max(value, 0), limit) for value, limit in zip(box, limits, strict=True)]
    if all(np.isfinite(corners)):
        ImageDraw.Draw(canvas).rectangle((corners[0], corners[1], corners[2], corners[3]), outline=color, width=2)
    rgb[:] = np.asarray(canvas)


def _mark(rgb: ImageArray, xy: tuple[float, float], text: str) -> None:
    canvas = Image.fromarray(rgb)
    pen = ImageDraw.Draw(canvas)
    x, y = xy
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=MARK, outline=(0, 0, 0))
    write(pen, (x + 8, y), text, 16, (255, 255, 255), stroke=(0, 0, 0))
    rgb[:] = np.asarray(canvas)
