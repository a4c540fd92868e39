"""The words of `detrkit detr`: flags, classes, devices and addresses, and what they mean here."""

import argparse
import os
from pathlib import Path

import pytest

from detrkit.commands import detr as classic
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DataError
from detrkit.models.checkpoints.published import COCO_CATEGORIES
from detrkit.structures import Categories

from .reference_flags import MAIN_FLAGS

# --- flags -----------------------------------------------------------------------------------------------------------


def test_every_flag_of_main_py_is_there_with_its_default() -> None:
    defaults = vars(classic.build_parser().parse_args([]))
    defaults["no_aux_loss"] = not defaults.pop("aux_loss")
    assert defaults.pop("backbone_weights") == "imagenet"  # ours, for machines without a network
    assert defaults.pop("quiet") is False  # ours
    assert defaults.pop("num_classes") is None  # ours, for data with other classes than COCO's
    assert defaults == MAIN_FLAGS


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
    # argparse takes unambiguous abbreviations, and so did main.py
    assert parser.parse_args(["--num_q", "7"]).num_queries == 7


def test_defaults_are_those_of_detrkit_train() -> None:
    flags = classic.build_parser().parse_args(["--coco_path", "d", "--device", "auto"])
    expected = TrainConfig(data="d", output_dir="out", backbone_norm="frozen", checkpoint_every=100)
    assert classic.to_config(flags, "out") == expected


def test_every_setting_reaches_training() -> None:
    values: dict[str, object] = {
        name: default + 1
        for name, default in MAIN_FLAGS.items()
        if isinstance(default, int | float) and not isinstance(default, bool) and hasattr(TrainConfig, name)
    } | {"hidden_dim": 288, "nheads": 9, "position_embedding": "learned", "backbone": "resnet18", "resume": "x.pth"}
    values |= {"dropout": 0.2}
    switches = dict.fromkeys(("dilation", "pre_norm", "no_aux_loss"), True)
    argv = [f"--{name}={value}" for name, value in values.items()] + [f"--{name}" for name in switches]
    flags = classic.build_parser().parse_args([*argv, "--coco_path", "d"])
    config = classic.to_config(flags, "out")
    assert {name: getattr(config, name) for name in values} == values
    assert {name: getattr(config, name) for name in switches} == switches
    elsewhere = {"coco_path", "output_dir", "device", "masks", "frozen_weights"}  # tested below
    only_here = {name for name in MAIN_FLAGS if not hasattr(TrainConfig, name)}
    assert set(MAIN_FLAGS) == values.keys() | switches.keys() | elsewhere | only_here
    assert only_here == {
        "coco_path", "coco_panoptic_path", "dataset_file", "dist_url", "eval", "remove_difficult",
        "start_epoch", "world_size",
    }  # fmt: skip


def test_segmentation_in_the_words_of_the_reference_detr() -> None:
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
    with pytest.raises(DataError, match=r"has the id 91 \(hair brush\); num_classes 2 trains one row per class"):
        classic.one_class_per_id(Categories((1, 91), ("person", "hair brush")))


# --- several processes, devices, addresses ---------------------------------------------------------------------------


def test_where_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    classic._set_rendezvous("env://")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("here", "1")
    classic._set_rendezvous("tcp://node7.cluster:29500")
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
    downloads: list[tuple[str, str]] = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        downloads.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    url = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
    assert classic._find_checkpoint(url) == str(tmp_path / "hub/checkpoints/detr-r50-e632da11.pth")
    assert classic._find_checkpoint(url) == str(tmp_path / "hub/checkpoints/detr-r50-e632da11.pth")
    assert downloads == [(url, "e632da11")]
