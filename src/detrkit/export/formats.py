"""Writing the frozen graph: torch.export, ONNX, and from ONNX OpenVINO and TensorRT; each with its metadata inside."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from detrkit.errors import ConfigError, MissingExtraError
from detrkit.export.graph import OUTPUTS
from detrkit.export.int8 import quantized_onnx
from detrkit.files import ONNX_OPSET, write_atomic
from detrkit.inference.metadata import METADATA_KEY, ExportMetadata
from detrkit.inference.runtimes import ENGINE_HEADER

if TYPE_CHECKING:
    import onnx

Format = Literal["onnx", "openvino", "torch", "tensorrt"]
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    "torch": (),
    "tensorrt": ("onnx", "onnxscript", "tensorrt"),
}
"""What has to be installed to write a format and to compare the file: the extras of the same names."""

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

Sample = dict[str, Tensor]
"""Inputs by name: what a graph is calibrated with."""


def check_packages(kind: Format) -> None:
    """Make sure, before anything takes long, that a format can be written and its files run.

    Raises:
        MissingExtraError: a package is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in PACKAGES[kind]):
        raise MissingExtraError(f"--format {kind}", kind)


def write_torch(program: ExportedProgram, path: Path, metadata: ExportMetadata) -> None:
    """A program of torch.export (.pt2)."""
    made = io.BytesIO()  # since PyTorch aborts the process where a disk is full
    torch.export.save(program, made, extra_files={METADATA_KEY: metadata.to_json()})
    write_atomic(path, made.getvalue())


def write_onnx(program: ExportedProgram, path: Path, metadata: ExportMetadata, samples: Sequence[Sample] = ()) -> None:
    """An ONNX file; with `samples`, of 8 bits where that can be had."""
    proto = to_onnx(program, metadata)
    if metadata.precision == "int8":
        proto = quantized_onnx(proto, samples)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.to_json()
    write_atomic(path, proto.SerializeToString())


def write_openvino(
    program: ExportedProgram, path: Path, metadata: ExportMetadata, samples: Sequence[Sample] = ()
) -> None:
    """An OpenVINO file, and its weights (.bin) beside it; weights of float16 where the metadata says fp16."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        proto = to_onnx(program, metadata)
        if metadata.precision == "int8":
            proto = quantized_onnx(proto, samples)
        graph.write_bytes(proto.SerializeToString())
        model = openvino.convert_model(graph)
        model.set_rt_info(metadata.to_json(), [METADATA_KEY])
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(folder) / path.name
        openvino.save_model(model, made, compress_to_fp16=metadata.precision == "fp16")
        write_atomic(path.with_suffix(".bin"), made.with_suffix(".bin").read_bytes())
        write_atomic(path, made.read_bytes())


def write_tensorrt(
    program: ExportedProgram, path: Path, metadata: ExportMetadata, sizes: Sequence[tuple[int, int]]
) -> None:
    """A TensorRT engine for the GPU at hand, built through ONNX. Never run on a GPU yet.

    Args:
        program: the graph; its types are kept, so fp16 is what it was traced with.
        path: of the file; the metadata stands before the engine.
        metadata: stands in the file.
        sizes: the smallest, the usual and the largest (H, W) in pixels of a graph of any size.

    Raises:
        ConfigError: TensorRT cannot make an engine of the graph.
    """
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(to_onnx(program, metadata).SerializeToString()):
        raise ConfigError(f"TensorRT {tensorrt.__version__} refuses the graph: {parser.get_error(0)}")
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    batches = (metadata.batch_size,) * 3 if metadata.batch_size else (1, 1, 8)
    for k in range(network.num_inputs):
        given = network.get_input(k)
        shapes = []
        for batch, size in zip(batches, sizes, strict=True):
            shape = [batch, *size] if given.name == "padding_mask" else [batch, 3, *size]
            shapes.append([want if side == -1 else side for want, side in zip(shape, given.shape, strict=True)])
        profile.set_shape(given.name, *shapes)
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ConfigError(f"TensorRT {tensorrt.__version__} could not build an engine; its log says why")
    text = metadata.to_json().encode()
    write_atomic(path, ENGINE_HEADER.pack(len(text)) + text + bytes(plan))


def to_onnx(program: ExportedProgram, metadata: ExportMetadata) -> onnx.ModelProto:
    """The graph in ONNX, checked, without the traces of source code that the exporter leaves in it."""
    import onnx

    with _quiet():
        names = [*OUTPUTS[metadata.builtin], *["masks"] * metadata.masks]
        made = torch.onnx.export(program, output_names=names, opset_version=ONNX_OPSET, dynamo=True, verbose=False)
    assert made is not None
    proto = made.model_proto
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
    for k, node in enumerate(proto.graph.node):  # called as in the model, which `int8` goes by
        if node.op_type == "Conv":
            node.name = f"{node.input[1].removesuffix('.weight')}.{k}"  # levels share some
    onnx.checker.check_model(proto)
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter has to say of its own steps."""
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
