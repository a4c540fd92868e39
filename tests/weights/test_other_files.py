"""Files that are no weights, or weights in a wrapping of others: each is named for what it is, wherever it is given."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.inference import Detector
from detrkit.models import build_model
from detrkit.models.backbones.pretrained import read_state_dict
from detrkit.models.checkpoints import load_weights, read_checkpoint, write_huggingface
from detrkit.training.checkpoint import read as read_run

from .small import SMALL, small_model, small_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 166618694\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "a git-lfs pointer in place of the file itself; run `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b'{"error": "not found"}', "JSON text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "an image"),
        (b"\x1f\x8b" + bytes(50), "a packed archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("read", [load_weights, read_checkpoint, read_run, lambda path: read_state_dict(str(path))])
def test_the_error_names_the_kind_of_file(tmp_path: Path, content: bytes, words: str, read: Any) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=words) as error:
        read(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w.onnx", "w.xml", "w.pt2"])
def test_pointers_among_exported_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(WeightsError, match="a git-lfs pointer"):
        Detector.load(tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module.", "detr.", "model.detr."])
def test_a_backbone_is_taken_out_of_any_wrapping(tmp_path: Path, prefix: str) -> None:
    given = small_model().state_dict()
    torch.save({"state_dict": {f"{prefix}{key}": value for key, value in given.items()}}, tmp_path / "w.ckpt")
    made = build_model(**SMALL, backbone_weights=str(tmp_path / "w.ckpt")).state_dict()
    for key, value in made.items():
        if key.startswith("backbone.0.body."):
            assert torch.equal(value, given[key]), key


def test_pointers_among_safetensors(tmp_path: Path) -> None:
    write_huggingface(small_weights(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    for read in (load_weights, lambda folder: read_state_dict(str(folder / "model.safetensors"))):
        with pytest.raises(WeightsError, match="a git-lfs pointer"):
            read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bytes(20))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(str(tmp_path / "model.safetensors"))


def test_archives_of_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("weights/detr.pth", b"")
    with pytest.raises(WeightsError, match=r"a packed archive of 1 files \(weights/detr.pth"):
        load_weights(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"w/{name}", b"")
    with pytest.raises(WeightsError, match="a TorchScript program"):
        load_weights(tmp_path / "w.pth")


def lightning(state_dict: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a Trainer of PyTorch Lightning saves of a module of one's own."""
    return {
        "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.5.0", "state_dict": state_dict, "loops": {},
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], **more,
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["model.", "", "module.model.", "net.detr."])
def test_a_detr_in_a_checkpoint_of_lightning_is_read(tmp_path: Path, prefix: str) -> None:
    own = small_model(nheads=8).state_dict()
    given = {f"{prefix}{key}": value for key, value in own.items()}
    others = {"criterion.empty_weight": torch.ones(4)} if prefix else {}
    torch.save(lightning(given | others), tmp_path / "w.ckpt")
    weights = load_weights(tmp_path / "w.ckpt")
    assert weights.state_dict.keys() == own.keys()
    notes = [note for note in weights.notes if "left out: criterion.empty_weight" in note]
    assert len(notes) == bool(prefix)
    build_model(**weights.model_args).load_state_dict(weights.state_dict)


class Foreign:
    """A class of the person who saved the file."""


def test_checkpoints_of_lightning_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    torch.save(lightning({"model.encoder.weight": torch.ones(1)}), path)
    with pytest.raises(WeightsError, match=r"in the checkpoint of PyTorch Lightning .*w\.ckpt, found no"):
        load_weights(path)
    torch.save(lightning({}, hyper_parameters=Foreign()), path)
    with pytest.raises(
        WeightsError, match=r"is a checkpoint of PyTorch Lightning that holds .*Foreign.*state_dict\(\)"
    ):
        load_weights(path)
    keys = ("model.model.backbone.conv_encoder.model.conv1.weight", "model.class_labels_classifier.weight")
    torch.save(lightning({key: torch.ones(1) for key in keys}), path)
    with pytest.raises(WeightsError, match=r"w\.ckpt holds a DETR of transformers, .*save_pretrained\(FOLDER\)"):
        load_weights(path)
