"""`detrkit convert`: weights of any format in, Hugging Face's or the original's out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detrkit.errors import ConfigError
from detrkit.exporting.formats.table import format_of_suffix
from detrkit.files import atomic_path
from detrkit.models.checkpoints import Weights, load_weights, write_huggingface
from detrkit.models.checkpoints.architecture import with_prefix
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.ops.console import make_console

if TYPE_CHECKING:
    from detrkit.config.commands import ConvertConfig


def convert(config: ConvertConfig) -> None:
    """Write weights as a Hugging Face folder, or as a `.pth` of the original's format where the output ends in .pth.

    Raises:
        ConfigError: the output has the name of another kind of file.
        WeightsError: the weights cannot be read, or the format to write has no place for something in them.
    """
    check_output(config)
    weights = load_weights(config.weights, dilation=config.dilation, nheads=config.nheads)
    output = Path(config.output)
    if output.suffix.lower() == ".pth":
        write_original(weights, output)
    else:
        write_huggingface(weights, output)
    console = make_console()
    for note in weights.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {len(weights.state_dict)} tensors, {len(weights.categories)} classes to {output}")


def check_output(config: ConvertConfig) -> None:
    """Refuse an output whose name promises something else than what would be written.

    Raises:
        ConfigError: it does.
    """
    output = Path(config.output)
    ending = output.suffix.lower()
    expected = (
        f"expected a folder (Hugging Face format) or a file ending in .pth (the original's) to write to, found {output}"
    )
    if ending == ".pth":
        if output.is_dir():
            raise ConfigError(f"{expected}, which is a folder; name a file in it, or another place")
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


def write_original(weights: Weights, path: str | Path) -> None:
    """Write `{"model": state dict}` under the original's keys, with its prefix where there are masks.

    The further entry "detrkit", which the original ignores, keeps what a state dict does not tell: class names,
    dilation, heads.
    """
    header = {
        "version": VERSION,
        "model_args": weights.model_args,
        "categories": weights.categories.to_plain(),
        "preprocessing": weights.preprocessing.to_plain(),
    }
    with atomic_path(path) as aside:
        torch.save({"model": with_prefix(weights.state_dict), "detrkit": header}, aside)
