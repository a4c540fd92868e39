"""Every form in which weights come is read; what is broken, foreign or hostile is refused with a sentence."""

import argparse
import json
import os
import pathlib
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.commands.convert import write_reference_checkpoint
from detrkit.errors import WeightsError
from detrkit.models import build_model
from detrkit.models.checkpoints import COCO_CATEGORIES, Weights, load_weights, read_checkpoint
from detrkit.models.checkpoints.architecture import infer_model_args
from detrkit.structures import Categories, Preprocessing

from .small import SMALL, padded_batch, small_model, small_weights


def same_model(weights: Weights, expected: torch.nn.Module) -> None:
    """The weights rebuild the model: strict keys, equal results on a padded batch."""
    model = build_model(**weights.model_args).eval()
    model.load_state_dict(weights.state_dict)
    with torch.no_grad():
        ours, theirs = model(*padded_batch()), expected(*padded_batch())
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=0)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=0)


def reference_checkpoint(model: torch.nn.Module, **args: Any) -> dict[str, Any]:
    """What the reference DETR's main.py saves after an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    namespace = argparse.Namespace(
        **(
            {"lr": 1e-4, "dilation": False, "nheads": 4, "dropout": 0.0, "frozen_weights": None, "device": "cuda"}
            | args
        ),
        output_dir=pathlib.Path("/checkpoint/someone/detr"),
    )
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 12,
        "args": namespace,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("form", ["bare", "model", "data parallel"])
def test_state_dict_of_the_reference_detr(tmp_path: Path, form: str, legacy: bool) -> None:
    model = small_model(nheads=8)
    content: Any = model.state_dict()
    if form == "model":
        content = {"model": content}
    if form == "data parallel":
        content = {"model": {f"module.{key}": value for key, value in content.items()}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    weights = load_weights(tmp_path / "w.pth")
    same_model(weights, model)
    assert weights.categories == Categories.unnamed(3)
    assert weights.preprocessing.image_size == 800
    assert "dilation" not in weights.model_args
    assert "nheads" not in weights.model_args
    assert weights.assumed.keys() == {"dilation", "nheads"}
    assert weights.messages == tuple(weights.assumed.values())


@pytest.mark.parametrize("dilation", [False, True])
def test_training_checkpoint_of_the_reference_detr(tmp_path: Path, dilation: bool) -> None:
    """With optimizer, scheduler and a pickled namespace that holds a path; the namespace tells what shapes do not."""
    model = small_model(dilation=dilation, position_embedding="learned")
    torch.save(reference_checkpoint(model, dilation=dilation), tmp_path / "checkpoint.pth")
    weights = load_weights(str(tmp_path / "checkpoint.pth"))
    assert weights.model_args["dilation"] is dilation
    assert weights.model_args["dropout"] == 0.0
    assert weights.messages == ()
    same_model(weights, model.eval())
    raw = read_checkpoint(tmp_path / "checkpoint.pth")
    assert raw["epoch"] == 12
    assert raw["args"].output_dir == pathlib.PurePosixPath("/checkpoint/someone/detr")
    assert set(raw["optimizer"]) == {"state", "param_groups"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_norm": True, "enc_layers": 3},
        {"position_embedding": "learned", "hidden_dim": 64, "num_queries": 7},
        {"activation": "glu", "dim_feedforward": 40},
        {"backbone": "resnet34"},
        {"backbone": "resnet50", "dec_layers": 1},
        {"backbone_norm": "batch"},
        {"backbone_norm": "group"},
    ],
    ids=str,
)
def test_architecture_from_shapes(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        state_dict = build_model(**(SMALL | changes)).state_dict()
    implied = infer_model_args(state_dict)
    assert implied == {"pre_norm": False, "position_embedding": "sine", "backbone_norm": "frozen"} | {
        name: value for name, value in (SMALL | changes).items() if name != "nheads"
    }


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"])
def test_architecture_of_the_published_models(shared: Path, name: str) -> None:
    shapes = json.loads((shared / "reference" / "checkpoint_keys.json").read_text())[name]
    implied = infer_model_args({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert implied == {
        "num_classes": 91, "backbone": name.split("_")[1], "position_embedding": "sine", "hidden_dim": 256,
        "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "num_queries": 100, "pre_norm": False,
        "backbone_norm": "frozen",
    }  # fmt: skip


def test_91_classes_are_those_of_coco(tmp_path: Path) -> None:
    torch.save(small_model(num_classes=91).state_dict(), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert weights.categories == COCO_CATEGORIES
    assert "COCO" in weights.assumed["categories"]


def test_settings_that_a_file_lacks_can_be_given(tmp_path: Path) -> None:
    model = small_model(dilation=True)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth", dilation=True, nheads=4)
    assert weights.messages == ()
    same_model(weights, model)


def test_stored_settings_cannot_be_contradicted(tmp_path: Path) -> None:
    write_reference_checkpoint(small_weights(dilation=False), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="trained with dilation false, found dilation true"):
        load_weights(tmp_path / "w.pth", dilation=True)
    with pytest.raises(WeightsError, match="trained with nheads 4, found nheads 8"):
        load_weights(tmp_path / "w.pth", nheads=8)


def test_our_checkpoint_and_run_folder(tmp_path: Path) -> None:
    weights = small_weights(dilation=True, backbone_norm="batch")
    write_reference_checkpoint(weights, tmp_path / "last.ckpt")
    assert load_weights(tmp_path).source == str(tmp_path / "last.ckpt")
    write_reference_checkpoint(weights, tmp_path / "best.ckpt")
    loaded = load_weights(tmp_path)
    assert loaded.source == str(tmp_path / "best.ckpt")
    assert loaded.categories == weights.categories
    assert loaded.preprocessing == weights.preprocessing
    assert loaded.model_args == weights.model_args
    same_model(loaded, small_model(dilation=True, backbone_norm="batch"))


def test_loading_never_starts_a_download(tmp_path: Path) -> None:
    """A run that began with ImageNet weights says so in its settings; its checkpoint does not need them."""
    weights = small_weights()
    weights.model_args["backbone_weights"] = "imagenet"
    write_reference_checkpoint(weights, tmp_path / "w.ckpt")
    assert "backbone_weights" not in load_weights(tmp_path / "w.ckpt").model_args


def test_checkpoint_of_a_newer_detrkit(tmp_path: Path) -> None:
    content = {"model": small_model().state_dict(), "detrkit": {"version": 99}}
    torch.save(content, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match="newer detrkit"):
        load_weights(tmp_path / "w.ckpt")
    torch.save(content | {"detrkit": {"version": 1}}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match="model_args"):
        load_weights(tmp_path / "w.ckpt")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_args": None}, "is incomplete or damaged"),
        ({"model_args": {"flavour": 1}}, "unknown setting 'flavour'"),
        ({"model_args": {"num_queries": 10**9}}, "num_queries 1000000000 where the weights have"),
        ({"model_args": {"num_classes": 77}}, "num_classes 77 where the weights have"),
        ({"categories": [{"id": 1, "name": "x"}]}, "1 categories where the weights have"),
        ({"categories": [{"id": 1, "name": "x"}] * 2}, "unique category ids"),
        ({"preprocessing": Preprocessing(64).to_plain() | {"image_size": 0}}, "image_size of 0"),
        ({"version": "new"}, "is incomplete or damaged"),
    ],
)
def test_a_header_that_is_not_true_of_the_weights(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    write_reference_checkpoint(small_weights(), tmp_path / "w.ckpt")
    content = torch.load(tmp_path / "w.ckpt", weights_only=True)
    torch.save(content | {"detrkit": content["detrkit"] | change}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=sentence):
        load_weights(tmp_path / "w.ckpt")


@pytest.mark.parametrize(
    ("key", "tensor", "sentence"),
    [
        ("query_embed.weight", torch.tensor(3.0), r"2 dimensions in .* found shape \[\]"),
        ("query_embed.weight", torch.ones(5, 6), "queries of 6 channels and a transformer of"),
        ("query_embed.weight", torch.ones(5, 32).to_sparse(), "found query_embed.weight: sparse"),
        ("input_proj.weight", torch.ones(5, 32, 1, 1, device="meta"), "without values"),
    ],
)
@pytest.mark.parametrize("bare", [True, False])
def test_tensors_that_are_none_of_a_detr(
    tmp_path: Path, key: str, tensor: torch.Tensor, sentence: str, bare: bool
) -> None:
    write_reference_checkpoint(small_weights(), tmp_path / "w.ckpt")
    content = torch.load(tmp_path / "w.ckpt", weights_only=True)
    content["model"][key] = tensor
    torch.save(content["model"] if bare else content, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=sentence):
        load_weights(tmp_path / "w.ckpt")


def test_arguments_of_the_reference_that_are_garbled_count_as_absent(tmp_path: Path) -> None:
    model = small_model()
    torch.save(reference_checkpoint(model, nheads="4", dilation=None, dropout="a"), tmp_path / "w.pth")
    assert not {"nheads", "dilation", "dropout"} & load_weights(tmp_path / "w.pth").model_args.keys()


class Hostile:
    """Runs a command when unpickled by a trusting reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Unknown:
    """A class of the person who saved the file."""


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("place", ["top", "weights", "args"])
def test_malicious_pickle_is_refused(tmp_path: Path, place: str, legacy: bool) -> None:
    marker = tmp_path / "was-run"
    content: dict[str, Any] = {"model": small_model().state_dict()}
    if place == "top":
        content["epoch"] = Hostile(marker)
    if place == "weights":
        content["model"]["class_embed.bias"] = Hostile(marker)
    if place == "args":
        content["args"] = argparse.Namespace(lr=Hostile(marker))
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        WeightsError, match=r"refused to read .*w\.pth: .*found `\w+\.system`.* could run code"
    ) as error:
        load_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "guest", [Unknown(), print, eval, torch.nn.Linear(1, 1)], ids=["class", "print", "eval", "module"]
)
def test_objects_are_refused(tmp_path: Path, guest: object) -> None:
    torch.save({"model": {}, "guest": guest}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused to read"):
        load_weights(tmp_path / "w.pth")


def test_the_allow_list_does_not_stay(tmp_path: Path) -> None:
    torch.save({"model": small_model().state_dict(), "args": argparse.Namespace()}, tmp_path / "w.pth")
    before = torch.serialization.get_safe_globals()
    load_weights(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("name", ["best.onnx", "best.xml", "best.pt2", "best.engine"])
def test_exported_files_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"a graph")
    with pytest.raises(WeightsError, match=r"an exported model, .* use the checkpoint"):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("length", [0, 1, 2, 100, 1000, -10], ids=lambda n: f"{n} bytes")
def test_truncated_file(tmp_path: Path, length: int, legacy: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(small_model().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match="truncated or no checkpoint"):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [b"not found", b"RIFF\x04\x00\x00\x00WAVE", bytes(100), bytes(range(256)), b"\x80\x04\x95"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="truncated or no checkpoint"):
        load_weights(tmp_path / "w.pth")


def test_foreign_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    body = {
        key.removeprefix("backbone.0.body."): value
        for key, value in small_model().state_dict().items()
        if key.startswith("backbone.0.body.")
    }
    cases = [
        (body, "a backbone alone; train from it with backbone_weights"),
        (
            {"mask_head.lay1.weight": torch.ones(1), "detr.class_embed.weight": torch.ones(1)},
            "expected the weights of a DETR .* class_embed.weight",
        ),
        ({"class_embed.0.weight": torch.ones(1)}, "expected the weights of a DETR .* class_embed.0.weight"),
        ({}, "found nothing|found no"),
        ({"state_dict": {}, "epoch": 3}, "expected a state dict, bare or under .model., .* epoch"),
        ([1, 2], "expected a dictionary"),
        (
            small_model().state_dict() | {"backbone.0.body.layer1.9.conv1.weight": torch.ones(1)},
            "ResNets of torchvision",
        ),
    ]
    for content, sentence in cases:
        torch.save(content, path)
        with pytest.raises(WeightsError, match=sentence):
            load_weights(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nor a model of that name; did you mean detr_resnet50_dc5"):
        load_weights("detr_resnet50_dc")
    with pytest.raises(WeightsError, match=r"found no such file or folder.*\(`detrkit models` lists the names\)"):
        load_weights(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match=r"Hugging Face folder \(config.json\) at .*, found an empty folder; name"):
        load_weights(tmp_path)
    with pytest.raises(WeightsError, match="found none"):
        read_checkpoint(tmp_path / "nothing.pth")
