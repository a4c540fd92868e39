"""The clients and the application of docs/serve.md run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detrkit import Detector
from tests.docs.pages import ROOT, Page

from .conftest import running

PAGE = Page(ROOT / "docs/serve.md")


def test_the_clients_of_the_page_get_answers(
    detector: Detector,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "other.jpg"):
        Path(name).write_bytes(photo)
    with running({"mine": detector}) as (client, service):
        code = {
            info: next(block.code for block in PAGE.blocks if block.info == info).replace(":8000", f":{client.port}")
            for info in ("python", "js")
        }
        exec(code["python"], {})
        assert "Traceback" not in capsys.readouterr().err
        lines = [line for line in PAGE.lines_of_code if line.startswith("curl ") and "Authorization" not in line]
        assert len(lines) == 2
        if shutil.which("curl") and sys.platform != "win32":
            for line in lines:
                command = line.replace(":8000", f":{client.port}").replace("curl ", "curl -sS --fail ", 1)
                done = subprocess.run(command, shell=True, capture_output=True, text=True)
                assert re.match(r'\{"model":"mine"', done.stdout), done.stderr
        if shutil.which("node"):
            Path("client.mjs").write_text(code["js"], encoding="utf-8")
            done = subprocess.run(["node", "client.mjs"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert service.metrics.registry.get_sample_value("detrkit_requests_total", {"status": "200"}) >= 1


def test_the_application_of_the_page_is_one(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    shutil.copy(checkpoint, "runs/mine/best.ckpt")
    block = next(block for block in PAGE.blocks if "create_app" in block.code)
    names: dict = {}
    exec(block.code, names)
    assert names["app"].title == "detrkit"


def test_an_image_of_the_container_needs_files_that_exist() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
    kept = re.findall(r"^!(\S+)$", (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*kept} == {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert "USER detrkit" in text
    assert "HEALTHCHECK" in text
