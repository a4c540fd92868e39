"""Supervision: which predictions answer for which ground-truth objects, at every decoder layer and in every branch.

Predictions are assigned in four ways. The fields of a `Branch` choose one; the decoder layers have the first:

    assignment           fields          rule here          pairs of an object, per layer
    one-to-one           none, groups    `HungarianRule`    1 per group of queries (DETR; Group DETR)
    one-to-many          repeat=k        `HungarianRule`    up to k: matching with k copies of it (H-DETR)
    by construction      pairs           `GivenRule`        1 per denoising group: queries made from it (DN-DETR)
    dense assignment     locations       `DenseRule`        many: by position, size and prediction (FCOS, ATSS, TOOD)

DETR, section 3.1, equation 1; Chen et al. 2023, "Group DETR"; Jia et al. 2023, "H-DETR"; Li et al. 2022, "DN-DETR";
for the last see `assigner`.

Rules run on the device of the model as far as they can, and on the CPU where an algorithm needs it. A single transfer
serves all layers and branches. Afterwards all pairs of an output, of whatever origin, are one `Matched`, to which every
loss term applies alike.

Shapes: L layers (the last one first), B images, Q queries or S locations, C classes, M pairs of all layers and images,
n objects of one image, G of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.errors import ConfigError
from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.matcher import (
    Array,
    HungarianMatcher,
    LayerOutputs,
    MatchingProblem,
    Pairs,
    concat_boxes,
    to_numpy,
)
from detrkit.models.arguments import check_boxes
from detrkit.structures import Branch, Locations, Output, Target


class MaskPairs(NamedTuple):
    """Predicted and target masks of matched pairs, at the padded size of the batch."""

    logits: Tensor
    """float32 [M, H, W]."""
    targets: Tensor
    """float32 [M, H, W], 0 or 1; 0 in the padding."""
    valid: Tensor | None
    """bool [M, H, W], pixels that count in the loss; None: all, padding included."""


@dataclass(frozen=True)
class Matched:
    """Predictions of all layers beside the objects they are matched with; pairs in the order of the layers."""

    preds: LayerOutputs
    """Predictions of all layers, float32."""
    layer_index: Tensor
    """int64 [M], index of the layer."""
    image_index: Tensor
    """int64 [M], index of the image in the batch."""
    query_index: Tensor
    """int64 [M], index of the query."""
    pred_boxes: Tensor
    """float32 [M, 4], box of the query: cx, cy, w, h in 0..1."""
    target_labels: Tensor
    """int64 [M], class of the object."""
    target_boxes: Tensor
    """float32 [M, 4], box of the object, likewise."""
    num_objects: Sequence[int]
    """Number of objects of each image."""
    num_boxes: Tensor
    """Scalar by which sums over pairs are divided: objects per process, or in a `Branch` pairs per process; averaged
    over all processes, which have at least 1 together."""
    num_matched: Tensor
    """Scalar: matched pairs per layer and process, averaged over all processes."""
    num_queries: Tensor
    """Scalar: queries of all images per process that are not ignored, averaged over all processes."""
    ignored: Tensor | None = None
    """bool [B, Q], queries without any class loss; None: none."""
    class_agnostic: bool = False
    """Whether all labels are 0, whatever the number of classes."""
    masks: MaskPairs | None = None
    """Masks of the last layer, where masks are supervised."""

    @property
    def class_indices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index of the logit of each pair's class among all logits [L, B, Q, C]."""
        return self.layer_index, self.image_index, self.query_index, self.target_labels

    def sum_per_layer(self, values: Tensor) -> Tensor:
        """Sum one value per pair, [M], within each layer -> [L]."""
        layer = torch.arange(self.preds.logits.shape[0], device=values.device)[:, None]  # [L, 1]
        return values.where(self.layer_index == layer, 0).sum(1)  # unlike a scatter, deterministic on every device

    def last_layer(self, pairs: int) -> Matched:
        """The last decoder layer alone; it comes first, with this number of pairs."""
        logits, boxes, sigmoid = self.preds
        names = ("layer_index", "image_index", "query_index", "pred_boxes", "target_labels", "target_boxes")
        cut = {name: getattr(self, name)[:pairs] for name in names}
        return replace(self, preds=LayerOutputs(logits[:1], boxes[:1], sigmoid), **cut)


Term = Callable[[Matched], Tensor]
"""A loss term: [L], one number per layer."""


class GivenRule(NamedTuple):
    """Pairs that are known beforehand and hold at every layer."""

    given: Pairs
    num_layers: int

    def device_tensors(self) -> list[Tensor]:
        """No tensors: the pairs are known."""
        return []

    def pairs(self, host_arrays: Iterator[Array]) -> list[Pairs]:
        """The given pairs for each layer."""
        return [self.given] * self.num_layers


class HungarianRule(NamedTuple):
    """Minimum-cost matching, at each layer anew."""

    matcher: HungarianMatcher
    problem: MatchingProblem

    def device_tensors(self) -> list[Tensor]:
        """The costs, float32 [G, L, Q]."""
        return [self.matcher.costs(self.problem)]

    def pairs(self, host_arrays: Iterator[Array]) -> list[Pairs]:
        """Solve the matching of each layer, from the costs on the CPU."""
        return self.matcher.pairs_from_costs(self.problem, next(host_arrays))


class DenseRule(NamedTuple):
    """Many locations per object, at each layer anew."""

    assigner: DenseAssigner
    preds: LayerOutputs
    locations: Locations
    targets: Sequence[Target]

    def device_tensors(self) -> list[Tensor]:
        """The object of each location, int64 [B, S] per layer."""
        layers = zip(self.preds.logits, self.preds.boxes, strict=True)
        outputs = [Output(logits, boxes, sigmoid=self.preds.sigmoid) for logits, boxes in layers]
        return [self.assigner.assigned_gt(out, self.locations, self.targets) for out in outputs]

    def pairs(self, host_arrays: Iterator[Array]) -> list[Pairs]:
        """Turn assigned objects into pairs, per layer."""
        assigned = [torch.from_numpy(next(host_arrays)).long() for _ in self.preds.logits]
        return [self.assigner.pairs(each, self.locations, self.targets) for each in assigned]


class SupervisedOutput(NamedTuple):
    """A set of predictions with its targets and assignments: the decoder layers, or a branch."""

    prefix: str
    """Prefix of the names of its losses: empty for the decoder layers, "name/" for a branch."""
    preds: LayerOutputs
    targets: Sequence[Target]
    rule: GivenRule | HungarianRule | DenseRule
    ignored: Tensor | None = None
    """bool [B, Q], queries without any loss."""
    class_agnostic: bool = False
    pairs: Sequence[Pairs] = ()
    """Pairs of each layer."""


def assign_targets(
    out: Output,
    targets: Sequence[Target],
    matcher: HungarianMatcher,
    assigner: DenseAssigner | None,
    sigmoid: bool,
) -> list[SupervisedOutput]:
    """Pair predictions with objects: those of the decoder layers, then those of each branch.

    Args:
        out: output of the model, on any device.
        targets: one per image.
        matcher: matcher for one-to-one and one-to-many matching.
        assigner: assigner for branches with locations; None: there must be no such branch.
        sigmoid: kind of class scores that the outputs must have; see `Output`.

    Raises:
        ConfigError: an output has class scores of the other kind, or cannot be paired.
        DataError: a target box is not finite, or not relative to its image.
    """
    preds = _stack_layers(out, sigmoid)
    outputs = [SupervisedOutput("", preds, targets, HungarianRule(matcher, MatchingProblem(preds, targets)))]
    outputs += [_supervise_branch(branch, targets, matcher, assigner, sigmoid) for branch in out.branches]

    # everything that the CPU needs, in one transfer; first the boxes, whose check would cost one of its own
    tensors = [concat_boxes(targets), *(tensor for output in outputs for tensor in output.rule.device_tensors())]
    host_arrays = iter(to_numpy(tensors))
    check_boxes(next(host_arrays), [len(target["labels"]) for target in targets])
    return [output._replace(pairs=output.rule.pairs(host_arrays)) for output in outputs]


def _supervise_branch(
    branch: Branch,
    targets: Sequence[Target],
    matcher: HungarianMatcher,
    assigner: DenseAssigner | None,
    sigmoid: bool,
) -> SupervisedOutput:
    """A branch with the rule that its fields choose."""
    preds, ignored = _stack_layers(branch.output, sigmoid), branch.ignored
    if branch.class_agnostic:  # every object is of class 0
        targets = [Target(labels=torch.zeros_like(target["labels"]), boxes=target["boxes"]) for target in targets]
    rule: GivenRule | HungarianRule | DenseRule
    if branch.pairs is not None:
        rule = GivenRule(branch.pairs, len(preds.logits))
    elif branch.locations is not None:
        if assigner is None:
            raise ConfigError(
                f'expected a dense_head to assign the locations of the branch "{branch.name}" to objects, found '
                '"none"; build the criterion with the dense_head of the model'
            )
        rule = DenseRule(assigner, preds, branch.locations, targets)
        padding = branch.locations.padding
        ignored = padding if ignored is None else padding | ignored
    else:
        rule = HungarianRule(matcher, MatchingProblem(preds, targets, branch.groups, branch.repeat, ignored))
    return SupervisedOutput(f"{branch.name}/", preds, targets, rule, ignored, branch.class_agnostic)


def _stack_layers(out: Output, sigmoid: bool) -> LayerOutputs:
    """Stack the predictions of the last layer and then of the earlier ones, in float32."""
    if out.sigmoid != sigmoid:
        kinds = "a softmax with a no-object class", "an independent sigmoid per class"
        raise ConfigError(
            f"expected a model whose class scores are {kinds[sigmoid]}, as class_loss wants them, found "
            f"one with {kinds[out.sigmoid]}; build both for the same class_loss"
        )
    return LayerOutputs.of((out, *out.aux))


def gather(supervised: SupervisedOutput, normalizers: Tensor) -> tuple[Matched, Tensor]:
    """Bring matched predictions and objects side by side.

    Args:
        supervised: output with its pairs.
        normalizers: number of its boxes, pairs and queries, [3], from `mean_over_processes`.

    Returns:
        All pairs, and the index of the object of each pair among those of the whole batch, int64 [M].
    """
    preds, targets = supervised.preds, supervised.targets
    num_objects = [len(target["labels"]) for target in targets]
    pairs = [pair for of_layer in supervised.pairs for pair in of_layer]  # layer after layer, image after image
    lengths = torch.tensor([len(queries) for queries, _ in pairs])  # [L * B]
    layer_and_image = torch.arange(len(pairs)).repeat_interleave(lengths)  # [M]
    layers, images = layer_and_image // len(targets), layer_and_image % len(targets)
    first_object = torch.tensor([0, *num_objects]).cumsum(0)  # [B + 1], of each image among those of the batch
    queries, objects = (torch.cat(half) for half in zip(*pairs, strict=True))

    # one transfer of all indices, [4, M], then indexing on the device
    indices = torch.stack([layers, images, queries, objects + first_object[images]])
    layers, images, queries, objects = indices.to(preds.logits.device, non_blocking=True)
    target_labels = torch.cat([target["labels"] for target in targets])[objects]  # [M]
    target_boxes = torch.cat([target["boxes"] for target in targets])[objects].float()  # [M, 4]
    pred_boxes = preds.boxes[layers, images, queries]  # [M, 4]
    num_boxes, num_matched, num_queries = normalizers
    matched = Matched(
        preds, layers, images, queries, pred_boxes, target_labels, target_boxes, num_objects, num_boxes, num_matched,
        num_queries, supervised.ignored, supervised.class_agnostic,
    )  # fmt: skip
    return matched, objects


def mean_over_processes(outputs: Sequence[SupervisedOutput]) -> Tensor:
    """Count the boxes, pairs per layer and queries of each output, [outputs, 3], averaged over all processes.

    So every object and query weighs the same in every process. One reduction serves all outputs. There is at least one
    box in all processes together; the reference DETR has at least one in each, so that two processes with one image
    each learn something else than one process with both.
    """
    device = outputs[0].preds.logits.device
    counts = []
    for output in outputs:
        _, images, queries, _ = output.preds.logits.shape
        objects = sum(len(target["labels"]) for target in output.targets)
        matched = sum(len(queries) for pairs in output.pairs for queries, _ in pairs) / len(output.pairs)
        counts.append([matched if output.prefix else objects, matched, images * queries])
    total = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    zero = torch.zeros((), device=device)
    total[:, 2] -= torch.stack([zero if output.ignored is None else output.ignored.sum().float() for output in outputs])
    processes = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        processes = torch.distributed.get_world_size()
    total[:, 0].clamp_(min=1)
    return total / processes
