"""`TransformersDETR`: a detector of Hugging Face transformers with detrkit's inputs and outputs."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.errors import ConfigError
from detrkit.models.arguments import as_targets
from detrkit.models.detection_model import Color, DetectionModel
from detrkit.models.hf.model_types import MODEL_TYPES, queries_of
from detrkit.structures import Output, Target

_EXACT = re.compile(
    r".*\.(class_embed|bbox_embed|bbox_predictor|class_labels_classifier|enc_score_head|enc_bbox_head|pre_bbox_head"
    r"|enc_out_class_embed|enc_out_bbox_embed|integral|lqe_layers)(\.\d+)?"
)
"""Modules that predict scores and boxes: under autocast they compute in float32, since bfloat16 has steps of several
pixels."""


class TransformersDETR(DetectionModel):
    """A detector of transformers; `models.hf.network.build_transformers` makes it from plain data.

    Args:
        network: the detector, one of `MODEL_TYPES`.
        mean: mean of each color channel (RGB in 0..1) by which pixels are normalized.
        std: standard deviation, likewise.
    """

    backbone_prefix = "network.model.backbone."
    has_idle_parts = True  # denoising embeddings, where no image of a process has an object

    def __init__(self, network: Any, mean: Color, std: Color) -> None:
        super().__init__()
        self.network = network
        self.model_type = MODEL_TYPES[network.config.model_type]
        self.sigmoid, self.model_args = self.model_type.sigmoid, {}
        self._mean, self._std = mean, std
        self.exports_any_size = self.model_type.exports_any_size
        self.multiple = self.model_type.multiple(network.config)
        network.loss_function = LossInputs(network.loss_function)
        for name, module in self.named_modules(remove_duplicate=False):
            if _EXACT.fullmatch(name) and not isinstance(module, nn.ModuleList):
                _run_in_float32(module)

    def forward_detection(
        self,
        images: Tensor,
        padding_mask: Tensor,
        targets: Sequence[Target] | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """Detect the objects of images, see `DetectionModel.forward_detection`.

        `loss_inputs` of the output has the arguments of the model's own loss, except with `last_only`.
        """
        images = self.normalize(images, padding_mask)  # float [B, 3, H, W]
        missing = (0, -images.shape[-1] % self.multiple, 0, -images.shape[-2] % self.multiple)
        if self.multiple > 1:
            images = F.pad(images, missing)
            padding_mask = F.pad(padding_mask.float(), missing, value=1.0).bool()  # TensorRT pads no booleans
        scale = None if self.model_type.heeds_padding else valid_share(padding_mask)  # [B, 4]
        with_losses = not last_only and not torch.compiler.is_exporting()
        labels = self._labels(images, targets if self.training else None, scale) if with_losses else None
        out = self._run_network(images, padding_mask, labels)
        matching = self._matching
        boxes = out.pred_boxes[:, matching].float()  # [B, Q, 4]
        return Output(
            out.logits[:, matching].float(),  # [B, Q, C], or [B, Q, C + 1] under a softmax
            boxes if scale is None else boxes / scale[:, None],
            aux=self._earlier(out.loss_dict, scale) if self.training and with_losses else [],
            sigmoid=self.sigmoid,
            loss_inputs=self._loss_inputs(out, scale) if with_losses else {},
        )

    def _run_network(self, images: Tensor, padding_mask: Tensor, labels: list[dict[str, Tensor]] | None) -> Any:
        """The output of transformers.

        Raises:
            ConfigError: the images have fewer tokens than the model has queries, which are chosen among them.
        """
        try:
            with traceable(type(self.network).__module__):
                return self.network(pixel_values=images, pixel_mask=(~padding_mask).long(), labels=labels)
        except RuntimeError as problem:
            if "index k out of range" not in str(problem):
                raise
            raise ConfigError(
                f"expected images with a token for each of the {self.num_queries} queries of this "
                f"{self.model_type.name}, found images of {images.shape[-2]} x {images.shape[-1]} pixels; use a larger "
                "--image_size, or train with a lower --num_queries"
            ) from problem

    def _labels(
        self, images: Tensor, targets: Sequence[Target] | None, scale: Tensor | None
    ) -> list[dict[str, Tensor]]:
        """Ground truth under the names of transformers; without targets no objects."""
        if targets is None:
            none = torch.zeros(0, dtype=torch.int64, device=images.device)
            return [{"class_labels": none, "boxes": images.new_zeros(0, 4)}] * len(images)
        targets = as_targets(targets, images=len(images), classes=self.num_classes, device=images.device)
        return labels_of(targets, scale)

    @property
    def _matching(self) -> slice:
        """The queries of inference among those of training."""
        if self.model_type.loss == "denoising":
            return slice(-self.num_queries, None)
        return slice(self.num_queries if self.model_type.loss == "groups" else None)

    def _earlier(self, kept: Mapping[str, Any], scale: Tensor | None) -> list[Output]:
        """The predictions of the decoder layers before the last."""
        logits, boxes = kept.get("outputs_class"), kept.get("outputs_coord")
        if logits is None or boxes is None:
            return []
        if self.model_type.loss == "denoising":  # layers are their second dimension
            logits, boxes = logits.transpose(0, 1), boxes.transpose(0, 1)
        logits, boxes = logits[:, :, self._matching].float(), boxes[:, :, self._matching].float()
        boxes = boxes if scale is None else boxes / scale[:, None]
        return [Output(*layer, sigmoid=self.sigmoid) for layer in zip(logits[:-1], boxes[:-1], strict=True)]

    def _loss_inputs(self, out: Any, scale: Tensor | None) -> dict[str, Any]:
        """The arguments of the model's own loss, with those that only its losses in detrkit take."""
        config, kept = self.network.config, dict(out.loss_dict)
        kept["groups"] = config.group_detr if self.model_type.loss == "groups" and self.training else 1
        kept["denoising"] = self.training and getattr(config, "num_denoising", 0) > 0 and config.auxiliary_loss
        kept["scale"] = scale
        if getattr(config, "two_stage", False):  # which transformers leaves without a loss
            kept["enc_outputs_class"] = out.enc_outputs_class
            kept["enc_outputs_coord"] = out.enc_outputs_coord_logits.sigmoid()
        return kept

    def checkpoint_activations(self) -> None:
        """Recompute the layers in the backward pass, for less memory.

        Raises:
            ConfigError: the type of model cannot.
        """
        if not self.network.supports_gradient_checkpointing:
            raise ConfigError(
                f"expected a model that can recompute activations with --checkpoint_activations, found "
                f"{self.model_type.name} of transformers, which cannot; leave the flag out"
            )
        self.network.gradient_checkpointing_enable()

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return int(self.network.config.num_labels)

    @property
    def num_queries(self) -> int:
        """Q, the largest number of objects that can be detected in one image."""
        return queries_of(self.network.config)

    @property
    def mean(self) -> Color:
        """Mean of each color channel (RGB in 0..1) by which pixels are normalized."""
        return self._mean

    @property
    def std(self) -> Color:
        """Standard deviation of each color channel (RGB in 0..1), likewise."""
        return self._std

    @property
    def stride(self) -> int:
        """Pixels of which sides of images are multiples."""
        return max(32, self.multiple)

    @property
    def float32_heads(self) -> list[nn.Module]:
        """The whole network: autocast alone decides what computes in half precision."""
        return [self.network]

    @property
    def compiled_parts(self) -> list[nn.Module]:
        """The backbone."""
        return [self.network.model.backbone]


class LossInputs:
    """In place of a loss function of transformers: returns the arguments, by name, as its dictionary of losses.

    Args:
        loss: the loss function.
    """

    def __init__(self, loss: Any) -> None:
        self.names = list(inspect.signature(loss).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[None, dict[str, Any], None]:
        """Return the arguments without ground truth, device and config."""
        kept = dict(zip(self.names, args, strict=False)) | kwargs
        return None, {name: value for name, value in kept.items() if name not in ("labels", "device", "config")}, None


@contextmanager
def traceable(module: str) -> Iterator[None]:
    """Let code of transformers be traced into a graph, while that is done.

    `len` of a tensor becomes a size that may vary, where the built-in one fixes the batch size; checks of shapes, which
    other runtimes do not have, are off.

    Args:
        module: name of the Python module of the network.
    """
    names, switch = vars(sys.modules[module]), "TRANSFORMERS_DISABLE_TORCH_CHECK"
    if not torch.compiler.is_exporting() or "len" in names:
        yield
        return
    before = os.environ.get(switch, "0")
    names["len"], os.environ[switch] = _length, "1"
    try:
        yield
    finally:
        del names["len"]
        os.environ[switch] = before


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def valid_share(padding_mask: Tensor) -> Tensor:
    """Width, height, width, height of the images without padding relative to those with it, float [B, 4]."""
    width, height = ((~padding_mask).any(dim).float().mean(1) for dim in (1, 2))  # [B] each
    return torch.stack([width, height, width, height], 1)


def labels_of(targets: Sequence[Target], scale: Tensor | None) -> list[dict[str, Tensor]]:
    """Ground truth under the names of transformers.

    Args:
        targets: one per image.
        scale: from `valid_share`, for a model whose boxes are relative to the image with its padding; None: without.
    """
    return [
        {"class_labels": target["labels"], "boxes": target["boxes"] if scale is None else target["boxes"] * scale[i]}
        for i, target in enumerate(targets)
    ]


def _run_in_float32(module: nn.Module) -> None:
    """Let a module compute in float32, also under autocast."""
    module.register_forward_pre_hook(_leave_autocast, with_kwargs=True)
    module.register_forward_hook(_return_to_autocast, always_call=True)


def _leave_autocast(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    device = tensors[0].device.type
    context = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else None
    module.__dict__.setdefault("_autocast_contexts", []).append(context)
    if context is None:
        return args, kwargs
    context.__enter__()  # type: ignore[no-untyped-call]
    exact = {name: _float32(value) for name, value in kwargs.items()}
    return tuple(map(_float32, args)), exact


def _return_to_autocast(module: Any, args: Any, out: Any) -> None:
    context = module.__dict__["_autocast_contexts"].pop()
    if context is not None:
        context.__exit__(None, None, None)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
