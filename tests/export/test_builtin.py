"""Graphs with all steps built in: images of any size in, detections in pixels out."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detrkit import Detector
from detrkit.data.transforms.resize_crop import resized_size
from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.onnx import write_onnx
from detrkit.exporting.graph import BuiltinGraph, Graph, fitted, resized, trace
from detrkit.structures import Batch, Preprocessing, Target

from .small import CATEGORIES, batch, metadata, small_model


@pytest.mark.parametrize("size", [(50, 80), (480, 640), (1000, 700), (300, 2000), (333, 501)])
@pytest.mark.parametrize("canvas", [(1333, 1333), (640, 640), (800, 1000)])
def test_images_are_fitted_as_evaluation_resizes_them(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    height, width = fitted(*size, 800, canvas).tolist()
    assert height <= canvas[0]
    assert width <= canvas[1]
    plain = resized_size(*size, 800, 1333)
    if plain[0] <= canvas[0] and plain[1] <= canvas[1]:
        assert (height, width) == plain
    else:  # as large as it may be, of the same shape
        assert height >= canvas[0] - 2 or width >= canvas[1] - 2
        assert abs(height / width / (size[0] / size[1]) - 1) < 0.05


@pytest.mark.parametrize("size", [(64, 90), (200, 281), (150, 211)])
def test_images_are_resized_as_evaluation_resizes_them(size: tuple[int, int]) -> None:
    from torchvision.transforms.v2 import functional as tvf

    one_image = torch.randint(0, 256, (1, 3, 150, 211), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    actual = resized(one_image.float(), torch.tensor(size), (300, 300))
    expected = tvf.resize(one_image, list(size), antialias=True)
    assert (actual[..., : size[0], : size[1]] - expected).abs().max() <= 1
    assert not actual[..., size[0] :, :].any()
    assert not actual[..., size[1] :].any()


@pytest.mark.parametrize("kind", ["classic", pytest.param("fast", marks=pytest.mark.slow)])
def test_a_graph_with_all_built_in(kind: str, tmp_path: Path) -> None:
    """Images of any size in, the detections of a `Detector` out."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, canvas = small_model(kind), (107, 107)
    path = tmp_path / "model.onnx"
    inside = metadata(model, builtin=True, size=canvas)
    program = trace(BuiltinGraph(Graph(model), Preprocessing(64), canvas), size=None, batch_size=None)
    write_onnx(TracedGraph(program, inside), path)
    session = onnxruntime.InferenceSession(path)
    plain, exported = Detector(model, CATEGORIES, 64), Detector.load(path, device="cpu")
    for height, width in ((64, 80), (150, 111)):
        one_image = batch((height, width))["images"]
        inner = fitted(height, width, 64, canvas).tolist()
        padding = torch.ones(1, *canvas, dtype=torch.bool)
        padding[:, : inner[0], : inner[1]] = False
        shown = resized(one_image.float(), torch.tensor(inner), canvas).to(torch.uint8)
        target = Target(labels=torch.zeros(0), boxes=torch.zeros(0, 4), size=inner, original_size=(height, width))
        (actual,) = plain.detect(Batch(shown, padding, [target]))
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": one_image.numpy()})
        assert_close(torch.from_numpy(scores[0]), actual.scores, rtol=1e-4, atol=1e-4)
        assert_close(torch.from_numpy(boxes[0]), actual.xyxy, rtol=1e-3, atol=1e-2)
        assert [CATEGORIES.ids[k] for k in labels[0]] == actual.class_ids.tolist()
        if height == 64:
            assert_close(exported.predict(one_image[0], threshold=0.0).xyxy, actual.xyxy, rtol=1e-3, atol=1e-2)
