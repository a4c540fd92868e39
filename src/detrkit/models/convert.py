"""`detrkit convert`: weights of any format in, Hugging Face's or the original's out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detrkit.console import make_console
from detrkit.errors import WeightsError
from detrkit.files import atomic_path
from detrkit.models.weights import Weights, load_weights, write_huggingface
from detrkit.models.weights.architecture import with_prefix
from detrkit.models.weights.formats import VERSION

if TYPE_CHECKING:
    from detrkit.verbs import ConvertConfig


def convert(config: ConvertConfig) -> None:
    """Write weights as a Hugging Face folder, or as a `.pth` of the original's format where the output ends in .pth.

    Raises:
        WeightsError: the weights cannot be read, or the format to write has no place for something in them.
    """
    weights = load_weights(config.weights, dilation=config.dilation, nheads=config.nheads)
    output = Path(config.output)
    if output.suffix == ".pth":
        write_original(weights, output)
    elif output.is_file():
        raise WeightsError(f"expected a folder or a file ending in .pth to write to, found the file {output}")
    else:
        write_huggingface(weights, output)
    console = make_console()
    for note in weights.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {len(weights.state_dict)} tensors, {len(weights.categories)} classes to {output}")


def write_original(weights: Weights, path: str | Path) -> None:
    """Write `{"model": state dict}` under the original's keys, with its prefix where there are masks.

    The further entry "detrkit", which the original ignores, keeps what a state dict does not tell: class names,
    dilation, heads.
    """
    header = {
        "version": VERSION,
        "model_args": weights.model_args,
        "categories": weights.categories.to_plain(),
        "image_size": weights.image_size,
        "value_range": weights.value_range and weights.value_range.to_plain(),
    }
    with atomic_path(path) as aside:
        torch.save({"model": with_prefix(weights.state_dict), "detrkit": header}, aside)
