"""The command line, run inside this process: importing torch anew for every call would take minutes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit import cli
from tests.training.conftest import TINY, write_split

TINY_FLAGS = ["--recipe=classic", *(f"--{name}={value}" for name, value in TINY.items())]
"""Settings of a training run that takes a second."""


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr that a user can act on."""
        assert self.status == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("detrkit: error: "), self.err
        return lines[0].removeprefix("detrkit: error: ")


Command = Callable[..., Outcome]


@pytest.fixture
def detrkit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`detrkit(...)` in an empty working folder, on a wide terminal, on one thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*argv: str | Path) -> Outcome:
        capsys.readouterr()
        status = cli.main([str(word) for word in argv])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the report of a run, which takes longer than a tiny run."""
    monkeypatch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes, ids 3 and 7: six images to train on, three held out."""
    folder = tmp_path_factory.mktemp("cli") / "shapes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    write_split(folder, "train", 6, rng)
    write_split(folder, "val", 3, rng)
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults of a machine with a GPU, wherever the tests run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
