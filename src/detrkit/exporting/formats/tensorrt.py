"""TensorRT engines (.engine), made from ONNX for the NVIDIA GPU at hand; they run on GPUs of that kind alone.

Written after the documentation of TensorRT 10; neither writing nor running has been tried on a GPU yet.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.data.transforms.resize_crop import eval_transform
from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.exporting.formats.export_format import TracedGraph, wants_cuda
from detrkit.exporting.formats.onnx import to_onnx
from detrkit.files import write_atomic

ENGINE_HEADER = struct.Struct("<I")
"""An engine has no place for metadata, so a file begins with their length in bytes and the metadata, as JSON."""


def write_tensorrt(graph: TracedGraph, path: Path) -> None:
    """Write a TensorRT engine for the GPU at hand. Its types are those that the graph was traced with.

    Raises:
        ConfigError: TensorRT cannot make an engine of the graph.
    """
    import tensorrt

    metadata = graph.metadata
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(to_onnx(replace(graph, for_tensorrt=True)).SerializeToString()):
        raise ConfigError(f"TensorRT {tensorrt.__version__} refuses the graph: {parser.get_error(0)}")
    # the smallest, the usual and the largest input of a graph that takes any
    side = metadata.preprocessing.image_size
    longest = eval_transform(side).longest
    sizes = [(side // 2, side // 2), (side, side * 4 // 3), (longest, longest)]
    batches = (metadata.batch_size,) * 3 if metadata.batch_size else (1, 1, 8)
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for k in range(network.num_inputs):
        tensor = network.get_input(k)
        shapes = []
        for batch, size in zip(batches, sizes, strict=True):
            shape = [batch, *size] if tensor.name == "padding_mask" else [batch, 3, *size]
            # -1 is a side that may vary; the others keep the size that was traced
            shapes.append([free if fixed == -1 else fixed for free, fixed in zip(shape, tensor.shape, strict=True)])
        profile.set_shape(tensor.name, *shapes)
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise ConfigError(f"TensorRT {tensorrt.__version__} could not build an engine; its log says why")
    text = metadata.to_json().encode()
    write_atomic(path, ENGINE_HEADER.pack(len(text)) + text + bytes(engine))


class TensorRTSession:
    """A TensorRT engine on an NVIDIA GPU.

    Args:
        path: of the file.
        device: cuda, cuda:1 or auto.
    """

    def __init__(self, path: Path, device: str) -> None:
        try:
            import tensorrt
        except ImportError:
            raise MissingExtraError(f"running {path}", "tensorrt") from None
        if not wants_cuda(device, path, auto=True):
            raise ConfigError(f"--device cpu: {path} runs on NVIDIA GPUs alone; use --device cuda")
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
        """Compute the outputs, by name, from the inputs, by name."""
        on_gpu = {name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()}
        for name, tensor in on_gpu.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise RuntimeError(f"the engine takes no {name} of shape {list(tensor.shape)}")
            self.context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name in self.outputs:
            shape, kind = tuple(self.context.get_tensor_shape(name)), self.types[self.engine.get_tensor_dtype(name)]
            outputs[name] = torch.empty(shape, dtype=kind, device=self.device)
            self.context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine could not run")
        stream.synchronize()
        return {name: tensor.cpu() for name, tensor in outputs.items()}
