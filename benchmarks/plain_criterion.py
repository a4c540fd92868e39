"""The criterion as the reference DETR computes it: one decoder layer after another, each with its own matching, whose
costs are those of all queries and all objects of the batch. `detrkit.losses.Criterion` is measured and tested against
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detrkit.losses import Criterion
from detrkit.losses.mask_losses import pair_masks
from detrkit.losses.matcher import HungarianMatcher, LayerOutputs, Pairs
from detrkit.losses.supervision import Matched
from detrkit.ops.boxes import cxcywh_to_xyxy, pairwise_giou
from detrkit.structures import Branch, Output, Target


def plain_losses(criterion: Criterion, out: Output, targets: Sequence[Target]) -> dict[str, Tensor]:
    """The same losses as `criterion(out, targets)`, for one process."""
    losses = {}
    parts: list[tuple[str, Output, Branch | None]] = [("", out, None)]
    parts += [(f"{branch.name}/", branch.output, branch) for branch in out.branches]
    for prefix, output, branch in parts:
        of_branch = targets
        if branch and branch.class_agnostic:
            of_branch = [Target(labels=torch.zeros_like(t["labels"]), boxes=t["boxes"]) for t in targets]
        for i, layer in enumerate((output, *output.aux)):
            layer = Output(layer.logits.float(), layer.boxes.float(), sigmoid=layer.sigmoid)
            pairs, ignored = plain_pairs(criterion, layer, of_branch, branch)
            matched, objects = _gather(layer, of_branch, pairs, ignored, branch)
            for term in criterion.terms:
                if (i and not term.every_layer) or (prefix and (term.masks or not term.weight)):
                    continue
                if term.masks:
                    indices = (matched.image_index, matched.query_index, objects)
                    masks = pair_masks(out, targets, *indices, criterion.mask_padding)
                    matched = Matched(**{**vars(matched), "masks": masks})
                losses[prefix + term.name + (f"_{i - 1}" if i else "")] = term.term(matched)[0]
    return losses


def plain_pairs(
    criterion: Criterion, layer: Output, targets: Sequence[Target], branch: Branch | None
) -> tuple[Pairs, Tensor | None]:
    """The pairs of one layer by the rule of its branch, and the queries without any loss."""
    ignored = branch.ignored if branch else None
    if branch and branch.pairs is not None:
        return branch.pairs, ignored
    if branch and branch.locations is not None:
        assert criterion.assigner is not None
        padding = branch.locations.padding
        pairs = []
        for i, target in enumerate(targets):
            one = Output(layer.logits[i : i + 1], layer.boxes[i : i + 1], sigmoid=layer.sigmoid)
            locations = type(branch.locations)(
                branch.locations.centers[i : i + 1],
                branch.locations.cells[i : i + 1],
                padding[i : i + 1],
                branch.locations.level_sizes,
            )
            pairs += criterion.assigner(one, locations, [target])
        return pairs, padding if ignored is None else padding | ignored
    groups, repeat = (branch.groups, branch.repeat) if branch else (1, 1)
    return plain_match(criterion.matcher, layer, targets, groups, repeat), ignored


@torch.no_grad()
def plain_match(
    matcher: HungarianMatcher, layer: Output, targets: Sequence[Target], groups: int = 1, repeat: int = 1
) -> Pairs:
    """Hungarian matching of one layer, with a transfer of its own."""
    batch, queries = layer.logits.shape[:2]
    labels = torch.cat([target["labels"] for target in targets])
    target_boxes, boxes = torch.cat([target["boxes"] for target in targets]), layer.boxes.flatten(0, 1)
    logits = layer.logits.flatten(0, 1)
    if layer.sigmoid:
        p = logits.sigmoid()
        positive = 0.25 * (1 - p) ** 2 * -F.logsigmoid(logits)
        negative = 0.75 * p**2 * -F.logsigmoid(-logits)
        cost_class = (positive - negative)[:, labels]
    else:
        cost_class = -logits.softmax(-1)[:, labels]
    cost = matcher.cost_bbox * torch.cdist(boxes, target_boxes, p=1) + matcher.cost_class * cost_class
    cost -= matcher.cost_giou * pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
    cost = cost.view(batch, queries, -1).cpu()
    pairs = []
    for i, table in enumerate(cost.split([len(target["labels"]) for target in targets], -1)):
        rows, columns = [], []
        for first in range(0, queries, max(1, queries // groups)):
            part = table[i, first : first + queries // groups].repeat(1, repeat)
            row, column = (torch.as_tensor(index, dtype=torch.int64) for index in linear_sum_assignment(part))
            rows.append(row + first)
            columns.append(column % max(1, table.shape[2]))
        pairs.append((torch.cat(rows), torch.cat(columns)) if rows else (labels[:0].cpu(), labels[:0].cpu()))
    return pairs


def _gather(
    layer: Output, targets: Sequence[Target], pairs: Pairs, ignored: Tensor | None, branch: Branch | None
) -> tuple[Matched, Tensor]:
    device, num_objects = layer.logits.device, [len(target["labels"]) for target in targets]
    images = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(pairs)]).to(device)
    queries = torch.cat([queries for queries, _ in pairs]).to(device)
    objects = torch.cat([objects + sum(num_objects[:i]) for i, (_, objects) in enumerate(pairs)]).to(device)
    target_labels = torch.cat([target["labels"] for target in targets])[objects]
    target_boxes = torch.cat([target["boxes"] for target in targets])[objects]
    num_queries = layer.logits.shape[0] * layer.logits.shape[1] - (0 if ignored is None else int(ignored.sum()))
    counts = [max(1, len(objects) if branch else sum(num_objects)), len(objects), num_queries]
    matched = Matched(
        LayerOutputs.of([layer]),
        torch.zeros_like(images),
        images,
        queries,
        layer.boxes[images, queries],
        target_labels,
        target_boxes,
        num_objects,
        *torch.tensor(counts, dtype=torch.float32, device=device),
        ignored,
        branch is not None and branch.class_agnostic,
    )
    return matched, objects
