"""ONNX files (.onnx), which run in ONNX Runtime; the formats made from ONNX begin with `to_onnx` too."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, MissingExtraError
from detrkit.exporting.formats.export_format import TracedGraph, unreadable, wants_cuda
from detrkit.exporting.formats.metadata import METADATA_KEY
from detrkit.exporting.formats.tensorrt_graph import (
    cast_pixels,
    check_operators,
    compare_by_xor,
    without_grid_sample,
)
from detrkit.exporting.int8 import measure_ranges, quantize
from detrkit.files import ONNX_OPSET, write_atomic

if TYPE_CHECKING:
    import onnx

REFUSED = frozenset(
    {
        "Loop", "If", "Scan", "NonZero", "NonMaxSuppression", "Unique", "Compress", "OneHot", "RoiAlign",
        "StringNormalizer",
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence",
        "ConcatFromSequence", "Optional", "OptionalGetElement", "BitShift", "Det", "Hardmax", "MaxUnpool",
        "RandomNormal", "RandomUniform", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv",
        "QLinearMatMul", "DeformConv",
    }
)  # fmt: skip
"""ONNX operators that no graph of ours has: TensorRT's parser refuses them or cannot plan memory for them (its table
"Supported ONNX Operators"), and other compilers like them no better."""


def write_onnx(graph: TracedGraph, path: Path) -> None:
    """Write an ONNX file."""
    proto = to_onnx(graph)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, graph.metadata.to_json()
    write_atomic(path, proto.SerializeToString())


def to_onnx(graph: TracedGraph) -> onnx.ModelProto:
    """Convert a traced graph to ONNX, quantized where its metadata says int8, and check it.

    Raises:
        ConfigError: it is for TensorRT, and has an operator that TensorRT's parser refuses.
    """
    shared = graph.shared
    if "onnx" not in shared:
        shared["onnx"] = _converted(graph)
    proto: onnx.ModelProto
    if graph.metadata.precision == "int8":
        if "measured" not in shared:
            shared["measured"] = measure_ranges(shared["onnx"], graph.calibration)
        proto = quantize(shared["measured"], graph.float_groups, with_bias=not graph.for_tensorrt)
    else:
        proto = copy.deepcopy(shared["onnx"])
    if graph.for_tensorrt:
        cast_pixels(proto)
        compare_by_xor(proto)
        check_operators(proto)
    return proto


def _converted(graph: TracedGraph) -> onnx.ModelProto:
    """In floating point, without the traces of source code that the exporter leaves in the graph."""
    import onnx

    metadata = graph.metadata
    names = [*metadata.outputs, *["masks"] * metadata.masks]
    program = without_grid_sample(graph.program) if graph.for_tensorrt else graph.program
    with _quiet():
        converted = torch.onnx.export(program, output_names=names, opset_version=ONNX_OPSET, dynamo=True, verbose=False)
    assert converted is not None
    proto = converted.model_proto
    proto.doc_string = ""
    parts: list[Any] = [proto.graph, *proto.functions]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
        for node in (*part.node, *part.value_info):
            node.doc_string = ""
            del node.metadata_props[:]
    for each in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del each.metadata_props[:]
    for k, node in enumerate(proto.graph.node):  # `int8` goes by the names that convolutions have in the model
        if node.op_type == "Conv":
            node.name = f"{node.input[1].removesuffix('.weight')}.{k}"  # feature levels share some
    onnx.checker.check_model(proto)
    return proto


class OnnxSession:
    """An ONNX file in ONNX Runtime, on as many threads as PyTorch uses.

    Args:
        path: of the file.
        device: cpu, cuda, cuda:1, or auto: a GPU where ONNX Runtime can use one.
    """

    def __init__(self, path: Path, device: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError(f"running {path}", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors come as exceptions
        providers, available = ["CPUExecutionProvider"], onnxruntime.get_available_providers()
        if wants_cuda(device, path, auto="CUDAExecutionProvider" in available):
            if "CUDAExecutionProvider" not in available:
                raise ConfigError(
                    f"--device cuda: the ONNX Runtime that is installed has no CUDA to run {path}; use --device cpu, "
                    'or install it: pip install "onnxruntime-gpu"'
                )
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as problem:  # its errors have no common base
            raise unreadable(path, "ONNX", problem) from problem
        self.metadata: str | None = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.names = [each.name for each in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by name, from the inputs, by name."""
        outputs = self.session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(self.names, outputs, strict=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes about its own steps."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
