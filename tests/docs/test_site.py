"""The site is built without a warning, and its reference holds every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import detrkit

from .pages import ROOT

API = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/api").glob("*.md"))}
SETTINGS = ["detrkit.config.model.ModelConfig", "detrkit.config.train.TrainConfig"]


def test_the_reference_has_every_public_name_once_and_its_overview_links_it() -> None:
    names = sorted(name for text in API.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    public = [f"detrkit.{name}" for name in detrkit.__all__]
    assert names == sorted({*public, *SETTINGS, "detrkit.errors"} - {"detrkit.TrainConfig", "detrkit.ModelConfig"})
    linked = {anchor.rpartition(".")[2] for anchor in re.findall(r"\.md#([\w.]+)\)", API["index"])}
    assert {*detrkit.__all__, "TrainConfig", "ModelConfig"} == linked


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install 'detrkit[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "detrkit is a PyTorch toolkit" in home
    assert "fonts.googleapis" not in home
    reference = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site/api").glob("*.html"))
    for name in detrkit.__all__:
        assert re.search(rf'id="detrkit\.(\w+\.)*{name}"', reference), name
    for word in ("num_queries", "set_cost_giou", "eos_coef", "lr_backbone"):
        assert f"<code>{word}</code>" in reference
