"""Masks and panoptic maps beside the plain way of making them, at every combination of sizes, and with broken input."""

import pytest
import torch
from torch.nn import functional

from detrkit import Output, panoptic, postprocess
from detrkit.errors import ConfigError
from detrkit.inference.postprocess import query_masks
from detrkit.ops.masks import resize_masks
from postprocessing import blobs, plain_masks, plain_panoptic

SIZES = [((60, 84), (60, 84)), ((60, 84), (37, 51)), ((61, 83), (150, 203)), ((58, 80), (58, 160)), ((33, 47), (7, 5))]
THINGS = [True, False, True, False, False]


@pytest.mark.parametrize(("processed", "size"), SIZES)
@pytest.mark.parametrize("padded", [(61, 84), (96, 128)])
def test_masks_equal_the_plain_implementation(processed, size, padded):
    torch.manual_seed(0)
    noise = torch.randn(3, -(-padded[0] // 4), -(-padded[1] // 4))
    logits = torch.cat([blobs(9, padded, 5).masks[0], noise, noise[:1] * 0 - 1, noise[:1] * 0 + 1])
    actual = resize_masks(logits, padded, processed, size)
    assert torch.equal(actual.byte(), plain_masks(logits, padded, processed, size))
    assert actual.any((1, 2)).sum() > 5
    assert actual[-1].all()
    assert not actual[-2].any()


@pytest.mark.parametrize(("processed", "size"), SIZES)
def test_maps_are_those_of_the_plain_way(processed, size):
    rounds = 0
    for seed in range(12):
        out = blobs(25, processed, 5, seed)
        (actual,) = panoptic(out, torch.tensor([processed]), torch.tensor([size]), THINGS)
        ids, segments = plain_panoptic(out.logits[0], out.masks[0], processed, size, THINGS, 0.85)
        assert torch.equal(actual.ids, ids)
        assert [{k: v for k, v in row.items() if k != "score"} for row in actual.segments] == segments
        assert sum(row["area"] for row in segments) == ids.numel()
        stuff = [row["category_id"] for row in segments if not row["isthing"]]
        assert len(set(stuff)) == len(stuff)
        rounds += len(segments) < 25
    assert rounds == 12  # every one had something to merge or to drop


def test_padding_changes_nothing():
    """What is seen of an image is the same in a larger batch: at stride 4 the logits are those of the image, and
    anything beyond."""
    logits = blobs(8, (64, 80), 5).masks
    beyond = functional.pad(functional.pad(logits, (0, 1, 0, 1), mode="replicate"), (0, 4, 0, 2), value=30.0)
    given = {"logits": blobs(8, (64, 80), 5).logits, "boxes": torch.rand(1, 8, 4)}
    alone = Output(**given, masks=logits, padded_size=(64, 80))
    padded = Output(**given, masks=beyond, padded_size=(76, 100))
    sizes, processed = torch.tensor([[40, 50]]), torch.tensor([[64, 80]])
    one, other = (postprocess(out, sizes, processed_sizes=processed)[0] for out in (alone, padded))
    assert torch.equal(one.masks, other.masks)
    one, other = (panoptic(out, processed, sizes, THINGS)[0] for out in (alone, padded))
    assert torch.equal(one.ids, other.ids)
    assert one.segments == other.segments
    with pytest.raises(ConfigError, match=r"at most the batch's 64 x 80 .* found 65 x 80"):
        postprocess(alone, sizes, processed_sizes=torch.tensor([[65, 80]]))
    with pytest.raises(ConfigError, match=r"at most the batch's 64 x 80 .* found 64 x 81"):
        panoptic(alone, torch.tensor([[64, 81]]), sizes, THINGS)


def test_masks_are_made_once_and_of_kept_queries_only():
    requested = []
    masks = blobs(6, (64, 80), 3).masks

    def predict_masks(images, queries):
        requested.extend(zip(images.tolist(), queries.tolist(), strict=True))
        return masks.repeat(2, 1, 1, 1)[images, queries]

    logits = torch.full((2, 6, 3), -5.0)
    logits[0, 4, :2] = 5.0  # under two classes
    logits[1, 1, 2] = logits[1, 3, 0] = 1.0
    logits[1, 1, 2] = 2.0
    out = Output(logits, torch.rand(2, 6, 4), predict_masks=predict_masks, sigmoid=True)
    sizes = torch.tensor([[64, 80]] * 2)
    first, second = postprocess(out, sizes, threshold=0.5)
    assert requested == [(0, 4), (1, 1), (1, 3)]
    assert first.class_ids.tolist() == [0, 1]
    assert first.masks.shape == (2, 64, 80)
    assert torch.equal(first.masks[0], first.masks[1])
    assert second.class_ids.tolist() == [2, 0]
    whole = resize_masks(masks[0], (64, 80), (64, 80), (64, 80))
    assert torch.equal(second.masks, whole[[1, 3]])
    assert torch.equal(first.masks[0], whole[4])
    nothing = postprocess(out, sizes, threshold=1.0)[0]
    assert nothing.masks.shape == (0, 64, 80)


def test_masks_need_the_size_of_the_image():
    out = blobs(6, (64, 80), 3)
    assert postprocess(out, torch.tensor([[640, 800]]))[0].masks is None
    assert postprocess(out, torch.tensor([[64, 80]]))[0].masks.shape == (6, 64, 80)


def test_many_masks_of_a_large_image_come_in_parts():
    out = blobs(100, (64, 80), 3)
    parts = list(query_masks(out, 0, torch.arange(100), torch.tensor([[64, 80]]), (3000, 4000)))
    assert [len(part) for part in parts] == [22, 22, 22, 22, 12]
    assert all(part.dtype == torch.bool for part in parts)


def test_sigmoid_models_and_mappings():
    out = blobs(12, (64, 80), 5)
    sigmoid = Output(out.logits[..., :-1] - 6, out.boxes, masks=out.masks, padded_size=(64, 80), sigmoid=True)
    sizes = torch.tensor([[64, 80]])
    one, other = panoptic(out, sizes, sizes, THINGS)[0], panoptic(sigmoid, sizes, sizes, dict(enumerate(THINGS)))[0]
    assert torch.equal(one.ids, other.ids)
    assert {row["score"] for row in other.segments} == {torch.tensor(6.0).sigmoid().item()}
    assert not panoptic(sigmoid, sizes, sizes, THINGS, threshold=0.999)[0].segments
    with pytest.raises(ConfigError, match=r"lacks class [0-4]; add it"):
        panoptic(out, sizes, sizes, [])
    with pytest.raises(ConfigError, match="expected the output of a model with a mask head"):
        panoptic(Output(out.logits, out.boxes), sizes, sizes, THINGS)


def test_nan_is_not_detected():
    out, sizes = blobs(12, (64, 80), 5), torch.tensor([[64, 80]])
    logits, masks = out.logits.clone(), out.masks.clone()
    logits[0, 3, 1] = float("nan")
    masks[0, 5, 2, 2] = float("nan")
    masks[0, 6] = float("inf")
    broken = Output(logits, out.boxes, masks=masks, padded_size=(64, 80))
    kept = [k for k in range(12) if k not in (3, 5, 6)]
    sound = Output(out.logits[:, kept], out.boxes[:, kept], masks=out.masks[:, kept], padded_size=(64, 80))
    actual, expected = (panoptic(given, sizes, sizes, THINGS)[0] for given in (broken, sound))
    assert torch.equal(actual.ids, expected.ids)
    assert actual.segments == expected.segments
    detections = postprocess(broken, sizes, threshold=0.1)[0]
    assert len(detections) == 11
    assert detections.scores.isfinite().all()
    everything = Output(logits * float("nan"), out.boxes, masks=masks * float("nan"), padded_size=(64, 80))
    assert len(postprocess(everything, sizes, threshold=0.1)[0]) == 0
    assert not postprocess(everything, sizes)[0].masks.any()
    actual = panoptic(everything, sizes, sizes, THINGS)[0]
    assert actual.segments == []
    assert actual.ids.sum() == 0
    best = postprocess(Output(logits, out.boxes, sigmoid=True), sizes, top_k=5)[0]
    assert best.scores.isfinite().all()
