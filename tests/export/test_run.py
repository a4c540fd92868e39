"""The command `export`: file, report, exit status."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit import cli
from detrkit.commands.eval import evaluate
from detrkit.commands.export import export
from detrkit.config.commands import EvalConfig, ExportConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.errors import ConfigError, MissingExtraError
from detrkit.evaluation.coco_metrics import COCO_NAMES
from detrkit.evaluation.evaluate_detector import evaluate as evaluate_from_python
from detrkit.exporting import export_detector, parity
from detrkit.exporting.formats.export_format import ExportFormat, TracedGraph
from detrkit.exporting.formats.tensorrt import write_tensorrt
from detrkit.exporting.graph import Graph, trace
from detrkit.exporting.parity import Accuracy, Report
from detrkit.inference.exported import open_exported

from .small import CATEGORIES, checkpoint, metadata, small_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("data") / "demo", images=10, size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "best.ckpt", "classic")


@pytest.fixture(scope="module")
def exported(data: Path, weights: Path) -> Report:
    """Of best.pt2, which lies beside the weights."""
    return export(ExportConfig(weights=str(weights), format="torch", data=str(data), num_workers=0))


def test_export_writes_a_file_and_its_parity_report(exported: Report, weights: Path) -> None:
    inside = open_exported(weights.with_suffix(".pt2"), "cpu").metadata
    assert (inside.categories, inside.preprocessing.image_size, inside.weights) == (CATEGORIES, 64, "best.ckpt")
    written = json.loads(weights.with_name("best.pt2.parity.json").read_text())
    assert written["passed"]
    assert written["images"] == 2
    assert [row.batch for row in exported.outputs] == [1, 2, 5]
    assert all(row.scores < 1e-5 and row.boxes < 1e-5 for row in exported.outputs)
    (accuracy,) = exported.accuracy
    assert accuracy.drop == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("exported")
def test_eval_and_predict_take_an_exported_file(data: Path, weights: Path, tmp_path: Path) -> None:
    numbers, actual = [], []
    for source in (weights, weights.with_suffix(".pt2")):
        config = EvalConfig(weights=str(source), data=str(data), output_dir=str(tmp_path / source.name[-3:]))
        numbers.append(evaluate(replace(config, num_workers=0, device="cpu"))["coco"]["bbox"])
        words = ["predict", str(data / "images/val"), "--weights", str(source), "--threshold", "0", "--no_images"]
        assert cli.main([*words, "--output_dir", str(tmp_path / source.name)]) == 0
        actual.append(json.loads((tmp_path / source.name / "detections.json").read_text()))
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6)
    assert len(actual[0]) == 12  # 6 queries in each of 2 images
    for one, other in zip(*actual, strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_evaluate_from_python(data: Path, weights: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_workers": 0, "device": "cpu", "output_dir": str(tmp_path / "report")}
    with pytest.warns(UserWarning, match="does not know 2 classes of the data set"):
        result = evaluate_from_python(weights, data, **settings)
    assert list(result.metrics) == list(COCO_NAMES)
    assert result.metrics == result.report["coco"]["bbox"]
    assert "Average Precision" in str(result)
    assert (result.output_dir / "metrics.json").is_file()
    with pytest.raises(ConfigError, match="no setting 'bach_size'; did you mean 'batch_size'"):
        evaluate_from_python(weights, data, bach_size=2)


@pytest.mark.usefixtures("exported")
def test_too_great_a_loss_is_an_error(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Accuracy("AP of boxes", 0.5, 0.48)]
    monkeypatch.setattr(parity, "compare_accuracy", lambda *of, **settings: rows)
    monkeypatch.setattr(
        export_detector, "write_file", lambda _, path, *rest: shutil.copy(weights.with_suffix(".pt2"), path)
    )
    words = ["export", "--weights", str(weights), "--format", "torch", "--data", str(data), "--num_workers", "0"]
    words += ["--output", str(tmp_path / "worse.pt2")]
    assert cli.main([*words, "--max_ap_drop", "0.03"]) == 0
    assert cli.main(words) == 2
    stderr = capsys.readouterr().err
    assert "falls from 0.5000 to 0.4800" in stderr
    assert (tmp_path / "worse.pt2").is_file()
    assert not json.loads((tmp_path / "worse.pt2.parity.json").read_text())["passed"]


def test_int8_is_calibrated_on_the_data(data: Path, weights: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    output = str(tmp_path / "best.onnx")
    config = ExportConfig(weights=str(weights), precision="int8", data=str(data), calibration=2, output=output)
    report = export(replace(config, num_workers=0, max_ap_drop=1.0))
    kinds = [node.op_type for node in onnx.load(tmp_path / "best.onnx").graph.node]
    assert "QuantizeLinear" in kinds
    assert 1e-6 < report.outputs[0].scores < 0.2
    assert open_exported(tmp_path / "best.onnx", "cpu").metadata.precision == "int8"


def test_half_precision_is_near_and_small(exported: Report, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.pt2"
    report = export(ExportConfig(weights=str(weights), format="torch", precision="fp16", output=str(path)))
    assert exported.outputs[0].scores < report.outputs[0].scores < 0.02
    weighed = [sum(each.nbytes for each in torch.export.load(p).state_dict.values()) for p in (path, _of(weights))]
    assert weighed[0] < 0.6 * weighed[1]


def _of(weights: Path) -> str:
    return str(weights.with_suffix(".pt2"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"output": "model.xml"}, "to end in .onnx"),
        ({"size": "640"}, "HEIGHTxWIDTH"),
        ({"size": "0x640"}, "HEIGHTxWIDTH"),
        ({"builtin": True}, "64x107 loses nothing"),
        ({"precision": "int8"}, "expected data for precision int8"),
        ({"precision": "int8", "format": "torch"}, "onnx or openvino"),
        ({"precision": "bf16"}, "openvino or torch"),
        ({"for_tensorrt": True, "format": "openvino"}, "expected format onnx for for_tensorrt, found openvino"),
    ],
)
def test_settings_that_do_not_fit(
    settings: dict[str, object], words: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportFormat, "check_packages", lambda self: None)
    with pytest.raises(ConfigError, match=words):
        export(ExportConfig(weights=str(weights), **settings))


def test_squares_have_one_size_and_builtin_has_boxes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExportFormat, "check_packages", lambda self: None)
    square_weights = checkpoint(tmp_path / "square.ckpt", "classic", square_resize=True)
    with pytest.raises(ConfigError, match="64x64 or none"):
        export(ExportConfig(weights=str(square_weights), size="64x96"))
    masks = checkpoint(tmp_path / "masks.ckpt", "masks")
    with pytest.raises(ConfigError, match="boxes alone"):
        export(ExportConfig(weights=str(masks), size="64x107", builtin=True))


@pytest.mark.parametrize("package", ["onnx", "openvino", "tensorrt"])
def test_packages_that_are_not_there(package: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "detrkit\[{package}\]"'):
        export(ExportConfig(weights=str(weights), format=package))


def test_tensorrt(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not torch.cuda.is_available():
        pytest.skip("TensorRT needs an NVIDIA GPU")
    model = small_model("classic")
    program = trace(Graph(model), size=(64, 64), batch_size=1)
    path = tmp_path / "model.engine"
    write_tensorrt(TracedGraph(program, metadata(model, size=(64, 64), batch_size=1)), path)
    from .small import batch

    with torch.no_grad():
        expected = model(**batch((64, 64)))
    assert torch.allclose(open_exported(path).forward_detection(**batch((64, 64))).boxes, expected.boxes, atol=1e-2)
