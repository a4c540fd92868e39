"""From the words of a command line to the parser of a verb and what it is given."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_origin, get_type_hints

from detrkit.config.fields import expand_home, hints_of, plain_type
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Verb:
    """One thing the command line can do."""

    config: type
    """Dataclass of its settings."""
    function: str
    """`module:name` of the function that takes them."""
    help: str
    """One line for the list of verbs."""
    usage: str = ""
    """What it cannot do without, as in a shell command."""
    positionals: tuple[str, ...] = ()
    """The fields that are given without a flag, in their order."""
    takes_data: bool = False
    """Whether the data set may be given without its flag `--data`, before or after all others."""
    groups: tuple[type, ...] = ()
    """Base classes of `config`, in the order of the help; empty: `config` alone."""


def sort_words(argv: list[str], verb: Verb) -> list[str]:
    """A command line with its flags first, each with its value, then the words without one, wherever these stood.

    A data set without its flag gets it.

    Raises:
        ConfigError: there is a word that belongs to nothing, or a second data set.
    """
    flags: list[str] = []
    words: list[str] = []
    left = spell_out_switches(argv, verb.config)
    while left:
        word = left.pop(0)
        if word == "--":
            words, left = words + left, []
        elif not word.startswith("-") or word == "-":
            words.append(word)
        else:
            flags.append(word)
            alone = "=" in word or word.startswith(("-h", "--help", "--print_config"))
            if left and not alone and (not left[0].startswith("-") or re.match(r"-[.\d]", left[0])):
                flags.append(left.pop(0))
    if verb.takes_data and words:
        given = peek(flags, "data")
        if given:
            raise ConfigError(f"expected the data set once, found {words[0]} and --data {given[-1]}; leave one out")
        flags.append(f"--data={words.pop(0)}")
    if words and not verb.positionals:
        known = "weights" in get_type_hints(verb.config) and not verb.takes_data
        meant = f"; did you mean --weights {words[0]}?" if known else ""
        raise ConfigError(f"expected a flag, found the word {words[0]!r}{meant}")
    return [*flags, *words]


def from_home(argv: list[str]) -> list[str]:
    """The words with the user's folder for `~`, also in `--data=~/set`, which shells leave as it is."""
    return [
        "=".join([flag, expand_home(value)]) if value and word.startswith("--") else expand_home(word)
        for word in argv
        for flag, _, value in [word.partition("=")]
    ]


def peek(argv: list[str], flag: str) -> list[str]:
    """The values given to one flag, before anything is checked."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{flag}", dest="values", action="append", default=[])
    try:
        values: list[str] = parser.parse_known_args(argv)[0].values
    except argparse.ArgumentError:  # without a value; the real parser will say so
        return []
    return values


def build_parser(name: str, verb: Verb) -> ArgumentParser:
    """The argument parser of one verb; its help is made of the docstrings under the fields."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

    hints = get_type_hints(verb.config)

    class HelpFormatter(DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            if action.dest not in hints:
                return str(super()._get_help_string(action))
            if action.required:
                return f"{action.help} (required)"
            if action.default in ("", None):  # the text itself explains what happens then
                return str(action.help)
            return f"{action.help} (default: {plain(action.default)})"

        def _metavar_formatter(self, action: Any, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
            if hints.get(action.dest) == (bool | None):
                return lambda count: ("{true,false}",) * count
            return super()._metavar_formatter(action, default_metavar)

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"detrkit {name}",
        usage=f"detrkit {name} {verb.usage} [settings]".replace("  ", " "),
        description=verb.config.__doc__,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    if verb.config is TrainConfig:
        parser.add_argument("--config", action="config", help="YAML file of settings; flags after it override it.")
    for positional in verb.positionals:
        add_positional(parser, verb.config, positional)
    for group in verb.groups or (verb.config,):
        parser.add_class_arguments(group, None, as_group=bool(verb.groups), skip=set(verb.positionals))
    return parser


def add_positional(parser: ArgumentParser, config: type, name: str) -> None:
    """Add a field that is given without its flag; a list takes one value or more, and a choice may be left out."""
    from docstring_parser import parse as parse_docstring
    from docstring_parser.attrdoc import add_attribute_docstrings

    documented = parse_docstring(config.__doc__ or "")
    add_attribute_docstrings(config, documented)
    text = next((p.description for p in documented.params if p.arg_name == name), None)
    field, hint = next(f for f in fields(config) if f.name == name), get_type_hints(config)[name]
    if get_origin(hint) is Literal:
        parser.add_argument(name, metavar=name, type=hint, nargs="?", default=field.default, help=text)
        return
    parser.add_argument(name, type=str, nargs="+" if hint == list[str] else None, help=text)


def spell_out_switches(argv: list[str], config: type) -> list[str]:
    """A bare `--dilation` means `--dilation true`, as it did in the original."""
    switches = {f"--{name}" for name, hint in hints_of(config).items() if plain_type(hint) in (bool, bool | None)}
    spelled = []
    for place, word in enumerate(argv):
        given = "".join(argv[place + 1 : place + 2]).lower() in ("true", "false")
        spelled.append(f"{word}=true" if word in switches and not given else word)
    return spelled


def plain(value: object) -> str:
    """A default as one would type it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
