"""Time of masks and panoptic maps after the forward pass, beside a plain implementation.

    python benchmarks/postprocessing.py [--queries 100] [--size 800x1066] [--device cuda] [--forward]

The plain variant resizes every mask as a whole, in numbers of four bytes per pixel, and panoptic maps through a PNG,
once for every round in which a segment is dropped. `tests/properties/test_laws_of_masks.py` holds detrkit's masks
against it.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from detrkit import Output, build_model, panoptic, postprocess
from detrkit.ops.masks import encode_rle, encode_rles

Size = tuple[int, int]


def plain_masks(logits: Tensor, padded: Size, processed: Size, size: Size) -> Tensor:
    """Mask logits [n, h, w] of one image -> uint8 [n, H, W], at every step in full."""
    large = functional.interpolate(logits[:, None], size=padded, mode="bilinear", align_corners=False)
    inside = (large.sigmoid() > 0.5).cpu()[:, :, : processed[0], : processed[1]]
    return functional.interpolate(inside.float(), size=size, mode="nearest").byte()[:, 0]


def plain_panoptic(
    class_logits: Tensor, logits: Tensor, processed: Size, size: Size, is_thing: Sequence[bool], threshold: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Class logits [Q, C + 1] and mask logits [Q, h, w] of one image -> ids [H, W] and segments, at every step in
    full."""
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels < class_logits.shape[1] - 1) & (scores > threshold)
    labels, logits = labels[kept], logits[kept]
    large = functional.interpolate(logits[:, None], size=processed, mode="bilinear", align_corners=False)[:, 0]
    first = True
    while len(labels):
        ids = large.flatten(1).T.softmax(-1).argmax(-1).view(processed)
        if first:
            for k, label in enumerate(labels.tolist()):
                if not is_thing[label]:
                    ids[ids == k] = labels.tolist().index(label)
        first = False
        ids = _through_png(ids.cpu().numpy(), size)
        areas = [int((ids == k).sum()) for k in range(len(labels))]
        large_enough = torch.tensor([area > 4 for area in areas], device=labels.device)
        if large_enough.all():
            rows = zip(labels.tolist(), areas, strict=True)
            return ids, [
                {"id": k, "category_id": label, "isthing": is_thing[label], "area": area}
                for k, (label, area) in enumerate(rows)
            ]
        labels, large = labels[large_enough], large[large_enough]
    return torch.zeros(size, dtype=torch.int64), []


def _through_png(ids: Any, size: Size) -> Tensor:
    """Ids resized to the nearest pixel as an image, written and read again."""
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colors).resize(size[::-1], Image.Resampling.NEAREST).save(file, format="PNG")
    found = np.asarray(Image.open(file)).astype(np.int64)
    return torch.from_numpy(found[..., 0] + 256 * found[..., 1] + 65536 * found[..., 2])


def blobs(queries: int, processed: Size, classes: int, seed: int = 0) -> Output:
    """Outputs as of a trained model for one image: each query is sure of a class and of a round region of its own,
    with a wavy border; some regions are tiny or lie behind others."""
    random = torch.Generator().manual_seed(seed)
    h, w = -(-processed[0] // 4), -(-processed[1] // 4)
    center = torch.rand(queries, 2, generator=random)
    radius = 0.02 + 0.28 * torch.rand(queries, generator=random) ** 2
    y, x = torch.linspace(0, 1, h)[:, None], torch.linspace(0, 1, w)[None]
    away = ((y - center[:, 0, None, None]) ** 2 + (x - center[:, 1, None, None]) ** 2).sqrt()
    waves = torch.randn(queries, 1, h // 8 + 1, w // 8 + 1, generator=random)
    waves = functional.interpolate(waves, size=(h, w), mode="bicubic", align_corners=False)[:, 0]
    masks = 20 * (radius[:, None, None] - away) + 0.5 * waves
    labels = torch.randint(0, classes, (1, queries), generator=random)
    logits = 12 * functional.one_hot(labels, classes + 1).float()
    boxes = torch.cat([center.flip(1), radius[:, None].repeat(1, 2)], dim=1)[None]
    return Output(logits, boxes, masks=masks[None], padded_size=processed)


def milliseconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median of some runs, after one that is not counted."""
    spent = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Print a row for masks, for masks as run lengths (what validation keeps) and for panoptic maps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100, help="masks of the image")
    parser.add_argument("--size", default="800x1066", help="height x width in the batch")
    parser.add_argument("--original", default="480x640", help="height x width of the image's file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--forward", action="store_true", help="also time the model itself, for comparison")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    processed, size = (tuple(map(int, text.split("x"))) for text in (args.size, args.original))
    out = blobs(args.queries, processed, classes=133)
    out = Output(out.logits.to(device), out.boxes.to(device), masks=out.masks.to(device), padded_size=out.padded_size)
    things = [k < 80 for k in range(133)]
    sizes, processed_sizes = torch.tensor([size]), torch.tensor([processed])
    rows = {
        "masks": (
            lambda: plain_masks(out.masks[0], processed, processed, size),
            lambda: postprocess(out, sizes, processed_sizes=processed_sizes)[0].masks.cpu(),
        ),
        "as RLE": (
            lambda: [encode_rle(mask) for mask in plain_masks(out.masks[0], processed, processed, size)],
            lambda: encode_rles(postprocess(out, sizes, processed_sizes=processed_sizes)[0].masks),
        ),
        "panoptic": (
            lambda: plain_panoptic(out.logits[0], out.masks[0], processed, size, things, 0.85),
            lambda: panoptic(out, processed_sizes, sizes, things)[0].ids.cpu(),
        ),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{args.queries} queries at {args.size}, file {args.original}, {name}, {torch.get_num_threads()} threads")
    for what, (plain, ours) in rows.items():
        slow, fast = (milliseconds(work, device, args.repeats) for work in (plain, ours))
        print(f"{what:9} plain {slow:8.1f} ms   detrkit {fast:8.1f} ms   {slow / fast:5.1f} x", flush=True)
    if args.forward:
        model = build_model(91, masks=True).eval().to(device)
        images = torch.rand(1, 3, *processed, device=device)
        padding = torch.zeros(1, *processed, dtype=torch.bool, device=device)
        with torch.no_grad():
            boxes = milliseconds(lambda: model.forward_detection(images, padding), device, args.repeats)
            whole = milliseconds(lambda: model(images, padding), device, args.repeats)
        print(f"detr_resnet50: {boxes:.1f} ms for boxes, {whole:.1f} ms with masks of all queries")


if __name__ == "__main__":
    main()
