"""Exported graphs say what the model says: for other batches and sizes than those traced, with padding."""

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.testing import assert_close

from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.onnx import REFUSED, to_onnx, write_onnx
from detrkit.exporting.formats.openvino import write_openvino
from detrkit.exporting.formats.torch_program import write_torch
from detrkit.exporting.graph import Graph, trace
from detrkit.inference.exported import open_exported
from detrkit.models import DETR

from .small import KINDS, batch, metadata, small_model

BATCHES = ([(96, 128)], [(64, 97), (90, 64), (64, 64)], [(101, 75), (128, 70)])
WRITERS = {".onnx": write_onnx, ".xml": write_openvino, ".pt2": write_torch}


def plain_outputs(model: DETR, given: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        out = model(**given)
    return {"logits": out.logits, "boxes": out.boxes} | ({} if out.masks is None else {"masks": out.masks})


def check(model: DETR, path: Path) -> None:
    backend = open_exported(path, "cpu")
    for sizes in BATCHES:
        given, expected = batch(*sizes), plain_outputs(model, batch(*sizes))
        out = backend.forward_detection(**given)
        for name, tensor in expected.items():
            assert_close(getattr(out, name), tensor, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def classic() -> tuple[DETR, ExportedProgram]:
    model = small_model("classic")
    return model, trace(Graph(model), size=None, batch_size=None)


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")])
def test_every_format_equals_the_classic_model(
    suffix: str, package: str, classic: tuple[DETR, ExportedProgram], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    if suffix != ".pt2":
        pytest.importorskip("onnxscript")
    model, program = classic
    WRITERS[suffix](TracedGraph(program, metadata(model)), tmp_path / f"model{suffix}")
    check(model, tmp_path / f"model{suffix}")
    if suffix == ".onnx":  # which tells nothing of where it was made
        content = (tmp_path / "model.onnx").read_bytes()
        assert b".py" not in content
        assert str(Path(__file__).parents[2]).encode() not in content


def test_openvino_rounds_at_the_requested_precision(classic: tuple[DETR, ExportedProgram], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    openvino = pytest.importorskip("openvino")
    model, program = classic
    write_openvino(TracedGraph(program, metadata(model, precision="bf16")), tmp_path / "model.xml")
    backend = open_exported(tmp_path / "model.xml", "cpu")
    assert backend.session.compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    given = batch((96, 128))
    assert_close(backend.forward_detection(**given).boxes, plain_outputs(model, given)["boxes"], rtol=0.0, atol=0.1)


def test_a_full_disk_leaves_nothing(
    classic: tuple[DETR, ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*of: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_torch(TracedGraph(classic[1], metadata(classic[0])), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classic"])
def test_every_format_equals_the_model(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    model = small_model(kind)
    program = trace(Graph(model), size=None, batch_size=None)
    for suffix, write in WRITERS.items():
        write(TracedGraph(program, metadata(model)), tmp_path / f"model{suffix}")
        check(model, tmp_path / f"model{suffix}")


def test_an_optimized_model_of_fixed_size_and_batch(tmp_path: Path) -> None:
    """Smaller images are padded, other numbers of images made up for, and every K is a number in the file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = small_model("fast")
    path = tmp_path / "model.onnx"
    program = trace(Graph(model), size=(96, 128), batch_size=2)
    write_onnx(TracedGraph(program, metadata(model, size=(96, 128), batch_size=2)), path)
    proto = onnx.load(path)
    known = {each.name for each in proto.graph.initializer}
    known |= {node.output[0] for node in proto.graph.node if node.op_type == "Constant"}
    assert all(node.input[1] in known for node in proto.graph.node if node.op_type == "TopK")
    assert not {node.op_type for node in proto.graph.node} & (REFUSED | {"Shape", "Range"})
    backend = open_exported(path, "cpu")
    for sizes in ([(96, 128)], [(64, 97), (90, 64), (64, 64)]):
        given = batch(*sizes)
        out, expected = backend.forward_detection(**given), plain_outputs(model, batch(*sizes, (96, 128)))
        assert len(out.logits) == len(sizes)
        assert_close(out.logits, expected["logits"][: len(sizes)], rtol=1e-4, atol=1e-4)
        assert_close(out.boxes, expected["boxes"][: len(sizes)], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_keep_to_operators_that_compilers_take(kind: str) -> None:
    pytest.importorskip("onnxscript")
    model = small_model(kind)
    proto = to_onnx(TracedGraph(trace(Graph(model), size=None, batch_size=None), metadata(model)))
    assert not {node.op_type for node in proto.graph.node} & REFUSED
    assert not proto.functions


def test_only_the_best_queries() -> None:
    model, given = small_model("masks"), batch((64, 96), (96, 64))
    with torch.no_grad():
        expected, actual = model(**given), Graph(model, max_queries=2)(**given)
    best = expected.logits.softmax(-1)[..., :-1].amax(-1).topk(2).indices
    rows = torch.arange(2)[:, None]
    assert_close(actual["logits"], expected.logits[rows, best])
    assert_close(actual["boxes"], expected.boxes[rows, best])
    assert_close(actual["masks"], expected.masks[rows, best], rtol=1e-4, atol=1e-4)
