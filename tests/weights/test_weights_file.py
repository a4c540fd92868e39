"""Weights of detrkit in one safetensors file: written in half, read back whole, damage named in a sentence."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from detrkit.errors import WeightsError
from detrkit.inference import Detector
from detrkit.models import build_model
from detrkit.models.checkpoints import load_weights
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.models.checkpoints.weights_file import read_weights_file, write_weights_file
from detrkit.structures import Categories, Preprocessing

MODEL = {
    "num_classes": 2, "backbone": "nano", "hidden_dim": 32, "nheads": 2, "dec_layers": 1, "enc_layers": 1,
    "dim_feedforward": 32, "num_queries": 5, "backbone_norm": "batch",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(**MODEL)
    metadata = {
        "version": VERSION,
        "model_args": model.model_args,
        "categories": Categories((3, 7), ("scratch", "dent")).to_plain(),
        "preprocessing": Preprocessing(96, True).to_plain(),
    }
    return write_weights_file(tmp_path / "model.safetensors", model.state_dict(), metadata)


def test_weights_come_back_in_float32_with_classes_and_preprocessing(file: Path) -> None:
    weights = load_weights(file)
    assert weights.categories.names == ("scratch", "dent")
    assert weights.preprocessing.image_size == 96
    torch.manual_seed(0)
    for name, value in build_model(**MODEL).state_dict().items():
        stored = weights.state_dict[name]
        assert stored.dtype == value.dtype
        exact = not value.is_floating_point() or "running_" in name
        torch.testing.assert_close(stored, value if exact else value.half().float(), rtol=0, atol=0)


def test_a_detector_loads_from_the_file(file: Path) -> None:
    assert Detector.load(file).categories.names == ("scratch", "dent")


def test_a_safetensors_file_of_others_is_none(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert read_weights_file(tmp_path / "other.safetensors") is None


def test_damage_is_named(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"cut\.safetensors cannot be read .*copy or download it again"):
        load_weights(cut)
    wrong = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, wrong, metadata={"detrkit": "{"})
    with pytest.raises(WeightsError, match=r"expected JSON in the metadata entry \"detrkit\" of .*wrong"):
        load_weights(wrong)
    safetensors.torch.save_file({"a": torch.zeros(1)}, wrong, metadata={"detrkit": '{"version": 1}'})
    with pytest.raises(WeightsError, match="wrong"):
        load_weights(wrong)
