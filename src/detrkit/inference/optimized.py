"""A model optimized for inference, with the values of the plain one up to rounding.

What is done, and where; a test compares each with `PlainBackend`:

    batch norms folded into convolutions            everywhere
    channels-last memory                            everywhere
    only the heads of the last decoder layer        everywhere, if no layer starts from the boxes of an earlier one
    bf16 or fp16 (autocast; boxes stay float32)     on request; by default on CUDA
    compiled, for few shapes                        on request; by default on CUDA
    CUDA graphs                                     when compiled, at batch size 1, without masks

Attention runs in PyTorch's fused kernels in any case.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.errors import ConfigError, is_out_of_memory
from detrkit.inference.shape_buckets import ShapeBuckets, batch_bucket
from detrkit.models import DetectionModel
from detrkit.models.fuse_bn import fold_norms
from detrkit.models.layers.attention import MultiheadAttention
from detrkit.structures import Output

Precision = Literal["auto", "plain", "fp32", "bf16", "fp16"]
Compile = Literal["auto", "off", "on"]
Forward = Callable[[Tensor, Tensor], Output]
"""Images and padding mask -> output."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OptimizedBackend:
    """A `Backend` that runs an optimized copy of a model.

    Args:
        model: is copied, and stays as it is.
        device: where the copy runs.
        half: bfloat16 or float16 for matrix products and convolutions; None: float32 throughout.
        buckets: compile for these shapes alone: images are padded to the next one, batches to the next power of 2.
            Larger images run uncompiled. None: do not compile.
        compile_backend: backend of `torch.compile`.
    """

    def __init__(
        self,
        model: DetectionModel,
        device: torch.device | str = "cpu",
        *,
        half: torch.dtype | None = None,
        buckets: ShapeBuckets | None = None,
        compile_backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.device = torch.device(device)
        self.model = fold_norms(model).to(self.device)
        self.model.to(memory_format=torch.channels_last)
        self.sigmoid, self.num_queries = model.sigmoid, model.num_queries
        self.makes_masks = model.makes_masks
        self.half, self.buckets, self.compile_backend = half, buckets, compile_backend
        if half is not None:
            halve(self.model, half)
        self.compiled: dict[tuple[int, int, int], Forward] = {}
        """Compiled forward passes by batch size, height and width."""

    @torch.no_grad()
    def forward_detection(self, images: Tensor, padding_mask: Tensor) -> Output:
        """Predict a batch, see `backend.Backend.forward_detection`."""
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        padding_mask = padding_mask.to(self.device, non_blocking=True)
        shape = self.buckets and self.buckets.fit(images.shape[-2], images.shape[-1])
        if not shape:
            return self._forward(images, padding_mask)
        count, size = len(images), (images.shape[-2], images.shape[-1])
        missing = (0, shape[1] - size[1], 0, shape[0] - size[0])  # at the right and at the bottom
        rows = torch.arange(batch_bucket(count), device=self.device).clamp(max=count - 1)  # the last image is repeated
        images = F.pad(images, missing)[rows].contiguous(memory_format=torch.channels_last)
        padding_mask = F.pad(padding_mask, missing, value=True)[rows]
        out = self._compiled(images)(images, padding_mask)
        return replace(out, logits=out.logits[:count].clone(), boxes=out.boxes[:count].clone())

    def _forward(self, images: Tensor, padding_mask: Tensor) -> Output:
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            out = self.model.forward_detection(images, padding_mask, last_only=True)
        return replace(out, logits=out.logits.float(), boxes=out.boxes.float())

    def _compiled(self, images: Tensor) -> Forward:
        """The compiled forward pass for such a batch; compiling happens at its first call."""
        shape = (len(images), images.shape[-2], images.shape[-1])
        if shape not in self.compiled:
            options: dict[str, str | int | bool | Callable[..., Any]] | None = None
            if self.compile_backend == "inductor" and self.device.type == "cpu":
                options = {"freezing": True}  # weights as constants
            elif self.compile_backend == "inductor" and len(images) == 1 and not self.makes_masks:
                options = {"triton.cudagraphs": self.device.type == "cuda"}
            run: Forward = torch.compile(self._forward, dynamic=False, backend=self.compile_backend, options=options)
            self.compiled[shape] = _first_call_explained(run, len(self.compiled) + 1)
        return self.compiled[shape]


def _first_call_explained(run: Forward, shapes: int) -> Forward:
    """Wrap a compiled forward pass: its first call compiles, with room for all shapes, and failure becomes a sentence.

    PyTorch gives up after a few versions of one function; here the buckets bound their number.
    """
    first = True

    def call(images: Tensor, padding_mask: Tensor) -> Output:
        nonlocal first
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # earlier outputs of a CUDA graph have been copied
        if not first:
            return run(images, padding_mask)
        from torch._dynamo import config

        try:
            with config.patch(recompile_limit=8 * shapes):
                out = run(images, padding_mask)
        except Exception as problem:
            if is_out_of_memory(problem) or "Compiler" not in repr(problem) + repr(problem.__cause__):
                raise
            raise ConfigError(
                "expected a C++ compiler (on a GPU: Triton) for --compile on, but compiling failed: "
                f"{str(problem).strip().splitlines()[0]}; install one, or use --compile off"
            ) from problem
        first = False
        return out

    return call


def halve(model: DetectionModel, half: torch.dtype) -> None:
    """Store weights of matrix products and convolutions as autocast would cast them at every call. Norms, embeddings
    and the float32 heads stay as they are."""
    float32 = {module for head in model.float32_heads for module in head.modules()}
    for module in model.modules():
        if module not in float32 and isinstance(module, nn.Conv2d | nn.Linear | MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(half)


def chosen_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The data type of a precision on a device; None: float32.

    `auto` is float32, but bfloat16 on CUDA, or float16 on GPUs without bfloat16.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision not in ("auto", "plain", "fp32", "bf16", "fp16"):
        raise ConfigError(f"expected a precision of auto, plain, fp32, bf16 or fp16, found {precision!r}")
    if precision != "auto":
        return HALVES.get(precision)
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def compiles(compile: Compile, device: torch.device) -> bool:
    """Whether to compile; `auto`: on CUDA with Triton.

    On a CPU compiling gains little, takes 10 seconds and more per shape, and needs a C++ compiler, so it is off by
    default.

    Raises:
        ConfigError: there is no such setting.
    """
    if compile not in ("auto", "off", "on"):
        raise ConfigError(f"expected compile to be auto, off or on, found {compile!r}")
    if compile != "auto":
        return compile == "on"
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None
