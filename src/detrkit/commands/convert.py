"""`detrkit convert`: convert weights to the format of Hugging Face or of the reference DETR (facebookresearch/detr)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.errors import ConfigError
from detrkit.exporting.formats.table import format_of_suffix
from detrkit.files import save_tensors
from detrkit.models.checkpoints import Weights, load_weights, write_huggingface
from detrkit.models.checkpoints.architecture import with_prefix
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.ops.console import make_console

if TYPE_CHECKING:
    from detrkit.config.commands import ConvertConfig


def convert(config: ConvertConfig) -> None:
    """Write weights as a file of the reference DETR where the output ends in .pth, else as a Hugging Face folder.

    Raises:
        ConfigError: the output is named like a file of another format.
        WeightsError: the weights cannot be read, or the output format cannot represent the model.
    """
    check_output(config)
    weights = load_weights(config.weights, dilation=config.dilation, nheads=config.nheads)
    output = Path(config.output)
    if weights.of_transformers:
        _write_transformers(weights, output)
    elif output.suffix.lower() == ".pth":
        write_reference_checkpoint(weights, output)
    else:
        write_huggingface(weights, output)
    console = make_console()
    for note in weights.messages:
        console.print(f"note: {note}")
    console.print(f"wrote {len(weights.state_dict)} tensors, {len(weights.categories)} classes to {output}")


def _write_transformers(weights: Weights, output: Path) -> None:
    """Write a model of transformers, which has no other format.

    Raises:
        ConfigError: the output is a file of the reference DETR.
        MissingExtraError: transformers is not installed.
    """
    from detrkit.models.hf.to_folder import write_transformers

    if output.suffix.lower() == ".pth":
        raise ConfigError(
            f"expected a folder to write {weights.source} to, a model of transformers that the reference DETR does not "
            f"have, found {output}; leave the ending .pth out"
        )
    write_transformers(weights, output)


def check_output(config: ConvertConfig) -> None:
    """Refuse an output path that is named like a file of another format.

    Raises:
        ConfigError: the path ends in .pth and is a folder, has another ending, or is a file.
    """
    output = Path(config.output)
    ending = output.suffix.lower()
    expected = (
        "expected a folder (Hugging Face format) or a file ending in .pth (format of the reference DETR) to write to, "
        f"found {output}"
    )
    if ending == ".pth":
        if output.is_dir():
            raise ConfigError(f"{expected}, which is a folder; name a file in it, or another path")
        return
    if output.is_dir():
        return
    file_format = format_of_suffix(ending)
    if file_format:
        raise ConfigError(
            f"{expected}; {ending} files are written by detrkit export --weights {shlex.quote(config.weights)} "
            f"--format {file_format.name} --output {shlex.quote(config.output)}"
        )
    if output.is_file() or ending[1:2].isalpha():
        raise ConfigError(
            f"{expected}; end it in .pth, leave the ending out"
            + (
                ""
                if output.is_file()
                else f", or make a folder of that name first (mkdir {shlex.quote(config.output)})"
            )
        )


def write_reference_checkpoint(weights: Weights, path: str | Path) -> None:
    """Write `{"model": state dict, "detrkit": metadata}` under the keys of the reference DETR.

    The reference ignores the entry "detrkit", which holds class names, preprocessing and the settings that shapes do
    not show, such as dilation and attention heads.
    """
    header = {
        "version": VERSION,
        "model_args": weights.model_args,
        "categories": weights.categories.to_plain(),
        "preprocessing": weights.preprocessing.to_plain(),
    }
    save_tensors(path, {"model": with_prefix(weights.state_dict), "detrkit": header})
