"""Quantization to 8-bit integers, with ranges measured on the user's own images.

Only the convolutions before the decoder are quantized: they are most of the arithmetic, and lose little accuracy. On a
detrkit_n trained on the demo that cost 0.001 to 0.004 AP; quantizing the dense head as well costs 0.006, and everything
that NNCF's settings for transformers take 0.033. Ranges run from the least to the largest value on any image: means
over images cost 0.024.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import onnx

QUANTIZED = (".backbone.", ".input_proj.", ".encoder.")
"""Parts of the model whose convolutions are quantized."""


def quantize_onnx(
    proto: onnx.ModelProto, samples: Sequence[Mapping[str, Tensor]], *, with_bias: bool = True
) -> onnx.ModelProto:
    """Quantize convolutions, in the form (QuantizeLinear, DequantizeLinear) that ONNX Runtime, OpenVINO and TensorRT
    read.

    Args:
        proto: the graph.
        samples: inputs by name, to measure ranges with.
        with_bias: biases as integers too, which ONNX Runtime needs to compute in them; TensorRT's parser refuses them.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.remaining = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.remaining, None)
            return None if sample is None else {name: tensor.numpy() for name, tensor in sample.items()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, inferred, quantized = (Path(folder) / f"{name}.onnx" for name in ("source", "inferred", "quantized"))
        source.write_bytes(proto.SerializeToString())
        shape_inference.quant_pre_process(str(source), str(inferred), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(inferred),
            str(quantized),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=[n.name for n in proto.graph.node if n.op_type == "Conv" and is_quantized(n.name)],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "QuantizeBias": with_bias},
        )
        return onnx.load(quantized)


def is_quantized(name: str) -> bool:
    """Whether a convolution of this name stands before the decoder."""
    return any(part in f".{name}" for part in QUANTIZED)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tools."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
