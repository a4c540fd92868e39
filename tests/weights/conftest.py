"""Fixtures for the tests of weights."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detrkit.models.checkpoints import huggingface
from detrkit.models.checkpoints.hf_files import UnsupportedError


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty and in a temporary place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def own_readers_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which what detrkit's own architectures lack is an error, instead of a model of transformers."""
    by_transformers = huggingface._read_by_transformers

    def refuse(*given: Any, **settings: Any) -> Any:
        problem = sys.exception()
        if isinstance(problem, UnsupportedError):
            raise problem
        return by_transformers(*given, **settings)

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(huggingface, "_read_by_transformers", refuse)
            yield

    return alone
