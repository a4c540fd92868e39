"""The comparison on a CPU: boxes come back to the image, files are quantized and run, and tables have all rates."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cpu_peers
import cpu_peers_files
import export as export_benchmark
from detrkit.inference.backend import PlainBackend
from detrkit.inference.exported import ExportedBackend


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (64, 64)])
def test_boxes_of_yolo_come_back_to_the_pixels_of_the_image(shape: tuple[int, int]) -> None:
    pixels = np.zeros((3, *shape), np.uint8)
    pixels[:, 8:16, 16:32] = 255  # x0, y0, x1, y1 = 16, 8, 32, 16
    square, scale, margin = cpu_peers_files.letterbox(pixels, 32)
    assert square.shape == (1, 3, 32, 32)
    rows, columns = np.nonzero(square[0, 0] > 200)
    box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    expected = torch.tensor([16.0, 8.0, 32.0, 16.0])
    size = shape[1], shape[0]
    (end_to_end,) = cpu_peers.yolo_boxes(torch.tensor([[*box, 0.9, 1.0]]), scale, margin, size)
    torch.testing.assert_close(end_to_end[:4], expected, atol=3, rtol=0)
    center = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
    raw = torch.stack([torch.cat([center, torch.tensor([0.1, 0.9])])] * 7, 1)  # one object seven times, for NMS
    (found,) = cpu_peers.yolo_boxes(raw, scale, margin, size)
    torch.testing.assert_close(found[:4], expected, atol=3, rtol=0)
    outside = cpu_peers.yolo_boxes(torch.tensor([[-50.0, -50.0, 90.0, 90.0, 0.9, 1.0]]), scale, margin, size)
    assert outside[0, :4].tolist() == [0, 0, *size]
    assert found[4:].tolist() == pytest.approx([0.9, 1.0])


def test_a_file_is_quantized_and_timed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    torch.manual_seed(0)
    torch.onnx.export(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(),
        (torch.rand(1, 3, 8, 8),), source, input_names=["images"], dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    images = [np.random.default_rng(k).random((1, 3, 8, 8)).astype(np.float32) for k in range(4)]
    cpu_peers_files.quantize_onnx(source, target, images)
    plain, quantized = cpu_peers.Runner(source, 1), cpu_peers.Runner(target, 1)
    (expected,), (outputs,) = plain(images[0]), quantized(images[0])
    assert 0 < np.abs(outputs - expected).max() < 0.1
    assert 0 < quantized.seconds(0.01) < 1


def test_tables_have_the_rates_of_all_threads_and_ap() -> None:
    keys = [
        {"model": "detrkit_n", "runtime": runtime, "precision": precision, "size": 320}
        for runtime in cpu_peers_files.RUNTIMES for precision in cpu_peers_files.PRECISIONS
    ]  # fmt: skip
    times = [key | {"threads": threads, "seconds": [0.5, 0.1 / threads, 0.2]} for threads in (1, 2) for key in keys]
    text = cpu_peers.tables({"times": times, "ap": [key | {"AP": 0.5} for key in keys]})
    assert "| detrkit_n | 10.0 / 20.0 |" in text
    assert "| detrkit_n | 0.500 | 0.500 | 0.500 | 0.500 |" in text


def test_the_ap_of_a_file_is_that_of_its_report(tmp_path: Path) -> None:
    backend = object.__new__(ExportedBackend)
    backend.path = tmp_path / "a.onnx"
    assert export_benchmark.accuracy_of(backend) == {}
    report = {"accuracy": [{"name": "AP of boxes", "reference": 0.7, "exported": 0.69, "drop": 0.01}]}
    (tmp_path / "a.onnx.parity.json").write_text(json.dumps(report), encoding="utf-8")
    assert export_benchmark.accuracy_of(backend) == {"AP": 0.69, "drop": 0.01}
    assert export_benchmark.accuracy_of(object.__new__(PlainBackend)) == {}
