"""The parity report holds against each other what is the same: pixels, padding, number of queries, steps."""

from pathlib import Path

import pytest

from detrkit.commands.convert import convert
from detrkit.commands.export import export
from detrkit.config.commands import ConvertConfig, ExportConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.errors import ConfigError

from .small import checkpoint

SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}


@pytest.mark.parametrize(
    ("kind", "format", "settings"),
    [
        ("classic", "torch", {"builtin": True, "size": "107x107"}),
        ("anchors", "torch", {"builtin": True, "size": "50x60", "max_queries": 3}),
        ("classic", "onnx", {"builtin": True, "size": "107x107", "fixed_batch": 2}),
        ("masks", "torch", {"max_queries": 3, "size": "64x96"}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_an_equal_file_has_no_difference(kind: str, format: str, settings: dict[str, object], tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    weights = checkpoint(tmp_path / "best.ckpt", kind)
    report = export(ExportConfig(weights=str(weights), format=format, **settings))
    assert [row.batch for row in report.outputs] == [1, 2, 5]
    for row in report.outputs:
        assert max(row.scores, row.boxes) < 1e-5
        assert (row.masks is None) == (kind != "masks")
        assert (row.masks or 0.0) < 1e-3


def test_built_in_steps_are_compared_on_images_as_they_are(tmp_path: Path) -> None:
    data = make_demo_dataset(tmp_path / "data", images=10, size=80)
    weights = checkpoint(tmp_path / "best.ckpt", "anchors")
    config = ExportConfig(
        weights=str(weights), format="torch", builtin=True, size="64x107", data=str(data), num_workers=0
    )
    report = export(config)
    assert {row.size for row in report.outputs} == {(80, 80)}
    assert all(max(row.scores, row.boxes) < 1e-5 for row in report.outputs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"output": "x.xml"}, r"to end in \.onnx for format onnx, found x\.xml; use format openvino or another"),
        ({"output": "x.pth"}, r"found x\.pth; use detrkit convert, which writes \.pth files, or another name"),
        ({"output": "x.tflite"}, r"found x\.tflite; name a file with that ending"),
        ({"output": "x", "format": "torch"}, r"to end in \.pt2 for format torch, found x"),
        ({"size": "50x90"}, "size of at least 64 each way"),
        ({"output": "folder.onnx"}, r"found a folder; name a file, such as folder\.onnx/best\.onnx"),
        ({"weights": "best.onnx"}, r"found the exported file best\.onnx; name the checkpoint or run folder"),
    ],
)
def test_export_settings_that_are_refused(
    settings: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    with pytest.raises(ConfigError, match=words):
        export(ExportConfig(**{"weights": str(weights), **settings}))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("x.onnx", r"\.onnx files are written by detrkit export --weights best\.ckpt --format onnx --output x\.onnx"),
        ("x.xml", "--format openvino --output"),
        ("x.PT2", "--format torch --output"),
        ("x.engine", "--format tensorrt --output"),
        ("x.safetensors", r"end it in \.pth, leave the ending out, or make a folder of that name first"),
        ("x.pt", r"found x\.pt; end it in \.pth, leave the ending out"),
        ("best.ckpt", r"found best\.ckpt; end it in \.pth, leave the ending out$"),
        ("folder.pth", "which is a folder; name a file in it"),
    ],
)
def test_conversions_that_are_refused(output: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    checkpoint(tmp_path / "best.ckpt", "classic")
    with pytest.raises(ConfigError, match=words):
        convert(ConvertConfig(weights="best.ckpt", output=output))


def test_names_that_convert_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = checkpoint(tmp_path / "best.ckpt", "classic", backbone="resnet18")
    (tmp_path / "made.before").mkdir()
    for output in ("x.PTH", "made.before", "detr-v1.0", "plain"):
        convert(ConvertConfig(weights=str(weights), output=output))
        assert (tmp_path / output).is_file() == output.endswith(".PTH")
