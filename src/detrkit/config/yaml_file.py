"""Read YAML files of settings, with errors that name the line, and write them so that they read back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detrkit.config.suggestions import suggestion
from detrkit.errors import ConfigError


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which some readers of YAML take for a number, such as `1e3`."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _quoted)


def dump_settings(values: dict[str, Any]) -> str:
    """Format settings as the text of a YAML file, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def read_settings(path: str | Path, known: list[str]) -> dict[str, Any]:
    """Read the settings of a YAML file by name, without checking their values.

    Raises:
        ConfigError: there is no such file, its content is something else, or a key is none of `known`; the message
            suggests the nearest name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a file of settings at {path}, found none") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} of {path}" if mark else path
        raise ConfigError(f"expected settings, one `name: value` per line, found something else in {where}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected settings, one `name: value` per line, found something else in {path}")
    for key in values:
        if key not in known:
            raise ConfigError(f"there is no setting {key!r}, found in {path}{suggestion(str(key), known, dashes='')}")
    return values
