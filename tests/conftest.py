"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR")
"""Variables that keep libraries from using all instructions of the processor."""


def pytest_report_header() -> str:
    """On what rounding depends."""
    limits = "".join(f", {name}={os.environ[name]}" for name in ISA_LIMITS if name in os.environ)
    return f"arithmetic: {torch.backends.cpu.get_cpu_capability()} on {torch.get_num_threads()} threads{limits}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference results and real data sets that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder ../shared with reference results and real data sets")
    return folder


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The real data sets."""
    return shared / "data"
