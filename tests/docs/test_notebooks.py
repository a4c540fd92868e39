"""The notebooks run from top to bottom, with fewer epochs and smaller images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from .pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SMALLER = {
    r"epochs=\d+,\s+eval_every=\d+": "epochs=1",
    r"image_size=\d+": "image_size=64",
    r"images=40": "images=6",
    r'\("train", 48\), \("val", 12\)': '("train", 6), ("val", 2)',
}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*assumed:UserWarning")
def test_a_notebook_runs(path: Path, sandbox: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(load(path)["cells"]):
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            for pattern, replacement in SMALLER.items():
                code = re.sub(pattern, replacement, code)
            exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
    if path.stem == "fine-tune-five-classes":
        assert names["checkpoint"]["model"]["class_embed.bias"].shape == torch.Size([6])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_its_links_lead_somewhere(path: Path) -> None:
    for cell in load(path)["cells"]:
        assert not cell.get("outputs"), "clear the outputs"
        assert cell.get("execution_count") is None
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\(([^)#\s]+)\)", "".join(cell["source"])):
                assert (path.parent / link).exists(), link
