"""The examples of docs/extending.md: each is applied to a copy of the package, and its check runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT

MOST_FILES = {
    "A loss term": 2,
    "A backbone": 2,
    "A data format": 2,
    "An export format": 2,
    "A switch of the architecture": 3,
}
"""Section -> source files that its example touches, a new one included."""

SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.M | re.S)
)
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.M | re.S)


def apply(kind: str, code: str, root: Path) -> str:
    """Write the new file, or make the change, of one block; the file that it names, empty for a check."""
    head, _, body = code.partition("\n")
    name = head.removeprefix("--- ").removeprefix("# ")
    path = root / name
    if kind == "python":
        if not name.startswith("src/"):
            return ""
        assert not path.exists(), f"{name} exists already"
        path.write_text(body, encoding="utf-8")
        return name
    lines = body.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{name} has the lines of the example {text.count(before)} times: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")
    return name


@pytest.mark.parametrize("title", MOST_FILES)
def test_the_example_works_in_a_copy_and_touches_few_files(title: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall(SECTIONS[title])
    touched = {apply(kind, code, tmp_path) for kind, code in blocks} - {""}
    assert len(touched) == MOST_FILES[title]
    kind, check = blocks[-1]
    assert kind == "python"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
