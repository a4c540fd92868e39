"""Names on images and plots: any text is drawn, in a font that has its letters, or with one warning."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from detrkit import Detections
from detrkit.evaluation.confusion import Confusion
from detrkit.evaluation.report_plots import plot_confusion
from detrkit.results import PanopticMap
from detrkit.visualization import fonts as letters
from detrkit.visualization.box_labels import place_labels
from detrkit.visualization.draw import Tile, draw_detections, draw_panoptic, sheet
from detrkit.visualization.figures import as_label, as_text, figure_file
from detrkit.visualization.fonts import builtin_font, cut_to, drawable, families, name_of, runs, text_width, write
from detrkit.visualization.plots import plot_precision_recall, plot_training, read_curves

STIX = str(Path(builtin_font()).with_name("STIXGeneral.ttf"))
ONLY_IN_STIX = "\u1d81\u210a"
NAMES = (
    "[bold]", "$x^2$", "50% {0} %s", "裂纹", "two\nlines\ttab", "", " ", "x" * 300, "سلام عليكم", "שלום abc",
    "é e\u0301", "\x1b[31m\x00", "_under", "background", "a$b", r"\frac{", "😀👩\u200d👧", "\u202eevil", "\udcff",
    f"{ONLY_IN_STIX} a",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has one font besides the built-in one, and has not drawn anything."""

    def forget() -> None:
        for cached in (letters._fonts, letters.drawable, letters.runs):
            cached.cache_clear()

    monkeypatch.setattr(letters, "system_fonts", lambda: (STIX,))
    forget()
    yield
    forget()


def test_a_font_that_has_the_letters_is_found() -> None:
    assert runs("scratch Größe ж") == (("scratch Größe ж", builtin_font()),)
    assert runs(ONLY_IN_STIX) == ((ONLY_IN_STIX, STIX),)
    assert runs(f"{ONLY_IN_STIX} a") == ((f"{ONLY_IN_STIX} a", STIX),)  # one font for all of it, where it can be
    only_builtin = "\u10d0"  # Georgian
    assert runs(f"{only_builtin}{ONLY_IN_STIX} b") == (
        (only_builtin, builtin_font()),
        (f"{ONLY_IN_STIX} ", STIX),
        ("b", builtin_font()),
    )
    assert families([ONLY_IN_STIX]) == ["DejaVu Sans", "STIXGeneral"]
    assert families(["scratch"]) == ["DejaVu Sans"]


def test_without_a_font_one_warning_names_the_package() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert drawable("裂纹 a") == "?? a"
        assert drawable("猫") == "?"
        assert draw_detections(one_image(), detections("裂纹", "犬")).any()
    assert len(caught) == 1
    assert "apt-get install fonts-noto-cjk" in str(caught[0].message)
    assert "裂" in str(caught[0].message)
    letters._fonts.cache_clear()
    letters.drawable.cache_clear()
    with pytest.warns(UserWarning, match="fonts-noto-core"):
        drawable("\u1200")  # Ethiopic


def test_files_that_are_no_fonts_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "Sans [1] %s.ttf"
    broken.write_bytes(b"no font")
    odd = tmp_path / "a [b] 猫.ttf"
    odd.write_bytes(Path(STIX).read_bytes())
    monkeypatch.setattr(letters, "system_fonts", lambda: (str(broken), str(tmp_path / "gone.otf"), str(odd)))
    assert runs(ONLY_IN_STIX) == ((ONLY_IN_STIX, str(odd)),)


def test_names_are_short_and_on_one_line() -> None:
    assert name_of("two\nlines\ttab") == "two lines tab"
    assert name_of(" \n") == name_of("") == "(no name)"
    assert name_of("ab" * 150) == f"{'ab' * 9}a…{'ab' * 10}"
    assert drawable("e\u0301 a\u200db \x1b[31m") == "é ab \\x1b[31m"


def one_image() -> np.ndarray:
    return np.full((300, 400, 3), 128, dtype=np.uint8)


def detections(*names: str) -> Detections:
    n = len(names)
    corners = torch.tensor([[20.0 + 70 * (k % 5), 30.0 + 60 * (k // 5)] for k in range(n)])
    return Detections(
        torch.cat([corners, corners + 40], dim=1), torch.linspace(0.9, 0.1, n), torch.arange(n), class_names=names
    )


@pytest.mark.filterwarnings("ignore:no font on this machine")
def test_any_name_is_drawn_on_images() -> None:
    some_detections = detections(*NAMES)
    masks = torch.zeros(len(some_detections), 300, 400, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, some_detections.xyxy.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    for shown in (some_detections, replace(some_detections, masks=masks)):
        drawn = draw_detections(one_image(), shown, some_detections)
        assert drawn.shape[1] % 400 == 0
        assert (drawn != 128).any()
    page = sheet(
        [Tile(one_image(), some_detections, some_detections, f"{name}/{name}.jpg") for name in NAMES[:3]], side=120
    )
    assert page.shape[2] == 3
    segments = [{"id": k, "category_id": k, "category_name": name, "area": 9} for k, name in enumerate(NAMES)]
    ids = torch.arange(300 * 400).reshape(300, 400) % len(NAMES)
    assert draw_panoptic(one_image(), PanopticMap(ids, tuple(segments))).shape[2] == 3


@pytest.mark.filterwarnings("ignore:no font on this machine")
def test_every_name_has_visible_letters() -> None:
    for name in NAMES:
        canvas = Image.new("RGB", (900, 40), (255, 255, 255))
        write(ImageDraw.Draw(canvas), (5, 20), name_of(name), 16, (0, 0, 0))
        rows, columns = np.nonzero(np.asarray(canvas).min(axis=2) < 128)
        assert len(rows) > 5, name
        assert 8 < rows.mean() < 32, name
        assert columns.max() <= 5 + text_width(name_of(name), 16) + 2, name
        assert text_width(cut_to(name, 16, 60), 16) <= 60


def test_labels_stay_inside_and_off_each_other() -> None:
    corners = [(10.0, 10.0), (12.0, 11.0), (390.0, -50.0), (395.0, 295.0), (30.0, 12.0), (-9.0, 4.0)]
    places = place_labels(corners, [60] * 6, 20, (400, 300))
    assert places[0] == (10, 10)
    for k, (left, top) in enumerate(places):
        assert 0 <= left <= 340
        assert 0 <= top <= 280
        for other_left, other_top in places[:k]:
            assert abs(left - other_left) >= 60 or abs(top - other_top) >= 20
    crowd = place_labels([(0.0, 0.0)] * 100, [60] * 100, 20, (50, 40))
    assert set(crowd) <= {(0, y) for y in range(21)}


@pytest.mark.filterwarnings("ignore:no font on this machine")
def test_any_name_is_a_label_in_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **how: (figures.append(self), save(self, *args, **how))[1]
    )
    counts, nothing = np.eye(len(NAMES) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        plot_confusion(tmp_path / "c.png", Confusion(0.5, NAMES, counts, nothing, nothing == 0))
        run = tmp_path / "run"
        run.mkdir()
        (run / "metrics.csv").write_text("epoch,train/loss,val/$x$,_odd\n1,2,0.5,1\n2,1,0.4,1\n")
        curves = read_curves(run)
        assert curves is not None
        plot_training(tmp_path / "t.png", dict.fromkeys(NAMES, curves))
        pr = {"recall": [0, 1], **{t: {"all": [1, 0], "per_class": {}} for t in ("iou_0.50", "iou_0.50_0.95")}}
        plot_precision_recall(tmp_path / "p.png", dict.fromkeys(NAMES, pr))
    ticks = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert ticks == [*(as_label(name) for name in NAMES), "false alarm"]  # a class called background is one
    assert len(figures[1].legends[0].get_texts()) == len(NAMES)  # no run is left out for its name
    assert len(figures[2].axes[0].get_legend().get_texts()) == len(NAMES)


def test_labels_are_no_formulas(tmp_path: Path) -> None:
    assert as_label("_under") == " _under"
    assert as_text("a$b$ $") == r"a\$b\$ \$"
    with figure_file(tmp_path / "a.png", 3, 3, ["$\\frac{$"]) as figure:
        text = figure.text(0, 0, as_label("$\\frac{$"))
        assert text._preprocess_math(text.get_text())[1] is not True


def test_a_style_of_the_user_changes_nothing(tmp_path: Path) -> None:
    def drawn(name: str) -> bytes:
        with figure_file(tmp_path / name, 2, 2) as figure:
            figure.add_subplot().plot([0, 1])
        return (tmp_path / name).read_bytes()

    plain = drawn("a.png")
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.family": "nowhere", "savefig.dpi": 10}):
        assert drawn("b.png") == plain


@pytest.mark.parametrize("backend", ["bogus", "TkAgg", "module://no_such_package"])
def test_plots_work_whatever_the_backend(tmp_path: Path, backend: str) -> None:
    code = (
        "import sys; from pathlib import Path; from detrkit.visualization.figures import figure_file\n"
        "with figure_file(Path(sys.argv[1]), 2, 2, ['a']) as figure: figure.add_subplot().plot([0, 1])\n"
        "import os, matplotlib; print(os.environ['MPLBACKEND'], matplotlib.rcParams['backend'])"
    )
    env = {**os.environ, "MPLBACKEND": backend, "DISPLAY": ""}
    argv = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    requested, used = done.stdout.split()
    assert requested == backend
    assert backend == "bogus" or used.casefold() == backend.casefold()  # the rest of the program gets what it asked for
    assert (tmp_path / "a.png").stat().st_size > 1000
