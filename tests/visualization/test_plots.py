"""Curves of runs: what is read from logs, and that the plots show it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from detrkit.cli import main
from detrkit.commands.plot import plot
from detrkit.config.commands import PlotConfig
from detrkit.errors import DataError
from detrkit.visualization.plots import plot_precision_recall, plot_training, read_curves, run_names, training_charts

CSV = """epoch,lr,seconds,note,train/loss,train/loss_ce,train/loss_ce_0,train/dense/loss_ce,\
val/loss,val/AP,val/AP50,val/APs
1,0.0001,3.5,hello,9.5,2.0,2.1,0.7,,,,
2,0.0001,7,there,8.5,1.5,1.6,0.6,8.0,0.125,0.5,-1.0
"""
LINES = [
    {"train_lr": 1e-4, "train_loss": 20.0, "train_loss_bbox": 5.0, "train_loss_bbox_unscaled": 1.0, "epoch": 0},
    {
        "train_lr": 1e-5,
        "train_loss": 18.0,
        "train_loss_bbox": 4.0,
        "train_loss_bbox_unscaled": 0.8,
        "train_loss_bbox_3": 4.0,
        "test_loss": 19.0,
        "test_loss_bbox": 4.5,
        "test_loss_bbox_unscaled": 0.9,
        "test_coco_eval_bbox": [0.1 * k for k in range(12)],
        "epoch": 1,
        "n_parameters": 5,
    },
]
RECALL = [k / 100 for k in range(101)]


def curve(height: float) -> dict:
    table = {"all": [height * (1 - r) for r in RECALL], "per_class": {"pit": [height * (1 - r) for r in RECALL]}}
    return {"recall": RECALL, "iou_0.50": table, "iou_0.50_0.95": table}


def make_run(folder: Path, *, csv: str = "", log: list[dict] | None = None, pr: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    if csv:
        (folder / "metrics.csv").write_text(csv)
    if log:
        (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in log))
    if pr:
        (folder / "report").mkdir()
        (folder / "report" / "metrics.json").write_text(json.dumps({"pr_curves": pr}))
    return folder


def test_metrics_csv_is_read(tmp_path: Path) -> None:
    curves = read_curves(make_run(tmp_path / "run", csv=CSV, log=LINES))
    assert curves is not None
    assert curves.train["loss"] == [(1, 9.5), (2, 8.5)]
    assert curves.train["lr"] == [(1, 1e-4), (2, 1e-4)]
    assert curves.val == {"loss": [(2, 8.0)], "AP": [(2, 0.125)], "AP50": [(2, 0.5)]}  # -1: there was nothing to find
    assert "note" not in curves.train
    assert "loss_ce_0" not in curves.train
    assert curves.train["loss_ce"] == [(1, 2.0), (2, 1.5)]
    assert curves.train["dense/loss_ce"] == [(1, 0.7), (2, 0.6)]  # of another branch, another quantity


def test_the_charts_of_a_page_have_the_points_of_the_log(tmp_path: Path) -> None:
    curves = read_curves(make_run(tmp_path / "run", csv=CSV))
    assert curves is not None
    charts = {chart.title: chart for chart in training_charts({"run": curves}).charts}
    assert list(charts) == ["AP", "AP50", "loss", "loss_ce", "lr", "dense/loss_ce"]
    lines = {line.name: (list(line.x), list(line.y)) for line in charts["loss"].curves}
    assert lines == {"training": ([1, 2], [9.5, 8.5]), "validation": ([2], [8.0])}
    two = {chart.title: chart for chart in training_charts({"a": curves, "b": curves}).charts}
    assert [line.name for line in two["lr"].curves] == ["a, training", "b, training"]


def test_log_txt_of_the_reference_is_read(tmp_path: Path) -> None:
    curves = read_curves(make_run(tmp_path / "run", log=LINES))
    assert curves is not None
    assert curves.train["loss"] == [(1, 20.0), (2, 18.0)]
    assert curves.train["loss_bbox"] == [(1, 1.0), (2, 0.8)]  # unweighted, as metrics.csv has it
    assert curves.train["lr"] == [(1, 1e-4), (2, 1e-5)]
    assert curves.val["loss_bbox"] == [(2, 0.9)]
    assert curves.val["AP50"] == [(2, pytest.approx(0.1))]
    assert "loss_bbox_3" not in curves.train


def test_the_log_txt_we_write_is_read_as_our_metrics_csv(tmp_path: Path) -> None:
    from detrkit.evaluation.coco_metrics import COCO_NAMES
    from detrkit.training.reporters import ClassicLog, MetricsFile

    history = [
        {"epoch": e, "step": e * 3, "lr": 1e-4, "train/loss": 5.0 / e, "train/loss_ce": 1.0 / e, "val/loss": 6.0 / e}
        | {"train/class_error": 50.0, "val/loss_ce": 2.0 / e}
        | {f"val/{name}": 0.01 * e for name in COCO_NAMES}
        for e in (1, 2, 3)
    ]
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    MetricsFile(tmp_path / "ours" / "metrics.csv").epoch_finished(history)
    ClassicLog(tmp_path / "theirs" / "log.txt", {"loss_ce": 1.0, "loss_bbox": 5.0}, 7).epoch_finished(history)
    ours, theirs = read_curves(tmp_path / "ours"), read_curves(tmp_path / "theirs")
    assert ours is not None
    assert theirs is not None
    assert ours.val == theirs.val
    assert {k: v for k, v in ours.train.items() if k not in ("epoch", "step")} == theirs.train


def test_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        make_run(tmp_path / "a" / "run", csv=CSV, pr=curve(0.9)),
        make_run(tmp_path / "b" / "run", log=LINES),
    ]
    written = plot(PlotConfig(runs=[str(run) for run in runs]))
    assert written == [runs[0] / "report" / name for name in ("training_curves.png", "precision_recall.png")]
    for path in written:
        assert np.array(Image.open(path).convert("RGB")).std() > 5  # not an empty page
    assert "b/run has no report" in capsys.readouterr().out
    assert plot(PlotConfig(runs=[str(runs[1])], output_dir=str(tmp_path / "out"))) == [
        tmp_path / "out" / "training_curves.png"
    ]


def test_the_plots_show_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    runs = {name: read_curves(make_run(tmp_path / name, csv=CSV)) for name in ("one", "two", "three")}
    plot_training(tmp_path / "t.png", {name: run for name, run in runs.items() if run})
    panels = {axes.get_title(): axes for axes in figures[0].axes}
    assert list(panels) == ["AP", "AP50", "loss", "loss_ce", "lr", "dense/loss_ce"]
    assert len({line.get_color() for line in panels["loss"].get_lines()}) == 3
    assert [line.get_linestyle() for line in panels["loss"].get_lines()] == ["-", "--"] * 3
    assert panels["AP"].get_lines()[0].get_xydata().tolist() == [[2, 0.125]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()][:3] == ["one", "two", "three"]

    plot_precision_recall(tmp_path / "p.png", {"one": curve(0.9), "two": curve(0.5)})
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figures[1].axes]
    assert labels == [["one  AP 0.450", "two  AP 0.250"]] * 2
    plot_precision_recall(tmp_path / "p.png", {"one": curve(0.9)})
    assert len(figures[2].axes[0].get_lines()) == 2  # the class in gray, and the mean


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot(PlotConfig(runs=[str(make_run(tmp_path / "run", csv=CSV, pr=curve(0.5)))]))
    assert dict(mpl.rcParams) == before


def test_runs_have_distinct_names() -> None:
    assert run_names([Path("/r/a"), Path("/r/b")]) == ["a", "b"]
    assert run_names([Path("/r/x/demo"), Path("/r/y/demo")]) == ["x/demo", "y/demo"]
    assert run_names([Path("/r/x")]) == ["x"]
    with pytest.raises(DataError, match="more than once"):
        run_names([Path("/r/x"), Path("/r/x")])


def test_runs_without_a_plot_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    bad_log = make_run(tmp_path / "log")
    (bad_log / "log.txt").write_text("not json\n")
    for run, complaint in (
        (tmp_path / "empty", r"metrics\.csv"),
        (make_run(tmp_path / "young", csv="epoch,train/loss\n"), "let the run finish an epoch"),
        (bad_log, "line 1"),
        (make_run(tmp_path / "old", pr={"recall": RECALL, "nonsense": 1}), "detrkit eval"),
    ):
        with pytest.raises(DataError, match=complaint):
            plot(PlotConfig(runs=[str(run)]))
