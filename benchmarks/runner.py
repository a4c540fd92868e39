"""Train the models of a comparison, each in a process of its own, and collect their results in results.json.

A `Job` has everything that determines a training; a `Run` is its result. A job whose run is already in the file is not
trained again, so a comparison that was interrupted continues.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DataError, DetrkitError
from detrkit.files import write_atomic
from peers import PEERS, Recipe

RECIPES = ("fast", "classic")
"""Models of detrkit: what `--recipe` calls them."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    name: str
    """Of its row and curve."""
    base: str
    """One of RECIPES or of PEERS."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from the base: settings of `TrainConfig`, or of `peers.Recipe`."""
    data: str
    epochs: int
    image_size: int
    batch_size: int
    seed: int
    device: str = "auto"
    eval_every: int = 1
    num_workers: int = 0
    max_minutes: float = 0.0
    """Stop after so many minutes, with what was reached till then; 0: no limit."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluation."""

    epoch: int
    seconds: float
    """Since training began, evaluations included."""
    AP: float
    AP50: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a job gave."""

    job: Job
    curve: list[Point]
    parameters: int
    memory: int
    """Bytes: the most that tensors took on the GPU, or the most of main memory that its process took."""
    machine: str
    parallel: int = 1
    """How many trainings shared the machine."""

    def at(self, epoch: int) -> Point | None:
        """The evaluation after `epoch`, if there was one."""
        return next((point for point in self.curve if point.epoch == epoch), None)

    @property
    def seconds_per_epoch(self) -> float:
        """Wall time, evaluations included."""
        return self.curve[-1].seconds / self.curve[-1].epoch

    @classmethod
    def from_plain(cls, row: dict[str, Any]) -> Run:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**row, "job": Job(**row["job"]), "curve": [Point(**point) for point in row["curve"]]})


@dataclass(frozen=True)
class Variant:
    """A row of a comparison: a base under other settings."""

    name: str
    base: str
    settings: dict[str, Any] = field(default_factory=dict)
    """As in `Job`; its own epochs, image_size or batch_size go before those of the comparison."""


class Results:
    """results.json: the runs that are finished."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            DataError: the file is not one of these.
        """
        self.path = folder / "results.json"
        self.runs: list[Run] = []
        if self.path.exists():
            try:
                self.runs = [Run.from_plain(row) for row in json.loads(self.path.read_text(encoding="utf-8"))["runs"]]
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"expected results of this benchmark in {self.path}, found something else; name another folder"
                ) from None

    def find(self, job: Job) -> Run | None:
        """The run of just this job."""
        return next((run for run in self.runs if run.job == job), None)

    def add(self, run: Run) -> None:
        """Keep a run, in place of an earlier one of that name and seed."""
        same = (run.job.name, run.job.seed)
        self.runs = [old for old in self.runs if (old.job.name, old.job.seed) != same] + [run]
        content = {"runs": [asdict(run) for run in self.runs]}
        write_atomic(self.path, json.dumps(content, indent=1) + "\n")


def run_jobs(
    jobs: list[Job], folder: Path, *, parallel: int = 1, finished: Callable[[list[Run]], None] = lambda runs: None
) -> tuple[list[Run], list[str]]:
    """Train what is not yet trained.

    Logs and, of detrkit's models, run folders without checkpoints go to FOLDER/runs/NAME-seedN.

    Args:
        jobs: jobs that differ in (name, seed).
        folder: folder of results.json.
        parallel: number of trainings at a time; they share the machine, so their times are longer than alone.
        finished: called with all runs so far, in the order of `jobs`, after each.

    Returns:
        The runs, in the order of `jobs`, and a sentence for each job that failed.
    """
    results = Results(folder)
    todo = [job for job in jobs if not results.find(job)]
    failures: list[str] = []
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} trainings are already in {results.path}", flush=True)
    with ThreadPoolExecutor(parallel) as pool:
        for done in as_completed([pool.submit(_train, job, folder, parallel) for job in todo]):
            outcome = done.result()
            if isinstance(outcome, str):
                failures.append(outcome)
                print(outcome, file=sys.stderr, flush=True)
                continue
            results.add(outcome)
            last = outcome.curve[-1]
            print(
                f"{outcome.job.name} seed {outcome.job.seed}: AP {last.AP:.3f} AP50 {last.AP50:.3f} after "
                f"{last.epoch} epochs, {last.seconds:.0f} s",
                flush=True,
            )
            finished(_in_order(jobs, results))
    runs = _in_order(jobs, results)
    if not todo:
        finished(runs)
    return runs, failures


def make_jobs(
    variants: Sequence[Variant],
    flags: argparse.Namespace,
    *,
    data: str,
    epochs: int,
    image_size: int,
    batch_size: int,
    eval_every: int,
) -> list[Job]:
    """Each variant with each seed.

    Args:
        variants: the rows.
        flags: those of `add_run_flags`.
        data: the data set.
        epochs: epochs of each training.
        image_size: shorter side in pixels.
        batch_size: images per step.
        eval_every: epochs between evaluations.

    Raises:
        ConfigError: a job cannot be made; raised now, not after hours.
    """
    on_gpu = flags.device == "cuda" or (flags.device == "auto" and torch.cuda.is_available())
    shared = {"epochs": epochs, "image_size": image_size, "batch_size": batch_size}
    jobs = []
    for seed, variant in product(range(flags.seeds), variants):
        own = {name: value for name, value in variant.settings.items() if name not in shared}
        size = {name: variant.settings.get(name, value) for name, value in shared.items()}
        job = Job(
            name=variant.name,
            base=variant.base,
            settings=own,
            data=data,
            seed=seed,
            device=flags.device,
            eval_every=eval_every,
            num_workers=(2 if on_gpu else 0) if flags.num_workers is None else flags.num_workers,
            max_minutes=flags.max_minutes,
            **size,
        )
        try:
            peer_recipe(job) if job.base in PEERS else detrkit_config(job)
        except DetrkitError as error:
            raise ConfigError(f"{job.name}: {error.message}") from None
        jobs.append(job)
    return jobs


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every comparison has."""
    add = parser.add_argument
    add("--epochs", type=int, help="default 50")
    add("--image_size", type=int, help="shorter side in pixels, default 320")
    add("--batch_size", type=int, help="default 16")
    add("--eval_epochs", type=numbers, help="columns of the table; evaluated is at their greatest common divisor")
    add("--seeds", type=int, default=1, help="how many trainings of each model, with seeds 0, 1, ...")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--parallel", type=int, help="trainings at once, default 1; they share the machine and its time")
    add("--num_workers", type=int, help="loading processes of each training; default: 2 on a GPU, else none")
    add(
        "--limit",
        type=int,
        default=0,
        help="only so many training images (and validation images, at least 100); 0: all",
    )
    add("--max_minutes", type=float, default=0.0, help="stop each training after so long; 0: never")
    add("--output_dir", required=True)


def words(text: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(word for word in text.split(",") if word)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers that commas separate, in order."""
    return tuple(sorted({int(word) for word in words(text)}))


def check_flags(flags: argparse.Namespace) -> None:
    """Refuse numbers that are too low.

    Raises:
        ConfigError: one is.
    """
    for name in ("epochs", "image_size", "batch_size", "parallel", "seeds"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, found {value}")
    if flags.eval_epochs is not None and min(flags.eval_epochs, default=0) < 1:
        raise ConfigError("--eval_epochs must be whole numbers from 1 on, separated by commas")
    for name in ("limit", "max_minutes"):
        if getattr(flags, name) < 0:
            raise ConfigError(f"--{name} must be at least 0, found {getattr(flags, name)}")


def run_folder(job: Job, folder: Path) -> Path:
    """Where a training leaves its files."""
    return folder / "runs" / f"{job.name}-seed{job.seed}"


def _in_order(jobs: list[Job], results: Results) -> list[Run]:
    return [run for job in jobs if (run := results.find(job))]


def _train(job: Job, folder: Path, parallel: int) -> Run | str:
    """Train in a process of its own; a sentence if that failed."""
    place = run_folder(job, folder)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "job.json").write_text(json.dumps(asdict(job), indent=1), encoding="utf-8")
    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    with (place / "log.txt").open("w") as log:
        code = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("train_one.py")), str(place)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": threads, **os.environ},
        ).returncode
    result = place / "result.json"
    if code or not result.exists():
        lines = (place / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = f"killed by signal {-code}" if code < 0 else lines[-1] if lines else f"exit status {code}"
        return f"{job.name} seed {job.seed} failed: {why} ({place}/log.txt)"
    return Run.from_plain({**json.loads(result.read_text(encoding="utf-8")), "parallel": parallel})


def detrkit_config(job: Job, output_dir: str = "") -> TrainConfig:
    """The settings of a training of detrkit: its recipe, what all models of the comparison share, what differs.

    Raises:
        ConfigError: the job's settings are none, or do not go together.
    """
    shared = {
        "data": job.data,
        "epochs": job.epochs,
        "image_size": job.image_size,
        "batch_size": job.batch_size,
        "device": job.device,
        "eval_every": job.eval_every,
        "num_workers": job.num_workers,
        "max_minutes": job.max_minutes,
        "seed": job.seed,
        "weights": "none",
        "backbone_weights": "none",
        "output_dir": output_dir,
    }
    if job.base == "classic" and "model" not in job.settings:
        shared["backbone"] = "resnet18"  # as all the others
    return TrainConfig.from_recipe(job.base, **shared | job.settings)


def peer_recipe(job: Job) -> Recipe:
    """How the peer of a job is trained.

    Raises:
        ConfigError: a setting is not one of `peers.Recipe`.
    """
    known = [f.name for f in fields(Recipe) if f.name != "build"]
    for name in job.settings:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r} of {job.base}; it has {', '.join(known)}")
    plain = {name: getattr(PEERS[job.base], name) for name in known}
    return Recipe(PEERS[job.base].build, **plain | job.settings)


def parse_variant(text: str, default_base: str = "fast") -> Variant:
    """`NAME:key=value,key=value`, where the key `base` may name another model than `fast`.

    Values may hold commas: a new setting begins where a comma is followed by `name=`.

    Raises:
        ConfigError: it is written otherwise, or has an unknown setting.
    """
    name, colon, rest = text.partition(":")
    pairs = [part.partition("=") for part in re.split(r",(?=\w+=)", rest) if part]
    if not name or not colon or not all(key and equals for key, equals, _ in pairs):
        raise ConfigError(f"expected NAME:key=value,key=value after --set, found {text!r}")
    texts = {key: value for key, _, value in pairs}
    base = texts.pop("base", default_base)
    if base not in (*RECIPES, *PEERS):
        raise ConfigError(f"--set {text}: base must be one of {', '.join((*RECIPES, *PEERS))}, found {base!r}")
    owner = Recipe if base in PEERS else TrainConfig
    defaults = {f.name: PEERS[base].lr if f.default is MISSING else f.default for f in fields(owner)}
    return Variant(name, base, {key: _typed(key, value, defaults) for key, value in texts.items()})


def _typed(key: str, text: str, defaults: dict[str, Any]) -> Any:
    """A value of the type that the setting has; unknown settings are left to their owner to refuse."""
    default = defaults.get(key, "")
    if isinstance(default, str):
        return text
    try:
        value = float(text) if isinstance(default, float) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        value = None
    if type(value) is not type(default) and value not in ("auto", "max"):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise ConfigError(f"expected {kind} for {key}, found {text!r}")
    return value


def run_with_messages(compare: Callable[[], int]) -> int:
    """What a comparison returns; 2 if the command is wrong, 130 if it was stopped, each with a sentence."""
    try:
        return compare()
    except DetrkitError as error:
        print(error.message, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the trainings that are missing", file=sys.stderr)
        return 130
