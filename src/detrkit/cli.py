"""The command line of detrkit: command name -> settings -> function.

Each command is a row of `COMMANDS`: a dataclass of its settings, whose docstrings are also its help, and the function
that takes them. The function is imported only when the command runs, so that help answers without importing torch.

Exit status: 0 for success, 2 with one sentence on stderr for an error that the user can fix, 130 after Ctrl-C; a
traceback and 1 mean a bug in detrkit.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from detrkit.config.commands import (
    BenchConfig,
    CheckConfig,
    CompareConfig,
    ConvertConfig,
    ConvertDataConfig,
    DemoConfig,
    EvalConfig,
    ExplainConfig,
    ExportConfig,
    MergeConfig,
    ModelsConfig,
    PlotConfig,
    PredictConfig,
)
from detrkit.config.fields import describe_type, did_you_mean
from detrkit.config.packing import PackConfig
from detrkit.config.parser import Command, build_parser, from_home, peek, sort_words
from detrkit.config.presets import NO_WEIGHTS, WITHOUT_GPU, default_settings
from detrkit.config.reviewing import ReviewConfig
from detrkit.config.serving import ServeConfig, StudioConfig
from detrkit.config.suggestions import suggestion
from detrkit.config.train import CONFIG_GROUPS, TrainConfig
from detrkit.config.yaml_file import read_settings
from detrkit.errors import DISK_FULL, ConfigError, DetrkitError, DetrkitWarning, explain_system_error
from detrkit.files import run_folder
from detrkit.ops.text import (
    degrading_output,
    discard_output,
    discard_unwritable_output,
    flush_output,
    one_line,
    print_text,
)
from detrkit.version import __version__

COMMANDS = {
    "demo": Command(
        DemoConfig, "detrkit.commands.demo:demo", "make a small data set, train on it, evaluate and draw the results"
    ),
    "check": Command(
        CheckConfig,
        "detrkit.commands.check:check",
        "check a data set before training",
        "DATA",
        ("data",),
    ),
    "train": Command(
        TrainConfig, "detrkit.commands.train:train", "train a detector", "DATA", takes_data=True, groups=CONFIG_GROUPS
    ),
    "eval": Command(
        EvalConfig,
        "detrkit.commands.eval:evaluate",
        "evaluate a detector or a file of detections",
        "DATA --weights WEIGHTS",
        takes_data=True,
    ),
    "compare": Command(
        CompareConfig,
        "detrkit.commands.compare:compare",
        "compare detectors on the same images, with intervals of their differences",
        "A B [C ...]",
        ("sources",),
    ),
    "review": Command(
        ReviewConfig,
        "detrkit.commands.review:review",
        "find labels that are probably wrong",
        "FOLDS",
        ("source",),
    ),
    "predict": Command(
        PredictConfig,
        "detrkit.commands.predict:predict",
        "find objects in images, folders and videos",
        "--weights WEIGHTS SOURCE [SOURCE ...]",
        ("source",),
    ),
    "merge": Command(
        MergeConfig,
        "detrkit.commands.merge:merge",
        "merge the results of all shards of a batch job",
        "FOLDER [OUTPUT]",
        ("folder", "output"),
    ),
    "serve": Command(
        ServeConfig,
        "detrkit.commands.serve:serve",
        "answer requests for detections over HTTP",
        "WEIGHTS [WEIGHTS ...]",
        ("weights",),
    ),
    "studio": Command(
        StudioConfig,
        "detrkit.commands.studio:studio",
        "look at images, label, train and try detectors in a browser",
        "[FOLDER]",
        ("folder",),
    ),
    "plot": Command(
        PlotConfig,
        "detrkit.commands.plot:plot",
        "plot the training curves of one or several runs",
        "RUN [RUN ...]",
        ("runs",),
    ),
    "explain": Command(
        ExplainConfig,
        "detrkit.commands.explain:explain",
        "draw the attention of a detector on an image",
        "--weights WEIGHTS IMAGE",
        ("image",),
    ),
    "convert": Command(
        ConvertConfig,
        "detrkit.commands.convert:convert",
        "convert weights to another format",
        "WEIGHTS OUTPUT",
        ("weights", "output"),
    ),
    "convert_data": Command(
        ConvertDataConfig,
        "detrkit.commands.convert_data:convert_data",
        "convert a data set to COCO, Pascal VOC or YOLO",
        "DATA OUTPUT --to FORMAT",
        ("data", "output"),
    ),
    "pack": Command(
        PackConfig,
        "detrkit.commands.pack:pack",
        "pack a data set into tar files with an index",
        "DATA OUTPUT",
        ("data", "output"),
    ),
    "export": Command(
        ExportConfig,
        "detrkit.commands.export:export",
        "export a model to ONNX, OpenVINO, torch.export or TensorRT, and verify the file",
        "--weights WEIGHTS --format FORMAT",
    ),
    "models": Command(
        ModelsConfig,
        "detrkit.commands.models:models",
        "list the models and weights that have a name",
        "[FILTER]",
        ("filter",),
    ),
    "bench": Command(
        BenchConfig,
        "detrkit.commands.bench:bench",
        "measure how fast a model is on this machine",
        "[PART]",
        ("part",),
    ),
}
TRAIN_SETTINGS = [f.name for f in fields(TrainConfig)]
DETR_HELP = "train and evaluate with the flags of the reference DETR's main.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    os.environ["MPLBACKEND"] = "agg"  # plots go to files; the backend set by a notebook or a shell may not exist here
    with degrading_output():
        try:
            status = attempt(list(sys.argv[1:] if argv is None else argv))
            flush_output()
            return status
        except BrokenPipeError:  # the program that reads the output, such as `head`, has ended
            discard_output(sys.stdout)
            discard_output(sys.stderr)
            return 141


def attempt(argv: list[str]) -> int:
    """Run a command and return its exit status; print errors that the user can fix as one sentence."""
    former, threading.excepthook = threading.excepthook, show_thread_error
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            status = run(argv)
            flush_output()
            return status
    except DetrkitError as error:
        return complain(error.message)
    except KeyboardInterrupt:
        print_text("interrupted", stderr=True)
        return 130
    except SystemExit as stop:  # raised by --help and --print_config once they have printed
        return int(stop.code or 0)
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError) as error:
        sentence = explain_system_error(error)
        if sentence is None:
            raise
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            discard_unwritable_output()
        return complain(sentence)
    finally:
        threading.excepthook = former


def complain(sentence: str) -> int:
    """Print an error for the user on one line and return its exit status."""
    print_text(f"detrkit: error: {one_line(sentence)}", stderr=True)
    return 2


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning as one line, without the source line that raised it."""
    text = message.message if isinstance(message, DetrkitWarning) else str(message)
    print_text(f"detrkit: warning: {one_line(text)}", stderr=True)


def show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Print the traceback of an error that ended a thread, unless the disk is full: the main thread says so."""
    if not (isinstance(error.exc_value, OSError) and error.exc_value.errno in DISK_FULL):
        threading.__excepthook__(error)


def run(argv: list[str]) -> int:
    """Look up the command, parse its settings and call its function.

    Raises:
        DetrkitError: an error that the user can fix.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print_text(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print_text(f"detrkit {__version__}")
        return 0
    name, rest = argv[0], from_home(argv[1:])
    if name == "detr":
        function: Callable[[Any], object] = import_module("detrkit.commands.detr").main
        function(rest)
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}{did_you_mean(name, [*COMMANDS, 'detr'])} (see detrkit --help)")
    command = COMMANDS[name]
    config = parse(name, command, with_stored_settings(rest) if name == "train" else rest)
    module, _, attribute = command.function.partition(":")
    getattr(import_module(module), attribute)(config)
    return 0


def overview() -> str:
    """The text of `detrkit --help`."""
    rows = [(name, command.help) for name, command in COMMANDS.items()] + [("detr", DETR_HELP)]
    lines = "\n".join(f"  {name:<9} {text}" for name, text in rows)
    return (
        "usage: detrkit COMMAND [settings]\n\n"
        "Detection transformers: DETR exactly as published, on your own images.\n\n"
        f"{lines}\n\n"
        "detrkit COMMAND --help explains every setting. First steps:\n"
        "  detrkit demo\n"
        "  detrkit check DATA\n"
        "  detrkit train DATA"
    )


def parse(name: str, command: Command, argv: list[str]) -> Any:
    """Parse the settings of a command from its arguments.

    Raises:
        ConfigError: an unknown flag, a value of the wrong kind, or a missing argument.
    """
    from jsonargparse import ArgumentError

    for path in peek(argv, "config"):
        read_settings(path, [f.name for f in fields(command.config)])  # errors name the file
    parser = build_parser(name, command)
    if command.config is TrainConfig:
        parser.set_defaults(train_defaults(argv))
    try:
        values = parser.parse_args(sort_words(argv, command)).as_dict()
    except ArgumentError as error:
        raise ConfigError(f"{explain_error(str(error), command)} (see detrkit {name} --help)") from None
    values.pop("config", None)
    values.pop("print_config", None)
    return command.config(**values)


def with_stored_settings(argv: list[str]) -> list[str]:
    """Put the settings that the run folder of `train --resume` stores before the flags, which override them."""
    resume, output_dir = ([*peek(argv, flag), ""][0] for flag in ("resume", "output_dir"))
    if not resume or (resume == "auto" and not output_dir) or peek(argv, "config"):
        return argv
    folder = Path(output_dir) if resume == "auto" else run_folder(resume)
    if not (folder / "config.yaml").is_file():
        return argv
    path = folder / "config.yaml"
    # The folder may have moved since it stored its path. A run without a recipe is older than recipes: classic.
    old = [] if "recipe" in read_settings(path, TRAIN_SETTINGS) else ["--recipe", "classic"]
    return ["--config", str(path), "--output_dir", str(folder), *old, *argv]


def train_defaults(argv: list[str]) -> dict[str, Any]:
    """The default settings of `train`, by --recipe (`fast` unless given), --model and --weights.

    Raises:
        ConfigError: there is no such recipe or model, or a settings file already sets all that it would change.
    """
    names = ("recipe", "model", "weights", "frozen_weights")
    stored: dict[str, Any] = {}
    for path in peek(argv, "config"):
        stored |= read_settings(path, TRAIN_SETTINGS)
    base = {"recipe": "fast"} | {name: stored[name] for name in names if name in stored}
    flags = {name: peek(argv, name)[-1] for name in names if peek(argv, name)}
    chosen = base | flags
    small = WITHOUT_GPU.get(str(chosen["recipe"]))
    from_weights = chosen.get("frozen_weights") or chosen.get("weights", "") not in (*NO_WEIGHTS, small)
    if small and not from_weights and "model" not in chosen and without_gpu(argv, stored):
        base["model"] = small
    defaults = default_settings(base | flags)
    renamed = [name for name in ("recipe", "model") if name in stored and flags.get(name, stored[name]) != stored[name]]
    if renamed:
        before = default_settings(base)
        changed = {name for name in before | defaults if before.get(name) != defaults.get(name)}
        if changed - set(renamed) <= stored.keys():
            no_effect = f"--{renamed[0]} {flags[renamed[0]]} would change nothing"
            raise ConfigError(
                f"a resumed run keeps its own settings, so {no_effect}; leave it out, or start a new run"
                if peek(argv, "resume")
                else f"{no_effect}, since {peek(argv, 'config')[-1]} sets every setting that it would; leave one of "
                "the two out"
            )
    return defaults


def without_gpu(argv: list[str], stored: Mapping[str, Any]) -> bool:
    """Whether training would run on the CPU; always False for --help, which must not import torch."""
    if {"-h", "--help"} & set(argv):
        return False
    device = [stored.get("device", "auto"), *peek(argv, "device")][-1]
    if device != "auto":
        return bool(device == "cpu")
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def explain_error(message: str, command: Command) -> str:
    """The parser's error message as one sentence, with the nearest flag where a name is unknown."""
    hints = get_type_hints(command.config)
    unknown = re.search(r"unrecognized arguments: (?P<word>\S+)", message, re.IGNORECASE)
    if unknown:
        word = unknown["word"].split("=")[0]
        if not word.startswith("-"):
            return f"expected a flag, found the word {word!r}"
        if word[2:] in command.positionals:
            return f"expected {word[2:].upper()} without a flag, found {word}; leave {word} out"
        known = [*hints, "config"] if command.config is TrainConfig else list(hints)
        elsewhere = {name: get_type_hints(other.config) for name, other in COMMANDS.items() if other is not command}
        return f"there is no flag {word}{suggestion(word, known, elsewhere, positionals=command.positionals)}"
    value = re.search(r'Parser key "(?P<key>[^"]+)":.*(?:Got|Given) value: (?P<found>.*)', message, re.DOTALL)
    if value and value["key"] in hints:
        name = value["key"].upper() if value["key"] in command.positionals else f"--{value['key']}"
        return f"{name}: expected {describe_type(hints[value['key']])}, found {value['found'].strip()!r}"
    missing = re.search(r"the following arguments are required: (?P<names>.*)", message)
    if missing:
        names = missing["names"].split(", ")
        return (
            f"expected {' and '.join(n.upper() if n in command.positionals else f'--{n}' for n in names)}, found none"
        )
    empty = re.search(r"argument (?P<flag>--\S+): expected ", message)
    if empty:
        return f"{empty['flag']}: expected a value, found none"
    return message
