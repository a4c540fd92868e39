import json

import numpy as np
import torch

from detrkit import Output, postprocess
from parity.cases import FIXTURES


def test_detections():
    arrays = np.load(FIXTURES / "postprocess.npz")
    sizes = torch.tensor(json.loads((FIXTURES / "postprocess.json").read_text())["original_sizes_hw"])
    out = Output(torch.from_numpy(arrays["pred_logits"]), torch.from_numpy(arrays["pred_boxes"]))
    for i, found in enumerate(postprocess(out, sizes)):
        torch.testing.assert_close(found.xyxy, torch.from_numpy(arrays[f"detections{i}_boxes"]), rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, torch.from_numpy(arrays[f"detections{i}_scores"]), rtol=0, atol=1e-6)
        assert found.class_ids.tolist() == arrays[f"detections{i}_labels"].tolist()
        assert found.image_size == tuple(sizes[i].tolist())
