"""The Python code of docs/deploy.md runs, and says what the model says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from detrkit import Detector
from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.onnx import write_onnx
from detrkit.exporting.formats.openvino import write_openvino
from detrkit.exporting.formats.torch_program import write_torch
from detrkit.exporting.graph import BuiltinGraph, Graph, trace
from detrkit.structures import Preprocessing
from tests.docs.pages import ROOT, Page

from .small import CATEGORIES, metadata, small_model

BLOCKS = [block for block in Page(ROOT / "docs/deploy.md").blocks if block.info == "python"]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sandbox")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=generator).float()
    pixels = torch.nn.functional.interpolate(coarse, (64, 90), mode="bilinear")[0].byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / "photo.jpg", quality=95)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def prepare(code: str, folder: Path) -> None:
    """The file that a piece of code opens."""
    model = small_model("classic")
    if "built." in code:
        program = trace(BuiltinGraph(Graph(model), Preprocessing(64), (64, 90)), size=None, batch_size=None)
        path = folder / ("built.xml" if "built.xml" in code else "built.onnx")
        inside = metadata(model, builtin=True, size=(64, 90))
    else:
        program = trace(Graph(model), size=None, batch_size=None)
        path = folder / "runs/mine" / ("best.pt2" if "best.pt2" in code else "best.onnx")
        inside = metadata(model)
    {".xml": write_openvino, ".onnx": write_onnx, ".pt2": write_torch}[path.suffix](TracedGraph(program, inside), path)


@pytest.mark.parametrize("k", range(len(BLOCKS)))
def test_the_code_runs(k: int, sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCKS[k].code.replace("threshold=0.5", "threshold=0.0").replace(">= 0.5", ">= 0.0")
    if ".pt2" not in code:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    if "openvino" in code:
        pytest.importorskip("openvino")
    prepare(code, sandbox)
    exec(compile("\n" * (BLOCKS[k].line - 1) + code, "docs/deploy.md", "exec"), {})
    actual = Detector(small_model("classic"), CATEGORIES, 64).predict("photo.jpg", threshold=0.0)
    output = capsys.readouterr().out
    assert actual.class_names[0] in output
    for number in actual.xyxy[0].tolist():
        assert any(abs(number - float(word)) < 0.1 for word in re.findall(r"-?\d+\.\d*(?:e[-+]?\d+)?", output))
