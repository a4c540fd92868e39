"""Whole numbers of 8 bits instead of floats, with ranges measured on pictures of the user's own data."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from detrkit.errors import MissingExtraError

if TYPE_CHECKING:
    import onnx
    import openvino


def quantized_onnx(proto: onnx.ModelProto, samples: Sequence[Mapping[str, Tensor]]) -> onnx.ModelProto:
    """Convolutions of 8 bits, in the form (QuantizeLinear, DequantizeLinear) that ONNX Runtime and TensorRT read.

    Attention, norms and heads stay floats: there errors of rounding cost accuracy, and on CPUs little is won.

    Args:
        proto: the graph.
        samples: inputs by name, to measure ranges with.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference
    except ImportError:
        raise MissingExtraError("int8 for ONNX", "onnx") from None
    import onnx

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.rest, None)
            return None if sample is None else {name: tensor.numpy() for name, tensor in sample.items()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, ready, made = (Path(folder) / f"{name}.onnx" for name in ("source", "ready", "made"))
        source.write_bytes(proto.SerializeToString())
        shape_inference.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(made),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True},
        )
        return onnx.load(made)


def quantized_openvino(model: openvino.Model, samples: Sequence[Mapping[str, Tensor]]) -> openvino.Model:
    """All that NNCF takes to be safe in 8 bits in a transformer.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    try:
        import nncf
    except ImportError:
        raise MissingExtraError("int8 for OpenVINO", "openvino") from None
    inputs = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in samples]
    with _quiet():
        return nncf.quantize(
            model, nncf.Dataset(inputs), subset_size=len(inputs), model_type=nncf.ModelType.TRANSFORMER
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the chatter of the tools."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
