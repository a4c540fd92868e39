"""Every benchmark script can be imported, and those with a command line describe themselves."""

import importlib
import sys

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
WITH_FLAGS = [name for name in SCRIPTS if "ArgumentParser(" in (ROOT / f"benchmarks/{name}.py").read_text("utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", [name for name in WITH_FLAGS if name != "runner"])  # the flags that others share
def test_a_script_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(name).main()
    assert exit.value.code == 0
    assert "--" in capsys.readouterr().out


def test_the_table_of_models_has_a_row_per_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model_table.py", "--size", "64", "--rounds", "1", "--models", "detrkit_n"])
    importlib.import_module("model_table").main()
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| `detrkit_n` |")
