"""Model repositories of NVIDIA Triton Inference Server: a folder per model, with its settings and numbered versions.

    REPOSITORY/NAME/config.pbtxt      inputs, outputs and batching, in the text form of Triton's protobuf ModelConfig
    REPOSITORY/NAME/1/model.onnx      a graph with preprocessing and postprocessing built in
    REPOSITORY/NAME/parity.json       how far it is from the model

OpenVINO Model Server reads the same folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from detrkit.config.commands import ExportConfig
from detrkit.errors import ConfigError
from detrkit.exporting.formats.metadata import METADATA_KEY, ExportMetadata
from detrkit.files import BEST, LAST, expect_new_folder

MODEL_FILE, CONFIG_FILE, REPORT_FILE = "1/model.onnx", "config.pbtxt", "parity.json"
"""Files of the folder of a model; 1 is the version."""
MAX_BATCH_SIZE = 8
"""Most images per forward pass that the server gathers."""
QUEUE_DELAY = 2000
"""Longest time in microseconds for which it waits for further images."""


def model_folder(config: ExportConfig) -> Path:
    """The folder to write, named after the weights, in the repository of the settings.

    Raises:
        ConfigError: settings do not fit each other, the repository is none, or it has that model already.
    """
    repository = Path(config.triton)
    if config.format != "onnx":
        raise ConfigError(f"expected --format onnx for --triton, found {config.format}; the server runs ONNX files")
    if config.output:
        raise ConfigError(
            f"expected --triton or --output, found both; --triton {repository} names the files by itself, so leave out "
            f"--output {config.output}"
        )
    if config.fixed_batch:
        raise ConfigError(
            f"expected any number of images per batch for --triton, which batches requests, found --fixed_batch "
            f"{config.fixed_batch}; leave it out"
        )
    if repository.is_file():
        raise ConfigError(f"expected a folder of models at --triton {repository}, found a file; name a folder")
    if (repository / CONFIG_FILE).exists():
        raise ConfigError(
            f"expected a folder of models at --triton {repository}, found the folder of one model, with {CONFIG_FILE}; "
            f"name the folder above it, --triton {repository.resolve().parent}"
        )
    folder = repository / model_name(config.weights)
    expect_new_folder(folder)
    return folder


def model_name(weights: str) -> str:
    """A name after a run, file or published model, of letters, digits, `.`, `_` and `-`."""
    path = Path(weights)
    if path.exists():
        path = path.resolve()
    if path.name in (BEST, LAST):
        path = path.parent
    name = path.stem if path.suffix and not path.is_dir() else path.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "detector"


def config_text(name: str, metadata: ExportMetadata) -> str:
    """The content of config.pbtxt: images of one shape are batched; Triton sends those of other shapes apart.

    Args:
        name: of the model, which is that of its folder.
        metadata: of the exported graph, with built-in steps.
    """
    count = metadata.num_queries
    outputs = [("boxes", "TYPE_FP32", f"{count}, 4"), ("scores", "TYPE_FP32", count), ("labels", "TYPE_INT64", count)]
    tensors = [("input", "images", "TYPE_UINT8", "3, -1, -1"), *(("output", *each) for each in outputs)]
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        *(
            f"{kind} {{ name: {_quoted(tensor)} data_type: {dtype} dims: [{dims}] }}"
            for kind, tensor, dtype, dims in tensors
        ),
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}",
        f"parameters {{ key: {_quoted(METADATA_KEY)} value {{ string_value: {_quoted(metadata.to_json())} }} }}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text form."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
