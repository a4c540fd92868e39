"""What runs exported files: one class a format, each from a path to a function of named tensors.

Tensors come and go on the CPU. The packages are extras, imported when a file of theirs is opened.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.inference.metadata import METADATA_KEY, ExportMetadata


class OnnxSession:
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, device: str) -> None:
        """Load; on as many threads as PyTorch uses."""
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError(f"running {path}", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong comes as an exception
        providers, there = ["CPUExecutionProvider"], onnxruntime.get_available_providers()
        if _is_cuda(device, path, auto="CUDAExecutionProvider" in there):
            if "CUDAExecutionProvider" not in there:
                raise ConfigError(
                    f"--device cuda: the ONNX Runtime that is installed has no CUDA to run {path}; say --device cpu, "
                    'or install it: pip install "onnxruntime-gpu"'
                )
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as problem:  # its errors have no common base
            raise _unreadable(path, "ONNX", problem) from problem
        self.metadata: str | None = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.names = [each.name for each in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run."""
        found = self.session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(self.names, found, strict=True)}


class OpenVinoSession:
    """An OpenVINO file (.xml, with its .bin beside it) on the CPU."""

    def __init__(self, path: Path, device: str) -> None:
        """Load; on as many threads as PyTorch uses."""
        try:
            import openvino
        except ImportError:
            raise MissingExtraError(f"running {path}", "openvino") from None
        if _is_cuda(device, path, auto=False):
            raise ConfigError(f"--device {device}: {path} runs on the CPU; say --device cpu")
        if not path.with_suffix(".bin").is_file():
            raise WeightsError(f"expected the weights of {path} beside it, found no {path.with_suffix('.bin').name}")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            self.metadata: str | None = (
                model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None
            )
            settings = {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                # without this, a processor that has bf16 would use it for every model
                "INFERENCE_PRECISION_HINT": "bf16"
                if ExportMetadata.from_json(self.metadata, path).precision == "bf16"
                else "f32",
            }
            self.compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as problem:
            raise _unreadable(path, "OpenVINO", problem) from problem

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run."""
        found = self.compiled({name: tensor.numpy() for name, tensor in inputs.items()})
        return {port.get_any_name(): torch.from_numpy(array.copy()) for port, array in found.to_dict().items()}


class TorchSession:
    """A program of torch.export (.pt2) in PyTorch. The file is code that is run: open only what you trust."""

    def __init__(self, path: Path, device: str) -> None:
        """Load, and move to the device."""
        extra = {METADATA_KEY: ""}
        cuda = _is_cuda(device, path, auto=torch.cuda.is_available())
        self.device = torch.device("cpu" if not cuda else "cuda" if device == "auto" else device)
        try:
            program = torch.export.load(str(path), extra_files=extra)
            if cuda:
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, self.device)
            self.run = program.module()
        except Exception as problem:  # zip, JSON, pickle and version errors alike
            raise _unreadable(path, "torch.export", problem) from problem
        self.metadata: str | None = extra[METADATA_KEY] or None

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run."""
        found = self.run(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return {name: tensor.cpu() for name, tensor in found.items()}


ENGINE_HEADER = struct.Struct("<I")
"""Before a TensorRT plan, which has no place for metadata, stands the length of the metadata, and the metadata."""


class TensorRTSession:
    """A TensorRT engine on an NVIDIA GPU. Written after the documentation of TensorRT 10, never run on a GPU."""

    def __init__(self, path: Path, device: str) -> None:
        """Load."""
        try:
            import tensorrt
        except ImportError:
            raise MissingExtraError(f"running {path}", "tensorrt") from None
        if not _is_cuda(device, path, auto=True):
            raise ConfigError(f"--device cpu: {path} runs on NVIDIA GPUs alone; say --device cuda")
        self.device = torch.device("cuda" if device == "auto" else device)
        content = path.read_bytes()
        length = ENGINE_HEADER.unpack_from(content)[0] if len(content) >= ENGINE_HEADER.size else len(content)
        start = ENGINE_HEADER.size + length
        if start >= len(content):
            raise WeightsError(f"expected an engine that detrkit export has written, found something else in {path}")
        self.metadata: str | None = content[ENGINE_HEADER.size : start].decode(errors="replace")
        engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(content[start:])
        if engine is None:
            raise WeightsError(
                f"TensorRT {tensorrt.__version__} cannot read {path}; an engine runs only on the GPU and version that "
                "it was built for, so export it again here"
            )
        self.engine, self.context = engine, engine.create_execution_context()
        self.names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        self.outputs = [n for n in self.names if engine.get_tensor_mode(n) == tensorrt.TensorIOMode.OUTPUT]
        trt = tensorrt
        self.types: dict[Any, torch.dtype] = {
            trt.float32: torch.float32, trt.float16: torch.float16, trt.int32: torch.int32, trt.int64: torch.int64,
            trt.bool: torch.bool, trt.uint8: torch.uint8,
        }  # fmt: skip

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run."""
        given = {name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()}
        for name, tensor in given.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise RuntimeError(f"the engine takes no {name} of shape {list(tensor.shape)}")
            self.context.set_tensor_address(name, tensor.data_ptr())
        found = {}
        for name in self.outputs:
            shape, kind = tuple(self.context.get_tensor_shape(name)), self.types[self.engine.get_tensor_dtype(name)]
            found[name] = torch.empty(shape, dtype=kind, device=self.device)
            self.context.set_tensor_address(name, found[name].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine could not run")
        stream.synchronize()
        return {name: tensor.cpu() for name, tensor in found.items()}


def _is_cuda(device: str, path: Path, *, auto: bool) -> bool:
    """Whether an NVIDIA GPU is asked for; `auto` says what the word auto means."""
    if device == "auto":
        return auto
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: {path} runs on cpu or cuda; say --device cpu")
    return kind == "cuda"


def _unreadable(path: Path, kind: str, problem: Exception) -> WeightsError:
    reason = " ".join(str(problem).split())[:200] or type(problem).__name__
    return WeightsError(f"expected a model of {kind} in {path}, which cannot be read ({reason}); export it again")
