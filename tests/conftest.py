"""Fixtures that every test may use."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
