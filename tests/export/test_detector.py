"""Exported files in a `Detector`, what they say of themselves, and files that are none."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detrkit import Detector
from detrkit.errors import ConfigError, DataError, MissingExtraError, WeightsError
from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.formats.torch_program import write_torch
from detrkit.exporting.graph import Graph, trace
from detrkit.inference.exported import is_exported, open_exported
from detrkit.ops.tiles import Tiling
from detrkit.structures import Preprocessing

from .small import CATEGORIES, batch, metadata, small_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model("masks")
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    program = trace(Graph(model), size=None, batch_size=None)
    write_torch(TracedGraph(program, metadata(model, weights="best.ckpt")), path)
    return path


def test_a_detector_gives_the_same(exported: Path) -> None:
    plain = Detector(small_model("masks"), CATEGORIES, 64)
    actual = Detector.load(exported, device="cpu")
    assert actual.image_size == 64
    assert actual.categories == CATEGORIES
    some_images = [batch(size)["images"][0] for size in ((80, 100), (120, 70), (80, 100))]
    expected = plain.predict(some_images, threshold=0.0, batch_size=2)
    for a, b in zip(expected, actual.predict(some_images, threshold=0.0, batch_size=2), strict=True):
        assert_close(b.xyxy, a.xyxy, rtol=1e-4, atol=1e-3)
        assert_close(b.scores, a.scores)
        assert b.class_names == a.class_names
        assert a.masks is not None
        assert b.masks is not None
        assert (a.masks != b.masks).float().mean() < 1e-3
    maps = [detector.panoptic(some_images[0], threshold=0.0).ids for detector in (plain, actual)]
    assert (maps[0] != maps[1]).float().mean() < 1e-3


def test_a_file_cuts_images_as_the_model_that_it_was_made_of(tmp_path: Path) -> None:
    model, tiling = small_model("classic"), Tiling(60, 20)
    preprocessing = Preprocessing(64, mean=model.backbone.mean, std=model.backbone.std, tiling=tiling)
    inside = metadata(model, preprocessing=preprocessing)
    assert ExportMetadata.from_json(inside.to_json(), "here") == inside
    program = trace(Graph(model), size=None, batch_size=None)
    write_torch(TracedGraph(program, inside), tmp_path / "model.pt2")
    actual = Detector.load(tmp_path / "model.pt2", device="cpu")
    assert actual.preprocessing.tiling == tiling
    assert Detector.load(tmp_path / "model.pt2", device="cpu", tiles="off").preprocessing.tiling is None
    image = batch((80, 130))["images"][0]
    expected = Detector(model, CATEGORIES, preprocessing).predict(image, threshold=0.1, batch_size=4)
    detections = actual.predict(image, threshold=0.1, batch_size=4)
    assert len(expected) > 0
    assert_close(detections.xyxy, expected.xyxy, rtol=1e-4, atol=1e-3)
    assert_close(detections.scores, expected.scores)


def test_an_exported_detector_has_no_model(exported: Path) -> None:
    with pytest.raises(ConfigError, match="exported file"):
        _ = Detector.load(exported, device="cpu").model


def test_the_metadata_comes_back() -> None:
    model = small_model("classic")
    for inside in (metadata(model), metadata(model, size=(64, 96), batch_size=2, precision="int8", builtin=True)):
        assert ExportMetadata.from_json(inside.to_json(), "here") == inside


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "newer detrkit"),
        ({"categories": []}, "garbles"),
        ({"categories": "scratch"}, "garbles"),
        ({"preprocessing": Preprocessing(64).to_plain() | {"image_size": 0}}, "garbles"),
        ({"size": 5}, "garbles"),
        ({"preprocessing": {"image_size": "large"}}, "garbles"),
    ],
)
def test_metadata_that_cannot_be(change: dict[str, object], words: str) -> None:
    rows = json.loads(metadata(small_model("classic")).to_json()) | change
    with pytest.raises(WeightsError, match=words):
        ExportMetadata.from_json(json.dumps(rows), "here")
    for text in ("{", "[]", "{}"):
        with pytest.raises(WeightsError, match="garbles"):
            ExportMetadata.from_json(text, "here")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".pt2", "torch"), (".onnx", "onnxruntime"), (".xml", "openvino"), (".engine", "tensorrt")]
)
@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(range(256)) * 20])
def test_files_that_are_no_models(
    suffix: str, package: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(package)
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="broken"):
        open_exported(path, "cuda" if suffix == ".engine" else "cpu")


def test_files_without_detrkit_metadata(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, str(tmp_path / "other.pt2"))
    with pytest.raises(WeightsError, match="no detrkit metadata"):
        Detector.load(tmp_path / "other.pt2", device="cpu")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "other", value[:1], value[1:])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match="no detrkit metadata"):
        Detector.load(tmp_path / "other.onnx", device="cpu")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert is_exported("runs/MODEL.ONNX")
    assert not is_exported("best.ckpt")
    with pytest.raises(WeightsError, match="no such file"):
        Detector.load(tmp_path / "none.onnx")


@pytest.mark.parametrize(("suffix", "package"), [("onnx", "onnxruntime"), ("xml", "openvino"), ("engine", "tensorrt")])
def test_packages_that_are_not_there(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(MissingExtraError, match=r'pip install "detrkit\['):
        open_exported(path)


def test_images_that_a_file_cannot_take(exported: Path, tmp_path: Path) -> None:
    backend = open_exported(exported, "cpu")
    with pytest.raises(ConfigError, match="uint8"):
        backend.forward_detection(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    with pytest.raises(DataError, match="cannot run"):
        backend.forward_detection(
            torch.zeros(1, 4, 64, 64, dtype=torch.uint8), torch.zeros(1, 64, 64, dtype=torch.bool)
        )
    model = small_model("classic")
    program = trace(Graph(model), size=(64, 64), batch_size=1)
    write_torch(TracedGraph(program, metadata(model, size=(64, 64))), tmp_path / "f.pt2")
    with pytest.raises(ConfigError, match="at most 64 x 64"):
        open_exported(tmp_path / "f.pt2", "cpu").forward_detection(**batch((64, 96)))


def test_files_that_were_cut_off(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.pt2").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(WeightsError, match=r"cut\.pt2"):
            open_exported(tmp_path / "cut.pt2", "cpu")


def test_openvino_without_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "alone.xml").write_text("<net/>")
    with pytest.raises(WeightsError, match=r"no alone\.bin"):
        open_exported(tmp_path / "alone.xml", "cpu")
