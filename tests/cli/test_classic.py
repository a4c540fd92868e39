"""`detrkit detr`: the command line of the reference DETR's main.py, with its meaning."""

import argparse
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.commands import detr as classic
from detrkit.models import build_model
from detrkit.models.checkpoints.published import COCO_CATEGORIES
from detrkit.structures import Categories
from detrkit.training.loop import Trainer

from .conftest import Command
from .reference_flags import MAIN_FLAGS, log_keys

pytestmark = pytest.mark.timeout(240)

MODEL: dict[str, Any] = {
    "backbone": "resnet18",
    "hidden_dim": 16,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 16,
    "num_queries": 5,
}
FLAGS = [*(f"--{name}={value}" for name, value in MODEL.items()), "--device=cpu", "--num_workers=0"]


@pytest.fixture
def coco(shapes: Path, tmp_path: Path) -> Path:
    """The shapes in the layout of COCO, as the reference DETR reads it."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}2017").symlink_to(shapes / "images")
        (folder / f"annotations/instances_{split}2017.json").symlink_to(shapes / f"{split}.json")
    return folder


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    """Images of 64 pixels instead of the 800 that main.py has no flag for."""
    to_config = classic.to_config
    monkeypatch.setattr(classic, "to_config", lambda *args: replace(to_config(*args), image_size=64))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file in any cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))

    def refuse(url: str, *args: object, **kwargs: object) -> None:
        raise AssertionError(f"tried to download {url}")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint of the reference DETR with random weights."""

    def write(name: str, **extra: Any) -> Path:
        torch.manual_seed(3)
        model = build_model(91, **MODEL)
        torch.save({"model": model.state_dict(), **extra}, tmp_path / name)
        return tmp_path / name

    return write


def trained_by_the_original(epoch: int) -> dict[str, Any]:
    """What main.py saves beside the model after an epoch, counted from 0."""
    torch.manual_seed(3)
    model = build_model(91, **MODEL)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if "backbone" not in name]},
        {"params": [p for name, p in named if "backbone" in name], "lr": 1e-5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    args = argparse.Namespace(**{**MAIN_FLAGS, **MODEL, "output_dir": Path("out")})
    return {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": epoch,
        "args": args,
    }


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--frozen_weights", "w.pth"],
            "--frozen_weights names the detector on which a mask head is trained; add --masks",
        ),
        (["--dataset_file", "coco_panoptic"], "name it with --coco_panoptic_path"),
        (["--dataset_file", "voc"], "--dataset_file must be coco or coco_panoptic, found 'voc'"),
        (["--lrr", "3"], "main.py has no flag --lrr; did you mean '--lr'?"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many' (see detrkit detr --help)"),
        (["--position_embedding", "v4"], "invalid choice: 'v4'"),
        (["--hidden_dim", "100"], "and of --nheads 8, found 100; try --hidden_dim 96"),
        (["--device", "quantum"], "--device must be cuda, cuda:NUMBER, cpu, mps or auto, found 'quantum'"),
        (["--dist_url", "file:///shared/init"], "--dist_url must be env:// or tcp://HOST:PORT, found 'file:///"),
        (["--eval"], "expected a checkpoint to evaluate with --eval, found none; name it with --resume"),
        (["--resume", "nowhere.pth"], "expected a checkpoint to resume from at nowhere.pth, found none"),
        (["--eval", "--resume", "nowhere.pth"], "expected weights at nowhere.pth, found no such file"),
        (["--resume", "https://example.org/detr.pth"], "whose file name ends in its hash"),
        (["--backbone", "vgg16"], "--backbone must be resnet18"),
        (["--coco_path", "nowhere"], "expected a data set at nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(detrkit: Command, coco: Path, argv: list[str], sentence: str) -> None:
    argv = argv if "--device" in argv else ["--device", "cpu", *argv]
    assert sentence in detrkit("detr", "--coco_path", coco, *argv).sentence


def test_without_a_data_set(detrkit: Command) -> None:
    assert "name it with --coco_path" in detrkit("detr", "--device", "cpu").sentence
    assert detrkit("detr", "--help").status == 0


# --- training --------------------------------------------------------------------------------------------------------


def test_training_writes_the_log_of_the_reference_detr(
    detrkit: Command, coco: Path, tmp_path: Path, small_images: None
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--backbone_weights=none", "--output_dir", "out", "--lr=3e-4", "--lr_drop=1"]
    result = detrkit("detr", *argv, "--epochs", "2")
    assert result.status == 0, result.err
    first, second = lines = log_of(tmp_path / "out")
    for line in lines:
        assert set(line) == log_keys(MODEL["dec_layers"])
        assert line["train_loss_giou"] == pytest.approx(2 * line["train_loss_giou_unscaled"])
        assert line["test_loss_bbox_0"] == pytest.approx(5 * line["test_loss_bbox_0_unscaled"])
        parts = sum(line[f"train_loss_{term}{layer}"] for term in ("ce", "bbox", "giou") for layer in ("", "_0"))
        assert line["train_loss"] == pytest.approx(parts, rel=1e-5)
        assert len(line["test_coco_eval_bbox"]) == 12
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert first["train_lr"] == pytest.approx(3e-4)
    assert second["train_lr"] == pytest.approx(3e-5)  # a tenth after each --lr_drop epochs
    model = build_model(91, **MODEL)
    assert first["n_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt", "epoch_0001.ckpt", "epoch_0002.ckpt"} <= names
    kept = torch.load(tmp_path / "out/last.ckpt", weights_only=True)
    assert kept["model"].keys() == model.state_dict().keys()
    assert kept["model"]["class_embed.bias"].shape == (92,)
    assert kept["detrkit"]["categories"][3]["name"] == "red"
    assert kept["detrkit"]["model_args"]["backbone_norm"] == "frozen"

    # The name that the reference DETR gave its checkpoint leads to ours; --epochs counts from the beginning of the run.
    assert "out/last.ckpt" in detrkit("detr", *argv, "--resume", "out/checkpoint.pth").sentence
    result = detrkit("detr", *argv, "--epochs", "3", "--resume", "auto")
    assert result.status == 0, result.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [0, 1, 2]

    # Without --resume the folder is begun anew.
    result = detrkit("detr", *argv, "--epochs", "1")
    assert result.status == 0, result.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [0]


def test_ctrl_c_prints_how_to_resume(
    detrkit: Command, coco: Path, small_images: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrkit.training.loop.Trainer.set_time_flags", interrupt)
    argv = ["--coco_path", coco, *FLAGS, "--backbone_weights=none", "--output_dir", "out", "--epochs", "9"]
    result = detrkit("detr", *argv)
    assert (result.status, result.err) == (130, "interrupted\n")
    assert "Resume with:\n  the same flags of detrkit detr, and --resume auto" in result.out
    assert Path("out/last.ckpt").exists()


def interrupt(trainer: Trainer) -> None:
    """Ctrl-C, during the first step."""
    if not trainer.flags["stop"]:
        signal.raise_signal(signal.SIGINT)


def test_without_an_output_dir_nothing_is_written(
    detrkit: Command, coco: Path, tmp_path: Path, small_images: None
) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = detrkit("detr", "--coco_path", coco, *FLAGS, "--backbone_weights=none", "--epochs=1", "--world_size=4")
    assert result.status == 0, result.err
    assert sorted(tmp_path.rglob("*")) == before
    note = result.out.splitlines()[0]
    assert note.startswith("Without --output_dir nothing is kept")
    assert not Path(note.split("the files in ")[1].split(" are ")[0]).exists()


def test_going_on_with_a_run_of_the_reference_detr(
    detrkit: Command, coco: Path, tmp_path: Path, small_images: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    path = checkpoint("checkpoint.pth", **trained_by_the_original(epoch=3))
    argv = ["--coco_path", coco, *FLAGS, "--output_dir", "out", "--lr=7e-4"]
    result = detrkit("detr", *argv, "--resume", path, "--epochs", "5", "--start_epoch", "1")
    assert result.status == 0, result.err
    (line,) = log_of(tmp_path / "out")
    assert line["epoch"] == 4  # as the checkpoint says, whatever --start_epoch does
    assert line["train_lr"] == pytest.approx(7e-4)  # the rate given now, not the one that was saved


@pytest.mark.filterwarnings("ignore:.*does not say")
def test_starting_from_published_weights(
    detrkit: Command, coco: Path, tmp_path: Path, small_images: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--output_dir", "out", "--lr=1e-9", "--lr_backbone=1e-9", "--weight_decay=0"]
    result = detrkit("detr", *argv, "--resume", checkpoint("bare.pth"), "--epochs", "3", "--start_epoch", "2")
    assert result.status == 0, result.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [2]
    expected = torch.load(tmp_path / "bare.pth", weights_only=True)["model"]
    stored = torch.load(tmp_path / "out/last.ckpt", weights_only=True)["model"]
    for key, value in expected.items():
        torch.testing.assert_close(stored[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not say")
def test_a_checkpoint_of_another_model_is_refused(
    detrkit: Command, coco: Path, offline: None, checkpoint: Callable[..., Path]
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--hidden_dim", "32", "--resume", checkpoint("bare.pth")]
    assert "does not fit the model" in detrkit("detr", *argv).sentence


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["bare", "with optimizer and arguments"])
@pytest.mark.filterwarnings("ignore:the 91 classes of")
@pytest.mark.filterwarnings("ignore:.*does not say whether its backbone has dilation")
def test_evaluating_a_checkpoint_of_the_reference_detr(
    detrkit: Command, coco: Path, tmp_path: Path, offline: None, checkpoint: Callable[..., Path], full: bool
) -> None:
    path = checkpoint("detr.pth", **(trained_by_the_original(epoch=9) if full else {}))
    argv = ["--coco_path", coco, *FLAGS, "--no_aux_loss", "--eval", "--resume", path, "--output_dir", "out"]
    result = detrkit("detr", *argv)
    assert result.status == 0, result.err
    content = json.loads((tmp_path / "out/report/metrics.json").read_text())
    assert len(content["coco"]["bbox"]) == 12
    assert {row["name"]: row["objects"] for row in content["per_class"]}.keys() == {"red", "green"}
    assert content["made_by"]["image_size"] == 800
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report"}


# --- on real images ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*does not say")
@pytest.mark.filterwarnings("ignore:.* images have more objects than the 5 queries can detect")
def test_on_images_of_coco(
    detrkit: Command, shared_data: Path, tmp_path: Path, no_report: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    """Layout, sizes and classes of the reference's data, with two images per split."""
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"coco/{split}2017").symlink_to(shared_data / "coco_mini/images")
        content = json.loads((shared_data / f"coco_mini/{split}.json").read_text())
        content["images"] = content["images"][:2]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        (tmp_path / f"coco/annotations/instances_{split}2017.json").write_text(json.dumps(content))
    argv = ["--coco_path", "coco", *FLAGS, "--resume", checkpoint("bare.pth"), "--output_dir", "out"]
    result = detrkit("detr", *argv, "--epochs", "1", "--batch_size", "1")
    assert result.status == 0, result.err
    assert set(log_of(tmp_path / "out")[0]) == log_keys(MODEL["dec_layers"])
    kept = torch.load(tmp_path / "out/last.ckpt", weights_only=True)["detrkit"]
    assert Categories.from_plain(kept["categories"]).names == COCO_CATEGORIES.names
    assert kept["preprocessing"]["image_size"] == 800
