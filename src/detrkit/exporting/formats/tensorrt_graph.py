"""Graphs for TensorRT: without GridSample, and with the operators and types that its ONNX parser takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import ExportedProgram

from detrkit.errors import ConfigError
from detrkit.exporting.formats.tensorrt_operators import ONLY_AT_ENDS, OPERATORS
from detrkit.ops.bilinear import sample_by_gather

if TYPE_CHECKING:
    import onnx

LARGEST_K = 3839
"""Of TopK."""


def without_grid_sample(program: ExportedProgram) -> ExportedProgram:
    """Rewrite each `grid_sample` of a traced graph by `sample_by_gather`.

    TensorRT 10.13 to 11.1 were reported to compile GridSample wrongly, without an error (NVIDIA/TensorRT#4813 and
    #4646). The rewriting is a decomposition of torch.export, so that the model keeps its one `forward`, and models of
    other libraries are served too.
    """
    return program.run_decompositions({torch.ops.aten.grid_sampler.default: _grid_sampler})


def _grid_sampler(maps: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool) -> Tensor:
    """The operator of PyTorch, with its arguments: 0, 0 and False are bilinear, zeros outside, borders at -1 and 1."""
    if interpolation or padding or align_corners or maps.ndim != 4:
        raise ConfigError(
            "expected a model whose deformable attention samples bilinearly, with zeros outside, for TensorRT, found "
            "another sampling; export it with --format onnx or openvino"
        )
    return sample_by_gather(maps, grid)


def cast_pixels(proto: onnx.ModelProto) -> None:
    """Let nothing but a cast to float read the uint8 inputs of a graph; Shape, for one, does not take that type."""
    import onnx

    casts = []
    for each in proto.graph.input:
        if each.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
            continue
        pixels = f"{each.name}_float"
        for node in proto.graph.node:
            node.input[:] = [pixels if name == each.name else name for name in node.input]
        casts.append(onnx.helper.make_node("Cast", [each.name], [pixels], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def compare_by_xor(proto: onnx.ModelProto) -> None:
    """Rewrite Equal of booleans, of which floor division of integers is made, by Xor and Not; Equal takes numbers."""
    import onnx

    types = _types(onnx.shape_inference.infer_shapes(proto).graph)
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "Equal" or types.get(node.input[0]) != onnx.TensorProto.BOOL:
            nodes.append(node)
            continue
        differs = f"{node.output[0]}_differs"
        nodes.append(onnx.helper.make_node("Xor", [*node.input], [differs]))
        nodes.append(onnx.helper.make_node("Not", [differs], [*node.output]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Name of a value -> its type, where known."""
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.input, *graph.output)}
    return types | {each.name: each.data_type for each in graph.initializer}


def check_operators(proto: onnx.ModelProto) -> None:
    """Make sure that TensorRT's parser takes a graph.

    Raises:
        ConfigError: it has an operator that the parser refuses.
    """
    found = refused(proto)
    if found:
        raise ConfigError(
            f"expected a graph that TensorRT's parser takes, found {'; '.join(found[:3])}; export this model with "
            "--format onnx (without --for_tensorrt) or openvino"
        )


def refused(proto: onnx.ModelProto) -> list[str]:
    """The reasons for which TensorRT's parser would refuse a graph, by its table of operators; GridSample is one."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    types = _types(inferred)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in inferred.initializer}
    constants |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in inferred.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    ends = {each.name for each in (*inferred.input, *inferred.output)}
    reasons = dict.fromkeys(f"the function {each.name}" for each in proto.functions)
    for node in inferred.node:
        able = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if able is None:
            reasons[f"the operator {node.op_type}"] = None
            continue
        data = node.input[1 if node.op_type == "Where" else 0] if node.input else node.output[0]
        kind = onnx.TensorProto.DataType.Name(types.get(data, 0)).lower()
        if kind != "undefined" and (kind not in able or (kind == ONLY_AT_ENDS and data not in ends)):
            reasons[f"{node.op_type} of {kind}"] = None
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "TopK" and (
            not settings.get("sorted", 1) or constants.get(node.input[1], LARGEST_K) > LARGEST_K
        ):
            reasons[f"TopK without order, or of more than {LARGEST_K}"] = None
        if node.op_type == "Resize" and (settings.get("mode") == b"cubic" or settings.get("antialias")):
            reasons["Resize with cubic interpolation or antialiasing"] = None
        if node.op_type == "ScatterND" and settings.get("reduction", b"none") != b"none":
            reasons["ScatterND with a reduction"] = None
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in constants:
            reasons[f"{node.op_type} over axes that are computed"] = None
    return list(reasons)
