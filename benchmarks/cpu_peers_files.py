"""The files that `cpu_peers.py` compares: every model in ONNX and OpenVINO, in fp32 and int8, for one square image.

Models of detrkit are written by its own export. Models of transformers go through `torch.onnx.export`, those of
ultralytics through its own export. Both are quantized by the plain static quantization of each runtime: ONNX Runtime's
`quantize_static` (QDQ, per channel, convolutions and matrix products) and NNCF's `quantize`.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import detrkit
from detrkit import Categories, Detector, build_model
from detrkit.config.commands import ExportConfig
from detrkit.config.train import TrainConfig
from detrkit.data.decode.images import read_image
from detrkit.data.records import Split
from detrkit.exporting.formats.table import export_format
from detrkit.exporting.int8 import calibration_reader
from detrkit.exporting.writing import make_metadata, trace_model
from peers import PEERS, Facts

RUNTIMES = {"onnx": ".onnx", "openvino": ".xml"}
PRECISIONS = ("fp32", "int8")
OURS = ("detrkit_n", "detrkit_s", "rtdetr_r18")
YOLO = ("yolo11n", "yolo26n")
"""Models of ultralytics."""
TRANSFORMERS = {"dfine_n": "dfine_n", "rtdetr_r18_transformers": "rtdetr"}
"""Model -> its name in `peers.py`."""
COCO_CLASSES = 80
GRAY = 114
"""Value of the pixels beside an image that is not square, as in ultralytics."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A model for square images of one size."""

    name: str
    size: int
    """Height and width in pixels."""
    weights: str = ""
    """Trained ones; empty: random."""

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.name}, trained" if self.weights else self.name

    def file(self, folder: Path, runtime: str, precision: str) -> Path:
        """Path of one of its files."""
        trained = "-trained" if self.weights else ""
        return folder / f"{self.name}{trained}-{self.size}-{precision}{RUNTIMES[runtime]}"


def write_files(model: Model, folder: Path, data: str, samples: Sequence[Pixels], peer_python: str) -> None:
    """Write the four files of a model, unless they exist.

    Args:
        model: the model.
        folder: for the files.
        data: data set that the export of trained weights measures AP on.
        samples: images to calibrate int8 with, uint8 [1, 3, size, size].
        peer_python: Python with ultralytics.
    """
    files = {(r, p): model.file(folder, r, p) for r in RUNTIMES for p in PRECISIONS}
    if all(path.exists() for path in files.values()):
        return
    print(f"writing the files of {model.label}, {model.size} pixels", flush=True)
    if model.name in OURS and model.weights:
        options = {"data": data, "image_size": model.size, "size": f"{model.size}x{model.size}", "fixed_batch": 1}
        for (runtime, precision), path in files.items():
            detrkit.export(
                model.weights, runtime, path, precision=precision, calibration=len(samples), num_workers=0, **options
            )
    elif model.name in OURS:
        _write_random(model, files, samples)
    else:
        _write_peer(model, files, samples, peer_python)


def _write_random(model: Model, files: dict[tuple[str, str], Path], samples: Sequence[Pixels]) -> None:
    """A model of detrkit with random weights; nothing is lost by int8 that could be measured."""
    torch.manual_seed(0)
    settings = TrainConfig.from_recipe("classic", model=model.name).model_config(num_classes=COCO_CLASSES)
    detector = Detector(build_model(**asdict(settings)), Categories.unnamed(COCO_CLASSES), model.size)
    config = ExportConfig(weights=model.name, size=f"{model.size}x{model.size}", fixed_batch=1)
    no_padding = torch.zeros(1, model.size, model.size, dtype=torch.bool)
    calibration = [{"images": torch.from_numpy(each), "padding_mask": no_padding} for each in samples]
    graph = trace_model(detector, make_metadata(config, detector), config, calibration)
    for (runtime, precision), path in files.items():
        export_format(runtime).write(replace(graph, metadata=replace(graph.metadata, precision=precision)), path)


def _write_peer(model: Model, files: dict[tuple[str, str], Path], samples: Sequence[Pixels], peer_python: str) -> None:
    """A model of another library: its ONNX file, then the three that are made from it."""
    source = files["onnx", "fp32"]
    if model.name in YOLO:
        script = Path(__file__).with_name("cpu_peers_yolo.py")
        command = [peer_python, str(script), model.weights or model.name, str(model.size), str(source)]
        if model.weights:  # ultralytics writes beside the weights
            shutil.copy(model.weights, source.with_suffix(".pt"))
            command[2] = str(source.with_suffix(".pt"))
        subprocess.run(command, check=True)
    else:
        _write_transformers(model, source)
    inputs = [each.astype(np.float32) / 255 for each in samples]
    quantize_onnx(source, files["onnx", "int8"], inputs)
    _write_openvino(model, source, files, inputs)


def _write_transformers(model: Model, path: Path) -> None:
    """A model of transformers, with random weights."""
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # checks that ONNX has no operators for
    tokens = [(model.size // stride) ** 2 for stride in (8, 16, 32)]
    torch.manual_seed(0)
    facts = Facts(COCO_CLASSES, 150, model.size, sum(tokens), sum(tokens[1:]))  # 150: twice as many are queries
    graph = LogitsAndBoxes(PEERS[TRANSFORMERS[model.name]].build(facts).model)
    torch.onnx.export(
        graph.eval(),
        (torch.rand(1, 3, model.size, model.size),),
        path,
        input_names=["images"],
        output_names=["logits", "boxes"],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


class LogitsAndBoxes(torch.nn.Module):
    """A detection transformer of transformers with tensors as outputs.

    Args:
        model: the detector.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] in 0..1 to logits [B, Q, C] and boxes [B, Q, 4]."""
        out = self.model(pixel_values=images)
        return out.logits, out.pred_boxes


def quantize_onnx(source: Path, target: Path, inputs: Sequence[NDArray[np.float32]]) -> None:
    """Quantize by ONNX Runtime's own static quantization."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    reader = calibration_reader({"images": torch.from_numpy(each)} for each in inputs)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(target), reader, per_channel=True, op_types_to_quantize=["Conv", "MatMul"]
        )


def _write_openvino(
    model: Model, source: Path, files: dict[tuple[str, str], Path], inputs: Sequence[NDArray[np.float32]]
) -> None:
    """OpenVINO's fp32 and, by NNCF, its int8 file."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    graph = openvino.convert_model(source)
    openvino.save_model(graph, files["openvino", "fp32"], compress_to_fp16=False)
    if model.name in YOLO:  # what ultralytics itself leaves out: sigmoids, and the last steps from logits to boxes
        scope = nncf.IgnoredScope(types=["Sigmoid"], patterns=[r"/model\.23/(dfl/.*|[A-Z]\w*)"], validate=False)
        options = {"ignored_scope": scope}
    else:
        options = {"model_type": nncf.ModelType.TRANSFORMER}
    dataset, mixed = nncf.Dataset(list(inputs)), nncf.QuantizationPreset.MIXED
    quantized = nncf.quantize(graph, dataset, preset=mixed, subset_size=len(inputs), **options)
    openvino.save_model(quantized, files["openvino", "int8"], compress_to_fp16=False)


def calibration_images(split: Split, size: int, count: int) -> list[Pixels]:
    """Images spread over a split, uint8 [1, 3, size, size]."""
    step = max(1, len(split.images) // count)
    chosen = split.images[::step][:count]
    return [letterbox(read_image(image.path, split.value_range).numpy(), size)[0] for image in chosen]


def letterbox(pixels: Pixels, size: int) -> tuple[Pixels, float, tuple[int, int]]:
    """Fit an image [3, H, W] into a gray square: [1, 3, size, size], the scale, and the left and upper margin."""
    import cv2

    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    inner = round(width * scale), round(height * scale)
    resized = cv2.resize(pixels.transpose(1, 2, 0), inner, interpolation=cv2.INTER_LINEAR)
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    canvas = np.full((size, size, 3), GRAY, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]), scale, (left, top)
