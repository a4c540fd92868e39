"""The graph that is exported: the model's own `forward_detection`, with plain tensors in and out, for any image size.

    images uint8 [B, 3, H, W] (RGB pixels), padding_mask bool [B, H, W] (True = padding)
        -> logits [B, Q, C or C + 1], boxes [B, Q, 4] (cx, cy, w, h in 0..1), masks [B, Q, h, w] (logits)

or, with preprocessing and postprocessing built in:

    images uint8 [B, 3, H, W], of any size
        -> boxes [B, K, 4] (x1, y1, x2, y2 in pixels), scores [B, K] (best first), labels int64 [B, K] (0..C-1)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.inference.optimized import halve
from detrkit.inference.postprocess import best_pairs
from detrkit.models import DetectionModel
from detrkit.models.detection_model import normalize_pixels
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.structures import Output, Preprocessing


class Graph(nn.Module):
    """A model that gives tensors by name instead of an `Output`.

    Args:
        model: in evaluation mode afterwards; with `half` it is changed, and of no other use.
        max_queries: most queries to give, the best, with masks of these alone; 0: all.
        half: most of the arithmetic in float16 or bfloat16, as under autocast; None: float32.
    """

    def __init__(self, model: DetectionModel, max_queries: int = 0, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model.eval()
        self.max_queries, self.in_half = max_queries, half
        if half:
            halve(model, half)
        for module in model.modules() if half else ():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):  # in float32, as on a GPU; ONNX knows no mixture
                module.register_forward_pre_hook(_in_float32)

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        """Compute logits, boxes and, with a mask head, masks; for the shapes see the head of this file."""
        out = self.output(self.model.normalize(images, padding_mask), padding_mask)
        outputs = {"logits": out.logits, "boxes": out.boxes}
        return outputs if out.masks is None else outputs | {"masks": out.masks}

    def output(self, images: Tensor, padding_mask: Tensor) -> Output:
        """The output for the best `max_queries` queries of normalized images, in float32."""
        with torch.autocast(images.device.type, self.in_half, enabled=self.in_half is not None):
            out = self.model.forward_detection(images, padding_mask)
            logits, boxes, masks = out.logits.float(), out.boxes.float(), None
            batch, count = logits.shape[:2]
            queries = torch.arange(count, device=logits.device).expand(batch, -1)
            if self.max_queries and self.max_queries < self.model.num_queries:
                class_scores = logits if out.sigmoid else logits.softmax(-1)[..., :-1]
                queries = class_scores.amax(-1).topk(self.max_queries).indices
                logits = logits.gather(1, queries[..., None].expand(-1, -1, logits.shape[-1]))
                boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
            if out.predict_masks:
                image_indices = torch.arange(batch, device=logits.device)[:, None].expand(queries.shape)
                rows = out.predict_masks(image_indices.reshape(-1), queries.reshape(-1))
                masks = rows.view(*queries.shape, *rows.shape[1:])
        return Output(logits, boxes, masks, sigmoid=self.model.sigmoid)


def _in_float32(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].float(), *args[1:]


class BuiltinGraph(nn.Module):
    """A graph with resizing before the model, and detections in pixels after it.

    The model inside gets a single size, as runtimes like best: images are resized to fit, and the rest is padding.

    Args:
        graph: of a model without masks.
        preprocessing: how images are resized; the shorter side may become less where `size` requires it.
        size: (H, W) in pixels of the model's input; with `square_resize`, images are resized to just that.
    """

    def __init__(self, graph: Graph, preprocessing: Preprocessing, size: tuple[int, int]) -> None:
        super().__init__()
        self.core, self.preprocessing, self.size = graph, preprocessing, size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute boxes, scores and labels; for the shapes see the head of this file."""
        height, width = images.shape[-2:]
        if self.preprocessing.square_resize:
            inner = torch.tensor(self.size)
        else:
            inner = fitted(height, width, self.preprocessing.image_size, self.size)
        pixels = resized(images.float(), inner, self.size)
        model = self.core.model
        y, x = (torch.arange(side, device=images.device) for side in self.size)
        padding = (y[:, None] >= inner[0]) | (x >= inner[1])
        padding_mask = padding.expand(images.shape[0], -1, -1)
        # not cast to uint8, which TensorRT allows at the ends of a graph alone
        out = self.core.output(normalize_pixels(pixels, padding_mask, model.mean, model.std), padding_mask)
        scores, labels, queries = best_pairs(out)
        if not out.sigmoid:  # `topk` sorts; not every runtime can sort otherwise
            scores, queries = scores.topk(scores.shape[1])
            labels = labels.gather(1, queries)
        boxes = out.boxes.gather(1, queries[..., None].expand(-1, -1, 4))
        x1, y1, x2, y2 = cxcywh_to_xyxy(boxes).unbind(-1)
        boxes = torch.stack([x1 * width, y1 * height, x2 * width, y2 * height], -1)
        return {"boxes": boxes, "scores": scores, "labels": labels}


def fitted(height: int, width: int, shorter: int, size: tuple[int, int]) -> Tensor:
    """The size (h, w) that an image of `height` x `width` is resized to, int32 [2]: as in evaluation (`resized_size`),
    but no larger than `size`."""
    given = torch.cat([torch.full((1,), side, dtype=torch.int32) for side in (height, width)])
    low, high = given.amin(0), given.amax(0)
    longest = eval_transform(shorter).longest
    side = ((2 * longest * low + high) // (2 * high)).clamp(max=shorter)
    most = ((torch.tensor(size, dtype=torch.int32) + 1) * low - 1) // given  # of `side`, such that both sides fit
    side = torch.minimum(side, most.amin(0)).clamp(min=1)
    return (side * given // low).clamp(min=1)


def resized(images: Tensor, inner: Tensor, outer: tuple[int, int]) -> Tensor:
    """Resize images [B, 3, H, W] of 0..255 to `inner`, int [2], bilinear with antialiasing, and pad with 0 to `outer`.

    As torchvision does, up to rounding, but by two matrix products, which every runtime has.
    """
    rows = _weights(images.shape[-2], inner[0], outer[0])
    columns = _weights(images.shape[-1], inner[1], outer[1])
    return (rows @ (images @ columns.T)).round().clamp(0, 255)


def _weights(given: int, target: Tensor, rows: int) -> Tensor:
    """The weight of each of `given` pixels in each of `target` resized ones, [rows, given]; rows beyond them are 0."""
    step = torch.full((), given) / target
    row = torch.arange(rows)[:, None]
    away = (torch.arange(given) + 0.5 - (row + 0.5) * step).abs() / step.clamp(min=1)
    share = (1 - away).clamp(min=0)
    return share / share.sum(1, keepdim=True).clamp(min=1e-6) * (row < target)


def trace(graph: Graph | BuiltinGraph, *, size: tuple[int, int] | None, batch_size: int | None) -> ExportedProgram:
    """Trace a graph with torch.export.

    Args:
        graph: on the CPU.
        size: (H, W) in pixels of the images that it takes; None: any. A `BuiltinGraph` always takes any.
        batch_size: images per batch that it takes; None: any number.
    """
    builtin = isinstance(graph, BuiltinGraph)
    model = graph.core.model if isinstance(graph, BuiltinGraph) else graph.model
    height, width = size if size and not builtin else (7 * model.stride, 9 * model.stride)
    side = Dim.STATIC if size and not builtin else Dim.DYNAMIC
    batch = Dim.DYNAMIC if batch_size is None else Dim.STATIC
    images = torch.zeros(batch_size or 2, 3, height, width, dtype=torch.uint8)
    inputs, shapes = {"images": images}, {"images": {0: batch, 2: side, 3: side}}
    if not builtin:
        inputs["padding_mask"] = torch.zeros(len(images), height, width, dtype=torch.bool)
        shapes["padding_mask"] = {0: batch, 1: side, 2: side}
    with torch.no_grad():
        return torch.export.export(graph, (), inputs, dynamic_shapes=shapes, strict=False)
