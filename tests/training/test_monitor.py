"""The number that best goes by, numbers of classes, and what is told when a run goes on with other data."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, WeightsError
from detrkit.files import checkpoint_in
from detrkit.training import evaluation as validation
from detrkit.training import run_training, train
from detrkit.training.advice import advice_lines, describe_rise
from detrkit.training.monitor import chosen_monitor, fingerprint
from detrkit.training.reporters import is_earlier_layer, tags
from detrkit.visualization.plots import read_curves

pytestmark = pytest.mark.timeout(240)


def splits(data: Path) -> dict[str, Split]:
    return check_dataset(open_dataset(data), num_queries=100).splits


def cycle(path: Path) -> dict:
    return torch.load(path, weights_only=True)["progress"]


@pytest.fixture
def numbers(monkeypatch):
    """What evaluations say, one after another: (AP, AP50, AP of green)."""

    def say(*rows):
        rest = iter(rows)

        def shown(*_):
            ap, ap50, green = next(rest)
            of = type("Class", (), {"name": "green", "AP": green})
            return type("Told", (), {"metrics": {"AP": ap, "AP50": ap50}, "per_class": [of]})

        monkeypatch.setattr(validation, "compute_coco_metrics", shown)

    return say


@pytest.mark.parametrize(
    ("monitor", "best"), [("", 1), ("AP50", 2), ("class_AP/green", 3), ("val/class_AP/green", 3), ("loss", 3)]
)
def test_best_goes_by_the_number_that_was_chosen(tiny, numbers, monitor, best, capsys):
    numbers((0.5, 0.1, 0.1), (0.4, 0.6, 0.2), (0.3, 0.3, 0.3))
    result = run_training(tiny(epochs=3, monitor=monitor, lr=1e-3))
    losses = [row["val/loss"] for row in cycle(result.run_dir / "last.ckpt")["history"]]
    if monitor == "loss":
        best = 1 + losses.index(min(losses))
    kept = cycle(result.run_dir / "best.ckpt")
    assert kept["best_epoch"] == best == result.metrics["epoch"]
    called = {"": "AP 0.5", "AP50": "AP50 0.6", "loss": f"loss {min(losses):.4f}"}.get(monitor, "AP of green 0.3")
    assert f"Best {called}" in capsys.readouterr().out


def test_early_stopping_says_so_and_why(tiny, numbers, capsys):
    numbers((0.1, 0.5, 0.1), (0.2, 0.4, 0.1), (0.3, 0.3, 0.1))
    config = tiny(epochs=9, monitor="AP50", patience=2)
    run_training(config)
    output = capsys.readouterr().out
    assert "Stopped early, after epoch 3 of 9: AP50 has not improved in 2 evaluations (--patience 2)" in output
    assert "since it was 0.5000" in output
    run_training(replace(config, resume="auto"))
    assert "AP50 has not improved for 2 evaluations; raise --patience" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("monitor", "task", "words"),
    [
        ("mask_AP", "detect", "masks are measured with task instance or panoptic"),
        ("PQ", "instance", "panoptic quality is measured with task panoptic"),
        (
            "ap50",
            "detect",
            r"AP, AP50, AP75, .*, or of one class, such as 'class_AP/green'\), found 'ap50'; did you mean",
        ),
        ("class_AP/blue", "detect", r"found 'class_AP/blue'"),
        ("accuracy", "detect", r"found 'accuracy'$"),
    ],
)
def test_metrics_that_are_not_measured_are_reported(tiny_data, monitor, task, words):
    with pytest.raises(ConfigError, match=words):
        chosen_monitor(monitor, task, splits(tiny_data)["val"])


def test_the_usual_number_of_each_task(tiny_data):
    val = splits(tiny_data)["val"]
    assert [chosen_monitor("", task, val) for task in ("detect", "instance", "panoptic")] == ["AP", "mask_AP", "PQ"]
    assert chosen_monitor("PQ_things", "panoptic", val) == "PQ_things"
    assert chosen_monitor("class_mask_AP/green", "instance", val) == "class_mask_AP/green"


def test_classes_reach_tensorboard_and_the_table(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = train(tiny(epochs=1)).run_dir
    (row,) = csv.DictReader((run_dir / "metrics.csv").read_text().splitlines())
    assert row["val/AP"] == row["val/class_AP/green"]
    assert list(row)[-1] == "val/class_AP/green"  # of red the validation images have none
    assert "val/class_AP/red" not in row
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert {"val/AP", "val/class_AP/green"} <= set(events.Tags()["scalars"])
    curves = read_curves(run_dir)
    assert curves is not None
    assert "AP" in curves.val
    assert not any("green" in name for name in curves.quantities())


def test_names_of_classes_that_loggers_would_refuse():
    actual = tags(["val/AP", "val/class_AP/a:b", "val/class_AP/a?b", "val/class_mask_AP/[/red]", "val/class_AP/part_3"])
    assert list(actual.values()) == [
        "val/AP",
        "val/class_AP/a_b",
        "val/class_AP/a_b_",
        "val/class_mask_AP/__red_",
        "val/class_AP/part_3",
    ]
    assert not is_earlier_layer("val/class_AP/part_3")
    assert is_earlier_layer("train/loss_ce_3")


def test_a_fingerprint_tells_data_apart_but_not_their_place(tiny_data, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_data, moved)
    here, there = splits(tiny_data), splits(moved)
    assert fingerprint(here["val"]) == fingerprint(there["val"]) != fingerprint(here["train"])
    turned = replace(here["val"], images=here["val"].images[::-1])
    assert fingerprint(turned) == fingerprint(here["val"])
    assert fingerprint(replace(here["val"], images=here["val"].images[1:])) != fingerprint(here["val"])
    for key, change in (("bbox", [1, 1, 9, 9]), ("category_id", 3)):
        content = json.loads((tiny_data / "val.json").read_text())
        row = next(row for row in content["annotations"] if row["category_id"] == 7)
        row[key] = change
        (moved / "val.json").write_text(json.dumps(content))
        assert fingerprint(splits(moved)["val"]) != fingerprint(here["val"])


@pytest.fixture
def other_data(tiny_data, tmp_path):
    """The same images to train on, fewer to validate on."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_data, folder)
    content = json.loads((folder / "val.json").read_text())
    content["images"] = content["images"][:3]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] < 3]
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def test_best_is_not_compared_across_different_validation_images(tiny, numbers, other_data, recwarn):
    numbers((0.9, 0.9, 0.1), (0.2, 0.2, 0.1), (0.1, 0.1, 0.1))
    config = tiny(epochs=1)
    run_dir = train(config).run_dir
    result = train(replace(config, resume=str(run_dir), epochs=3, data=str(other_data), patience=1))
    (shown,) = [str(each.message) for each in recwarn if "images" in str(each.message)]
    assert (
        f"the validation images are not those that {run_dir / 'last.ckpt'} was trained with (3 now, 5 before)" in shown
    )
    assert "training images" not in shown
    former = run_dir / "best_until_epoch_0001.ckpt"
    assert shown.endswith(f"so the best checkpoint is chosen anew; the former best checkpoint is kept as {former}")
    assert (result.metrics["AP"], result.metrics["epoch"]) == (0.2, 2)
    assert cycle(run_dir / "best.ckpt")["best_epoch"] == 2
    assert cycle(run_dir / "best_until_epoch_0001.ckpt")["best_epoch"] == 1


def test_best_is_not_compared_across_different_numbers_either(tiny, numbers, recwarn):
    numbers((0.9, 0.1, 0.1), (0.2, 0.2, 0.1))
    config = tiny(epochs=1)
    train(config)
    result = train(replace(config, resume="auto", epochs=2, monitor="AP50"))
    assert any("the monitored metric changed from AP to AP50" in str(each.message) for each in recwarn)
    assert result.metrics["epoch"] == 2


def test_a_run_that_goes_on_in_another_folder_takes_its_best_along(tiny, numbers, tmp_path, recwarn):
    numbers((0.9, 0.1, 0.1), (0.2, 0.2, 0.1), (0.9, 0.1, 0.1))
    config = tiny(epochs=1)
    run_dir = train(config).run_dir
    result = train(replace(config, resume=str(run_dir), output_dir=str(tmp_path / "on"), epochs=2))
    assert result.metrics["epoch"] == 1
    assert cycle(tmp_path / "on" / "best.ckpt")["best_epoch"] == 1
    assert not any("best" in str(each.message) for each in recwarn)


def test_a_run_folder_means_its_last_checkpoint(tiny, tmp_path):
    config = tiny(epochs=1)
    run_dir = train(config).run_dir
    assert train(replace(config, resume=str(run_dir), output_dir="", epochs=2)).run_dir == run_dir
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 3
    assert checkpoint_in(run_dir) == run_dir / "best.ckpt"
    (run_dir / "last.ckpt").unlink()
    with pytest.raises(WeightsError, match=r"resume from at .*, found none, but .*best\.ckpt; name that file"):
        train(replace(config, resume=str(run_dir), epochs=3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"at .*empty/last\.ckpt, found none; look at the path"):
        train(replace(config, resume=str(tmp_path / "empty"), output_dir=""))


def test_quiet_leaves_what_was_reached(tiny, capsys):
    result = train(tiny(epochs=1, quiet=True))
    output = capsys.readouterr().out
    assert "Best AP" in output
    for word in ("Recipe", "Device", "epoch 1/1", "Folder"):
        assert word not in output
    assert "quiet: false" in (result.run_dir / "config.yaml").read_text()  # a resumed run speaks again


def test_hardly_any_ap_says_what_to_look_at(tiny, numbers, capsys):
    numbers((0.001, 0.002, 0.0))
    train(tiny(epochs=1))
    output = capsys.readouterr().out
    assert "AP is 0.0010: almost nothing is detected. Check, in this order:" in output
    for words in (
        "Epochs   1 of 1, of 11 images each, were 5 steps; the classic recipe is made for 300 epochs",
        "(docs/benchmarks/convergence.md)",
        "Rate     --lr 0.001, where this recipe and model have 0.0001; the training loss did not diverge",
        "Sizes    at --image_size 48 half of the objects are less than 1",
        "Classes  the training images have every class of the validation images (1)",
        "--overfit 8 must come near AP 1",
    ):
        assert words in output, words
    numbers((0.3, 0.4, 0.0))
    train(tiny(epochs=1, output_dir=""))
    assert "almost nothing" not in capsys.readouterr().out


def test_a_rising_loss_is_reported():
    rows = [{"epoch": float(k + 1), "train/loss": loss} for k, loss in enumerate((9.0, 4.0, 40.0))]
    assert describe_rise(rows) == "the training loss rose from 4 in epoch 2 to 40 in epoch 3"
    assert describe_rise(rows[:2]) == ""


def test_classes_that_training_never_shows_are_named(tiny, tiny_data):
    data = splits(tiny_data)
    without = [
        replace(image, objects=[o for o in image.objects if o.category_id == 3]) for image in data["train"].images
    ]
    given = type("Data", (), {"train": replace(data["train"], images=without), "val": data["val"]})
    history = [{"epoch": 2.0, "step": 10.0}]
    output = advice_lines(tiny(), given, history, 12, "")
    assert output["Classes"] == "the training images lack these classes of the validation images: green"
    assert "raise --image_size" in output["Sizes"]
