"""`detrkit detr`: the original main.py's command line, with its meaning."""

import argparse
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit import classic
from detrkit.config import TrainConfig
from detrkit.errors import ConfigError, DataError
from detrkit.models import build_model
from detrkit.models.weights.published import COCO_CATEGORIES
from detrkit.structures import Categories

from .conftest import Command
from .original_flags import MAIN_FLAGS, log_keys

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
    """The shapes in the layout of COCO, as the original wants it."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}2017").symlink_to(shapes / "images")
        (folder / f"annotations/instances_{split}2017.json").symlink_to(shapes / f"{split}.json")
    return folder


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    """Pictures of 64 pixels instead of the 800 that main.py has no flag for."""
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
    """Writes a checkpoint of the original with random weights."""

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


# --- flags -----------------------------------------------------------------------------------------------------------


def test_every_flag_of_main_py_is_there_with_its_default() -> None:
    found = vars(classic.build_parser().parse_args([]))
    found["no_aux_loss"] = not found.pop("aux_loss")
    assert found.pop("backbone_weights") == "imagenet"  # ours, for machines without a network
    assert found == MAIN_FLAGS


def test_switches_take_no_value_and_numbers_are_numbers() -> None:
    parser = classic.build_parser()
    for name, default in MAIN_FLAGS.items():
        if default is False:
            flags = parser.parse_args([f"--{name}"])
            assert flags.aux_loss is False if name == "no_aux_loss" else getattr(flags, name) is True
        elif isinstance(default, int | float):
            assert getattr(parser.parse_args([f"--{name}", "3"]), name) == 3
        elif name != "position_embedding":
            assert getattr(parser.parse_args([f"--{name}", "word"]), name) == "word"
    assert (
        parser.parse_args(["--num_q", "7"]).num_queries == 7
    )  # argparse takes what is unambiguous, and so did main.py


def test_defaults_are_those_of_detrkit_train() -> None:
    flags = classic.build_parser().parse_args(["--coco_path", "d", "--device", "auto"])
    expected = TrainConfig(data="d", output_dir="out", backbone_norm="frozen", checkpoint_every=100)
    assert classic.to_config(flags, "out") == expected


def test_every_setting_reaches_training() -> None:
    given: dict[str, object] = {
        name: default + 1
        for name, default in MAIN_FLAGS.items()
        if isinstance(default, int | float) and not isinstance(default, bool) and hasattr(TrainConfig, name)
    } | {"hidden_dim": 288, "nheads": 9, "position_embedding": "learned", "backbone": "resnet18", "resume": "x.pth"}
    switches = dict.fromkeys(("dilation", "pre_norm", "no_aux_loss"), True)
    argv = [f"--{name}={value}" for name, value in given.items()] + [f"--{name}" for name in switches]
    flags = classic.build_parser().parse_args([*argv, "--coco_path", "d"])
    config = classic.to_config(flags, "out")
    assert {name: getattr(config, name) for name in given} == given
    assert {name: getattr(config, name) for name in switches} == switches
    elsewhere = {"coco_path", "output_dir", "device", "masks", "frozen_weights"}  # tested below
    only_here = {name for name in MAIN_FLAGS if not hasattr(TrainConfig, name)}
    assert set(MAIN_FLAGS) == given.keys() | switches.keys() | elsewhere | only_here
    assert only_here == {
        "coco_path", "coco_panoptic_path", "dataset_file", "dist_url", "eval", "remove_difficult",
        "start_epoch", "world_size",
    }  # fmt: skip


def test_segmentation_in_the_words_of_the_original() -> None:
    def config(*argv: str) -> TrainConfig:
        return classic.to_config(classic.build_parser().parse_args(["--coco_path=d", *argv]), "out")

    assert config().task == "detect"
    assert (config("--masks").task, config("--masks").masks) == ("instance", True)
    panoptic = ["--dataset_file=coco_panoptic", "--coco_panoptic_path=p"]
    boxes = config(*panoptic)  # the first stage: boxes of things and stuff
    assert (boxes.task, boxes.data_format, boxes.data) == ("detect", "coco_panoptic", "d")
    assert (boxes.panoptic_json, boxes.panoptic_dir) == (str(Path("p/annotations")), "p")
    both = config(*panoptic, "--masks", "--frozen_weights=box.pth")
    assert (both.task, both.frozen_weights, both.panoptic_dir) == ("panoptic", "box.pth", "p")


def test_250_classes_of_panoptic_data() -> None:
    data = Categories((1, 200), ("person", "rug-merged"), (True, False))
    classes = classic.one_class_per_id(data)
    assert (len(classes), classes.ids[200], classes.names[200]) == (250, 200, "rug-merged")
    assert (classes.names[2], classes.names[201]) == ("bicycle", "N/A 201")
    assert [i for i, thing in enumerate(classes.isthing) if thing] == [1]


@pytest.mark.parametrize(("lr_drop", "every"), [(200, 100), (100, 100), (40, 40), (150, 150)])
def test_a_checkpoint_is_kept_before_each_drop(lr_drop: int, every: int) -> None:
    flags = classic.build_parser().parse_args([f"--lr_drop={lr_drop}", "--coco_path=d"])
    assert classic.to_config(flags, "out").checkpoint_every == every


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["--frozen_weights", "w.pth"],
            "--frozen_weights brings the detector that a mask head is trained on; add --masks",
        ),
        (["--dataset_file", "coco_panoptic"], "name it with --coco_panoptic_path"),
        (["--dataset_file", "voc"], "--dataset_file must be coco or coco_panoptic, found 'voc'"),
        (["--lrr", "3"], "main.py has no flag --lrr; did you mean '--lr'?"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many' (see detrkit detr --help)"),
        (["--position_embedding", "v4"], "invalid choice: 'v4'"),
        (["--hidden_dim", "100"], "--hidden_dim must be a multiple of --nheads"),
        (["--device", "quantum"], "--device must be cuda, cuda:NUMBER, cpu, mps or auto, found 'quantum'"),
        (["--dist_url", "file:///shared/init"], "--dist_url must be env:// or tcp://HOST:PORT, found 'file:///"),
        (["--eval"], "--eval measures a checkpoint; name it with --resume"),
        (["--resume", "nowhere.pth"], "expected a checkpoint file at nowhere.pth, found none"),
        (["--eval", "--resume", "nowhere.pth"], "expected weights at nowhere.pth, found no such file"),
        (["--resume", "https://example.org/detr.pth"], "whose file name ends in its hash"),
        (["--backbone", "vgg16"], "expected a backbone resnet18"),
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


# --- classes ---------------------------------------------------------------------------------------------------------


def test_the_class_index_is_the_category_id() -> None:
    data = Categories((1, 2, 18), ("scratch", "person", "dent"))
    classes = classic.one_class_per_id(data)
    assert len(classes) == 91
    assert classes.ids == tuple(range(91))
    assert (classes.names[1], classes.names[2], classes.names[18]) == ("scratch", "person", "dent")
    assert classes.names[3] == "car"  # as in COCO, where the data set has nothing to say
    assert classes.index_map_from(data) == {1: 1, 2: 2, 18: 18}
    assert classic.one_class_per_id(COCO_CATEGORIES) == COCO_CATEGORIES


def test_ids_beyond_coco_are_refused() -> None:
    with pytest.raises(DataError, match=r"has the id 91 \(hair brush\); detrkit train takes any ids"):
        classic.one_class_per_id(Categories((1, 91), ("person", "hair brush")))


# --- training --------------------------------------------------------------------------------------------------------


def test_training_writes_the_log_of_the_original(
    detrkit: Command, coco: Path, tmp_path: Path, small_pictures: None
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--backbone_weights=none", "--output_dir", "out", "--lr=3e-4", "--lr_drop=1"]
    shown = detrkit("detr", *argv, "--epochs", "2")
    assert shown.status == 0, shown.err
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

    # The name that the original gave its checkpoint leads to ours; --epochs counts from the beginning of the run.
    assert "out/last.ckpt" in detrkit("detr", *argv, "--resume", "out/checkpoint.pth").sentence
    shown = detrkit("detr", *argv, "--epochs", "3", "--resume", "auto")
    assert shown.status == 0, shown.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [0, 1, 2]

    # Without --resume the folder is begun anew.
    shown = detrkit("detr", *argv, "--epochs", "1")
    assert shown.status == 0, shown.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [0]


def test_ctrl_c_says_how_to_go_on(
    detrkit: Command, coco: Path, small_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrkit.training.module.DetectionTraining.on_train_start", interrupt, raising=False)
    argv = ["--coco_path", coco, *FLAGS, "--backbone_weights=none", "--output_dir", "out", "--epochs", "9"]
    shown = detrkit("detr", *argv)
    assert (shown.status, shown.err) == (130, "interrupted\n")
    assert "Go on with:\n  the same flags of detrkit detr, and --resume auto" in shown.out
    assert Path("out/last.ckpt").exists()


def interrupt(module: object) -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def test_without_an_output_dir_nothing_is_written(
    detrkit: Command, coco: Path, tmp_path: Path, small_pictures: None
) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = detrkit("detr", "--coco_path", coco, *FLAGS, "--backbone_weights=none", "--epochs=1", "--world_size=4")
    assert shown.status == 0, shown.err
    assert sorted(tmp_path.rglob("*")) == before
    note = shown.out.splitlines()[0]
    assert note.startswith("Without --output_dir nothing is kept")
    assert not Path(note.split("the files in ")[1].split(" are ")[0]).exists()


def test_going_on_with_a_run_of_the_original(
    detrkit: Command, coco: Path, tmp_path: Path, small_pictures: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    path = checkpoint("checkpoint.pth", **trained_by_the_original(epoch=3))
    argv = ["--coco_path", coco, *FLAGS, "--output_dir", "out", "--lr=7e-4"]
    shown = detrkit("detr", *argv, "--resume", path, "--epochs", "5", "--start_epoch", "1")
    assert shown.status == 0, shown.err
    (line,) = log_of(tmp_path / "out")
    assert line["epoch"] == 4  # as the checkpoint says, whatever --start_epoch does
    assert line["train_lr"] == pytest.approx(7e-4)  # the rate given now, not the one that was saved


def test_starting_from_published_weights(
    detrkit: Command, coco: Path, tmp_path: Path, small_pictures: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--output_dir", "out", "--lr=1e-9", "--lr_backbone=1e-9", "--weight_decay=0"]
    shown = detrkit("detr", *argv, "--resume", checkpoint("bare.pth"), "--epochs", "3", "--start_epoch", "2")
    assert shown.status == 0, shown.err
    assert [line["epoch"] for line in log_of(tmp_path / "out")] == [2]
    expected = torch.load(tmp_path / "bare.pth", weights_only=True)["model"]
    found = torch.load(tmp_path / "out/last.ckpt", weights_only=True)["model"]
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_another_model_is_refused(
    detrkit: Command, coco: Path, offline: None, checkpoint: Callable[..., Path]
) -> None:
    argv = ["--coco_path", coco, *FLAGS, "--hidden_dim", "32", "--resume", checkpoint("bare.pth")]
    assert "does not fit the model" in detrkit("detr", *argv).sentence


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["bare", "with optimiser and arguments"])
@pytest.mark.filterwarnings("ignore:the 91 classes of")
@pytest.mark.filterwarnings("ignore:.*does not say whether its backbone has dilation")
def test_evaluating_a_checkpoint_of_the_original(
    detrkit: Command, coco: Path, tmp_path: Path, offline: None, checkpoint: Callable[..., Path], full: bool
) -> None:
    path = checkpoint("detr.pth", **(trained_by_the_original(epoch=9) if full else {}))
    argv = ["--coco_path", coco, *FLAGS, "--no_aux_loss", "--eval", "--resume", path, "--output_dir", "out"]
    shown = detrkit("detr", *argv)
    assert shown.status == 0, shown.err
    content = json.loads((tmp_path / "out/report/metrics.json").read_text())
    assert len(content["coco"]["bbox"]) == 12
    assert {row["name"]: row["objects"] for row in content["per_class"]}.keys() == {"red", "green"}
    assert content["made_by"]["image_size"] == 800
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report"}


# --- several processes, devices, addresses ---------------------------------------------------------------------------


def test_where_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    classic._meet_at("env://")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("here", "1")
    classic._meet_at("tcp://node7.cluster:29500")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node7.cluster", "29500")


@pytest.mark.parametrize(
    ("device", "visible", "chosen", "left"),
    [
        ("cuda", None, "cuda", None),
        ("cuda:1", None, "cuda", "1"),
        ("cuda:1", "4,6", "cuda", "6"),
        ("cpu", "4", "cpu", "4"),
    ],
)
def test_one_gpu_by_its_number(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, chosen: str, left: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is restored afterwards
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    flags = argparse.Namespace(device=device)
    classic._choose_device(flags)
    assert (flags.device, os.environ.get("CUDA_VISIBLE_DEVICES")) == (chosen, left)


def test_a_gpu_that_is_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(ConfigError, match="leaves 1 GPUs"):
        classic._choose_device(argparse.Namespace(device="cuda:1"))


def test_an_address_is_fetched_once_with_its_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[tuple[str, str]] = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    url = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
    assert classic._find_checkpoint(url) == str(tmp_path / "hub/checkpoints/detr-r50-e632da11.pth")
    assert classic._find_checkpoint(url) == str(tmp_path / "hub/checkpoints/detr-r50-e632da11.pth")
    assert asked == [(url, "e632da11")]


# --- on real pictures ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the 91 classes of")
@pytest.mark.filterwarnings("ignore:.*does not say whether its backbone has dilation")
@pytest.mark.filterwarnings("ignore:.* pictures hold more objects than the 5 queries can find")
def test_on_pictures_of_coco(
    detrkit: Command, shared_data: Path, tmp_path: Path, no_report: None, offline: None, checkpoint: Callable[..., Path]
) -> None:
    """The original's layout, sizes and classes, on two pictures a split."""
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"coco/{split}2017").symlink_to(shared_data / "coco_mini/images")
        content = json.loads((shared_data / f"coco_mini/{split}.json").read_text())
        content["images"] = content["images"][:2]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        (tmp_path / f"coco/annotations/instances_{split}2017.json").write_text(json.dumps(content))
    argv = ["--coco_path", "coco", *FLAGS, "--resume", checkpoint("bare.pth"), "--output_dir", "out"]
    shown = detrkit("detr", *argv, "--epochs", "1", "--batch_size", "1")
    assert shown.status == 0, shown.err
    assert set(log_of(tmp_path / "out")[0]) == log_keys(MODEL["dec_layers"])
    kept = torch.load(tmp_path / "out/last.ckpt", weights_only=True)["detrkit"]
    assert Categories.from_plain(kept["categories"]).names == COCO_CATEGORIES.names
    assert kept["image_size"] == 800
