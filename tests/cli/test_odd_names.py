"""Folders, files and classes with any name, on consoles of any encoding: every command does its work."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit import cli
from tests.training.conftest import TINY

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:no font on this machine"),  # there may be one, or not
]

CLASSES = (
    "[bold]",
    "[/]",
    "$x^2$",
    "50% {0} %s",
    ":smile:",
    "裂纹",
    "two\nlines",
    "x" * 300,
    "<b>",
    "_a",
    "background",
)
ODD = "a [bold] $x^2$ {0} %s 猫 :smile:"
IMAGE = "val [0] %20 {0} #1 猫.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of odd names."""
    place = tmp_path_factory.mktemp("odd")
    (place / ODD / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    for split, count in (("train", 4), ("val", 2)):
        images, annotations = [], []
        for k in range(count):
            name = IMAGE.replace("val", split).replace("0", str(k), 1)
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(place / ODD / "images" / name)
            images.append({"id": k + 1, "file_name": name, "width": 64, "height": 48})
            for number in range(1 + k % 2, 1 + len(CLASSES), 2):
                entry = {"id": len(annotations) + 1, "image_id": k + 1, "category_id": number, "area": 400}
                annotations.append({**entry, "bbox": [2 * number, number, 20, 20], "iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (place / ODD / f"{split}.json").write_text(json.dumps(content))
    return place


class Outputs:
    """A strict stdout and stderr of an encoding."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.raw = io.BytesIO()

    def run(self, *argv: str) -> str:
        """What a command that succeeds prints."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, io.TextIOWrapper(self.raw, self.encoding, "strict", write_through=True))
            status = cli.main(list(argv))
            sys.stdout.detach()  # type: ignore[union-attr]
            sys.stderr.detach()  # type: ignore[union-attr]
        text = self.raw.getvalue().decode(self.encoding)
        assert status == 0, text
        return text


@pytest.fixture(scope="module")
def run_dir(place: Path) -> Iterator[str]:
    """A run on it, trained on an ASCII console of 20 columns; the working folder is the one of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COLUMNS", "20")
        # the test of eval writes a report
        patch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})
        settings = {**TINY, "epochs": 1, "num_queries": 8, "recipe": "classic", "output_dir": "run [red] %d 犬"}
        text = Outputs("ascii").run("train", ODD, *(f"--{name}={value}" for name, value in settings.items()))
        assert "a [bold] $x^2$ {0} %s \\u732b :smile:" in text
        yield "run [red] %d 犬"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "cp932", "cp949", "utf-8"])
def test_check(place: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "300")
    text = Outputs(encoding).run("check", ODD, "--json", "report [1].json", "--html", "report [1] 猫.html")
    for name in ("[bold]", "[/]", "$x^2$", "50% {0} %s", ":smile:", "two lines", "<b>", "x" * 80):
        assert name in text
    assert ("裂纹" in text) == (encoding in ("utf-8",))
    assert ("裂" in text) == (encoding in ("utf-8", "cp932", "cp949"))
    assert (place / "report [1].json").is_file()
    assert (place / "report [1] 猫.html").is_file()


def test_eval_and_plot(place: Path, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "bogus")
    where = ["--weights", run_dir, "--output_dir", "rep [x]", "--num_workers=0", "--device=cpu"]
    text = Outputs("cp437").run("eval", ODD, *where)
    for name in ("[bold]", "[/]", "$x^2$", "50% {0} %s", ":smile:", "two lines"):
        assert name in text
    assert "Report: rep [x]" in text
    assert "run [red] %d \\u72ac/report/training_curves.png" in Outputs("cp1252").run("plot", run_dir)


def test_predict_explain_convert(place: Path, run_dir: str) -> None:
    where = ["--weights", run_dir, "--device=cpu", "--image_size=48"]
    sources = [f"{ODD}/images/{IMAGE}", f"{ODD}/images/train*.png"]
    text = Outputs("cp932").run("predict", *sources, *where, "--output_dir", "out {0} [1]", "--threshold=0")
    assert "Written to out {0} [1]" in text
    assert (place / "out {0} [1]" / IMAGE).is_file()
    assert (place / "out {0} [1]" / "detections.csv").read_bytes().startswith("\ufefffile".encode())
    text = Outputs("cp949").run("explain", sources[0], *where, "--output_dir", "ex [/]")
    assert "Written: ex [/]/decoder_attention.png" in text
    assert "to c [/red].pth" in Outputs("ascii").run("convert", run_dir, "c [/red].pth")


def test_errors_and_help(place: Path, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    for argv in (["train", "--help"], ["check", "--help"], ["detr", "--help"], ["--help"], ["--version"]):
        assert Outputs("ascii").run(*argv)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii", "strict", write_through=True))
    assert cli.main(["check", "[/red] 猫"]) == 2
    assert raw.getvalue().decode() == (
        "detrkit: error: expected a data set at [/red] \\u732b, found no such file or folder; look at the path\n"
    )
    sys.stderr.detach()  # type: ignore[union-attr]
