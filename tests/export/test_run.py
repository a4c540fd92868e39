"""The verb `export`: file, report, exit status."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit import cli
from detrkit.data.demo import make_demo_dataset
from detrkit.errors import ConfigError, MissingExtraError
from detrkit.export import export, run
from detrkit.export.formats import write_tensorrt
from detrkit.export.graph import Graph, trace
from detrkit.export.parity import Accuracy
from detrkit.inference.exported import open_exported
from detrkit.verbs import EvalConfig, ExportConfig

from .small import CATEGORIES, card, checkpoint, small_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("data") / "demo", images=10, size=64)


def test_export_writes_a_file_and_what_it_is_worth(data: Path, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    report = export(ExportConfig(weights=str(weights), format="torch", data=str(data), num_workers=0))
    path = tmp_path / "best.pt2"
    inside = open_exported(path, "cpu").card
    assert (inside.categories, inside.image_size, inside.weights) == (CATEGORIES, 64, "best.ckpt")
    written = json.loads((tmp_path / "best.pt2.parity.json").read_text())
    assert written["passed"]
    assert written["pictures"] == 2
    assert [row.batch for row in report.outputs] == [1, 2, 5]
    assert all(row.scores < 1e-5 and row.boxes < 1e-5 for row in report.outputs)
    (accuracy,) = report.accuracy
    assert accuracy.drop == pytest.approx(0, abs=1e-6)


def test_eval_measures_an_exported_file(data: Path, tmp_path: Path) -> None:
    from detrkit.evaluation.run import evaluate

    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    export(ExportConfig(weights=str(weights), format="torch"))
    numbers = []
    for source in (weights, tmp_path / "best.pt2"):
        config = EvalConfig(weights=str(source), data=str(data), output_dir=str(tmp_path / source.name[-3:]))
        numbers.append(evaluate(replace(config, num_workers=0, device="cpu"))["coco"]["bbox"])
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6)


def test_too_great_a_loss_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    rows = [Accuracy("AP of boxes", 0.5, 0.48)]
    monkeypatch.setattr(run, "compare_accuracy", lambda *of, **settings: rows)
    words = ["export", "--weights", str(weights), "--format", "torch", "--data", str(data), "--num_workers", "0"]
    assert cli.main([*words, "--max_ap_drop", "0.03"]) == 0
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "falls from 0.5000 to 0.4800" in said
    assert (tmp_path / "best.pt2").is_file()
    assert not json.loads((tmp_path / "best.pt2.parity.json").read_text())["passed"]


def test_int8_is_calibrated_on_the_data(data: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    report = export(
        ExportConfig(
            weights=str(weights), precision="int8", data=str(data), calibration=2, num_workers=0, max_ap_drop=1.0
        )
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "best.onnx").graph.node]
    assert "QuantizeLinear" in kinds
    assert 1e-6 < report.outputs[0].scores < 0.2
    assert open_exported(tmp_path / "best.onnx", "cpu").card.precision == "int8"


def test_fp16_is_near(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    report = export(ExportConfig(weights=str(weights), format="torch", precision="fp16"))
    assert 0 < report.outputs[0].scores < 0.02


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"output": "model.xml"}, "to end in .onnx"),
        ({"size": "640"}, "HEIGHTxWIDTH"),
        ({"size": "0x640"}, "HEIGHTxWIDTH"),
        ({"builtin": True}, "64x107 loses nothing"),
        ({"precision": "int8"}, "expected --data"),
        ({"precision": "int8", "format": "torch"}, "onnx or openvino"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], words: str, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    with pytest.raises(ConfigError, match=words):
        export(ExportConfig(weights=str(weights), **settings))


def test_squares_have_one_size_and_masks_no_place(tmp_path: Path) -> None:
    square = checkpoint(tmp_path / "square.ckpt", "classic", square=True)
    with pytest.raises(ConfigError, match="64x64 or none"):
        export(ExportConfig(weights=str(square), size="64x96"))
    masks = checkpoint(tmp_path / "masks.ckpt", "masks")
    with pytest.raises(ConfigError, match="boxes alone"):
        export(ExportConfig(weights=str(masks), size="64x107", builtin=True))


@pytest.mark.parametrize("package", ["onnx", "openvino", "tensorrt"])
def test_packages_that_are_not_there(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if package != "onnx":
        pytest.importorskip("onnxscript")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    with pytest.raises(MissingExtraError, match=rf'pip install "detrkit\[{package}\]"'):
        export(ExportConfig(weights=str(weights), format=package))


def test_tensorrt(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not torch.cuda.is_available():
        pytest.skip("TensorRT needs an NVIDIA GPU")
    model = small_model("classic")
    program = trace(Graph(model), size=(64, 64), batch_size=1)
    path = tmp_path / "model.engine"
    write_tensorrt(program, path, card(model, size=(64, 64), batch_size=1), [(64, 64)] * 3)
    from .small import batch

    with torch.no_grad():
        wanted = model(**batch((64, 64)))
    assert torch.allclose(open_exported(path).objects(**batch((64, 64))).boxes, wanted.boxes, atol=1e-2)
