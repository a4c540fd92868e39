"""The code of the pages runs: every shell command and every piece of Python, in the order of the page, only smaller."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from detrkit import cli

from .conftest import SMALL_MODEL
from .pages import PAGES, ROOT, Block, Page, commands_of, detrkit_arguments

SMALL_RUN = {"epochs": 1, "eval_every": 1, "image_size": 64, "num_workers": 0, "lr_backbone": 1e-5, "device": "cpu"}
SMALL_DEMO = {"images": 10, "size": 64, "minutes": 0.02}
REPLACED = {
    # what is too large to try -> what is tried instead
    "epochs=50,": "epochs=1, image_size=64, num_workers=0, device='cpu',",
}
TRIED = (
    "README.md",
    "docs/concepts.md",
    "docs/quickstart.md",
    "docs/your-own-data.md",
    "docs/fine-tuning.md",
    "docs/evaluation.md",
    "docs/report.md",
    "docs/benchmarks/speed.md",
)

PYTHON_ALONE = ("docs/benchmarks/speed.md",)
"""Pages whose commands measure, or want a GPU; that they parse is another test's."""


def smaller(arguments: list[str]) -> list[str]:
    """The arguments with flags added that make it quick; flags given later win."""
    name, *rest = arguments
    settings: dict[str, Any] = {}
    if name == "demo":
        settings = SMALL_DEMO
    elif name == "train" and "--print_config" not in rest:
        settings = dict(SMALL_RUN)
        if not {"--weights", "--resume"} & set(rest):
            settings |= SMALL_MODEL | {"backbone_weights": "none"}
    elif name == "eval":
        settings = {"num_workers": 0, "max_errors": 2}
    return [*arguments, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


class Reader:
    """Somebody who does what the pages say, in one place, and nothing twice."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def read(self, page: Page) -> None:
        if page.name in self.done:
            return
        self.done.add(page.name)
        names = known_names()  # what one piece of a page defines, the next may use
        for block in page.blocks:
            code = block.code
            for old, new in REPLACED.items():
                code = code.replace(old, new)
            if block.info == "python" and not code.startswith("def forward"):  # which another test looks at
                self.run_python(page, block, code, names)
            elif block.info in ("sh", "") and page.name not in PYTHON_ALONE:
                for line in code.replace("\\\n", " ").splitlines():
                    for words in commands_of(line):
                        self.run_command(page, words)

    def run_python(self, page: Page, block: Block, code: str, names: dict[str, Any]) -> None:
        # as many empty lines as are above, so that a traceback names the line of the page
        exec(compile("\n" * (block.line - 1) + code, page.path, "exec"), names)

    def run_command(self, page: Page, words: list[str]) -> None:
        arguments = ["demo"] if words == ["make", "demo"] else detrkit_arguments(words)
        command = shlex.join(arguments or [])
        if not command or command in self.done:
            return
        self.done.add(command)
        try:
            status = cli.main(smaller(arguments))
        except SystemExit as leaving:  # --help and --print_config
            status = leaving.code
        assert not status, f"{page.name}: detrkit {command}"


def known_names() -> dict[str, Any]:
    """What the Python on the pages takes as given."""
    gt = json.loads(Path("DATA/val.json").read_text(encoding="utf-8"))
    detections = json.loads(Path("found.json").read_text(encoding="utf-8"))
    return {"__name__": "__main__", "gt": gt, "detections": detections}


@pytest.fixture(scope="module")
def reader(sandbox: Path) -> Reader:
    return Reader()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in TRIED], ids=lambda page: page.name)
@pytest.mark.filterwarnings(
    "ignore:.*assumed:UserWarning", "ignore:.*stretched to:UserWarning", "ignore:.*isinstance.treespec:FutureWarning"
)
def test_commands_of_a_page_run(page: Page, reader: Reader, sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader.read(Page(ROOT / "README.md"))  # others go on from what it makes
    if page.name == "docs/evaluation.md":
        shutil.copytree("runs/mine", "runs/x")
    reader.read(page)
