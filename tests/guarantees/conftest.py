"""One thread, no reports, and images that take a moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detrkit.data.synthetic.generate import make_demo_dataset


@pytest.fixture(autouse=True, scope="package")
def _quick() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def defects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images of 64 pixels to train on, three to measure on."""
    return make_demo_dataset(tmp_path_factory.mktemp("defects") / "data", images=16, size=64)
