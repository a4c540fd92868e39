"""The argument parser of each command, built from its settings dataclass, and the preparation of its arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_origin, get_type_hints

from detrkit.config.fields import expand_home, hints_of, plain_type, with_names
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Command:
    """A command of the command line, such as `train`."""

    config: type
    """Dataclass of the settings."""
    function: str
    """The function that takes the settings, as `module:name`."""
    help: str
    """One line for the list of commands."""
    usage: str = ""
    """The required arguments, as a user types them."""
    positionals: tuple[str, ...] = ()
    """The fields that are given without a flag, in their order."""
    takes_data: bool = False
    """Whether the data set may be given without its flag `--data`, before or after all other arguments."""
    groups: tuple[type, ...] = ()
    """Base classes of `config`, one per group of the help, in order; empty: `config` alone."""


def sort_words(argv: list[str], command: Command) -> list[str]:
    """Sort arguments: flags with their values first, then positional ones. A data set without a flag gets `--data`.

    Raises:
        ConfigError: a word belongs to no flag, or there is a second data set.
    """
    flags: list[str] = []
    words: list[str] = []
    left = spell_out_switches(argv, command.config)
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
    if command.takes_data and words:
        datasets = peek(flags, "data")
        if datasets:
            raise ConfigError(f"expected the data set once, found {words[0]} and --data {datasets[-1]}; leave one out")
        flags.append(f"--data={words.pop(0)}")
    if words and not command.positionals:
        known = "weights" in get_type_hints(command.config) and not command.takes_data
        hint = f"did you mean --weights {words[0]}?" if known else "give its flag before it, or leave it out"
        raise ConfigError(f"expected a flag, found the word {words[0]!r}; {hint}")
    return [*flags, *words]


def from_home(argv: list[str]) -> list[str]:
    """Replace `~` by the home folder of the user, also in `--data=~/set`, which shells leave alone."""
    return [
        "=".join([flag, expand_home(value)]) if value and word.startswith("--") else expand_home(word)
        for word in argv
        for flag, _, value in [word.partition("=")]
    ]


def peek(argv: list[str], flag: str) -> list[str]:
    """The values of one flag, read before the arguments are checked."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{flag}", dest="values", action="append", default=[])
    try:
        return parser.parse_known_args(argv)[0].values
    except argparse.ArgumentError:  # a flag without a value; the real parser reports it
        return []


EPILOG = (
    "The defaults shown are those with a GPU. Without one, the recipe fast takes the model detrkit_n; "
    "`detrkit train --model detrkit_n --help` shows its settings."
)


def build_parser(name: str, command: Command) -> ArgumentParser:
    """Build the argument parser of one command. The docstrings under the fields are its help."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

    hints = get_type_hints(command.config)

    class HelpFormatter(DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            if action.dest not in hints:
                return str(super()._get_help_string(action))
            text = with_names(str(action.help), hints_of(command.config)[action.dest])
            if action.required:
                return f"{text} (required)"
            if action.default in ("", None):  # the help text itself explains this default
                return text
            return f"{text} (default: {plain(action.default)})"

        def _metavar_formatter(self, action: Any, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
            if hints.get(action.dest) == (bool | None):
                return lambda count: ("{true,false}",) * count
            return super()._metavar_formatter(action, default_metavar)

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"detrkit {name}",
        usage=f"detrkit {name} {command.usage} [settings]".replace("  ", " "),
        description=(command.config.__doc__ or "").split("\n\n")[0],
        epilog=EPILOG if command.config is TrainConfig else None,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    if command.config is TrainConfig:
        parser.add_argument("--config", action="config", help="YAML file of settings; flags after it override it.")
    for positional in command.positionals:
        add_positional(parser, command.config, positional)
    for group in command.groups or (command.config,):
        parser.add_class_arguments(group, None, as_group=bool(command.groups), skip=set(command.positionals))
    return parser


def add_positional(parser: ArgumentParser, config: type, name: str) -> None:
    """Add a field as a positional argument. A list takes one or more values; one with a default may be left out."""
    from detrkit.config.settings_page import help_of

    text = help_of(config)[name]
    field, hint = next(f for f in fields(config) if f.name == name), get_type_hints(config)[name]
    if get_origin(hint) is Literal:
        parser.add_argument(name, metavar=name, type=hint, nargs="?", default=field.default, help=text)
        return
    if field.default is not MISSING:
        parser.add_argument(name, type=str, nargs="?", default=field.default, help=text)
        return
    parser.add_argument(name, type=str, nargs="+" if hint == list[str] else None, help=text)


def spell_out_switches(argv: list[str], config: type) -> list[str]:
    """Replace a bare switch such as `--dilation` by `--dilation=true`, for the flags of the reference DETR."""
    switches = {f"--{name}" for name, hint in hints_of(config).items() if plain_type(hint) in (bool, bool | None)}
    spelled = []
    for index, word in enumerate(argv):
        has_value = "".join(argv[index + 1 : index + 2]).lower() in ("true", "false")
        spelled.append(f"{word}=true" if word in switches and not has_value else word)
    return spelled


def plain(value: object) -> str:
    """A default value as a user would type it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
