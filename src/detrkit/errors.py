"""All errors that detrkit raises for its users, and the class of its warnings.

    DetrkitWarning               a warning whose message names settings
    DetrkitError                 errors that the user can fix; the command line prints one sentence and exits with 2
    ├── ConfigError              a setting or flag that does not exist, or cannot be combined with another
    ├── DataError                a data set, annotation file or image that cannot be read or used
    │   └── ShardError           a packed data set that cannot be read, or that is not what was written
    ├── WeightsError             a checkpoint that cannot be found, read, trusted or fitted to the model
    ├── MissingExtraError        a feature whose optional package is not installed
    └── TrainingError            a training run that cannot continue
        ├── NonFiniteLossError   the loss or its gradient became NaN or infinite
        └── OutOfMemoryError     the batch does not fit into the memory of the device

Each message says what was expected, what was found and where, and what to do. Any other exception is a bug of detrkit.

Messages are written with settings as flags (`--image_size`). The command line prints them so, by `message`; in Python,
`str` gives the names alone (`image_size`).
"""

import errno
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

_COMMAND = re.compile(
    r"(`[^`]*`|\b(?:hf download|"
    r"detrkit (?:train|eval|compare|predict|convert_data|convert|check|pack|export|bench|merge|models|serve|detr))\b"
    r"(?:[^,;:]|:(?! ))*)"
)
_FLAG = re.compile(r"(?<![\w./-])--(?=[a-z])")


def edit_outside_commands(message: str, edit: Callable[[str], str]) -> str:
    """Edit a message, but not the commands in it (`detrkit train ...`, which end at a comma, semicolon or colon)."""
    parts = _COMMAND.split(message)
    parts[::2] = [edit(part) for part in parts[::2]]
    return "".join(parts)


class _NamesSettings:
    """Part of an error or warning whose message names settings."""

    args: tuple[Any, ...]

    @property
    def message(self) -> str:
        """The message with settings as flags: `use a smaller --image_size`."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        """The message with settings as names: `use a smaller image_size`."""
        return edit_outside_commands(self.message, lambda part: _FLAG.sub("", part))


class DetrkitWarning(_NamesSettings, UserWarning):
    """A warning of detrkit whose message names settings."""


class DetrkitError(_NamesSettings, Exception):
    """Base class of all errors that the user can fix."""


class ConfigError(DetrkitError):
    """A setting does not exist or does not fit the others."""


class DataError(DetrkitError):
    """A data set, annotation file or image cannot be read or used."""


class ShardError(DataError):
    """A packed data set cannot be read, or is not what was written.

    A `DataLoader` hands on an error of a worker as an error of the same class, whose message is the text of the
    traceback; the sentence is its end.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition("detrkit.errors.ShardError: ")[2].strip())


class WeightsError(DetrkitError):
    """A checkpoint cannot be found, read, trusted or fitted to the model."""


class MissingExtraError(DetrkitError):
    """A feature needs an optional package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional package; install it with: pip install "detrkit[{extra}]"')


class TrainingError(DetrkitError):
    """A training run cannot continue."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """The batch does not fit into the memory of the device."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch means that the memory of the machine or its accelerator ran out."""
    import torch  # a heavy import, already loaded by the callers

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "unable to allocate", "out of memory")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain_system_error(error: Exception) -> str | None:
    """One sentence for an error of the machine or the installation that the user can fix; None for any other error."""
    if isinstance(error, OSError):
        if error.errno in DISK_FULL:
            return f"no space is left on the disk of {error.filename or 'the output folder'}; free some and start again"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            return (
                f"expected a path that may be read and written, found no permission for {error.filename}; change its "
                "permissions or choose another path"
            )
        if error.errno in (errno.EEXIST, errno.ENOTDIR) and error.filename:
            return (
                f"expected a folder, or nothing yet, at {error.filename}, found a file there or above it; choose "
                "another path"
            )
    if str(error).startswith("operator torchvision::"):  # the first import of torchvision fails so
        found = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
        return (
            f"expected torchvision as built for the installed torch, found {found}, of different builds; install both "
            "from one index, such as pip install --force-reinstall torch torchvision --index-url "
            "https://download.pytorch.org/whl/cpu"
        )
    return None
