"""Settings of a command from the keyword arguments of a Python function."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from detrkit.config.fields import Settings
from detrkit.errors import ConfigError

Config = TypeVar("Config", bound=Settings)


def config_from_options(config: type[Config], **options: Any) -> Config:
    """Make a command's settings of keyword arguments.

    Args:
        config: the dataclass of the command's settings.
        options: values by the names of its fields; what is absent takes its default.

    Raises:
        ConfigError: there is no option of a name, or a value does not fit it.
    """
    known = [field.name for field in fields(config)]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"there is no option {name!r}; {hint}")
    return config(**options)
