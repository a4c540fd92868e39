"""The house itself: public names, import weight, formatter, linter, types, import contract."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import ROOT

import detrkit

PUBLIC_NAMES = {
    "Batch",
    "Categories",
    "Detections",
    "Detector",
    "DetrkitError",
    "Output",
    "Target",
    "build_criterion",
    "build_model",
    "panoptic",
    "postprocess",
}


def test_public_names_are_frozen() -> None:
    assert set(detrkit.__all__) == PUBLIC_NAMES
    for name in detrkit.__all__:
        assert getattr(detrkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        detrkit.nothing  # noqa: B018


def test_importing_detrkit_and_its_command_line_stays_light() -> None:
    heavy = [
        "torch",
        "torchvision",
        "pytorch_lightning",
        "matplotlib",
        "supervision",
        "cv2",
        "scipy",
        "transformers",
        "timm",
    ]
    code = f"import sys, detrkit, detrkit.cli; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_answers_within_a_second() -> None:
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy with something else
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "detrkit", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    "command",
    [["ruff", "format", "--check"], ["ruff", "check"], ["mypy"], ["lint-imports"]],
    ids=["format", "lint", "types", "imports"],
)
def test_make_check(command: list[str]) -> None:
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
