"""An export format is a file and a row of a table; the public function `export` takes it from there."""

import gzip
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detrkit import Detector
from detrkit.errors import ConfigError, WeightsError
from detrkit.exporting.export_detector import export
from detrkit.exporting.formats.export_format import ExportFormat, TracedGraph, unreadable
from detrkit.exporting.formats.metadata import METADATA_KEY
from detrkit.exporting.formats.table import FORMATS
from detrkit.files import write_atomic

from .small import CATEGORIES, batch, checkpoint, small_model


def write_gzip(graph: TracedGraph, path: Path) -> None:
    """Write a compressed program of torch.export."""
    content = io.BytesIO()
    torch.export.save(graph.program, content, extra_files={METADATA_KEY: graph.metadata.to_json()})
    write_atomic(path, gzip.compress(content.getvalue()))


class GzipSession:
    """A compressed program of torch.export, on the CPU."""

    def __init__(self, path: Path, device: str) -> None:
        extra_files = {METADATA_KEY: ""}
        try:
            content = io.BytesIO(gzip.decompress(path.read_bytes()))
            self.run = torch.export.load(content, extra_files=extra_files).module()
        except Exception as problem:
            raise unreadable(path, "gzip", problem) from problem
        self.metadata: str | None = extra_files[METADATA_KEY] or None

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.run(**inputs)


GZIP = ExportFormat("gzip", ".pt2z", packages=(), precisions=("fp32",), write=write_gzip, open=GzipSession)


@pytest.fixture
def _with_gzip() -> Iterator[None]:
    FORMATS.append(GZIP)
    yield
    FORMATS.remove(GZIP)


@pytest.mark.usefixtures("_with_gzip")
def test_a_format_is_added_by_a_row(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    path = export(weights, "gzip")
    assert path == tmp_path / "best.pt2z"
    assert path.with_name("best.pt2z.parity.json").is_file()
    image = batch((80, 100))["images"][0]
    expected = Detector(small_model("classic"), CATEGORIES, 64).predict(image, threshold=0.0)
    assert_close(Detector.load(path, device="cpu").predict(image, threshold=0.0).xyxy, expected.xyxy)
    with pytest.raises(
        ConfigError, match="expected format onnx or openvino or torch or tensorrt for precision fp16, found gzip"
    ):
        export(weights, "gzip", precision="fp16")
    path.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="model of gzip"):
        Detector.load(path, device="cpu")


def test_formats_do_not_clash() -> None:
    names, suffixes = [each.name for each in FORMATS], [each.suffix for each in FORMATS]
    assert len(set(names)) == len(names)
    assert len(set(suffixes)) == len(suffixes)
    assert all("fp32" in each.precisions for each in FORMATS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "coreml"}, "format must be onnx, openvino, torch or tensorrt, found 'coreml'"),
        ({"precison": "fp16"}, "no setting 'precison'; did you mean 'precision'"),
        ({"format": "torch", "batch_size": 0}, "batch_size"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, object], words: str, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "best.ckpt", "classic")
    with pytest.raises(ConfigError, match=words):
        export(weights, **options)
