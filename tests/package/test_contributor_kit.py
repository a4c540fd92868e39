"""Workflows, hooks, forms and metadata for contributors name what exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import detrkit
from tests.conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def recipe(target: str) -> list[str]:
    """The lines of a target of the Makefile."""
    return re.findall(r"^\t(.+)$", re.split(rf"^{target}:.*\n", MAKEFILE, flags=re.MULTILINE)[1].split("\n\n")[0], re.M)


def test_workflows_call_targets_that_exist() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]
    called = [name for path in WORKFLOWS for name in re.findall(r"run: make ([a-z-]+)", path.read_text("utf-8"))]
    assert set(called) == {"check", "test", "coverage", "docs"}
    assert set(called) <= TARGETS
    assert re.findall(r"^make ([a-z-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE) == ["check", "test"]


def test_workflows_test_every_python_and_system_that_is_promised() -> None:
    matrix = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert matrix["python"] == re.findall(r"Programming Language :: Python :: (3\.\d+)", pyproject)
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


def test_on_windows_the_workflow_does_what_make_test_does() -> None:
    steps = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    (windows,) = [step for step in steps if step.get("if") == "runner.os == 'Windows'"]
    install, test = windows["run"].splitlines()[1:]
    assert install.split("python ")[1] in MAKEFILE
    (line,) = recipe("test")
    jobs, parallel = (re.findall(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)[0] for name in ("JOBS", "IN_PARALLEL"))
    assert line == f"OMP_NUM_THREADS={windows['env']['OMP_NUM_THREADS']} $(BIN)/python -m pytest $(IN_PARALLEL)"
    assert test == f".venv/Scripts/python -m pytest {parallel.replace('$(JOBS)', jobs)}"


def test_hooks_run_the_tools_of_make_check() -> None:
    (repo,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/").split(" --")[0] for hook in repo["hooks"]]
    assert hooks == [line.removeprefix("$(BIN)/").split(" --")[0] for line in recipe("check")]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_well_formed(path: Path) -> None:
    form = load(path)
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len({*ids})
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "checkboxes")
        assert field["attributes"]["label"]


def test_one_version_everywhere() -> None:
    assert load(ROOT / "CITATION.cff")["version"] == detrkit.__version__
    assert f'\nversion = "{detrkit.__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
