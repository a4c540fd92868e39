"""The sandbox that the pages are tried in: everything they name is there, only small."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit import build_model
from detrkit.commands import demo
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.models.checkpoints import PUBLISHED

SMALL_MODEL: dict[str, Any] = {
    "backbone": "timm:test_resnet",
    "hidden_dim": 32,
    "enc_layers": 1,
    "dec_layers": 1,
    "dim_feedforward": 32,
    "num_queries": 10,
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with DATA, images and weights under the names that the pages use."""
    folder = tmp_path_factory.mktemp("sandbox")
    real_settings = demo.demo_settings
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        _data(folder)
        _weights(folder, patch)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        _rtdetr(_hub_snapshot(folder / "hub" / "models--PekingU--rtdetr_r18vd"))
        patch.setattr(
            demo, "demo_settings", lambda *of: replace(real_settings(*of), epochs=2, weights="", **SMALL_MODEL)
        )
        yield folder


def _data(folder: Path) -> None:
    """DATA as a COCO data set, once more under names that are not found by themselves, and single images."""
    data = make_demo_dataset(folder / "DATA", images=5, size=64)
    (data / "boxes").mkdir()
    for name, other in (("train", "first"), ("val", "second")):
        shutil.copy(data / f"{name}.json", data / "boxes" / f"{other}.json")
    shutil.copytree(data / "images", data / "photos")
    shutil.copy(data / "images/train/000001.jpg", folder / "photo.jpg")
    gt = json.loads((data / "val.json").read_text(encoding="utf-8"))
    actual = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in gt["annotations"]
    ]
    (folder / "found.json").write_text(json.dumps(actual), encoding="utf-8")
    (folder / "images").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "images/000000000139.jpg")


def _weights(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Random weights where published ones would be, of a small model, and a DC5 file that does not say what it is."""
    torch.manual_seed(0)
    model_args = SMALL_MODEL | {"backbone": "resnet18"}
    state_dict = build_model(91, **model_args).state_dict()
    published = PUBLISHED["detr_resnet50"]
    stand_in = replace(published, model_args=published.model_args | {"backbone": "resnet18"})
    patch.setitem(PUBLISHED, "detr_resnet50", stand_in)
    stand_in.path.parent.mkdir(parents=True)
    torch.save(state_dict, stand_in.path)
    torch.save(state_dict, folder / "dc5.pth")


def _hub_snapshot(folder: Path) -> Path:
    """The folder of a model in the cache of the Hugging Face hub."""
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


def _rtdetr(folder: Path) -> None:
    """An RT-DETR of transformers with random weights, much smaller than its name says."""
    import transformers

    body = transformers.RTDetrResNetConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[32, 64, 128, 256],
        embedding_size=32,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=body,
        encoder_in_channels=[64, 128, 256],
        decoder_in_channels=[32] * 3,
        encoder_hidden_dim=32,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_layers=1,
        num_queries=10,
    )
    transformers.RTDetrForObjectDetection(config).save_pretrained(folder)
    transformers.RTDetrImageProcessor().save_pretrained(folder)
