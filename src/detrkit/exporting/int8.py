"""Quantization to 8-bit integers, with ranges measured on the user's own images.

Only the convolutions before the decoder are quantized: they are most of the arithmetic, and lose little accuracy. On a
detrkit_n trained on the demo that cost 0.001 to 0.004 AP; quantizing the dense head as well costs 0.006, and everything
that NNCF's settings for transformers take 0.033. Ranges run from the least to the largest value on any image: means
over images cost 0.024. Where a model loses more, `int8_search.py` finds the groups of convolutions to leave in floating
point.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import onnx

QUANTIZED = ("backbone", "input_proj", "encoder")
"""Parts of the model whose convolutions are quantized."""
_CONTAINERS = ("0", "body", "model")
"""Modules of a part that hold the others."""
_NUMBERED = ("encoder", "stages", "layers", "blocks")
"""Modules whose children, which have numbers for names, are groups of their own."""


@dataclass(frozen=True)
class MeasuredGraph:
    """A graph with the ranges of its values on images, from which files with different layers in int8 are made."""

    proto: onnx.ModelProto
    """The graph, in floating point."""
    ranges: Any
    """Of ONNX Runtime's calibrator."""


def measure_ranges(proto: onnx.ModelProto, samples: Sequence[Mapping[str, Tensor]]) -> MeasuredGraph:
    """Measure the ranges of inputs and outputs of convolutions.

    Args:
        proto: the graph.
        samples: inputs by name, to measure ranges with.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, inferred, augmented = (Path(folder) / f"{name}.onnx" for name in ("source", "inferred", "augmented"))
        source.write_bytes(proto.SerializeToString())
        shape_inference.quant_pre_process(str(source), str(inferred), skip_symbolic_shape=True)
        calibrator = quantization.create_calibrator(str(inferred), ["Conv"], augmented_model_path=str(augmented))
        calibrator.collect_data(calibration_reader(samples))
        return MeasuredGraph(onnx.load(inferred), calibrator.compute_data())


def calibration_reader(samples: Iterable[Mapping[str, Tensor]]) -> Any:
    """Give samples, inputs by name, to ONNX Runtime's calibration."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.remaining = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.remaining, None)
            return None if sample is None else {name: tensor.numpy() for name, tensor in sample.items()}

    return Reader()


def quantize(measured: MeasuredGraph, float_groups: Collection[str] = (), *, with_bias: bool = True) -> onnx.ModelProto:
    """Quantize convolutions, in the form (QuantizeLinear, DequantizeLinear) that ONNX Runtime, OpenVINO and TensorRT
    read.

    Args:
        measured: the graph and its ranges, which stay as they are.
        float_groups: groups of convolutions that are left in floating point (`group_of`).
        with_bias: biases as integers too, which ONNX Runtime needs to compute in them; TensorRT's parser refuses them.
    """
    from onnxruntime import quantization

    proto = copy.deepcopy(measured.proto)
    names = [name for name in _conv_names(proto) if (group_of(name) or "") not in ("", *float_groups)]
    if not names:
        return proto
    kind = quantization.QuantType.QInt8
    options = {"ActivationSymmetric": True, "QuantizeBias": with_bias}
    with _quiet():
        quantizer = quantization.QDQQuantizer(
            proto, True, False, kind, kind, measured.ranges, names, [], ["Conv"], options
        )
        quantizer.quantize_model()
    return quantizer.model.model


def groups_of(proto: onnx.ModelProto) -> list[str]:
    """The groups of convolutions that are quantized, in the order of the graph."""
    return list(dict.fromkeys(group for name in _conv_names(proto) if (group := group_of(name))))


def _conv_names(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node if node.op_type == "Conv"]


def group_of(name: str) -> str | None:
    """The part of the model that a convolution belongs to, such as backbone.layer1; None: it is not quantized.

    Args:
        name: of the convolution in the model, such as backbone.0.body.layer1.0.conv1.
    """
    modules = name.split(".")
    start = next((k for k, module in enumerate(modules) if module in QUANTIZED), None)
    if start is None:
        return None
    below = modules[start + 1 : -2]  # without the convolution and its number in the graph
    while below and below[0] in _CONTAINERS:
        below = below[1:]
    below = [] if modules[start] == "input_proj" else below or modules[-2:-1]
    depth = 1
    if below and below[0] in _NUMBERED:
        depth = next((k + 1 for k, module in enumerate(below) if module.isdigit()), 1)
    return ".".join([modules[start], *below[:depth]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tools."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
