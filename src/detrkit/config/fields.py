"""Base class of all settings, and the markers that say which values a field takes.

A setting has one owner: a field of a dataclass, with its type, default, range, choices and help. The range stands in
the annotation (`PositiveInt`, `NonNegativeFloat`, `Fraction`), the choices are its `Literal` or the names of a table
(`NamesOf`), the help is the text under the field. Flags, YAML, checks and the table of settings in the docs are made
from it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from importlib import import_module
from itertools import chain
from math import inf
from numbers import Integral, Real
from operator import attrgetter
from os import PathLike, fspath
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

from detrkit.errors import ConfigError

PositiveInt = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
NonNegativeInt = Annotated[int, Ge(0)]
"""A whole number of at least 0."""
NonNegativeFloat = Annotated[float, Ge(0)]
"""A number of at least 0."""
Fraction = Annotated[float, Interval(ge=0, le=1)]
"""A number in 0..1: a fraction or a probability."""

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
"""Types of settings, as messages name them."""


class StoredAs(Enum):
    """How weights store a setting of the model, which `--weights` then restores; a marker of the setting's field."""

    SHAPE = "part of the architecture; the keys and shapes of the weights depend on it"
    ARCHITECTURE = "part of the architecture; the outputs depend on it, keys and shapes do not"
    SETTING = "restored with the weights, and not compared when they are fitted to a model"
    TRAINING_ONLY = "used in training only; restored if the weights state it"


@dataclass(frozen=True)
class NamesOf:
    """A marker of text fields: the values are the names in a table, which is imported when a value is checked."""

    table: str
    """`module:NAME` of the table: a mapping by name, or rows that have a `name` or `names`."""
    others: tuple[str, ...] = ()
    """Further values, and names that need no import."""
    prefix: str = ""
    """Texts that begin with this are values, too; empty: none."""

    @property
    def in_help(self) -> bool:
        """Whether help lists the names: it imports only tables of `config`, which are light."""
        return self.table.startswith("detrkit.config.")

    def names(self) -> list[str]:
        """All values."""
        table = import_object(self.table)
        names = list(table if isinstance(table, Mapping) else chain.from_iterable(map(_names_of_row, table)))
        others = [other for other in self.others if other not in names]
        return [*others, *names, *([f"{self.prefix}NAME"] if self.prefix else [])]

    def check(self, setting: str, value: str) -> None:
        """Refuse a text that is no value.

        Raises:
            ConfigError: it is none; the message suggests the nearest.
        """
        if value not in self.others and not (self.prefix and value.startswith(self.prefix)):
            check_named(setting, value, self.names())


@dataclass(frozen=True)
class ParsedBy:
    """A marker of text fields: a function parses the text, and raises ConfigError for a text that is no value."""

    function: str
    """`module:NAME` of the function, which is imported when a value is checked."""
    default: str
    """Text that needs no check."""

    def check(self, setting: str, value: str) -> None:
        """Refuse a text that is no value; `setting` is named by the function.

        Raises:
            ConfigError: the function refuses the text.
        """
        if value != self.default:
            import_object(self.function)(value)


def with_names(text: str, hint: Any) -> str:
    """Complete a help text by the names of its `NamesOf` table, unless the text has them all."""
    for marker in markers_of(hint):
        if isinstance(marker, NamesOf) and marker.in_help:
            names = [name for name in marker.names() if name]
            if not all(name in text for name in names):
                text += f" Names: {', '.join(names)}."
    return text


def import_object(path: str) -> Any:
    """Import an object by the path `module:NAME` or `module:CLASS.NAME`."""
    module, _, name = path.partition(":")
    return attrgetter(name)(import_module(module))


def _names_of_row(row: Any) -> tuple[str, ...]:
    return row.names if hasattr(row, "names") else (row.name,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class of all settings: expand `~` in paths, and check each value by the annotation of its field.

    Raises:
        ConfigError: a value has another type than its field, is out of range or none of the choices.
    """

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, PathLike):
                value = fspath(value)
            if isinstance(value, str):
                value = expand_home(value)
            elif isinstance(value, list):
                value = [expand_home(each) for each in value]
            object.__setattr__(self, name, value)
            _check(f"--{name}", value, hint)


def expand_home(text: str) -> str:
    """Expand a path that begins with `~`; any other text is returned unchanged."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # `~name` of a user who does not exist
        return text


def hints_of(config: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass of settings, by name."""
    return _hints_of(config)


@cache
def _hints_of(config: Any) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}


def fields_stored_as(config: type, *how: StoredAs) -> tuple[str, ...]:
    """The fields of a dataclass that carry one of these markers, in order."""
    return tuple(name for name, hint in hints_of(config).items() if any(each in how for each in markers_of(hint)))


def plain_type(hint: Any) -> Any:
    """An annotation without its markers, also inside a union."""
    if get_origin(hint) is Annotated:
        return plain_type(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(plain_type(part) for part in get_args(hint))]  # noqa: UP007 - made at run time
    return hint


def markers_of(hint: Any) -> Iterator[object]:
    """The markers of an annotation, those of the parts of a union included."""
    if get_origin(hint) is Annotated:
        inner, *markers = get_args(hint)
        for marker in markers:
            yield from marker if isinstance(marker, Interval) else (marker,)
        yield from markers_of(inner)
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from markers_of(part)


def describe_type(hint: Any) -> str:
    """The values of a setting in words: "a number", "sine or learned", "a whole number, auto or max"."""
    *first, last = _words_of(plain_type(hint))
    return f"{', '.join(first)} or {last}" if first else last


def _words_of(kind: Any) -> Iterator[str]:
    if kind in WORDS:
        yield WORDS[kind]
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for part in get_args(kind):
            if part is not NoneType:
                yield from _words_of(part)


def describe_range(hint: Any) -> str:
    """The range of a setting in words: "at least 0 and at most 1"; empty: any value of its type."""
    return " and ".join(words for words, _ in _bounds(hint))


def _check(name: str, value: object, hint: Any) -> None:
    """Refuse a value that a field does not take."""
    kind = plain_type(hint)
    parts = get_args(kind) if get_origin(kind) is Union else (kind,)
    if not any(_is_of(value, part) for part in parts):
        raise ConfigError(f"{name} must be {describe_type(hint)}, found {value!r}")
    for marker in markers_of(hint):
        if isinstance(marker, NamesOf | ParsedBy):
            marker.check(name, str(value))
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        return
    if value == inf:
        raise ConfigError(f"{name} must be a finite number, found {value}")
    for words, fits in _bounds(hint):
        if not fits(value):
            raise ConfigError(f"{name} must be {words}, found {value if isinstance(value, int) else f'{value:g}'}")


def _is_of(value: object, part: Any) -> bool:
    """Whether a value has a type without markers. Whole numbers are numbers as well; true and false are not."""
    if get_origin(part) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(part))
    if part in (int, float):
        return isinstance(value, Integral if part is int else Real) and not isinstance(value, bool)
    return isinstance(value, get_origin(part) or part)


def _bounds(hint: Any) -> Iterator[tuple[str, Any]]:
    """Yield each bound of an annotation: in words, and as a function that tells whether a value is within."""
    for marker in markers_of(hint):
        if isinstance(marker, Ge):
            yield f"at least {marker.ge:g}", lambda value, low=marker.ge: value >= low
        elif isinstance(marker, Gt):
            yield f"above {marker.gt:g}", lambda value, low=marker.gt: value > low
        elif isinstance(marker, Le):
            yield f"at most {marker.le:g}", lambda value, high=marker.le: value <= high
        elif isinstance(marker, Lt):
            yield f"below {marker.lt:g}", lambda value, high=marker.lt: value < high


def check_named(setting: str, value: object, names: Iterable[str]) -> None:
    """Refuse a value that is none of the names.

    Args:
        setting: flag of the setting, such as `--model`.
        value: value to check.
        names: names that the setting takes.

    Raises:
        ConfigError: the value is none of the names; the message suggests the nearest.
    """
    known = list(names)
    if value not in known:
        *first, last = filter(None, known)
        near = did_you_mean(str(value), known)
        raise ConfigError(f"{setting} must be {', '.join(first)} or {last}, found {value!r}{near}")


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` with the nearest of the known words; empty if none is near."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
