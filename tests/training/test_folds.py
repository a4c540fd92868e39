"""Cross-validation: the folds, their runs, and the report on them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.cli import main
from detrkit.config.train import TrainConfig
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.data.validation.fold_split import assign_folds, classes_of_one_group, group_images
from detrkit.errors import ConfigError, DataError
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from detrkit.structures import Categories
from detrkit.training import folds as folds_module
from detrkit.training import train
from detrkit.training.folds_report import mean_and_spread
from tests.training.helpers import assert_same_run


def image(number: int, categories: list[int], name: str = "") -> ImageRecord:
    objects = [ObjectRecord(k, c, (0, 0, 5, 5), None, False, None, "") for k, c in enumerate(categories)]
    name = name or f"{number:03d}.png"
    return ImageRecord(number, Path(name), name, 10, 10, objects)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[ImageRecord], list[int], int]:
    """Images with objects of up to three classes, the group of each, and a number of folds."""
    count = draw(st.integers(4, 40))
    classes = st.lists(st.integers(1, 3), max_size=4)
    images = [image(number, draw(classes)) for number in range(count)]
    groups = draw(st.one_of(st.just(list(range(count))), st.lists(st.integers(0, 12), min_size=count, max_size=count)))
    folds = draw(st.integers(2, min(5, max(2, len(set(groups))))))
    return images, groups, folds


@settings(max_examples=80, deadline=None)
@given(data_sets(), st.integers(0, 99))
def test_folds_are_a_partition_of_whole_groups(data: tuple[list[ImageRecord], list[int], int], seed: int) -> None:
    images, groups, folds = data
    if len(set(groups)) < folds:
        with pytest.raises(DataError, match=f"at least {folds} groups"):
            assign_folds(images, groups, folds, seed)
        return
    fold_of = assign_folds(images, groups, folds, seed)
    assert set(fold_of) == set(range(folds))
    assert len({(group, fold) for group, fold in zip(groups, fold_of, strict=True)}) == len(set(groups))
    assert fold_of == assign_folds(images, groups, folds, seed)
    shuffled = list(reversed(range(len(images))))
    again = assign_folds([images[k] for k in shuffled], [groups[k] for k in shuffled], folds, seed)
    if len(set(groups)) == len(images):
        assert [again[shuffled.index(k)] for k in range(len(images))] == fold_of  # the order of images is no matter


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_spread_over_the_folds(seed: int) -> None:
    images = [image(k, [1] * (1 + k % 3) + [2] * (k % 10 == 0)) for k in range(50)]
    fold_of = assign_folds(images, list(range(50)), 5, seed)
    rare = Counter(
        fold for each, fold in zip(images, fold_of, strict=True) if len({o.category_id for o in each.objects}) > 1
    )
    assert set(rare.values()) == {1}
    assert set(Counter(fold_of).values()) == {10}
    assert fold_of != assign_folds(images, list(range(50)), 5, seed + 1)


def test_groups_are_joined_by_name_and_by_look() -> None:
    images = [image(k, [1], f"part{k // 2}_{k}.png") for k in range(8)]
    assert group_images(images, {}) == list(range(8))
    assert group_images(images, {}, r"(part\d+)_") == [0, 0, 1, 1, 2, 2, 3, 3]
    copies = {images[1].path: 0, images[2].path: 0}
    assert group_images(images, copies, r"(part\d+)_") == [0, 0, 0, 0, 1, 1, 2, 2]
    assert group_images(images, copies) == [0, 1, 1, 2, 3, 4, 5, 6]


def test_patterns_that_name_no_groups_are_refused() -> None:
    images = [image(1, [1], "a1.png"), image(2, [1], "b2.png")]
    with pytest.raises(ConfigError, match=r"expected a regular expression as group_by, found '\(a'"):
        group_images(images, {}, "(a")
    with pytest.raises(ConfigError, match=r"expected a group in group_by"):
        group_images(images, {}, "a")
    with pytest.raises(DataError, match=r"to match all 2 file names, but it does not match 1: b2\.png"):
        group_images(images, {}, r"(a\d)")


def test_a_class_of_one_group_is_named() -> None:
    split = Split(
        "train",
        [image(1, [1, 2]), image(2, [1]), image(3, [1, 3]), image(4, [3])],
        Categories((1, 2, 3), ("a", "b", "c")),
        "",
    )
    assert classes_of_one_group(split, [0, 1, 2, 3]) == ["b"]
    assert classes_of_one_group(split, [0, 1, 2, 2]) == ["b", "c"]


def test_the_deviation_of_one_measured_fold_is_undefined() -> None:
    assert mean_and_spread([0.5, -1, -1]) == (0.5, -1)
    assert mean_and_spread([-1, -1]) == (-1, -1)
    assert mean_and_spread([0.5, 0.7, -1]) == pytest.approx((0.6, 0.1414), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds must be 0 .off. or at least 2, found 1"),
        ({"group_by": "(a)"}, "group_by needs folds"),
        ({"final": True}, "final needs folds"),
        ({"folds": 3, "val_json": "val.json"}, "does not fit val_json"),
        ({"folds": 3, "overfit": 8}, "does not fit overfit 8"),
        ({"folds": 3, "resume": "runs/x"}, "does not fit resume runs/x"),
        ({"folds": 3, "devices": 2}, "trains in one process, found 2"),
    ],
)
def test_settings_that_do_not_fit_folds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data="x", **changes)


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, detrkit.TrainResult]:
    from tests.training.conftest import TINY

    folder = tmp_path_factory.mktemp("folds") / "run"
    config = TrainConfig(**{"data": str(tiny_data), "output_dir": str(folder), "folds": 2, "final": True, **TINY})
    return config, train(config)


def test_every_image_is_measured_by_the_model_that_has_not_seen_it(
    finished: tuple[TrainConfig, detrkit.TrainResult],
) -> None:
    config, result = finished
    folder = result.run_dir
    fold_of = json.loads((folder / "folds.json").read_text())["fold_of"]
    assert len(fold_of) == 16  # 11 of train and 5 of val
    gt = json.loads((folder / "annotations.json").read_text())
    assert {row["file_name"] for row in gt["images"]} == set(fold_of)
    assert len({row["id"] for row in gt["images"]}) == 16
    names = {row["id"]: row["file_name"] for row in gt["images"]}
    pooled = json.loads((folder / "detections.json").read_text())
    for fold in (1, 2):
        split = json.loads((folder / f"fold{fold}" / "split.json").read_text())
        assert set(split["val"]) == {name for name, of in fold_of.items() if of == fold}
        assert set(split["train"]) == fold_of.keys() - set(split["val"])
        rows = json.loads((folder / f"fold{fold}" / "detections.json").read_text())
        assert {names[row["image_id"]] for row in rows} <= set(split["val"])
        assert all(names[row["image_id"]] == row["file_name"] for row in rows)
        assert [row for row in pooled if fold_of[row["file_name"]] == fold] == rows
    assert result.metrics["AP"] == pytest.approx(compute_coco_metrics(gt, pooled).metrics["AP"])
    report = json.loads((folder / "report" / "folds.json").read_text())
    assert report["pooled"]["AP"] == result.metrics["AP"]
    assert report["mean"]["AP"] == pytest.approx(sum(fold.metrics["AP"] for fold in result.folds) / 2)
    low, high = report["intervals"]["AP"]
    assert low <= report["pooled"]["AP"] <= high
    assert [row["name"] for row in report["per_class"]] == ["red", "green"]
    page = (folder / "report" / "report.html").read_text()
    assert "fold2" in page
    assert "AP of each class in each fold" in page
    assert config.folds == len(result.folds)


def test_the_metrics_of_a_fold_are_those_of_its_validation(finished: tuple[TrainConfig, detrkit.TrainResult]) -> None:
    _, result = finished
    for fold in result.folds:
        header, *rows = (line.split(",") for line in (fold.run_dir / "metrics.csv").read_text().splitlines())
        best = next(row for row in rows if float(row[header.index("epoch")]) == fold.metrics["epoch"])
        assert float(best[header.index("val/AP")]) == pytest.approx(fold.metrics["AP"], abs=1e-3)
    again = detrkit.evaluate(result.folds[0].run_dir, finished[0].data, output_dir=str(result.run_dir / "again"))
    assert again.metrics["AP"] == pytest.approx(result.folds[0].metrics["AP"])
    assert again.report["images"] == 8


def test_folds_review_the_labels_of_both_splits_under_their_own_ids(
    finished: tuple[TrainConfig, detrkit.TrainResult],
) -> None:
    config, result = finished
    with pytest.warns(detrkit.errors.DetrkitWarning):  # few labels, and a weak detector
        review = detrkit.review(result.run_dir, max_suspects=10_000)
    assert (review.images, review.folds) == (16, 2)
    assert {suspect.split for suspect in review.suspects} == {"train", "val"}
    for split in ("train", "val"):
        content = json.loads((Path(config.data) / f"{split}.json").read_text())
        ids = [row["id"] for row in content["annotations"]]
        own = [s for s in review.suspects if s.split == split and s.label_id is not None]
        assert sorted(s.label_id for s in own if s.label_id is not None) == sorted(ids)
        names = {row["id"]: row["file_name"] for row in content["images"]}
        assert all(names[s.image_id] == s.file_name for s in own)


def test_the_final_model_has_seen_all_images(finished: tuple[TrainConfig, detrkit.TrainResult]) -> None:
    _, result = finished
    final = TrainConfig.from_yaml(result.run_dir / "final" / "config.yaml")
    assert (final.folds, final.epochs) == (0, result.metrics["epoch"])
    import torch

    checkpoint = torch.load(result.run_dir / "final" / "best.ckpt", weights_only=True)
    assert checkpoint["detrkit"]["data"]["train"]["images"] == 16
    with pytest.raises(ConfigError, match="expected a val split"):
        detrkit.evaluate(result.run_dir / "final", finished[0].data)


def test_finished_folds_are_not_repeated_and_killed_ones_continue_exactly(
    finished: tuple[TrainConfig, detrkit.TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = finished
    from dataclasses import replace

    again = replace(config, output_dir=str(tmp_path / "again"), final=False)
    real, calls = folds_module._detect, []

    def die(*args: Any) -> Any:
        calls.append(args[1].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(folds_module, "_detect", die)
    with pytest.raises(KeyboardInterrupt):  # after the second fold was trained, before its detections were kept
        train(again)
    shutil.rmtree(tmp_path / "again" / "fold2")  # as if killed before its first checkpoint
    trained = []
    run = folds_module.run_training
    monkeypatch.setattr(
        folds_module, "run_training", lambda settings: trained.append(settings.output_dir) or run(settings)
    )
    second = train(again)
    assert [Path(folder).name for folder in trained] == ["fold2"]
    assert second.metrics == result.metrics
    for fold in ("fold1", "fold2"):
        assert_same_run(tmp_path / "again" / fold, result.run_dir / fold)
    assert (tmp_path / "again" / "detections.json").read_bytes() == (result.run_dir / "detections.json").read_bytes()
    with pytest.raises(ConfigError, match="were begun with epochs 2, found 3; keep the settings"):
        train(replace(again, epochs=3))
    with pytest.raises(ConfigError, match="holds folds; continue with the same folds"):
        train(replace(again, folds=0))
    with pytest.raises(ConfigError, match="found a single run in"):
        train(replace(again, output_dir=str(result.run_dir / "fold1")))


def test_too_few_images_for_the_folds(tiny: Any, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="expected at least 20 groups of images for folds 20, found 16 images"):
        train(tiny(folds=20))
    with pytest.raises(DataError, match=r"found 16 images in 2 groups, of copies .*; choose fewer folds"):
        train(tiny(folds=3, group_by="^(train|val)"))
    assert main(["train", str(tiny_data), "--folds", "1"]) == 2
    assert "--folds must be 0" in capsys.readouterr().err
