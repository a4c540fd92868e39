"""OpenVINO files (.xml, with the weights in a .bin beside it), made from ONNX; they run on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.exporting.formats.export_format import TracedGraph, unreadable, wants_cuda
from detrkit.exporting.formats.metadata import METADATA_KEY, ExportMetadata
from detrkit.exporting.formats.onnx import to_onnx
from detrkit.files import write_atomic


def write_openvino(graph: TracedGraph, path: Path) -> None:
    """Write an OpenVINO file and its weights; with precision fp16 the weights are float16."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        onnx_file.write_bytes(to_onnx(graph).SerializeToString())
        model = openvino.convert_model(onnx_file)
        model.set_rt_info(graph.metadata.to_json(), [METADATA_KEY])
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = Path(folder) / path.name
        openvino.save_model(model, saved, compress_to_fp16=graph.metadata.precision == "fp16")
        write_atomic(path.with_suffix(".bin"), saved.with_suffix(".bin").read_bytes())
        write_atomic(path, saved.read_bytes())


class OpenVinoSession:
    """An OpenVINO file on the CPU, on as many threads as PyTorch uses.

    Args:
        path: of the .xml file.
        device: cpu or auto.
    """

    def __init__(self, path: Path, device: str) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingExtraError(f"running {path}", "openvino") from None
        if wants_cuda(device, path, auto=False):
            raise ConfigError(f"--device {device}: {path} runs on the CPU; use --device cpu")
        if not path.with_suffix(".bin").is_file():
            raise WeightsError(f"expected the weights of {path} beside it, found no {path.with_suffix('.bin').name}")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            has_metadata = model.has_rt_info([METADATA_KEY])
            self.metadata: str | None = model.get_rt_info([METADATA_KEY]).astype(str) if has_metadata else None
            precision = ExportMetadata.from_json(self.metadata, path).precision
            settings = {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                # without this, a processor that has bf16 would use it for every model
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            }
            self.compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as problem:
            raise unreadable(path, "OpenVINO", problem) from problem

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, by name, from the inputs, by name."""
        outputs = self.compiled({name: tensor.numpy() for name, tensor in inputs.items()})
        return {port.get_any_name(): torch.from_numpy(array.copy()) for port, array in outputs.to_dict().items()}
