"""Training instance and panoptic segmentation, on images that take a moment."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrkit import Detector
from detrkit.config.train import TrainConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.training import train
from detrkit.training.checkpoint import read

from .helpers import assert_same_run

SETTINGS = {
    "backbone": "nano",
    "hidden_dim": 32,
    "nheads": 2,
    "dim_feedforward": 32,
    "dec_layers": 2,
    "num_queries": 6,
    "image_size": 64,
    "batch_size": 4,
    "num_workers": 0,
    "epochs": 2,
    "device": "cpu",
    "augmentation": "flip",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("demo") / "data", images=8, size=64, panoptic=True)


def settings(data: Path, folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig.from_recipe(
        "fast", **{"model": "detrkit_n", **SETTINGS, "data": str(data), "output_dir": str(folder), **changes}
    )


@pytest.mark.parametrize(("task", "judge"), [("instance", "mask_AP"), ("panoptic", "PQ")])
def test_a_run(task: str, judge: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = train(settings(data, tmp_path / "whole", task=task))
    assert ("best.ckpt --panoptic" in capsys.readouterr().out) == (task == "panoptic")
    assert {"AP", "mask_AP", "mask_AP50", judge} <= whole.metrics.keys()
    assert ("PQ" in whole.metrics) == (task == "panoptic")
    first = read(tmp_path / "whole" / "last.ckpt")
    assert any(name.startswith("mask_head.") for name in first["model"])
    assert first["detrkit"]["config"]["task"] == task

    detector = Detector.load(tmp_path / "whole", device="cpu")
    one_image = next((data / "images" / "val").iterdir())
    masks = detector.predict(one_image, threshold=0.0).masks
    assert masks is not None
    assert masks.shape[1:] == (64, 64)
    if task == "panoptic":
        assert detector.categories.isthing.count(False) == 3
        assert detector.panoptic(one_image).ids.shape == (64, 64)


def test_resuming_is_exact(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path / "whole", task="instance", dropout=0.1, lr_schedule="step", eval_every=1)
    train(config)
    train(replace(config, output_dir=str(tmp_path / "parts"), epochs=1, no_aug_epochs=config.no_aug_epochs - 1))
    train(replace(config, output_dir=str(tmp_path / "parts"), resume="auto"))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_frozen_detector_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    boxes = train(settings(data, tmp_path / "boxes", task="detect"))
    changes = {"num_queries": "auto", "lr": 1e-2, "ema": 0.0}  # the detector says how many queries it has
    actual = train(
        settings(data, tmp_path / "masks", task="instance", frozen_weights=str(tmp_path / "boxes"), **changes)
    )
    before, after = (read(tmp_path / name / "best.ckpt")["model"] for name in ("boxes", "masks"))
    for name, value in before.items():
        assert torch.equal(value, after[name if name in after else f"detr.{name}"]), name
    assert actual.metrics["AP"] == boxes.metrics["AP"]
    optimizer = read(tmp_path / "masks" / "last.ckpt")["optimizer"]
    assert len(optimizer["state"]) == sum(name.startswith("mask_head") for name in after)


def test_a_frozen_detector_must_know_the_classes(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path / "boxes", task="detect", epochs=1))
    with pytest.raises(ConfigError, match=r"knows all 8 classes .*, but it lacks metal, table, shadow"):
        train(settings(data, tmp_path / "masks", task="panoptic", frozen_weights=str(tmp_path / "boxes")))


def test_boxes_alone_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected masks .*, found only boxes .*task detect"):
        train(settings(tiny_data, tmp_path / "a", task="instance"))
    with pytest.raises(DataError, match=r"expected COCO panoptic .*panoptic_json$"):
        train(settings(tiny_data, tmp_path / "b", task="panoptic"))


def test_the_use_of_the_mask_head_is_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(settings(data, tmp_path / "boxes", task="detect", epochs=1))
    train(settings(data, tmp_path / "masks", task="instance", weights=str(tmp_path / "boxes"), epochs=1))
    assert "a new mask head is trained" in capsys.readouterr().out
    train(settings(data, tmp_path / "back", task="detect", weights=str(tmp_path / "masks"), epochs=1))
    assert "has a mask head, which is left out" in capsys.readouterr().out
