"""The settings of `detrkit pack`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt

from detrkit.config.commands import QuietChoice
from detrkit.config.data import DataChoice


@dataclass(frozen=True, kw_only=True)
class PackConfig(QuietChoice, DataChoice):
    """Pack a data set into tar files of images and annotations with an index: fewer files to copy and to open, which
    training, evaluation and prediction read from a folder or an address. Nothing is overwritten."""

    data: str = field()  # required, unlike that of the base class
    """Folder or file of the data set."""
    output: str
    """Folder to write; it must be new or empty."""
    shard_mb: Annotated[float, Gt(0)] = 256.0
    """Size of a tar file in megabytes (10^6 bytes) at which the next image begins another one."""
