"""The criterion: a list of weighted terms, applied alike at every decoder layer (paper, section 3.1) and to every
branch that teaches beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.box_losses import Matched, Term
from detrkit.losses.mask_losses import pair_masks
from detrkit.losses.matcher import HungarianMatcher, LayerOutputs, MatchingProblem, Pairs, boxes_of, in_main_memory
from detrkit.models.arguments import as_targets, check_boxes, expect_output
from detrkit.structures import Output, Target


class WeightedTerm(NamedTuple):
    """A term of the loss under its name."""

    name: str
    weight: float
    """0 for what is only logged."""
    term: Term
    every_layer: bool = True
    """Whether the earlier decoder layers have it too, as `name_0`, `name_1`, ..."""
    masks: bool = False
    """Whether it is about masks, which only the last decoder layer has, and no branch."""


class SupervisedOutput(NamedTuple):
    """The decoder layers, or a branch, beside what they are to learn."""

    prefix: str
    """Of its losses' names: empty for the decoder layers, "name/" for a branch."""
    layers: LayerOutputs
    """The last one first."""
    targets: Sequence[Target]
    pairs: list[Pairs]
    """Of each layer."""
    ignored: Tensor | None = None
    class_agnostic: bool = False


class Criterion(nn.Module):
    """Output and targets -> losses by name. Computes in float32, also under autocast."""

    def __init__(
        self,
        matcher: HungarianMatcher,
        terms: Sequence[WeightedTerm],
        *,
        sigmoid: bool = False,
        assigner: DenseAssigner | None = None,
        branch_weights: Mapping[str, float] | None = None,
        mask_padding: bool = True,
    ) -> None:
        """Put together.

        Args:
            matcher: pairs queries and objects.
            terms: of the loss.
            sigmoid: what kind of outputs the class loss wants; see `Output`.
            assigner: pairs places and objects, in branches that have `locations`.
            branch_weights: weight of all losses of a branch, by its name; 1 where none is given.
            mask_padding: whether masks shall say that nothing is where an image is padded.
        """
        super().__init__()
        self.matcher, self.terms = matcher, tuple(terms)
        self.sigmoid, self.assigner, self.branch_weights = sigmoid, assigner, dict(branch_weights or {})
        self.mask_padding = mask_padding

    def forward(self, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every term at every decoder layer; the last layer under the plain name, earlier ones with `_0`, `_1`, ...

        Branches have the terms that weigh anything, as `branch/name`, `branch/name_0`, ... Each is divided by its own
        number of pairs. Processes that learn together must have the same branches, if need be empty ones.

        Targets: one per image, with `labels` int64 [n] in 0..C-1, `boxes` [n, 4], cx, cy, w, h in 0..1, and where
        there are mask losses, `masks` bool [n, h, w] at the size of the image without padding. Masks are made of
        matched queries alone, of the last layer: earlier ones have none, as in the original, and branches supervise
        boxes and classes, which need no masks.

        Labels of other integer types, and empty tensors of any shape, will do; see `arguments.as_targets`.

        Raises:
            ConfigError: the outputs are not what the class loss is for, or cannot be paired.
            DataError: there are more or fewer targets than images; masks are missing; shapes do not fit; a box is not
                finite, in pixels or in corners; or a label is no class of the model, which is looked for on the CPU
                only, where it costs nothing.
        """
        classes = expect_output(out).logits.shape[-1] - (not out.sigmoid)
        targets = as_targets(targets, images=len(out.logits), classes=classes, device=out.logits.device)
        with torch.autocast(out.logits.device.type, enabled=False):
            supervised_outputs = self._supervised_outputs(out, targets)
            losses: dict[str, Tensor] = {}
            for supervised, counts in zip(
                supervised_outputs, _mean_over_processes(supervised_outputs, out.logits.device), strict=True
            ):
                losses |= self._losses_of(out, supervised, counts)
        return losses

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise: each loss times the weight of its term and branch, over all decoder layers."""
        weights = {t.name: t.weight for t in self.terms if t.weight}
        parts, factors = [], []
        for name, loss in losses.items():
            branch, _, term = name.rpartition("/")
            if (term := _term_of(term)) in weights:
                parts.append(loss)
                factors.append(weights[term] * self.branch_weights.get(branch, 1.0))
        return (torch.stack(parts) * torch.tensor(factors).to(parts[0].device, non_blocking=True)).sum()

    def match(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """(query indices, target indices) of each image at the last decoder layer."""
        return self.matcher(out, targets)

    def _losses_of(self, out: Output, supervised: SupervisedOutput, counts: Tensor) -> dict[str, Tensor]:
        """The losses of a supervised output by name, those of its last layer first; each term sees all layers at
        once."""
        matched, objects = _gather(supervised, counts)
        pairs_of_last = sum(len(queries) for queries, _ in supervised.pairs[0])
        last = matched.first(pairs_of_last)
        chosen = [t for t in self.terms if not supervised.prefix or (t.weight and not t.masks)]
        if any(t.masks for t in chosen):
            pairs = (last.images, last.queries, objects[:pairs_of_last])
            last = replace(last, masks=pair_masks(out, supervised.targets, *pairs, self.mask_padding))
        values = {t.name: t.term(matched if t.every_layer else last).unbind() for t in chosen}
        losses: dict[str, Tensor] = {}
        for i in range(len(supervised.pairs)):
            suffix = f"_{i - 1}" if i else ""
            losses |= {supervised.prefix + name + suffix: value[i] for name, value in values.items() if i < len(value)}
        return losses

    def _supervised_outputs(self, out: Output, targets: Sequence[Target]) -> list[SupervisedOutput]:
        """The decoder layers and then each branch, with their pairs; one transfer fetches what all of them need."""
        supervised_outputs = [SupervisedOutput("", self._layers(out), targets, [])]
        problems = {0: MatchingProblem(supervised_outputs[0].layers, targets)}
        assigned_gt: dict[int, list[Tensor]] = {}
        for k, branch in enumerate(out.branches, start=1):
            layers, ignored = self._layers(branch.output), branch.ignored
            wanted = [_as_class_0(target) for target in targets] if branch.class_agnostic else targets
            pairs: list[Pairs] = []
            if branch.pairs is not None:
                pairs = [branch.pairs] * len(layers.logits)
            elif (places := branch.locations) is not None:
                if self.assigner is None:
                    raise ConfigError(f'the branch "{branch.name}" needs a dense_head to choose its places, found none')
                assigned_gt[k] = [
                    self.assigner.assigned_gt(Output(*said, sigmoid=layers.sigmoid), places, wanted)
                    for said in zip(layers.logits, layers.boxes, strict=True)
                ]
                ignored = places.padding if ignored is None else places.padding | ignored
            else:
                problems[k] = MatchingProblem(layers, wanted, branch.groups, branch.repeat, ignored)
            supervised_outputs.append(
                SupervisedOutput(f"{branch.name}/", layers, wanted, pairs, ignored, branch.class_agnostic)
            )
        asked = [self.matcher.costs(problem) for problem in problems.values()]
        told = iter(
            in_main_memory([boxes_of(targets), *asked, *(one for each in assigned_gt.values() for one in each)])
        )
        check_boxes(next(told), [len(target["labels"]) for target in targets])
        found = {k: self.matcher.assign(problem, next(told)) for k, problem in problems.items()}
        for k, each in assigned_gt.items():
            places = out.branches[k - 1].locations
            assert places
            assert self.assigner
            chosen = [torch.from_numpy(next(told)).long() for _ in each]
            found[k] = [self.assigner.pairs(one, places, supervised_outputs[k].targets) for one in chosen]
        return [
            supervised._replace(pairs=found.get(k, supervised.pairs)) for k, supervised in enumerate(supervised_outputs)
        ]

    def _layers(self, out: Output) -> LayerOutputs:
        """The last layer and then the earlier ones, in float32."""
        if out.sigmoid != self.sigmoid:
            kinds = "a softmax with a no-object class", "an independent sigmoid per class"
            raise ConfigError(
                f"expected a model whose class scores are {kinds[self.sigmoid]}, as class_loss wants them, found "
                f"one with {kinds[out.sigmoid]}; build both for the same class_loss"
            )
        return LayerOutputs.of((out, *out.aux))


def _term_of(name: str) -> str:
    """The term behind a loss: "loss_ce" for both "loss_ce" and "loss_ce_3"."""
    head, _, tail = name.rpartition("_")
    return head if tail.isdecimal() else name


def _as_class_0(target: Target) -> Target:
    return Target(labels=torch.zeros_like(target["labels"]), boxes=target["boxes"])


def _gather(supervised: SupervisedOutput, counts: Tensor) -> tuple[Matched, Tensor]:
    """The layers of a supervised output beside their targets; and which object of the whole batch each pair has, int64
    [M]."""
    output, targets = supervised.layers, supervised.targets
    sizes = [len(target["labels"]) for target in targets]
    pairs = [pair for of_layer in supervised.pairs for pair in of_layer]  # layer after layer, image after image
    lengths = torch.tensor([len(queries) for queries, _ in pairs])
    which = torch.arange(len(pairs)).repeat_interleave(lengths)
    layers, images = which // len(targets), which % len(targets)
    starts = torch.tensor([0, *sizes]).cumsum(0)
    queries, objects = (torch.cat(half) for half in zip(*pairs, strict=True))
    places = torch.stack([layers, images, queries, objects + starts[images]])
    layers, images, queries, objects = places.to(output.logits.device, non_blocking=True)
    labels = torch.cat([target["labels"] for target in targets])[objects]
    boxes = torch.cat([target["boxes"] for target in targets])[objects].float()
    found = output.boxes[layers, images, queries]
    num_boxes, num_matched, num_queries = counts
    matched = Matched(
        output, layers, images, queries, labels, found, boxes, sizes, num_boxes, num_matched, num_queries,
        supervised.ignored, supervised.class_agnostic,
    )  # fmt: skip
    return matched, objects


def _mean_over_processes(supervised_outputs: Sequence[SupervisedOutput], device: torch.device) -> Tensor:
    """Boxes, pairs and queries of each supervised output, [outputs, 3], averaged over all processes of the run, so
    that every object and query weighs the same everywhere. One reduction serves all; pairs are those of a layer on
    average.

    There is one box at least in all processes together, so that two with an image each learn what one with both
    does; in the original, in each.
    """
    counts = []
    for supervised in supervised_outputs:
        _, images, queries, _ = supervised.layers.logits.shape
        objects = sum(len(target["labels"]) for target in supervised.targets)
        matched = sum(len(found) for pairs in supervised.pairs for found, _ in pairs) / len(supervised.pairs)
        counts.append([matched if supervised.prefix else objects, matched, images * queries])
    total = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    nothing = torch.zeros((), device=device)
    total[:, 2] -= torch.stack(
        [nothing if one.ignored is None else one.ignored.sum().float() for one in supervised_outputs]
    )
    processes = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        processes = torch.distributed.get_world_size()
    total[:, 0].clamp_(min=1)
    return total / processes
