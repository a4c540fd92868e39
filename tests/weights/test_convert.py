"""`detrkit convert`: any format in, Hugging Face's or the reference DETR's out, whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from detrkit.commands.convert import convert, write_reference_checkpoint
from detrkit.config.commands import ConvertConfig
from detrkit.errors import ConfigError
from detrkit.models.checkpoints import load_weights
from detrkit.ops.tiles import Tiling
from detrkit.ops.value_range import ValueRange

from .small import small_model, small_weights


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = small_weights(dilation=True)
    images = replace(weights.preprocessing, value_range=ValueRange(-40, 120), tiling=Tiling(512, 64))
    weights = replace(weights, preprocessing=images)
    write_reference_checkpoint(weights, tmp_path / "run" / "best.ckpt")
    convert(ConvertConfig(weights=str(tmp_path / "run"), output=str(tmp_path / "folder")))
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    convert(ConvertConfig(weights=str(tmp_path / "folder"), output=str(tmp_path / "back.pth")))
    back = load_weights(tmp_path / "back.pth")
    assert back.categories == weights.categories
    assert back.preprocessing.image_size == weights.preprocessing.image_size
    assert back.preprocessing.value_range == weights.preprocessing.value_range
    assert back.preprocessing.tiling == weights.preprocessing.tiling
    assert weights.model_args.items() <= back.model_args.items()
    assert all(torch.equal(back.state_dict[key], value) for key, value in weights.state_dict.items())
    assert "back.pth" in capsys.readouterr().out


def test_the_reference_reads_the_pth(tmp_path: Path) -> None:
    write_reference_checkpoint(small_weights(), tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    model = small_model()
    model.load_state_dict(content["model"])
    assert "optimizer" not in content  # by which the reference DETR knows that there is no training to go on with


def test_assumed_settings_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(small_model().state_dict(), tmp_path / "w.pth")
    convert(ConvertConfig(weights=str(tmp_path / "w.pth"), output=str(tmp_path / "folder")))
    assert "note:" in capsys.readouterr().out


def test_given_settings_are_stored(tmp_path: Path) -> None:
    """A bare DC5 file says neither its dilation nor its heads; converted with both, it does from then on."""
    torch.save(small_model(dilation=True).state_dict(), tmp_path / "w.pth")
    convert(ConvertConfig(weights=str(tmp_path / "w.pth"), output=str(tmp_path / "v.pth"), dilation=True, nheads=4))
    weights = load_weights(tmp_path / "v.pth")
    assert weights.model_args["dilation"] is True
    assert weights.model_args["nheads"] == 4
    assert weights.messages == ()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    write_reference_checkpoint(small_weights(), tmp_path / "w.pth")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"a file ending in \.pth .* found .*notes.txt"):
        convert(ConvertConfig(weights=str(tmp_path / "w.pth"), output=str(tmp_path / "notes.txt")))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_reference_checkpoint(small_weights(), tmp_path / "w.pth")
    before = (tmp_path / "w.pth").read_bytes()

    def full(content: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_reference_checkpoint(small_weights(("a",)), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]
