"""Tables of all settings of a training run in Markdown, made from their fields, for the docs."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from docstring_parser import parse
from docstring_parser.attrdoc import add_attribute_docstrings

from detrkit.config.fields import StoredAs, describe_range, describe_type, hints_of, markers_of, with_names
from detrkit.config.train import CONFIG_GROUPS


def settings_tables() -> str:
    """Make a Markdown table for each group of settings of a training run.

    The mark ● follows settings that `--weights` restore, ○ those of training-only parts.
    """
    parts = []
    for group in CONFIG_GROUPS:
        title = (inspect.getdoc(group) or "").rstrip(".")
        parts.append(f"## {title}\n\n| setting | default | values | meaning |\n|---|---|---|---|\n")
        parts += [*(_row(group, name) for name in hints_of(group)), "\n"]
    return "".join(parts)


def _row(group: type, name: str) -> str:
    hint = hints_of(group)[name]
    default = next(field.default for field in fields(group) if field.name == name)
    cells = (f"`{name}`{_mark(hint)}", _default(default), _values(hint), with_names(help_of(group)[name], hint))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def help_of(group: type) -> dict[str, str]:
    """The help of each field of a dataclass, base classes included: the text under the field, on one line."""
    texts: dict[str, str] = {}
    for each in reversed(group.__mro__[:-1]):
        documented = parse("")
        add_attribute_docstrings(each, documented)
        texts |= {row.arg_name: " ".join((row.description or "").split()) for row in documented.params}
    return texts


def _mark(hint: Any) -> str:
    how = [marker for marker in markers_of(hint) if isinstance(marker, StoredAs)]
    if not how:
        return ""
    return " ○" if how[0] is StoredAs.TRAINING_ONLY else " ●"


def _default(value: object) -> str:
    if value == "":
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(hint: Any) -> str:
    """Type of a setting, and the range if there is one."""
    words = [describe_type(hint), describe_range(hint)]
    return ", ".join(filter(None, words))
