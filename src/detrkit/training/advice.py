"""Advice after a run that failed: its loss is not finite, or the detector has hardly any detections."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from detrkit.config.train import TrainConfig
from detrkit.data.records import Split
from detrkit.ops.console import TextConsole
from detrkit.ops.text import first_names
from detrkit.training.loop import Trainer
from detrkit.training.monitor import LOSS, called
from detrkit.training.setup import Data
from detrkit.training.state import Row

NO_AP = 0.005
"""A best AP or PQ below this counts as none."""
SMALL_SIDE = 8.0
"""Shorter side in pixels below which an object is small: it covers at most one location of the finest feature map."""
DIVERGED_FACTOR = 2.0
"""A training loss above this multiple of its lowest value counts as diverging."""

MEASURED = {
    "fast": "from random weights, detrkit_n had AP 0.004 to 0.22 after 2 epochs of 210 to 600 images, 0.04 to 0.34 "
    "after 4 and 0.21 to 0.54 after 10; detrkit_s had 0.23 after 5 and 0.59 after 20",
    "classic": "the classic recipe is made for 300 epochs of a hundred thousand images: from random weights it had AP "
    "0.001 after 8 epochs of 400, where detrkit train --recipe fast had 0.2 after 2 of 600",
}
"""Results of docs/benchmarks/convergence.md on small data sets, by recipe."""
FROM_WEIGHTS = "from the weights of a whole detector, one or two epochs should give detections"


def after_divergence(config: TrainConfig, last: Path) -> str:
    """Advice after a loss that is not finite, as part of a sentence.

    Args:
        config: settings of the run.
        last: path of last.ckpt, which need not exist.
    """
    usual = _usual_rate(config)
    rate = (
        f"--lr {usual:g}, this recipe's, in place of {config.lr:g}" if config.lr > usual else f"--lr {config.lr / 4:g}"
    )
    ways = [f"a lower learning rate ({rate})"]
    if not config.clip_max_norm:
        ways.append("--clip_max_norm 0.1, since the gradient is not clipped")
    if config.precision == "16-mixed":
        ways.append("--precision bf16-mixed or 32, since float16 overflows")
    begin = "no checkpoint was saved yet; start again with"
    if last.is_file():
        begin = f"the last good checkpoint is {last}; resume with --resume {shlex.quote(str(last))} and"
    data = f"; also check the data: detrkit check {shlex.quote(config.data)}" if config.data else ""
    return f"{begin} {', or '.join(ways)}{data}"


def advise(console: TextConsole, config: TrainConfig, data: Data, trainer: Trainer, image_size: int) -> None:
    """Print advice if a finished run has hardly any detections, or its loss has risen."""
    state = trainer.state
    if trainer.end_reason == "signal" or not state.history:
        return
    rise = describe_rise(state.history)
    lines = []
    if state.best_epoch > 0 and state.monitor != LOSS and 0 <= state.best_value < NO_AP:
        metric = f"{called(state.monitor)} is {state.best_value:.4f}"
        lines = [f"{metric}: almost nothing is detected. Check, in this order:"]
        lines += [
            f"  {word:<8} {line}" for word, line in advice_lines(config, data, state.history, image_size, rise).items()
        ]
    elif rise:
        lines = [f"{rise}: the learning rate --lr {config.lr:g} may be too high"]
    for line in lines:
        console.print(line)


def advice_lines(config: TrainConfig, data: Data, history: list[Row], image_size: int, rise: str) -> dict[str, str]:
    """Possible reasons, by a word each: epochs, learning rate, sizes, classes; and a test of the data."""
    last = history[-1]
    measured = FROM_WEIGHTS if config.fine_tunes else MEASURED[config.recipe]
    usual = _usual_rate(config)
    rate = f"--lr {config.lr:g}" + ("" if config.lr == usual else f", where this recipe and model have {usual:g}")
    lines_of = {
        "Epochs": f"{last['epoch']:.0f} of {config.epochs}, of {len(data.train)} images each, were {last['step']:.0f} "
        f"steps; {measured} (docs/benchmarks/convergence.md)",
        "Rate": f"{rate}; {rise or 'the training loss did not diverge'}",
        "Sizes": _sizes(data, image_size),
        "Classes": _classes(data),
        "Test": ""
        if config.overfit
        else f"detrkit train --data {shlex.quote(config.data or 'DATA')} --overfit 8 must come near AP 1; if it "
        "does not, boxes or classes in the files are wrong: see detrkit check, and report/",
    }
    return {word: line for word, line in lines_of.items() if line}


def describe_rise(history: list[Row]) -> str:
    """Rise of the training loss above its lowest value, as part of a sentence; empty if there is none."""
    losses = {int(row["epoch"]): row["train/loss"] for row in history if "train/loss" in row}
    if len(losses) < 2:
        return ""
    best, last = min(losses, key=lambda epoch: losses[epoch]), max(losses)
    if losses[last] <= DIVERGED_FACTOR * losses[best]:
        return ""
    return f"the training loss rose from {losses[best]:.3g} in epoch {best} to {losses[last]:.3g} in epoch {last}"


def _usual_rate(config: TrainConfig) -> float:
    """Default learning rate of the recipe and the named model."""
    weights = config.weights or config.frozen_weights
    return TrainConfig.from_recipe(config.recipe, model=config.model, weights=weights).lr


def _sizes(data: Data, image_size: int) -> str:
    """Sizes of objects at the resolution of the model, as a sentence."""
    sides = data.train.arrays.measure(
        lambda w, h, *image: np.minimum(w, h) * image_size / np.minimum(image[0], image[1])
    )
    if not len(sides):
        return ""
    usual, small = float(np.median(sides)), float((sides < SMALL_SIDE).mean())
    sizes = f"at --image_size {image_size} half of the objects are less than {usual:.0f} pixels wide or high"
    if small > 0.2:
        return f"{sizes}, {small:.0%} less than {SMALL_SIDE:.0f}, which is hard to detect; raise --image_size"
    return f"{sizes}, which is large enough"


def _classes(data: Data) -> str:
    """A sentence on classes of the validation images that the training images lack."""
    shown = {name: _occurring(split) for name, split in (("train", data.train), ("val", data.val))}
    missing = sorted(shown["val"] - shown["train"])
    if missing:
        names = first_names(missing, 4)
        return f"the training images lack these classes of the validation images: {names}"
    return f"the training images have every class of the validation images ({len(shown['val'])})"


def _occurring(split: Split) -> set[str]:
    """Names of the classes of which a split has objects."""
    return {split.categories.names[k] for k in np.flatnonzero(split.arrays.class_counts()).tolist()}
