"""Training on tiles: the choice travels with the weights, and evaluation is on whole images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detrkit
from detrkit.commands.check import check
from detrkit.config.commands import CheckConfig
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError
from detrkit.ops.tiles import Tiling
from detrkit.training import train
from tests.training.conftest import write_split
from tests.training.helpers import assert_same_run


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.conftest import TINY

    folder = tmp_path_factory.mktemp("tiled") / "run"
    train(TrainConfig(**{**TINY, "data": str(tiny_data), "output_dir": str(folder), "tiles": 40, "image_size": 40}))
    return folder


def test_the_tiles_travel_in_settings_checkpoint_and_detector(run: Path) -> None:
    config = TrainConfig.from_yaml(run / "config.yaml")
    assert (config.tiles, config.tile_overlap) == (40, 20)  # objects of up to 24 pixels, but at most half a tile
    assert config.tiling == Tiling(40, 20)
    detector = detrkit.Detector.load(run)
    assert detector.preprocessing.tiling == Tiling(40, 20)
    assert detrkit.Detector.load(run, tiles="off").preprocessing.tiling is None


def test_evaluation_is_on_whole_images_and_that_of_training(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    stored = torch.load(run / "best.ckpt", weights_only=True)["detrkit"]
    with pytest.warns(UserWarning, match="cut into tiles of 40 px"):
        result = detrkit.evaluate(run, tiny_data, output_dir=str(tmp_path), batch_size=3)
    assert result.metrics["AP"] == pytest.approx(stored["metrics"]["val/AP"], abs=1e-6)
    assert result.report["images"] == 5
    assert result.report["made_by"]["tiling"] == {"size": 40, "overlap": 20}


def test_a_resumed_run_is_the_same_run(run: Path, tiny: Any, tmp_path: Path) -> None:
    settings = {"tiles": 40, "image_size": 40, "output_dir": str(tmp_path / "run")}
    train(tiny(**settings, epochs=1, lr_drop=200))
    train(tiny(**settings, epochs=2, resume="auto"))
    assert_same_run(tmp_path / "run", run)


def test_auto_is_off_for_large_objects_and_a_number_for_small_ones(tiny: Any, tmp_path: Path, capsys: Any) -> None:
    train(tiny(tiles="auto", epochs=1, output_dir=str(tmp_path / "off")))
    assert TrainConfig.from_yaml(tmp_path / "off" / "config.yaml").tiles == "off"
    assert "off: after the resize" in capsys.readouterr().out
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for name in ("train", "val"):
        write_split(folder, name, 3, rng)
    train(tiny(data=str(folder), tiles="auto", image_size=16, epochs=1, output_dir=str(tmp_path / "on")))
    config = TrainConfig.from_yaml(tmp_path / "on" / "config.yaml")
    assert config.tiles == 32
    assert isinstance(config.tile_overlap, int)
    printed = " ".join(capsys.readouterr().out.split())
    assert "32: after the resize of whole images to 16 half of the objects are below" in printed
    assert "tiles of 32 px that overlap by 16 px of 3 images" in printed


def test_yaml_that_says_off_means_off(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: x\ntiles: off\n")
    assert TrainConfig.from_yaml(tmp_path / "a.yaml").tiles == "off"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tiles": 64, "tile_overlap": 40}, "at most half of the 64"),
        ({"tiles": 64, "tile_overlap": -1}, "at least 0"),
        ({"tiles": -5}, "at least 1"),
        ({"tile_overlap": 8}, "add tiles"),
        ({"tiles": "auto", "task": "panoptic"}, "use tiles off"),
    ],
)
def test_settings_that_fit_no_tiles(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(data="x", **settings)


def test_check_recommends_tiles_with_the_reason(tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for name in ("train", "val"):
        write_split(folder, name, 3, rng)
    check(CheckConfig(data=str(folder), quiet=True))
    assert "Recommended" not in capsys.readouterr().out
    import json

    for name in ("train", "val"):
        content = json.loads((folder / f"{name}.json").read_text())
        for image in content["images"]:
            image["height"] = image["width"] = 3000
            noise = rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((3000, 3000)).save(folder / "images" / image["file_name"])
        (folder / f"{name}.json").write_text(json.dumps(content))
    check(CheckConfig(data=str(folder), quiet=True))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Recommended for training: --tiles auto (--tiles" in printed
    assert "after the resize of whole images to 800 half of the objects are below" in printed


def test_rare_classes_and_empty_tiles_are_announced_and_make_the_epoch(tiny: Any, tmp_path: Path, capsys: Any) -> None:
    train(tiny(epochs=1, repeat_threshold=1.0, batch_size=1, output_dir=str(tmp_path / "plain")))
    assert "per epoch, which has" in " ".join(capsys.readouterr().out.split())
    state = torch.load(tmp_path / "plain" / "last.ckpt", weights_only=True)["progress"]
    assert state["step"] > 11  # images
    with pytest.raises(ConfigError, match="repeat_threshold must be"):
        tiny(repeat_threshold=1.5)


def test_an_automatic_threshold_is_a_number_that_a_resumed_run_keeps(
    tiny: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrkit.training.resolve_auto.suggest_threshold", lambda split: 0.9)
    folder = tmp_path / "auto"
    train(tiny(epochs=1, repeat_threshold="auto", batch_size=1, output_dir=str(folder)))
    assert "per epoch, which has" in " ".join(capsys.readouterr().out.split())
    first = torch.load(folder / "last.ckpt", weights_only=True)
    assert first["detrkit"]["batches"]["repeat_threshold"] == 0.9
    monkeypatch.setattr("detrkit.training.resolve_auto.suggest_threshold", lambda split: 0.0)
    train(tiny(epochs=2, repeat_threshold="auto", batch_size=1, output_dir=str(folder), resume=str(folder)))
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["detrkit"]["batches"]["repeat_threshold"] == 0.9
    assert last["progress"]["step"] == 2 * first["progress"]["step"]
