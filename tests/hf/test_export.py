"""Exported models of transformers give what the models give."""

import json

import pytest
import torch

from detrkit.errors import ConfigError
from detrkit.exporting.export_detector import export
from detrkit.exporting.formats.tensorrt_graph import refused
from detrkit.inference import Detector

from . import tiny

FAST = "d_fine"
"""The type of model of the tests that are not slow."""


@pytest.mark.parametrize("export_format", ["onnx", "openvino", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in tiny.CONFIGS if name != FAST)]
)
def test_exported_outputs_are_equal(saved, tmp_path, kind, export_format):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}.get(export_format, "torch"))
    suffix = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}[export_format]
    folder, _ = saved(kind)
    path = export(folder, export_format, tmp_path / f"model{suffix}")
    detector, exported = Detector.load(folder, precision="plain"), Detector.load(path)
    assert (exported.categories, exported.preprocessing) == (detector.categories, detector.preprocessing)
    for count in (1, 3):
        batch = detector.prepare(list(tiny.images(count, 100, 150)[0]))
        with torch.no_grad():
            expected = detector.model(batch.images, batch.padding_mask)
        out = exported.backend.forward_detection(batch.images, batch.padding_mask)
        torch.testing.assert_close(out.logits.sigmoid(), expected.logits.sigmoid(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(out.boxes, expected.boxes, atol=1e-3, rtol=1e-3)


def test_a_graph_for_one_size_needs_that_size(saved, tmp_path):
    folder, _ = saved("deformable_detr")
    (tmp_path / "model").mkdir()
    for path in folder.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64}}')
    with pytest.raises(ConfigError, match=r"expected size for this model, .* size 64x107 holds"):
        export(tmp_path / "model", "onnx", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "kind", [FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in tiny.CONFIGS if name != FAST)]
)
def test_graphs_for_tensorrt_have_no_grid_sample(saved, tmp_path, kind):
    """Nor anything else that its parser refuses; and they give what the model gives."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    folder, _ = saved(kind)
    size = {"size": f"{tiny.SIZE}x{tiny.SIZE}", "fixed_batch": 1}
    path = export(folder, "onnx", tmp_path / "model.onnx", for_tensorrt=True, **size)
    assert not refused(onnx.load(path))
    report = json.loads(path.with_name("model.onnx.parity.json").read_text())
    assert all(row["scores"] < 1e-3 and row["boxes"] < 1e-3 for row in report["outputs"])
