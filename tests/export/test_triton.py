"""Model repositories: their text is what Triton's protobuf reads, and their file what their text says."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detrkit import cli
from detrkit.errors import ConfigError
from detrkit.exporting import export_detector, parity
from detrkit.exporting.export_detector import export
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.parity import Accuracy
from detrkit.exporting.triton import config_text, model_name
from tests.docs.pages import ROOT, Page

from .small import CATEGORIES, batch, checkpoint, metadata, small_model


@cache
def model_config():
    """Triton's own definition; of its client's package, whose __init__ needs gRPC, one file is enough."""
    pytest.importorskip("google.protobuf")
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    path = Path(spec.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    module_spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert module_spec
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.ModelConfig


def parsed(text):
    """What Triton reads in config.pbtxt."""
    message = model_config()()
    return pytest.importorskip("google.protobuf.text_format").Parse(text, message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a model, exported by the command from a run named mine."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    run = tmp_path_factory.mktemp("runs") / "mine"
    run.mkdir()
    checkpoint(run / "best.ckpt", "classic", square_resize=True)
    repository = run.parent / "models"
    assert cli.main(["export", "--weights", str(run), "--triton", str(repository), "--quiet"]) == 0
    return repository / "mine"


def test_the_config_is_read_by_tritons_protobuf():
    strange = ExportMetadata.from_json(
        metadata(small_model("classic"), builtin=True, size=(64, 64), weights='a "run"\\of\nmine ü').to_json(), "here"
    )
    config = parsed(config_text("mine", strange))
    assert (config.name, config.backend, config.max_batch_size) == ("mine", "onnxruntime", 8)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert ExportMetadata.from_json(config.parameters["detrkit"].string_value, "there") == strange


def test_inputs_and_outputs_of_the_config_are_those_of_the_file(folder):
    import onnxruntime

    config = parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "1/model.onnx")
    types = {"TYPE_UINT8": "uint8", "TYPE_FP32": "float", "TYPE_INT64": "int64"}
    for rows, tensors in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [each.name for each in rows] == [each.name for each in tensors]
        for row, tensor in zip(rows, tensors, strict=True):
            enum = row.DESCRIPTOR.fields_by_name["data_type"].enum_type
            assert tensor.type == f"tensor({types[enum.values_by_number[row.data_type].name]})"
            assert isinstance(tensor.shape[0], str)  # any number of images
            assert [side if isinstance(side, int) else -1 for side in tensor.shape[1:]] == list(row.dims)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
        "parity.json",
    ]
    assert json.loads((folder / "parity.json").read_text())["metadata"]["builtin"]


def test_openvino_runs_the_same_file_on_batches_of_any_size(folder):
    openvino = pytest.importorskip("openvino")
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "1/model.onnx")
    compiled = openvino.Core().compile_model(folder / "1/model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count, size in ((1, (50, 70)), (3, (90, 64))):
        images = batch(*[size] * count)["images"].numpy()
        boxes, scores, _ = session.run(None, {"images": images})
        outputs = compiled({"images": images})
        np.testing.assert_allclose(outputs["scores"], scores, atol=1e-4)
        np.testing.assert_allclose(outputs["boxes"], boxes, atol=1e-2)


def test_a_model_of_the_repository_is_never_overwritten(folder, capsys):
    before = (folder / "config.pbtxt").stat().st_mtime_ns
    words = ["export", "--weights", str(folder.parents[1] / "mine"), "--triton", str(folder.parent)]
    assert cli.main(words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (folder / "config.pbtxt").stat().st_mtime_ns == before


def test_too_great_a_loss_writes_nothing(tmp_path, monkeypatch):
    weights = checkpoint(tmp_path / "mine.ckpt", "classic", square_resize=True)
    report = parity.Report([], [Accuracy("AP of boxes", 0.5, 0.4)], 2, 0.005)
    monkeypatch.setattr(export_detector, "compare", lambda *of: report)
    load = export_detector.Detector.load
    exported = lambda path, **settings: None if Path(path).suffix == ".onnx" else load(path, **settings)  # noqa: E731
    monkeypatch.setattr(export_detector.Detector, "load", exported)
    monkeypatch.setattr(export_detector, "write_file", lambda _, path, *rest: path.parent.mkdir())
    with pytest.raises(ConfigError, match=r"0.5000 to 0.4000 by exporting.*nothing was written: export with"):
        export(weights, triton=str(tmp_path / "models"))
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "openvino"}, "expected format onnx for triton, found openvino"),
        ({"output": "model.onnx"}, "expected triton or output, found both"),
        ({"fixed_batch": 2}, "which batches requests, found fixed_batch 2"),
        ({"triton": "{folder}/mine.ckpt"}, "expected a folder of models .* found a file"),
        ({"triton": "{folder}/one"}, "found the folder of one model"),
        ({}, "expected size with triton for this model"),
        ({"weights": "{folder}/none.ckpt"}, "none.ckpt"),
    ],
)
def test_settings_that_do_not_fit(settings, words, tmp_path):
    weights = checkpoint(tmp_path / "mine.ckpt", "classic")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.pbtxt").touch()
    given = {"weights": str(weights), "triton": str(tmp_path / "models")} | settings
    given = {name: str(value).replace("{folder}", str(tmp_path)) for name, value in given.items()}
    if "fixed_batch" in given:
        given["fixed_batch"] = int(given["fixed_batch"])
    with pytest.raises(Exception, match=words) as caught:
        export(given.pop("weights"), **given)
    assert type(caught.value).__module__ == "detrkit.errors"
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())


def test_a_model_with_masks_is_refused(tmp_path):
    weights = checkpoint(tmp_path / "masks.ckpt", "masks", square_resize=True)
    with pytest.raises(ConfigError, match="boxes alone for triton, found one with masks"):
        export(weights, triton=str(tmp_path / "models"))


def test_names_are_those_of_runs_files_and_published_models(tmp_path):
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run/best.ckpt").touch()
    names = [str(tmp_path / "my run"), str(tmp_path / "my run/best.ckpt"), "chess.ckpt", "ustc/dfine-n.coco", "..."]
    assert [model_name(name) for name in names] == ["my_run", "my_run", "chess", "dfine-n", "detector"]


class Client:
    """In place of a server: the file, in ONNX Runtime."""

    def __init__(self, url):
        assert url in ("localhost:8000", "localhost:9001")

    def get_model_config(self, name):
        config = parsed(Path(f"models/{name}/config.pbtxt").read_text(encoding="utf-8"))
        return {"parameters": {"detrkit": {"string_value": config.parameters["detrkit"].string_value}}}

    def infer(self, name, inputs):
        import onnxruntime

        session = onnxruntime.InferenceSession(f"models/{name}/1/model.onnx")
        names = [each.name for each in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, {each.name: each.array for each in inputs}), strict=True))
        return SimpleNamespace(as_numpy=outputs.__getitem__)


class InferInput:
    def __init__(self, name, shape, kind):
        self.name, self.shape, self.kind = name, list(shape), kind

    def set_data_from_numpy(self, array):
        assert list(array.shape) == self.shape
        assert array.dtype.name.upper() == self.kind
        self.array = array


def test_the_client_of_the_page_runs(folder, tmp_path, monkeypatch, capsys):
    from PIL import Image

    parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(folder.parent)
    Image.fromarray(batch((64, 90))["images"][0].permute(1, 2, 0).numpy()).save("photo.jpg")
    client = SimpleNamespace(InferenceServerClient=Client, InferInput=InferInput)
    monkeypatch.setitem(sys.modules, "tritonclient", SimpleNamespace(http=client))
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)
    (code,) = [block.code for block in Page(ROOT / "docs/triton.md").blocks if block.info == "python"]
    exec(compile(code.replace(">= 0.5", ">= 0.0"), "docs/triton.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] in CATEGORIES.names
