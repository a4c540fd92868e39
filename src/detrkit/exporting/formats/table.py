"""The table of export formats. To add one, write its `write` and `open` in a file beside this one and add a row."""

from __future__ import annotations

from detrkit.errors import ConfigError
from detrkit.exporting.formats.export_format import ExportFormat
from detrkit.exporting.formats.onnx import OnnxSession, write_onnx
from detrkit.exporting.formats.openvino import OpenVinoSession, write_openvino
from detrkit.exporting.formats.tensorrt import TensorRTSession, write_tensorrt
from detrkit.exporting.formats.torch_program import TorchSession, write_torch

FORMATS: list[ExportFormat] = [
    ExportFormat(
        "onnx",
        ".onnx",
        packages=("onnx", "onnxscript", "onnxruntime"),
        precisions=("fp32", "fp16", "int8"),
        write=write_onnx,
        open=OnnxSession,
    ),
    ExportFormat(
        "openvino",
        ".xml",
        packages=("onnx", "onnxscript", "onnxruntime", "openvino"),
        precisions=("fp32", "bf16", "fp16", "int8"),
        write=write_openvino,
        open=OpenVinoSession,
        rounds_itself=True,
        companions=(".bin",),
    ),
    ExportFormat(
        "torch",
        ".pt2",
        packages=(),
        precisions=("fp32", "bf16", "fp16"),
        write=write_torch,
        open=TorchSession,
    ),
    ExportFormat(
        "tensorrt",
        ".engine",
        packages=("onnx", "onnxscript", "tensorrt"),
        precisions=("fp32", "fp16"),
        write=write_tensorrt,
        open=TensorRTSession,
        device="cuda",
    ),
]


def export_format(name: str) -> ExportFormat:
    """The format of a name.

    Raises:
        ConfigError: there is no such format.
    """
    for each in FORMATS:
        if each.name == name:
            return each
    raise ConfigError(f"expected a --format of {', '.join(each.name for each in FORMATS)}, found {name!r}")


def format_of_suffix(suffix: str) -> ExportFormat | None:
    """The format whose files end in `suffix`, upper or lower case; None: no format's files do."""
    return next((each for each in FORMATS if each.suffix == suffix.lower()), None)
