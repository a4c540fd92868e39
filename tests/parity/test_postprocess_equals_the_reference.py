"""Detections, masks and panoptic maps after post-processing equal those of the reference DETR."""

import json

import numpy as np
import pytest
import torch

from detrkit import Output, panoptic, postprocess
from tests.parity.cases import FIXTURES

ARRAYS = dict(np.load(FIXTURES / "postprocess.npz"))
ABOUT = json.loads((FIXTURES / "postprocess.json").read_text())
SIZES, PROCESSED = torch.tensor(ABOUT["original_sizes_hw"]), torch.tensor(ABOUT["processed_sizes_hw"])
THINGS = [k % 3 != 0 for k in range(ABOUT["num_classes"])]


def given(**parts):
    return Output(torch.from_numpy(ARRAYS["pred_logits"]), torch.from_numpy(ARRAYS["pred_boxes"]), **parts)


def with_masks():
    return given(masks=torch.from_numpy(ARRAYS["pred_masks"]))


def test_detections():
    for i, actual in enumerate(postprocess(given(), SIZES)):
        torch.testing.assert_close(actual.xyxy, torch.from_numpy(ARRAYS[f"detections{i}_boxes"]), rtol=0, atol=1e-3)
        torch.testing.assert_close(actual.scores, torch.from_numpy(ARRAYS[f"detections{i}_scores"]), rtol=0, atol=1e-6)
        assert actual.class_ids.tolist() == ARRAYS[f"detections{i}_labels"].tolist()
        assert actual.image_size == tuple(SIZES[i].tolist())
        assert actual.masks is None


@pytest.mark.parametrize("made_when_asked", [False, True])
def test_masks(made_when_asked):
    out = with_masks()
    if made_when_asked:
        masks = out.masks
        out = given(predict_masks=lambda images, queries: masks[images, queries])
    for i, actual in enumerate(postprocess(out, SIZES, processed_sizes=PROCESSED)):
        width = int(SIZES[i, 1])
        expected = np.unpackbits(ARRAYS[f"detections{i}_masks_packed"], axis=-1)[..., :width].astype(bool)
        assert np.array_equal(actual.masks.numpy(), expected)


def test_panoptic():
    for i, actual in enumerate(panoptic(with_masks(), PROCESSED, SIZES, THINGS, ABOUT["panoptic_threshold"])):
        assert np.array_equal(actual.ids.numpy(), ARRAYS[f"panoptic{i}_ids"])
        rows = [[s["id"], s["category_id"], s["area"], s["isthing"]] for s in actual.segments]
        assert rows == ARRAYS[f"panoptic{i}_segments"].tolist()
