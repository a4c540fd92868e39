"""The criterion: a list of weighted terms, applied alike at every decoder layer (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrkit.losses.terms import Matched, Term
from detrkit.matching import HungarianMatcher, Pairs
from detrkit.structures import Output, Target


class WeightedTerm(NamedTuple):
    """A term of the loss under its name."""

    name: str
    weight: float
    """0 for what is only logged."""
    term: Term
    every_layer: bool = True
    """Whether the earlier decoder layers have it too, as `name_0`, `name_1`, ..."""


class Criterion(nn.Module):
    """Output and targets -> losses by name. Computes in float32, also under autocast."""

    def __init__(self, matcher: HungarianMatcher, terms: Sequence[WeightedTerm]) -> None:
        super().__init__()
        self.matcher, self.terms = matcher, tuple(terms)

    def forward(self, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every term at every decoder layer; the last layer under the plain name, earlier ones with `_0`, `_1`, ...

        Targets: one an image, with `labels` int64 [n] in 0..C-1 and `boxes` [n, 4], cx, cy, w, h in 0..1.
        """
        with torch.autocast(out.logits.device.type, enabled=False):
            layers = [Output(layer.logits.float(), layer.boxes.float()) for layer in (out, *out.aux)]
            images, queries = out.logits.shape[:2]
            objects = [len(target["labels"]) for target in targets]
            counts = [sum(objects), sum(min(queries, n) for n in objects), images * queries]
            num_boxes, num_matched, num_queries = _mean_over_processes(counts, out.logits.device)
            losses: dict[str, Tensor] = {}
            for i, pairs in enumerate(self.matcher.match_layers(layers, targets)):
                matched = _gather(layers[i], targets, pairs, (num_boxes.clamp(min=1), num_matched, num_queries))
                suffix = f"_{i - 1}" if i else ""
                losses |= {t.name + suffix: t.term(matched) for t in self.terms if t.every_layer or not i}
        return losses

    def weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise: each loss times the weight of its term, over all decoder layers."""
        weights = {t.name: t.weight for t in self.terms if t.weight}
        parts = [weights[term] * loss for name, loss in losses.items() if (term := _term_of(name)) in weights]
        return torch.stack(parts).sum()

    def match(self, out: Output, targets: Sequence[Target]) -> Pairs:
        """(query indices, target indices) of each image at the last decoder layer."""
        return self.matcher(out, targets)


def _term_of(name: str) -> str:
    """The term behind a loss: "loss_ce" for both "loss_ce" and "loss_ce_3"."""
    head, _, tail = name.rpartition("_")
    return head if tail.isdecimal() else name


def _gather(output: Output, targets: Sequence[Target], pairs: Pairs, counts: tuple[Tensor, Tensor, Tensor]) -> Matched:
    device = output.logits.device
    sizes = [len(target["labels"]) for target in targets]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    images = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(pairs)])
    queries = torch.cat([queries for queries, _ in pairs])
    objects = torch.cat([objects + start for start, (_, objects) in zip(starts, pairs, strict=True)])
    images, queries, objects = torch.stack([images, queries, objects]).to(device)  # one transfer
    labels = torch.cat([target["labels"] for target in targets])[objects]
    boxes = torch.cat([target["boxes"] for target in targets])[objects].float()
    return Matched(output, targets, images, queries, labels, boxes, *counts)


def _mean_over_processes(counts: Sequence[int], device: torch.device) -> Tensor:
    """Counts averaged over all processes of the run, so that every object and query weighs the same everywhere."""
    mean = torch.tensor(counts, dtype=torch.float32, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
