"""The losses of Hugging Face transformers, for its own models.

The terms, their weights and the matching are those of transformers, so that a model goes on learning as it began. What
differs, on purpose:

- sums are divided by the objects of all processes, where some losses of transformers count those of one process;
- D-FINE and DEIMv2: the distributions of a decoder layer meet the scores and boxes of the same layer, and the last
  layer has the localization loss too, as in the papers' own code. transformers pairs each layer's distributions with
  the layer before, and leaves the next to last layer without losses;
- in two-stage Deformable DETR the encoder's proposals are trained too, as in the paper (appendix A.4);
- in evaluation there is a single group of queries, and in training no denoising query counts as a matching one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from detrkit.losses.criterion import DetectionCriterion
from detrkit.losses.matcher import Pairs, concat_boxes
from detrkit.models.arguments import as_targets, check_boxes, expect_output
from detrkit.models.hf.adapter import labels_of
from detrkit.models.hf.model_types import MODEL_TYPES
from detrkit.structures import Output, Target

_TERMS = ["labels", "boxes", "cardinality"]
"""Losses of the models without denoising queries."""

_BY_UNION = ("boxes", "local")
"""Losses for which DEIMv2 joins the pairs of all layers."""


@dataclass(frozen=True)
class LossLayer:
    """The predictions of a decoder layer, the encoder or the denoising queries."""

    prefix: str
    """Of the names of its losses: empty for the decoder layers, else the name of a branch with "/"."""
    suffix: str
    """Likewise: empty for the last layer, else "_0", "_1", ..."""
    outputs: dict[str, Any]
    """As the losses of transformers take them: `logits`, `pred_boxes` and further ones."""
    denoising: bool = False
    """Whether its queries were made from known objects."""
    class_agnostic: bool = False
    """Whether every object counts as class 0."""


class TransformersCriterion(DetectionCriterion):
    """The loss of a detector of transformers; for the differences see the head of this file.

    Args:
        config: config of the model, an object of transformers.
    """

    def __init__(self, config: Any) -> None:
        self.model_type = MODEL_TYPES[config.model_type]
        reference, weights = _LOSSES[self.model_type.loss](config)
        super().__init__(weights, sigmoid=self.model_type.sigmoid)
        self.config, self.reference = config, reference

    def forward(self, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute the losses, see `DetectionCriterion.forward`; branches are `enc`, `pre` (the boxes that D-FINE's
        first layer starts from), `dn` and `dn_pre`.

        Raises:
            DataError: targets are not one per image, or a box or a label is wrong.
        """
        classes = expect_output(out).logits.shape[-1] - (not out.sigmoid)
        targets = as_targets(targets, images=len(out.logits), classes=classes, device=out.logits.device)
        boxes = concat_boxes(targets)
        check_boxes(boxes.detach().cpu().numpy(), [len(target["labels"]) for target in targets])
        kept = _in_float32(out.loss_inputs)
        labels = labels_of(targets, kept.get("scale"))
        with torch.autocast(out.logits.device.type, enabled=False):
            layers = self._layers(out, kept)
            pairs = [self._pairs(layer, labels, kept) for layer in layers]
            return self._losses(layers, pairs, labels, kept)

    def _layers(self, out: Output, kept: Mapping[str, Any]) -> list[LossLayer]:
        """Everything that has losses, the last decoder layer first."""
        if not kept:  # an output made by hand
            return [LossLayer("", "", {"logits": out.logits.float(), "pred_boxes": out.boxes.float()})]
        if self.model_type.loss == "denoising":
            return denoising_layers(kept, auxiliary=self.config.auxiliary_loss)
        layers = [LossLayer("", "", {"logits": kept["logits"], "pred_boxes": kept["pred_boxes"]})]
        if kept.get("outputs_class") is not None and self.config.auxiliary_loss:
            earlier = zip(kept["outputs_class"][:-1], kept["outputs_coord"][:-1], strict=True)
            layers += [LossLayer("", f"_{i}", {"logits": a, "pred_boxes": b}) for i, (a, b) in enumerate(earlier)]
        if kept.get("enc_outputs_class") is not None:
            encoder = {"logits": kept["enc_outputs_class"], "pred_boxes": kept["enc_outputs_coord"]}
            layers.append(LossLayer("enc/", "", encoder, class_agnostic=self.model_type.loss == "set"))
        return layers

    def _pairs(self, layer: LossLayer, labels: list[dict[str, Tensor]], kept: Mapping[str, Any]) -> Pairs:
        """(query indices, object indices) of each image."""
        if layer.denoising:
            pairs: Pairs = self.reference.get_cdn_matched_indices(kept["denoising_meta_values"], labels)
            return pairs
        groups = (kept.get("groups", 1),) if self.model_type.loss == "groups" else ()
        return self.reference.matcher(layer.outputs, _of_layer(layer, labels), *groups)

    def _losses(
        self,
        layers: Sequence[LossLayer],
        pairs: Sequence[Pairs],
        labels: list[dict[str, Tensor]],
        kept: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """The losses of all layers by name, with one reduction over the processes."""
        union: Pairs | None = None
        if getattr(self.config, "use_dense_one_to_one", False):
            matched = [each for layer, each in zip(layers, pairs, strict=True) if not layer.denoising]
            union = self.reference._get_dense_o2o_indices(matched[0], matched[1:])
        logits = layers[0].outputs["logits"]
        objects = sum(len(each["class_labels"]) for each in labels)
        denoised = (kept.get("denoising_meta_values") or {}).get("dn_num_group", 0)
        no_object = logits.shape[0] * logits.shape[1] - objects
        counts = [
            objects * kept.get("groups", 1),
            objects * denoised,
            sum(len(queries) for queries, _ in union or ()),
            objects + no_object * getattr(self.config, "eos_coefficient", 0.0),
        ]
        means = mean_over_processes(counts, logits.device)
        losses: dict[str, Tensor] = {}
        for layer, own in zip(layers, pairs, strict=True):
            for loss in self.reference.losses:
                joined = union is not None and loss in _BY_UNION and not layer.denoising
                count = means[1 if layer.denoising else 2 if joined else 0]
                used = union if joined else own
                values = self.reference.get_loss(loss, layer.outputs, _of_layer(layer, labels), used, count)
                if loss == "labels" and not self.sigmoid:  # a mean over the weights of this process
                    values["loss_ce"] = values["loss_ce"] * counts[3] / means[3]
                losses |= {f"{layer.prefix}{name}{layer.suffix}": value for name, value in values.items()}
        if kept.get("denoising") and not denoised:  # no object in this process: the same losses as in the others
            zero = logits.sum() * 0
            losses |= {_denoising_name(name): zero for name in losses if not name.startswith("enc/")}
        return losses


def _denoising_name(name: str) -> str:
    """The name of a loss for the denoising queries: "dn/loss_vfl_0" for "loss_vfl_0", "dn_pre/..." for "pre/..."."""
    return f"dn_{name}" if name.startswith("pre/") else f"dn/{name}"


def denoising_layers(kept: Mapping[str, Any], *, auxiliary: bool = True) -> list[LossLayer]:
    """The layers of RT-DETR, D-FINE and their kin, split into matching and denoising queries.

    Args:
        kept: arguments of the loss of transformers: layers [B, L, N, ...], the denoising queries first. D-FINE has one
            layer of scores and boxes more than of distributions in training: those before the first refinement.
        auxiliary: whether to include other layers than the last, and the denoising queries.
    """
    meta, classes, boxes = kept.get("denoising_meta_values"), kept["outputs_class"], kept["outputs_coord"]
    corners, references = kept.get("predicted_corners"), kept.get("initial_reference_points")
    split = meta["dn_num_split"] if meta else [0, classes.shape[2]]
    pre = 0 if corners is None else classes.shape[1] - corners.shape[1]
    last = classes.shape[1] - 1

    def outputs(layer: int, part: int) -> dict[str, Any]:
        def of(values: Tensor, at: int) -> Tensor:
            return values[:, at].split_with_sizes(split, dim=1)[part]

        predicted = {"logits": of(classes, layer), "pred_boxes": of(boxes, layer)}
        if corners is None or references is None or layer < pre:
            return predicted if corners is None else predicted | {"pred_boxes": predicted["pred_boxes"].clamp(0, 1)}
        return predicted | {
            "pred_boxes": predicted["pred_boxes"].clamp(0, 1),
            "pred_corners": of(corners, layer - pre),
            "ref_points": of(references, layer - pre),
            "teacher_corners": of(corners, -1),
            "teacher_logits": of(classes, -1),
        }

    def named(layer: int, branch: str) -> tuple[str, str]:
        if layer < pre:
            return f"{branch}_pre/" if branch else "pre/", ""
        return f"{branch}/" if branch else "", "" if layer == last else f"_{layer - pre}"

    order = [last, *range(last)] if auxiliary else [last]
    layers = [LossLayer(*named(layer, ""), outputs(layer, 1)) for layer in order]
    if auxiliary:
        proposals = kept["enc_topk_bboxes"] if corners is None else kept["enc_topk_bboxes"].clamp(0, 1)
        layers.append(LossLayer("enc/", "", {"logits": kept["enc_topk_logits"], "pred_boxes": proposals}))
        if meta:
            layers += [LossLayer(*named(layer, "dn"), outputs(layer, 0), denoising=True) for layer in order]
    return layers


def mean_over_processes(counts: Sequence[float], device: torch.device) -> Tensor:
    """Average counts over all processes, which have at least 1 together."""
    total = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    processes = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        processes = torch.distributed.get_world_size()
    return total.clamp(min=1) / processes


def _of_layer(layer: LossLayer, labels: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    if not layer.class_agnostic:
        return labels
    return [each | {"class_labels": torch.zeros_like(each["class_labels"])} for each in labels]


def _in_float32(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }


def _with_denoising(config: Any) -> tuple[Any, dict[str, float]]:
    """The criterion of RT-DETR, D-FINE or DEIMv2, and the weights of its terms."""
    module, name = {"d_fine": ("d_fine", "DFineLoss"), "deimv2": ("deimv2", "Deimv2Loss")}.get(
        config.model_type, ("rt_detr", "RTDetrLoss")
    )
    reference = getattr(_loss_module(module), name)(config)
    return reference, dict(reference.weight_dict)


def _in_groups(config: Any) -> tuple[Any, dict[str, float]]:
    """The criterion of LW-DETR and RF-DETR, and the weights of its terms."""
    module = _loss_module("lw_detr")
    matcher = module.LwDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    reference = module.LwDetrImageLoss(matcher, config.num_labels, config.focal_alpha, _TERMS, config.group_detr)
    return reference, _weights(config, config.class_loss_coefficient)


def _of_a_set(config: Any) -> tuple[Any, dict[str, float]]:
    """The criterion of DETR and its direct variants, and the weights of its terms."""
    if config.model_type == "detr":
        module, maker, factor = _loss_module("for_object_detection"), "ImageLoss", config.eos_coefficient
        matcher = module.HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    else:
        module, maker, factor = _loss_module("deformable_detr"), "DeformableDetrImageLoss", config.focal_alpha
        matcher = module.DeformableDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    reference = getattr(module, maker)(matcher, config.num_labels, factor, _TERMS)
    return reference, _weights(config, 1.0)


def _loss_module(name: str) -> Any:
    return import_module(f"transformers.loss.loss_{name}")


def _weights(config: Any, of_classes: float) -> dict[str, float]:
    boxes, giou = config.bbox_loss_coefficient, config.giou_loss_coefficient
    return {"loss_ce": of_classes, "loss_bbox": boxes, "loss_giou": giou}


_LOSSES = {"denoising": _with_denoising, "groups": _in_groups, "set": _of_a_set}
"""Kind of loss (`ModelType.loss`) -> its criterion."""
