"""The command line: verb -> settings -> function.

A verb is a row of `VERBS`: the dataclass that holds its settings (which is also its help) and the function that takes
it, imported only when the verb runs, so that help answers without importing torch.

Exit status: 0 for success, 2 with one sentence on stderr for what the user can mend, 130 after Ctrl-C; a traceback
and 1 mean a bug of ours.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from detrkit import __version__, verbs
from detrkit.config import CONFIG_GROUPS, TrainConfig, default_settings, did_you_mean, read_settings
from detrkit.errors import ConfigError, DetrkitError
from detrkit.files import run_folder
from detrkit.recipes import WITHOUT_GPU

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
    groups: tuple[type, ...] = ()
    """Base classes of `config`, in the order of the help; empty: `config` alone."""


VERBS = {
    "demo": Verb(verbs.DemoConfig, "detrkit.demo:demo", "make a data set, train, measure and draw: see it all work"),
    "check": Verb(
        verbs.CheckConfig, "detrkit.data.check:check", "look through a data set before training", "DATA", ("data",)
    ),
    "train": Verb(TrainConfig, "detrkit.training:train", "train a detector", "--data DATA", groups=CONFIG_GROUPS),
    "eval": Verb(
        verbs.EvalConfig,
        "detrkit.evaluation.run:evaluate",
        "measure a detector or a file of detections",
        "--weights WEIGHTS --data DATA",
    ),
    "predict": Verb(
        verbs.PredictConfig,
        "detrkit.inference:predict",
        "find objects in pictures, folders and videos",
        "--weights WEIGHTS SOURCE [SOURCE ...]",
        ("source",),
    ),
    "plot": Verb(
        verbs.PlotConfig,
        "detrkit.visualize.plots:plot",
        "draw the curves of one or several runs",
        "RUN [RUN ...]",
        ("runs",),
    ),
    "explain": Verb(
        verbs.ExplainConfig,
        "detrkit.visualize.attention:explain",
        "show where the model looked",
        "--weights WEIGHTS IMAGE",
        ("image",),
    ),
    "convert": Verb(
        verbs.ConvertConfig,
        "detrkit.models.convert:convert",
        "write weights in another format",
        "WEIGHTS OUTPUT",
        ("weights", "output"),
    ),
    "export": Verb(
        verbs.ExportConfig,
        "detrkit.export.run:export",
        "write a model for ONNX, OpenVINO, torch.export or TensorRT, and compare it",
        "--weights WEIGHTS --format FORMAT",
    ),
    "bench": Verb(
        verbs.BenchConfig,
        "detrkit.bench:bench",
        "measure how fast a model is on this machine",
        "[PART]",
        ("part",),
    ),
}
TRAIN_SETTINGS = [f.name for f in fields(TrainConfig)]
DETR_HELP = "the original main.py's command line, flag for flag"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return run(list(sys.argv[1:] if argv is None else argv))
    except DetrkitError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # how --help and --print_config end, once they have printed
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return complain(f"no space is left on the disk of {error.filename or 'the output folder'}; free some")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            return complain(f"expected a place that may be read and written, found no permission for {error.filename}")
        if error.errno in (errno.EEXIST, errno.ENOTDIR) and error.filename:
            return complain(f"expected a folder, or nothing yet, at {error.filename}, found a file there or above it")
        raise


def complain(sentence: str) -> int:
    """Print an error for the user, on one line; the exit status that goes with it."""
    print(f"detrkit: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning as one line, without the source line that raised it."""
    print(f"detrkit: warning: {' '.join(str(message).split())}", file=sys.stderr)


def run(argv: list[str]) -> int:
    """Find the verb, parse its settings and call its function.

    Raises:
        DetrkitError: what the user can mend.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"detrkit {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name == "detr":
        function: Callable[[Any], object] = import_module("detrkit.classic").main
        function(rest)
        return 0
    if name not in VERBS:
        raise ConfigError(f"there is no verb {name!r}{did_you_mean(name, [*VERBS, 'detr'])} (see detrkit --help)")
    verb = VERBS[name]
    config = parse(name, verb, with_stored_settings(rest) if name == "train" else rest)
    module, _, attribute = verb.function.partition(":")
    getattr(import_module(module), attribute)(config)
    return 0


def overview() -> str:
    """The text of `detrkit --help`."""
    rows = [(name, verb.help) for name, verb in VERBS.items()] + [("detr", DETR_HELP)]
    lines = "\n".join(f"  {name:<9} {text}" for name, text in rows)
    return (
        "usage: detrkit VERB [settings]\n\n"
        "Detection transformers: DETR exactly as published, on your own pictures.\n\n"
        f"{lines}\n\n"
        "detrkit VERB --help explains every setting. First steps:\n"
        "  detrkit demo\n"
        "  detrkit check DATA\n"
        "  detrkit train --data DATA"
    )


def parse(name: str, verb: Verb, argv: list[str]) -> Any:
    """The settings of a verb from its command line.

    Raises:
        ConfigError: an unknown flag, a value of the wrong kind, a missing argument.
    """
    from jsonargparse import ArgumentError

    for path in peek(argv, "config"):
        read_settings(path, [f.name for f in fields(verb.config)])  # its faults, told with the name of the file
    parser = build_parser(name, verb)
    if verb.config is TrainConfig:
        parser.set_defaults(train_defaults(argv))
    try:
        values = parser.parse_args(spell_out_switches(argv, verb.config)).as_dict()
    except ArgumentError as error:
        raise ConfigError(f"{explain_error(str(error), verb)} (see detrkit {name} --help)") from None
    values.pop("config", None)
    values.pop("print_config", None)
    return verb.config(**values)


def with_stored_settings(argv: list[str]) -> list[str]:
    """`train --resume ...` starts from the settings its run folder stores; flags given anew override them."""
    resume, output_dir = ([*peek(argv, flag), ""][0] for flag in ("resume", "output_dir"))
    if not resume or (resume == "auto" and not output_dir) or peek(argv, "config"):
        return argv
    folder = Path(output_dir) if resume == "auto" else run_folder(resume)
    if not (folder / "config.yaml").is_file():
        return argv
    path = folder / "config.yaml"
    # The folder may have moved since it stored its name. And before there were recipes, all was classic.
    old = [] if "recipe" in read_settings(path, TRAIN_SETTINGS) else ["--recipe", "classic"]
    return ["--config", str(path), "--output_dir", str(folder), *old, *argv]


def train_defaults(argv: list[str]) -> dict[str, Any]:
    """The defaults of `train`: those of the recipe `fast`, or what --recipe, --model and --weights choose.

    Raises:
        ConfigError: there is no such recipe or model, or a file of settings leaves nothing for it to say.
    """
    names = ("recipe", "model", "weights", "frozen_weights")
    stored: dict[str, Any] = {}
    for path in peek(argv, "config"):
        stored |= read_settings(path, TRAIN_SETTINGS)
    given = {"recipe": "fast"} | {name: stored[name] for name in names if name in stored}
    flags = {name: peek(argv, name)[-1] for name in names if peek(argv, name)}
    chosen = given | flags
    small = WITHOUT_GPU.get(str(chosen["recipe"]))
    from_weights = chosen.get("weights") or chosen.get("frozen_weights")
    if small and not from_weights and "model" not in chosen and without_gpu(argv, stored):
        given["model"] = small
    defaults = default_settings(given | flags)
    renamed = [name for name in ("recipe", "model") if name in stored and flags.get(name, stored[name]) != stored[name]]
    if renamed:
        before = default_settings(given)
        moved = {name for name in before | defaults if before.get(name) != defaults.get(name)}
        if moved - set(renamed) <= stored.keys():
            nothing = f"--{renamed[0]} {flags[renamed[0]]} would change nothing"
            raise ConfigError(
                f"a run goes on with its own settings, so {nothing}; leave it out, or start a new run"
                if peek(argv, "resume")
                else f"{nothing}, since {peek(argv, 'config')[-1]} gives every setting that it would; leave one of the "
                "two out"
            )
    return defaults


def without_gpu(argv: list[str], stored: Mapping[str, Any]) -> bool:
    """Whether training would run on the CPU. Help answers without looking."""
    if {"-h", "--help"} & set(argv):
        return False
    device = [stored.get("device", "auto"), *peek(argv, "device")][-1]
    if device != "auto":
        return bool(device == "cpu")
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


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
    parser.add_argument(name, type=str, nargs="+" if field.type == "list[str]" else None, help=text)


def spell_out_switches(argv: list[str], config: type) -> list[str]:
    """A bare `--dilation` means `--dilation true`, as it did in the original."""
    switches = {f"--{f.name}" for f in fields(config) if f.type in ("bool", "bool | None")}
    spelled = []
    for place, word in enumerate(argv):
        given = "".join(argv[place + 1 : place + 2]).lower() in ("true", "false")
        spelled.append(f"{word}=true" if word in switches and not given else word)
    return spelled


def explain_error(message: str, verb: Verb) -> str:
    """The parser's complaint as one sentence, with the nearest flag where a name is unknown."""
    hints = get_type_hints(verb.config)
    unknown = re.search(r"unrecognized arguments: (?P<word>\S+)", message, re.IGNORECASE)
    if unknown:
        word = unknown["word"].split("=")[0]
        if not word.startswith("-"):
            return f"expected a flag, found the word {word!r}"
        if word[2:] in verb.positionals:
            return f"{word[2:].upper()} is given without a flag, found {word}; leave {word} out"
        return f"there is no flag {word}{did_you_mean(word, [f'--{name}' for name in hints])}"
    value = re.search(r'Parser key "(?P<key>[^"]+)":.*(?:Got|Given) value: (?P<found>.*)', message, re.DOTALL)
    if value and value["key"] in hints:
        name = value["key"].upper() if value["key"] in verb.positionals else f"--{value['key']}"
        return f"{name}: expected {kind_of(hints[value['key']])}, found {value['found'].strip()!r}"
    missing = re.search(r"the following arguments are required: (?P<names>.*)", message)
    if missing:
        names = missing["names"].split(", ")
        return f"expected {' and '.join(n.upper() if n in verb.positionals else f'--{n}' for n in names)}, found none"
    empty = re.search(r"argument (?P<flag>--\S+): expected ", message)
    if empty:
        return f"{empty['flag']}: expected a value, found none"
    return message


def kind_of(hint: Any) -> str:
    """What a setting may hold, in words: "a number", "one of sine, learned"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return " or ".join(kind_of(part) for part in get_args(hint) if part is not NoneType)


def plain(value: object) -> str:
    """A default as one would type it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
