"""The road of most people: a published DC5 file, its class head deleted, five classes, main.py's flags, a CPU."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.commands import detr as classic
from detrkit.models import build_model

from .conftest import Command

pytestmark = [
    pytest.mark.timeout(240),
    # warnings are what this is about: they reach stderr, as for a user, instead of failing the test
    pytest.mark.filterwarnings("always::UserWarning"),
]

NAMES = ("crack", "dent", "scratch", "hole", "stain")
MODEL: dict[str, Any] = {
    "backbone": "resnet18", "hidden_dim": 16, "nheads": 2, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 16,
}  # fmt: skip
FLAGS = [
    "--dataset_file=coco", "--device=cpu", "--num_workers=0", "--batch_size=2", "--epochs=1", "--lr_drop=200",
    *(f"--{name}={value}" for name, value in MODEL.items()),
]  # fmt: skip
STILL = ["--lr=1e-9", "--lr_backbone=1e-9", "--weight_decay=0"]
"""Rates that leave weights as they were loaded."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    """Images of 64 pixels instead of the 800 that main.py has no flag for."""
    to_config = classic.to_config
    monkeypatch.setattr(classic, "to_config", lambda *args: replace(to_config(*args), image_size=64))


@pytest.fixture
def no_eval_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the report of `eval` as well, where only its words matter."""
    monkeypatch.setattr("detrkit.evaluation.report.write_report", lambda *args, **kwargs: {})
    monkeypatch.setattr("detrkit.evaluation.report.tables", lambda content: [])


@pytest.fixture
def data(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a data set of five kinds of defects in the layout of COCO, with ids from a given one on."""

    def make(first: int) -> Path:
        folder, rng = tmp_path / f"defects{first}", np.random.default_rng(7)
        (folder / "annotations").mkdir(parents=True)
        for split, count in (("train", 4), ("val", 3)):
            (folder / f"{split}2017").mkdir()
            images, annotations = [], []
            for number in range(count):
                pixels = rng.integers(90, 120, (48, 64, 3), dtype=np.uint8)
                for kind in (number % 5, (number + 2) % 5):
                    x, y = (int(value) for value in rng.integers(0, 28, 2))
                    pixels[y : y + 16, x : x + 20] = (50 * kind, 250 - 50 * kind, 128)
                    box = {"bbox": [x, y, 20, 16], "area": 320, "iscrowd": 0}
                    entry = {"id": len(annotations), "image_id": number, "category_id": kind + first}
                    annotations.append(entry | box)
                name = f"{split}{number}.png"
                Image.fromarray(pixels).save(folder / f"{split}2017" / name)
                images.append({"id": number, "file_name": name, "height": 48, "width": 64})
            categories = [{"id": k + first, "name": name} for k, name in enumerate(NAMES)]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file as the published ones are, {"model": state dict}, or without some of its keys."""

    def write(name: str = "detr-dc5.pth", *deleted: str, extra: dict[str, Any] | None = None, **changes: Any) -> Path:
        torch.manual_seed(3)
        model = build_model(**{"num_classes": 91, "num_queries": 10, **MODEL, **changes}).state_dict()
        for key in [key for key in model if key.startswith(deleted)] if deleted else []:
            del model[key]
        torch.save({"model": model} | (extra or {}), tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("first", [1, 0], ids=["ids 1 to 5", "ids 0 to 4"])
def test_the_whole_road(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path], first: int
) -> None:
    folder, path = data(first), published()
    checkpoint = torch.load(path)  # what everybody does first
    del checkpoint["model"]["class_embed.weight"], checkpoint["model"]["class_embed.bias"]
    torch.save(checkpoint, "headless.pth")

    road = ["--coco_path", folder, *FLAGS, "--num_queries=10", "--dilation", "--position_embedding=learned"]
    result = detrkit("detr", *road, *STILL, "--num_classes=5", "--resume=headless.pth", "--output_dir=out")
    assert result.status == 0, result.err
    assert "headless.pth has no class head; a new one is trained, with 5 classes" in result.err
    assert "was trained with sine positions; learned positions start from random numbers" in result.err
    assert "DC5" not in result.err  # --dilation says it
    assert "Classes   91 rows" not in result.out
    kept = torch.load("out/best.ckpt", weights_only=True)
    assert kept["model"]["class_embed.bias"].shape == (6,)
    assert [row["name"] for row in kept["detrkit"]["categories"]] == [*NAMES]
    assert kept["detrkit"]["model_args"]["dilation"] is True
    for key, value in checkpoint["model"].items():
        torch.testing.assert_close(kept["model"][key], value, rtol=1e-3, atol=1e-5)

    result = detrkit("detr", *road, "--num_classes=5", "--eval", "--resume=out/best.ckpt", "--output_dir=out")
    assert (result.status, result.err) == (0, "")
    numbers = json.loads(Path("out/report/metrics.json").read_text())
    assert {row["name"] for row in numbers["per_class"] if row["objects"]} <= {*NAMES}

    val = folder / "val2017"
    result = detrkit("predict", val, "--weights=out", "--threshold=0", "--output_dir=found", "--device=cpu")
    assert result.status == 0, result.err
    rows = json.loads(Path("found/detections.json").read_text())
    assert len(rows) == 3 * 10
    assert {row["category_id"] for row in rows} <= {*range(first, first + 5)}
    result = detrkit("explain", val / "val0.png", "--weights=out", "--output_dir=why", "--device=cpu")
    assert result.status == 0, result.err
    assert {path.name for path in Path("why").iterdir()} == {"decoder_attention.png", "encoder_attention.png"}


def test_without_num_classes_91_rows_are_trained_with_a_note(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path]
) -> None:
    argv = ["--coco_path", data(1), *FLAGS, "--num_queries=8", "--output_dir=out"]
    result = detrkit("detr", *argv, *STILL, "--resume", published())
    assert result.status == 0, result.err
    assert result.out.splitlines()[0] == (
        "Classes   91 rows of the class head are trained, one for each id from 0 to 90 as in main.py, though the data "
        "has 5 classes; --num_classes 5 trains one row per class"
    )
    assert "has 10 queries, the model 8: the first 8 are used; --num_queries 10 keeps those of the file" in result.err
    assert "does not say whether its backbone has dilation (DC5), though its name does" in result.err
    assert torch.load("out/last.ckpt", weights_only=True)["model"]["class_embed.bias"].shape == (92,)
    # weights of one's own lend what fits to a run with other classes
    argv = [*argv, "--num_classes=6", "--output_dir=six", "--resume=out/last.ckpt"]
    result = detrkit("detr", *argv)
    assert result.status == 0, result.err
    assert "classes from out/last.ckpt: 6 of 6 kept" in result.out
    assert "bus" not in result.out


@pytest.mark.parametrize(("classes", "num_classes"), [(5, 5), (6, 6), (6, 5)])
def test_files_of_forks(
    detrkit: Command,
    data: Callable[[int], Path],
    published: Callable[..., Path],
    no_eval_report: None,
    classes: int,
    num_classes: int,
) -> None:
    """Of 5 classes, or of 6 where the fork counts its highest id + 1; with arguments, or a bare state dict."""
    bare = classes == num_classes == 6
    path = published("fork.pth", num_classes=classes, extra={"args": argparse.Namespace(nheads=2, dilation=True)})
    tensors = torch.load(path, weights_only=False)["model"]
    if bare:
        torch.save(tensors, path)
    argv = ["--coco_path", data(1), *FLAGS, *STILL, "--num_queries=10", f"--num_classes={num_classes}"]
    result = detrkit("detr", *argv, "--resume", path, "--output_dir=out")
    assert result.status == 0, result.err
    assert (
        "does not say whether its" if bare else "was trained with dilation (DC5), and this run has none"
    ) in result.err
    assert "add --dilation" in result.err
    kept = torch.load("out/last.ckpt", weights_only=True)["model"]["class_embed.bias"]
    rows = tensors["class_embed.bias"][0 if classes == num_classes else 1 :]  # by id
    torch.testing.assert_close(kept, rows, rtol=1e-3, atol=1e-5)
    if classes != num_classes:
        assert "classes from " in result.out
        assert "5 of 5 kept" in " ".join(result.out.split())
        return
    result = detrkit("detr", *argv, "--eval", "--resume", path)
    assert result.status == 0, result.err
    assert ("taken to be those of the data in the order of their ids (crack, dent" in result.out) == (classes == 5)


def test_the_optimizer_of_a_run_whose_head_was_deleted_is_left_out(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path]
) -> None:
    extra = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 149, "args": argparse.Namespace(dilation=False)}
    path = published("checkpoint.pth", "class_embed", extra=extra)
    argv = ["--coco_path", data(0), *FLAGS, "--num_queries=12", "--num_classes=5", "--output_dir=out"]
    result = detrkit("detr", *argv, "--resume", path)
    assert result.status == 0, result.err
    assert f"optimizer state and the epoch (150) of {path} are left out: training begins with the first" in result.err
    assert "has 10 queries, the model 12: all are kept, and 2 new ones added" in result.err
    assert [json.loads(line)["epoch"] for line in Path("out/log.txt").read_text().splitlines()] == [0]


def test_a_file_without_a_class_head_elsewhere(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path], no_eval_report: None
) -> None:
    folder, path = data(1), published("headless.pth", "class_embed")
    for words in (
        ("predict", folder / "val2017", "--weights", path),
        ("explain", folder / "val2017/val0.png", "--weights", path),
        ("export", "--weights", path),
        ("convert", path, "out.pth"),
        ("bench", "inference", "--weights", path),
    ):
        sentence = detrkit(*words).sentence
        assert "headless.pth has no class head (class_embed.weight and class_embed.bias), so it cannot" in sentence
        assert "train a new one: detrkit train --weights" in sentence
    evaluated = [
        "--weights",
        path,
        "--data",
        folder,
        "--device=cpu",
        "--num_workers=0",
        "--nheads=2",
        "--image_size=64",
    ]
    for command in (["eval", *evaluated], ["detr", "--coco_path", folder, *FLAGS, "--eval", "--resume", path]):
        result = detrkit(*command, "--output_dir", "report")
        assert result.status == 0, result.err
        assert "has no class head; with random ones, results mean nothing before" in result.err
    started = ["--weights", path, "--data", folder, "--device=cpu", "--num_workers=0", "--epochs=1", "--image_size=64"]
    result = detrkit("train", *started, "--nheads=2", "--output_dir=run", "--num_queries=4")
    assert result.status == 0, result.err
    assert "headless.pth has no class head; a new one is trained, with 5 classes" in result.err
    assert "the first 4 are used" in result.err
    assert "attention heads" not in result.err  # --nheads says it


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"position_embedding": "learned"}, "--position_embedding learned"),
        ({"hidden_dim": 32}, "--hidden_dim 32"),
        ({"nheads": 8}, "--nheads 8"),
        ({"pre_norm": True}, "--pre_norm"),
    ],
)
def test_hints_name_the_setting(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path], changes: dict[str, Any], flag: str
) -> None:
    args = argparse.Namespace(dilation=False, nheads=changes.get("nheads", 2))
    path = published("w.pth", extra={"args": args}, **changes)
    sentence = detrkit("detr", "--coco_path", data(1), *FLAGS, "--num_queries=10", "--resume", path).sentence
    assert sentence.endswith(f"it was likely trained with {flag}")
    assert "--recipe" not in sentence


def test_a_file_whose_epochs_are_done(
    detrkit: Command, data: Callable[[int], Path], published: Callable[..., Path]
) -> None:
    path = published("w.pth", extra={"args": argparse.Namespace(dilation=False, nheads=2), "epoch": 299})
    content = torch.load(path, weights_only=False)
    model = build_model(91, num_queries=10, **MODEL)
    groups = [[p for n, p in model.named_parameters() if p.requires_grad and ("backbone" in n) == k] for k in (0, 1)]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    torch.save(content | {"optimizer": optimizer.state_dict()}, path)
    sentence = detrkit("detr", "--coco_path", data(1), *FLAGS, "--num_queries=10", "--resume", path).sentence
    assert sentence.endswith("it has 300 epochs, found --epochs 1; raise --epochs to train more")
