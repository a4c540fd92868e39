"""Files whose class head, box head or queries were deleted, or have other sizes, as people make them to fine-tune."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detrkit.commands.convert import write_reference_checkpoint
from detrkit.errors import WeightsError
from detrkit.inference import Detector
from detrkit.models import build_model
from detrkit.models.checkpoints import (
    FitRow,
    fit_notes,
    fit_weights,
    load_weights,
    rows_without_names,
    write_huggingface,
)
from detrkit.structures import Categories
from detrkit.training.detr_checkpoint import ReferenceCheckpoint

from .small import SMALL, small_model, small_weights

DEFECTS = Categories((1, 2, 3, 4, 5), ("crack", "dent", "scratch", "hole", "stain"))


def published(**changes: Any) -> dict[str, Tensor]:
    """The state dict of a small model in the reference DETR's format, with COCO's 91 classes."""
    return dict(small_model(**{"num_classes": 91, "nheads": 8} | changes).state_dict())


def without(state_dict: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {k: v for k, v in state_dict.items() if not k.removeprefix("detr.").startswith(parts)}


def model_for(categories: Categories, **changes: Any) -> Any:
    torch.manual_seed(5)
    return build_model(**(SMALL | {"nheads": 8, "num_classes": len(categories)} | changes))


@pytest.mark.parametrize("form", ["bare", "model", "data parallel", "training", "masks"])
@pytest.mark.parametrize(
    "deleted",
    [("class_embed",), ("class_embed.weight",), ("class_embed.bias",), ("class_embed", "query_embed")],
    ids=str,
)
def test_a_deleted_head_starts_anew(tmp_path: Path, form: str, deleted: tuple[str, ...]) -> None:
    masks = form == "masks"
    state_dict = without(published(masks=masks), *deleted)
    content: dict[str, Any] = state_dict if form == "bare" else {"model": state_dict}
    if form == "data parallel":
        content = {f"module.{key}": value for key, value in state_dict.items()}
    if form == "training":
        content |= {"epoch": 3, "args": argparse.Namespace(dilation=True, nheads=8)}
    path = tmp_path / "w.pth"
    torch.save(content, path)

    with pytest.raises(WeightsError, match=r"no class head \(class_embed\.weight and .*cannot classify objects; train"):
        load_weights(path)
    with pytest.raises(WeightsError, match="cannot classify objects"):
        Detector.load(path)
    weights = load_weights(path, headless=True)
    parts = tuple(dict.fromkeys(part.split(".")[0] for part in deleted))
    assert weights.absent == parts
    assert len(weights.categories) == 0
    assert weights.model_args.get("dilation") == (True if form == "training" else None)

    model = model_for(DEFECTS, masks=masks, dilation=form == "training")
    fresh = {key.removeprefix("detr."): value.clone() for key, value in model.state_dict().items()}
    assert fit_weights(model, weights, DEFECTS) == []
    assert [note.split(" has ")[1].split(";")[0] for note in fit_notes(model, weights)] == [
        {"class_embed": "no class head", "query_embed": "no queries"}[part] for part in parts
    ]
    kept = {key.removeprefix("detr."): value for key, value in published(masks=masks).items()}
    for key, value in model.state_dict().items():
        plain = key.removeprefix("detr.")
        assert torch.equal(value, (fresh if plain.startswith(parts) else kept)[plain]), key


def test_an_incomplete_head_is_noted(tmp_path: Path) -> None:
    torch.save(without(published(), "class_embed.bias", "bbox_embed.layers.1"), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth", headless=True)
    assert weights.absent == ("class_embed", "bbox_embed")
    text = " ".join(weights.notes)
    assert "class_embed.weight without class_embed.bias, so neither is used" in text
    assert "bbox_embed.layers.0.weight without bbox_embed.layers.1.weight" in text


def test_heads_of_two_sizes_are_refused(tmp_path: Path) -> None:
    state_dict = published() | {"class_embed.weight": torch.zeros(6, 32)}
    torch.save(state_dict, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"as many rows .* found 6 and 92; delete both"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("modern", [False, True], ids=["classic", "modern"])
def test_checkpoints_of_ours(tmp_path: Path, modern: bool) -> None:
    changes: dict[str, Any] = {"query_init": "anchors", "box_refine": True, "decoder": "conditional"} if modern else {}
    write_reference_checkpoint(small_weights(**changes), tmp_path / "w.ckpt")
    content = torch.load(tmp_path / "w.ckpt", weights_only=True)
    torch.save(content | {"model": without(content["model"], "class_embed")}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match="cannot classify objects"):
        load_weights(tmp_path / "w.ckpt")
    weights = load_weights(tmp_path / "w.ckpt", headless=True)
    model = model_for(DEFECTS, nheads=4, **changes)
    assert fit_weights(model, weights, DEFECTS) == []
    assert torch.equal(model.state_dict()["input_proj.weight"], weights.state_dict["input_proj.weight"])


def test_folders_of_huggingface(tmp_path: Path) -> None:
    write_huggingface(small_weights(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="cannot classify objects"):
        load_weights(tmp_path)
    assert load_weights(tmp_path, headless=True).absent == ("class_embed",)
    for path in (tmp_path, tmp_path / "model.safetensors"):  # where `detr --resume` names them
        checkpoint = ReferenceCheckpoint.read(path)
        assert checkpoint is not None
        assert checkpoint.weights.absent == ("class_embed",)


# --- other numbers of classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "ids", "rows"),
    [
        (5, (0, 1, 2, 3, 4), [0, 1, 2, 3, 4]),
        (6, (1, 2, 3, 4, 5), [1, 2, 3, 4, 5]),  # the fork counts "highest id + 1"
        (5, (1, 2, 3, 4, 5), [0, 1, 2, 3, 4]),  # the fork numbers its classes
        (3, (7, 30, 3), [1, 2, 0]),
        (250, (1, 2, 3, 4, 5), [1, 2, 3, 4, 5]),
        (4, (1, 2, 3, 4, 5), [None] * 5),
        (7, (1, 90), [None] * 2),
    ],
)
def test_rows_of_forks(tmp_path: Path, classes: int, ids: tuple[int, ...], rows: list[int | None]) -> None:
    assert rows_without_names(classes, ids) == rows
    torch.save({"model": published(num_classes=classes)}, tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    ours = Categories(ids, tuple(f"class of {i}" for i in ids))
    model = model_for(ours)
    expected = [FitRow(name, None if row is None else str(row)) for name, row in zip(ours.names, rows, strict=True)]
    assert fit_weights(model, weights, ours) == expected
    for own, row in enumerate(rows):
        if row is not None:
            assert torch.equal(model.class_embed.weight[own], weights.state_dict["class_embed.weight"][row])
    assert torch.equal(model.class_embed.bias[-1], weights.state_dict["class_embed.bias"][-1])


# --- queries and positions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "what"), [(3, "the first 3 are used"), (8, "all are kept, and 3 new ones added")])
@pytest.mark.parametrize("kind", ["learned", "anchors"])
def test_queries_may_be_fewer_or_more(queries: int, what: str, kind: str) -> None:
    changes = {"query_init": kind, "decoder": "conditional" if kind == "anchors" else "full"}
    weights = small_weights(**changes)
    model = model_for(weights.categories, nheads=4, num_queries=queries, query_groups=2, **changes)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    fit_weights(model, weights, weights.categories)
    for key, value in model.state_dict().items():
        if key.startswith("query_embed.") and len(value) == 2 * queries:
            kept = min(5, queries)
            assert torch.equal(value[:kept], weights.state_dict[key][:kept])
            assert torch.equal(value[kept:], fresh[key][kept:])
    (note,) = fit_notes(model, weights)
    assert f"has 5 queries, the model {queries}: " in note
    assert what in note
    assert note.endswith("--num_queries 5 keeps those of the file")
    same = model_for(weights.categories, nheads=4, **changes)
    assert fit_notes(same, weights) == []


def test_learned_positions_start_anew_on_a_file_of_sine_ones() -> None:
    weights = small_weights()
    model = model_for(weights.categories, nheads=4, position_embedding="learned")
    fresh = model.state_dict()["backbone.1.row_embed.weight"].clone()
    fit_weights(model, weights, weights.categories)
    assert torch.equal(model.state_dict()["backbone.1.row_embed.weight"], fresh)
    (note,) = fit_notes(model, weights)
    assert "was trained with sine positions; learned positions start from random numbers" in note
    assert "leave out --position_embedding learned" in note


@pytest.mark.parametrize(
    ("name", "words"), [("detr-r50-DC5-nohead.pth", "though its name does"), ("w.pth", "if it has")]
)
def test_unstated_dilation_is_assumed_with_a_note(tmp_path: Path, name: str, words: str) -> None:
    torch.save({"model": without(published(), "class_embed")}, tmp_path / name)
    note = load_weights(tmp_path / name, headless=True).assumed["dilation"]
    assert words in note
    assert note.endswith("add --dilation")
    assert "dilation" not in load_weights(tmp_path / name, headless=True, dilation=True).assumed


@pytest.mark.filterwarnings("ignore:.*does not say")
def test_a_detector_with_a_new_head(tmp_path: Path) -> None:
    torch.save({"model": without(published(), "class_embed")}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="no class head; .* results mean nothing before training"):
        detector = Detector.load(tmp_path / "w.pth", device="cpu", new_classes=lambda: DEFECTS, precision="plain")
    assert detector.categories == DEFECTS
    assert detector.model.num_classes == 5
