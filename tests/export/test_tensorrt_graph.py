"""Graphs for TensorRT: lookups in place of GridSample, with operators and types of its parser alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from detrkit.errors import ConfigError
from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.onnx import to_onnx, write_onnx
from detrkit.exporting.formats.tensorrt_graph import (
    check_operators,
    compare_by_xor,
    refused,
    without_grid_sample,
)
from detrkit.exporting.graph import BuiltinGraph, Graph, trace
from detrkit.inference.exported import open_exported
from detrkit.ops.bilinear import sample_by_gather
from detrkit.structures import Preprocessing

from .small import KINDS, batch, metadata, small_model

DEFORMABLE = [kind for kind, settings in KINDS.items() if settings.get("decoder") == "deformable"]


def plain(maps, grid):
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 7), (6, 1)])
@pytest.mark.parametrize("spread", [0.9, 1.5, 40.0, 1e9])
def test_sampling_by_lookups_equals_grid_sample(size, spread):
    torch.manual_seed(0)
    maps = torch.randn(3, 2, *size, dtype=torch.float64)
    grid = (torch.rand(3, 50, 4, 2, dtype=torch.float64) * 2 - 1) * spread
    assert_close(sample_by_gather(maps, grid), plain(maps, grid), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (2, 3)])
def test_centers_and_borders_of_cells_are_sampled_exactly(size):
    maps = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, x = (torch.arange(-2, 2 * side + 3, dtype=torch.float64) / side - 1 for side in size)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    assert_close(sample_by_gather(maps, grid), plain(maps, grid), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_only_the_rounding_of_its_result(dtype):
    torch.manual_seed(0)
    maps, grid = torch.randn(2, 3, 20, 30).to(dtype), (torch.rand(2, 40, 4, 2) * 2.2 - 1.1).to(dtype)
    sampled = sample_by_gather(maps, grid)
    assert sampled.dtype == dtype
    assert torch.equal(sampled, sample_by_gather(maps.float(), grid.float()).to(dtype))
    assert_close(sampled.float(), plain(maps.float(), grid.float()), rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_points_that_are_no_numbers_read_no_cell_outside_of_the_map():
    grid = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0]).view(1, 1, 2, 2)
    assert sample_by_gather(torch.ones(1, 1, 2, 2), grid).shape == (1, 1, 1, 2)


class Sampler(torch.nn.Module):
    """Samples as it is told."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, maps, grid):
        return F.grid_sample(maps, grid, **self.settings)


def test_other_samplings_are_refused():
    given = torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 1, 2)
    program = torch.export.export(Sampler(align_corners=True), given)
    with pytest.raises(ConfigError, match="another sampling; export it with format onnx"):
        without_grid_sample(program)
    rewritten = without_grid_sample(torch.export.export(Sampler(align_corners=False), given))
    assert not any("grid_sampler" in str(node.target) for node in rewritten.graph.nodes)


def node(onnx, operator, outputs, given, inputs=("given",), **settings):
    """A graph of one node, float unless `given` is another type."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, [*inputs], ["out", *["places"] * (operator == "TopK")], **settings)],
        "one",
        [value("given", given, [4, 4]), *(value(name, onnx.TensorProto.INT64, [1]) for name in inputs[1:])],
        [value("out", outputs, None)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def test_operators_and_types_that_the_parser_refuses_are_named():
    onnx = pytest.importorskip("onnx")
    real, whole, pixels = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8
    for proto, reason in (
        (node(onnx, "GridSample", real, real, ("given", "grid")), "the operator GridSample"),
        (node(onnx, "NonZero", whole, real), "the operator NonZero"),
        (node(onnx, "Shape", whole, pixels), "Shape of uint8"),
        (node(onnx, "Ceil", whole, whole), "Ceil of int64"),
        (node(onnx, "ReduceMax", real, real, ("given", "axes")), "ReduceMax over axes that are computed"),
        (node(onnx, "TopK", real, real, ("given", "k"), sorted=0), "TopK without order, or of more than 3839"),
    ):
        assert refused(proto) == [reason]
        with pytest.raises(ConfigError, match=f"parser takes, found {reason}; export this model with format onnx"):
            check_operators(proto)
    assert not refused(node(onnx, "Cast", real, pixels, to=real))
    assert not refused(node(onnx, "Relu", real, real))


def test_booleans_are_compared_by_xor():
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, [4]) for name in "abc"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Equal", ["a", "b"], ["c"])], "g", value[:2], value[2:])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    assert refused(proto) == ["Equal of bool"]
    compare_by_xor(proto)
    assert not refused(proto)
    given = {"a": np.array([0, 0, 1, 1], dtype=bool), "b": np.array([0, 1, 0, 1], dtype=bool)}
    (out,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, given)
    assert out.tolist() == [True, False, False, True]


def check_static(onnx, proto):
    """Every shape is known, and no size is computed."""
    assert not {each.op_type for each in proto.graph.node} & {"Shape", "Size", "Range", "NonZero"}
    for each in onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph.value_info:
        assert all(dim.HasField("dim_value") for dim in each.type.tensor_type.shape.dim), each.name


@pytest.mark.parametrize(
    "kind", ["rtdetr", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "rtdetr")]
)
def test_the_graph_for_tensorrt_has_the_operators_of_its_parser_and_static_shapes(kind, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, path = small_model(kind), tmp_path / "model.onnx"
    program = trace(Graph(model), size=(96, 128), batch_size=2)
    write_onnx(TracedGraph(program, metadata(model, size=(96, 128), batch_size=2), for_tensorrt=True), path)
    proto = onnx.load(path)
    assert not refused(proto)
    check_static(onnx, proto)
    given = batch((96, 128), (64, 97))
    with torch.no_grad():
        expected = model(**given)
    out = open_exported(path, "cpu").forward_detection(**given)
    assert_close(out.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert_close(out.boxes, expected.boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # traces and converts two graphs of any size
@pytest.mark.parametrize("kind", DEFORMABLE)
def test_graphs_of_any_size_for_tensorrt_equal_the_model(kind, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, path = small_model(kind), tmp_path / "model.onnx"
    program = trace(Graph(model), size=None, batch_size=None)
    write_onnx(TracedGraph(program, metadata(model), for_tensorrt=True), path)
    assert not refused(onnx.load(path))
    for given in (batch((96, 128)), batch((64, 97), (90, 64), (64, 64))):
        with torch.no_grad():
            expected = model(**given)
        out = open_exported(path, "cpu").forward_detection(**given)
        assert_close(out.boxes, expected.boxes, rtol=1e-4, atol=1e-4)
    if not model.makes_masks:
        graph = BuiltinGraph(Graph(model), Preprocessing(64), (96, 128))
        inside = metadata(model, builtin=True, size=(96, 128))
        proto = to_onnx(TracedGraph(trace(graph, size=None, batch_size=None), inside, for_tensorrt=True))
        assert not refused(proto)
