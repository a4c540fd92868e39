"""The boxes of a batch: made at once, moved at once, and what the plain loop over images gives."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detrkit import Detections, Output, postprocess
from detrkit.evaluation.accumulator import DetectionAccumulator
from detrkit.inference.postprocess import best_boxes
from detrkit.ops.boxes import cxcywh_to_xyxy

SIZES = torch.tensor([[480, 640], [333, 500], [64, 64], [480, 640], [1, 1], [800, 1333], [20, 31], [7, 9]])


def random_output(sigmoid: bool, masks: bool = False, seed: int = 0) -> Output:
    """Of 8 images, 20 queries and 5 classes; some scores are equal, one is not a number."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 20, 5 + (not sigmoid), generator=random)
    logits[:, 7] = logits[:, 3]
    logits[2, 4] = float("nan")
    made = torch.randn(8, 20, 6, 5, generator=random) if masks else None
    return Output(logits, torch.rand(8, 20, 4, generator=random), masks=made, sigmoid=sigmoid, padded_size=(24, 20))


def one_by_one(out: Output, threshold: float) -> list[Detections]:
    """Written out plainly, an image at a time, best first."""
    probabilities = (out.logits.sigmoid() if out.sigmoid else out.logits.softmax(-1)[..., :-1]).nan_to_num(0.0)
    actual = []
    for each, boxes, (height, width) in zip(probabilities, out.boxes, SIZES.tolist(), strict=True):
        if out.sigmoid:
            scores, pair = each.flatten().topk(len(each))
            labels, queries = pair % each.shape[1], pair // each.shape[1]
        else:
            scores, labels = each.max(-1)
            queries = torch.arange(len(each))
        xyxy = cxcywh_to_xyxy(boxes[queries]) * torch.tensor([width, height, width, height])
        order = scores.argsort(descending=True, stable=True)
        kept = order[scores[order] >= threshold]
        actual.append(Detections(xyxy[kept], scores[kept], labels[kept], image_size=(height, width)))
    return actual


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_the_batch_is_the_loop(sigmoid: bool, threshold: float) -> None:
    out = random_output(sigmoid)
    actual = postprocess(out, SIZES, threshold=threshold, best_first=True, device="cpu:0")
    for ours, plain in zip(actual, one_by_one(out, threshold), strict=True):
        assert torch.equal(ours.xyxy, plain.xyxy)
        assert torch.equal(ours.scores, plain.scores)
        assert torch.equal(ours.class_ids, plain.class_ids)
        assert ours.image_size == plain.image_size


@pytest.mark.parametrize("sigmoid", [False, True])
def test_best_first_takes_the_masks_along(sigmoid: bool) -> None:
    out, processed = random_output(sigmoid, masks=True), torch.tensor([[24, 20]] * 8)
    plain = postprocess(out, SIZES, processed_sizes=processed)
    for ours, each in zip(postprocess(out, SIZES, processed_sizes=processed, best_first=True), plain, strict=True):
        order = each.scores.argsort(descending=True, stable=True)
        assert ours.masks is not None
        assert each.masks is not None
        assert torch.equal(ours.masks, each.masks[order])
        assert torch.equal(ours.xyxy, each.xyxy[order])


class Crossings(TorchDispatchMode):
    """Operations whose result lies on another device than what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        actual = func(*args, **(kwargs or {}))
        given = [x.device for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if isinstance(actual, torch.Tensor) and given and any(device != actual.device for device in given):
            self.names.append(f"{func}: {given[0]} to {actual.device}")
        return actual


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("top_k", [None, 30])
def test_a_batch_leaves_the_gpu_once(sigmoid: bool, top_k: int | None) -> None:
    """Fake tensors of a GPU have no values, so whatever would wait for one is an error here: `nonzero`, `item`,
    `tolist`, `unique`, a comparison that is asked. What remains is to count the transfers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        out = Output(torch.empty(8, 20, 6, device="cuda"), torch.empty(8, 20, 4, device="cuda"), sigmoid=sigmoid)
        with Crossings() as crossings:
            actual = postprocess(out, SIZES, top_k=top_k, best_first=True, device="cpu")
    assert crossings.names == ["aten._to_copy.default: cuda:0 to cpu"]
    assert {tensor.device.type for each in actual for tensor in (each.xyxy, each.scores, each.class_ids)} == {"cpu"}


def test_the_transfer_changes_nothing() -> None:
    """All columns go as one table of float32. "cpu:0" is another device than "cpu" by name, so they do here."""
    batch = best_boxes(random_output(True), top_k=60, best_first=True)
    sent = batch.to("cpu:0")
    assert sent is not batch
    assert all(torch.equal(*columns) for columns in zip(sent, batch, strict=True))
    assert [column.dtype for column in sent] == [column.dtype for column in batch]
    assert batch.to("cpu") is batch


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_accumulator_keeps_the_values_of_detections(sigmoid: bool) -> None:
    out = random_output(sigmoid)
    out.logits[2, 4] = 0  # a score of NaN is kept as 0 in both, but its class is anybody's guess
    id_of = {0: 7, 2: 90, 3: 8, 4: 1}  # class 1 is not there
    collector = DetectionAccumulator(id_of, counted={7, 90, 1})
    for rows in (slice(0, 5), slice(5, 8)):
        targets: Any = [
            {"image_id": 10 * k, "original_size": tuple(SIZES[k].tolist()), "size": (24, 20)} for k in range(8)[rows]
        ]
        collector.add(Output(out.logits[rows], out.boxes[rows], sigmoid=sigmoid), targets)
    plain = [
        row | {"category_id": id_of[row["category_id"]]}
        for k, actual in enumerate(postprocess(out, SIZES))
        for row in actual.to_coco(10 * k)
        if id_of.get(row["category_id"]) in {7, 90, 1}
    ]
    assert list(collector.detections) == plain
    assert collector.image_ids == [10 * k for k in range(8)]
