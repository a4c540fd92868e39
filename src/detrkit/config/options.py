"""Settings from the keyword arguments of a Python function."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from detrkit.config.fields import Settings
from detrkit.config.suggestions import suggestion
from detrkit.errors import ConfigError

Config = TypeVar("Config", bound=Settings)


def config_from_options(config: type[Config], **options: Any) -> Config:
    """Make settings from keyword arguments.

    Args:
        config: dataclass of the settings.
        options: values by the names of the fields; absent fields take their defaults.

    Raises:
        ConfigError: there is no setting of that name (the message suggests the nearest), or a value does not fit.
    """
    known = [field.name for field in fields(config)]
    for name in options:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}{suggestion(name, known, dashes='')}")
    return config(**options)
