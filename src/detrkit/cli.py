"""The command line: verb -> settings -> function.

A verb is a row of `VERBS`: the dataclass that holds its settings (which is also its help) and the function that takes
it, imported only when the verb runs, so that help answers without importing torch.

Exit status: 0 for success, 2 with one sentence on stderr for what the user can fix, 130 after Ctrl-C; a traceback
and 1 mean a bug of ours.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from detrkit import __version__
from detrkit.config import commands as verbs
from detrkit.config.fields import describe_type, did_you_mean
from detrkit.config.parser import Verb, build_parser, from_home, peek, sort_words
from detrkit.config.presets import WITHOUT_GPU, default_settings
from detrkit.config.suggestions import suggestion
from detrkit.config.train import CONFIG_GROUPS, TrainConfig
from detrkit.config.yaml_file import read_settings
from detrkit.errors import ConfigError, DetrkitError
from detrkit.files import run_folder
from detrkit.ops.text import (
    degrading_output,
    discard_output,
    discard_unwritable_output,
    flush_output,
    one_line,
    print_text,
)

VERBS = {
    "demo": Verb(
        verbs.DemoConfig, "detrkit.commands.demo:demo", "make a data set, train, measure and draw: see it all work"
    ),
    "check": Verb(
        verbs.CheckConfig,
        "detrkit.commands.check:check",
        "look through a data set before training",
        "DATA",
        ("data",),
    ),
    "train": Verb(
        TrainConfig, "detrkit.commands.train:train", "train a detector", "DATA", takes_data=True, groups=CONFIG_GROUPS
    ),
    "eval": Verb(
        verbs.EvalConfig,
        "detrkit.commands.eval:evaluate",
        "measure a detector or a file of detections",
        "DATA --weights WEIGHTS",
        takes_data=True,
    ),
    "predict": Verb(
        verbs.PredictConfig,
        "detrkit.commands.predict:predict",
        "find objects in images, folders and videos",
        "--weights WEIGHTS SOURCE [SOURCE ...]",
        ("source",),
    ),
    "plot": Verb(
        verbs.PlotConfig,
        "detrkit.commands.plot:plot",
        "draw the curves of one or several runs",
        "RUN [RUN ...]",
        ("runs",),
    ),
    "explain": Verb(
        verbs.ExplainConfig,
        "detrkit.commands.explain:explain",
        "show where the model looked",
        "--weights WEIGHTS IMAGE",
        ("image",),
    ),
    "convert": Verb(
        verbs.ConvertConfig,
        "detrkit.commands.convert:convert",
        "write weights in another format",
        "WEIGHTS OUTPUT",
        ("weights", "output"),
    ),
    "export": Verb(
        verbs.ExportConfig,
        "detrkit.commands.export:export",
        "write a model for ONNX, OpenVINO, torch.export or TensorRT, and compare it",
        "--weights WEIGHTS --format FORMAT",
    ),
    "bench": Verb(
        verbs.BenchConfig,
        "detrkit.commands.bench:bench",
        "measure how fast a model is on this machine",
        "[PART]",
        ("part",),
    ),
}
TRAIN_SETTINGS = [f.name for f in fields(TrainConfig)]
DETR_HELP = "the original main.py's command line, flag for flag"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    os.environ["MPLBACKEND"] = "agg"  # plots go to files; what a notebook or a shell asks for may not exist here
    with degrading_output():
        try:
            status = attempt(list(sys.argv[1:] if argv is None else argv))
            flush_output()
            return status
        except BrokenPipeError:  # the reader of our output, `head` say, has gone
            discard_output(sys.stdout)
            discard_output(sys.stderr)
            return 141


def attempt(argv: list[str]) -> int:
    """Run a command and return its exit status, with its errors told in a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            status = run(argv)
            flush_output()
            return status
    except DetrkitError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        print_text("interrupted", stderr=True)
        return 130
    except SystemExit as stop:  # how --help and --print_config end, once they have printed
        return int(stop.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            discard_unwritable_output()
            return complain(f"no space is left on the disk of {error.filename or 'the output folder'}; free some")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            return complain(f"expected a place that may be read and written, found no permission for {error.filename}")
        if error.errno in (errno.EEXIST, errno.ENOTDIR) and error.filename:
            return complain(f"expected a folder, or nothing yet, at {error.filename}, found a file there or above it")
        raise


def complain(sentence: str) -> int:
    """Print an error for the user, on one line; the exit status that goes with it."""
    print_text(f"detrkit: error: {one_line(sentence)}", stderr=True)
    return 2


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning as one line, without the source line that raised it."""
    print_text(f"detrkit: warning: {one_line(str(message))}", stderr=True)


def run(argv: list[str]) -> int:
    """Find the verb, parse its settings and call its function.

    Raises:
        DetrkitError: what the user can fix.
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
        "Detection transformers: DETR exactly as published, on your own images.\n\n"
        f"{lines}\n\n"
        "detrkit VERB --help explains every setting. First steps:\n"
        "  detrkit demo\n"
        "  detrkit check DATA\n"
        "  detrkit train DATA"
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
        values = parser.parse_args(sort_words(argv, verb)).as_dict()
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
        known = [*hints, "config"] if verb.config is TrainConfig else list(hints)
        elsewhere = {name: get_type_hints(other.config) for name, other in VERBS.items() if other is not verb}
        return f"there is no flag {word}{suggestion(word, known, elsewhere, positionals=verb.positionals)}"
    value = re.search(r'Parser key "(?P<key>[^"]+)":.*(?:Got|Given) value: (?P<found>.*)', message, re.DOTALL)
    if value and value["key"] in hints:
        name = value["key"].upper() if value["key"] in verb.positionals else f"--{value['key']}"
        return f"{name}: expected {describe_type(hints[value['key']])}, found {value['found'].strip()!r}"
    missing = re.search(r"the following arguments are required: (?P<names>.*)", message)
    if missing:
        names = missing["names"].split(", ")
        return f"expected {' and '.join(n.upper() if n in verb.positionals else f'--{n}' for n in names)}, found none"
    empty = re.search(r"argument (?P<flag>--\S+): expected ", message)
    if empty:
        return f"{empty['flag']}: expected a value, found none"
    return message
