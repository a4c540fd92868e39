"""A tiny detector with random weights, and images of several shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Categories, Detector, build_model
from detrkit.structures import Preprocessing

MODEL = {
    "num_classes": 3,
    "backbone": "resnet18",
    "hidden_dim": 32,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 64,
    "nheads": 4,
    "num_queries": 9,
    "backbone_norm": "group",
}
CATEGORIES = Categories((3, 7, 20), ("scratch", "pit", "stain"))
SHAPES = {
    "5.png": (60, 80),
    "12.png": (60, 80),
    "wide.png": (40, 100),
    "deep/7.png": (60, 80),
    "deep/tall.png": (90, 50),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it, without Lightning's part."""
    torch.manual_seed(0)
    model = build_model(**MODEL)
    with torch.no_grad():  # fresh boxes and classes hardly depend on the image
        model.query_embed.weight.mul_(3)
        model.class_embed.weight.mul_(4)
        model.bbox_embed.layers[-1].weight.mul_(4)
    header = {
        "version": 1,
        "model_args": MODEL,
        "categories": CATEGORIES.to_plain(),
        "preprocessing": Preprocessing(64).to_plain(),
    }
    path = tmp_path_factory.mktemp("weights") / "best.ckpt"
    torch.save({"model": model.state_dict(), "detrkit": header}, path)
    return path


@pytest.fixture(scope="session")
def detector(checkpoint: Path) -> Detector:
    return Detector.load(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def mask_checkpoint(tmp_path_factory: pytest.TempPathFactory, some_images: Path) -> Path:
    """The same with a mask head; its queries find different classes and masks, at scores from 0 to 1."""
    torch.manual_seed(0)
    args = MODEL | {"hidden_dim": 128, "nheads": 8, "masks": True}
    model = build_model(**args)
    objects: list[torch.Tensor] = []
    with torch.no_grad():
        model.query_embed.weight.mul_(10)
        model.bbox_embed.layers[-1].weight.mul_(4)
        model.bbox_attention.q_linear.weight.mul_(6)
        model.mask_head.lay1.weight[:, 128:].mul_(300)
        hook = model.class_embed.register_forward_hook(lambda module, given, out: objects.append(given[0][-1]))
        Detector(model, Categories.unnamed(3), 64).predict(some_images / "5.png")
        hook.remove()
        seen, weight = objects[-1].flatten(0, -2), torch.randn(4, 128)
        weight *= 3 / ((seen - seen.mean(0)) @ weight.T).std()
        model.class_embed.weight.copy_(weight)
        model.class_embed.bias.copy_(-weight @ seen.mean(0))
    categories = Categories(CATEGORIES.ids, CATEGORIES.names, (True, True, False))
    header = {
        "version": 1,
        "model_args": args,
        "categories": categories.to_plain(),
        "preprocessing": Preprocessing(64).to_plain(),
    }
    path = tmp_path_factory.mktemp("mask-weights") / "best.ckpt"
    torch.save({"model": model.state_dict(), "detrkit": header}, path)
    return path


@pytest.fixture(scope="session")
def mask_detector(mask_checkpoint: Path) -> Detector:
    return Detector.load(mask_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def some_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in several shapes, some in a folder below."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, (height, width) in SHAPES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(path)
    (folder / ".hidden.png").write_bytes(b"no image either")
    return folder


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Writes an mp4 whose frames grow brighter."""

    def make(path: Path, frames: int = 6, fps: float = 12.5, size: tuple[int, int] = (80, 60)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        for k in range(frames):
            writer.write(np.full((size[1], size[0], 3), 30 * k, dtype=np.uint8))
        writer.release()
        return path

    return make
