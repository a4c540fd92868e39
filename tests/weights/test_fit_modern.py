"""Fine-tuning of models with further parts: rows by class name in every head, parts of training come and go."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.commands.convert import write_reference_checkpoint
from detrkit.errors import WeightsError
from detrkit.models import DETR, build_model
from detrkit.models.checkpoints import Weights, fit_weights, load_weights, write_huggingface
from detrkit.structures import Categories, Preprocessing

from .small import SMALL, fill, padded_batch, small_weights

BASE: dict[str, Any] = SMALL | {
    "backbone": "nano", "backbone_norm": "batch", "dropout": 0.0, "sigmoid": True, "feature_levels": "8,16,32",
    "decoder": "deformable", "box_refine": True,
}  # fmt: skip
RTDETR = BASE | {"encoder": "hybrid", "query_init": "topk_features"}
DENSE = BASE | {
    "encoder": "hybrid", "query_init": "mixed_selection", "two_stage_head": "dense", "dense_head": "tood",
    "score_refine": True,
    "denoising": "contrastive",
}  # fmt: skip
DEFORMABLE = BASE | {"encoder": "deformable", "query_init": "two_stage", "class_agnostic": True}
POINTS = BASE | {"encoder": "deformable", "box_refine": False}
ANCHORS = SMALL | {
    "backbone": "nano", "sigmoid": True, "decoder": "conditional", "query_init": "anchors", "denoising": "plain",
}  # fmt: skip
PETS = ("cat", "dog", "bird")


def named(*names: str) -> Categories:
    return Categories(tuple(range(len(names))), names)


def made(args: dict[str, Any], names: tuple[str, ...] = PETS, **changes: Any) -> tuple[DETR, Weights]:
    args = args | {"num_classes": len(names)} | changes
    model = build_model(**args)
    model.load_state_dict(fill(model.state_dict()))
    return model.eval(), Weights(model.state_dict(), args, named(*names), Preprocessing(320), "test")


def fitted(args: dict[str, Any], weights: Weights, *names: str, **changes: Any) -> tuple[DETR, dict[str, torch.Tensor]]:
    """A model with these weights, and its tensors before."""
    model = build_model(**(args | {"num_classes": len(names)} | changes))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit_weights(model, weights, named(*names))
    return model, before


@pytest.mark.parametrize(
    "args",
    [RTDETR, DENSE, DEFORMABLE, POINTS, ANCHORS],
    ids=lambda args: args["query_init" if "query_init" in args else "encoder"],
)
def test_our_checkpoint_gives_the_same_model(tmp_path: Path, args: dict[str, Any]) -> None:
    model, weights = made(args)
    write_reference_checkpoint(weights, tmp_path / "w.ckpt")
    loaded = load_weights(tmp_path / "w.ckpt")
    assert loaded.model_args == weights.model_args
    rebuilt = build_model(**loaded.model_args).eval()
    rebuilt.load_state_dict(loaded.state_dict)
    again = build_model(**loaded.model_args).eval()
    assert all(row.kept_from == row.name for row in fit_weights(again, loaded, loaded.categories))
    with torch.no_grad():
        expected = model(*padded_batch())
        for other in (rebuilt, again):
            out = other(*padded_batch())
            assert torch.equal(out.logits, expected.logits)
            assert torch.equal(out.boxes, expected.boxes)


@pytest.mark.parametrize("args", [RTDETR | {"denoising": "contrastive"}, DENSE], ids=["rtdetr", "dense"])
def test_rows_follow_names_in_every_head(args: dict[str, Any]) -> None:
    _, weights = made(args)
    model, fresh = fitted(args, weights, "plate", "bird", "cat", "dish")
    heads = [key for key, value in model.state_dict().items() if value.shape != weights.state_dict[key].shape]
    dense = args is DENSE
    assert {key.rpartition(".")[0] for key in heads} == {
        "class_embed.0", "class_embed.1", "denoising.label_embed",
        "dense_head.class_embed" if dense else "query_embed.enc_class",
    }  # fmt: skip
    for key, value in model.state_dict().items():
        theirs = weights.state_dict[key]
        if key in heads:
            assert torch.equal(value[1], theirs[2])
            assert torch.equal(value[2], theirs[0])
            assert torch.equal(value[[0, 3]], fresh[key][[0, 3]])
        else:
            assert torch.equal(value, theirs)


def test_a_class_agnostic_head_keeps_its_first_row() -> None:
    _, weights = made(DEFORMABLE)
    theirs = weights.state_dict["query_embed.enc_class.weight"]
    model, _ = fitted(DEFORMABLE, weights, "plate", "dish")
    assert torch.equal(model.query_embed.enc_class.weight[0], theirs[0])
    telling, _ = fitted(DEFORMABLE, weights, "bird", "dish", class_agnostic=False)
    assert torch.equal(telling.query_embed.enc_class.weight, theirs[[0, 0]])
    _, weights = made(DEFORMABLE, class_agnostic=False)
    model, fresh = fitted(DEFORMABLE, weights, "bird", "dish")  # no row of theirs means "something"
    key = "query_embed.enc_class.weight"
    assert torch.equal(model.state_dict()[key], fresh[key])


def test_sigmoid_rows_keep_the_probability_against_no_object() -> None:
    weights = small_weights()
    model, _ = fitted(SMALL, weights, "dog", sigmoid=True)
    softmax, _ = fitted(SMALL, weights, "dog")
    with torch.no_grad():
        yes, probable = (each.eval()(*padded_batch()).logits for each in (model, softmax))
    torch.testing.assert_close(yes[..., 0].sigmoid(), probable.softmax(-1)[..., 0])


def test_softmax_rows_keep_the_probability_of_the_sigmoid() -> None:
    _, weights = made(SMALL, ("dog",), sigmoid=True)
    model, _ = fitted(SMALL, weights, "dog", sigmoid=True)
    softmax, _ = fitted(SMALL, weights, "dog")
    with torch.no_grad():
        yes, probable = (each.eval()(*padded_batch()).logits for each in (model, softmax))
    torch.testing.assert_close(yes[..., 0].sigmoid(), probable.softmax(-1)[..., 0])


def test_a_dense_head_beside_anchors_is_a_training_part() -> None:
    """`two_stage_head` says nothing about queries that no head selects."""
    dense = {"feature_levels": "8,16,32", "two_stage_head": "dense", "dense_head": "tood"}
    _, weights = made(ANCHORS, **dense)
    model, _ = fitted(ANCHORS, weights, *PETS, feature_levels="8,16,32")
    assert not any(key.startswith("dense_head.") for key in model.state_dict())


def test_parts_of_training_start_anew_or_are_left() -> None:
    training = {"denoising": "contrastive", "dense_head": "fcos", "query_groups": 2, "num_queries_one2many": 3}
    mixed = RTDETR | {"query_init": "mixed_selection"}
    _, plain = made(mixed)
    model, fresh = fitted(mixed, plain, *PETS, **training)
    for key, value in model.state_dict().items():
        if key.startswith(("denoising.", "dense_head.")):
            assert torch.equal(value, fresh[key])
        elif key == "query_embed.contents.weight":
            assert torch.equal(value[:5], plain.state_dict[key])
            assert torch.equal(value[5:], fresh[key][5:])
            assert len(value) == 2 * 5 + 3
        else:
            assert torch.equal(value, plain.state_dict[key])
    _, rich = made(mixed, **training)
    bare, _ = fitted(mixed, rich, *PETS)
    assert torch.equal(bare.query_embed.contents.weight, rich.state_dict["query_embed.contents.weight"][:5])
    with torch.no_grad():
        expected, _ = made(mixed, **training)
        assert torch.equal(bare.eval()(*padded_batch()).logits, expected(*padded_batch()).logits)


def test_the_number_of_selected_tokens_may_change() -> None:
    _, weights = made(RTDETR)
    model, _ = fitted(RTDETR, weights, *PETS, num_queries=9)
    with torch.no_grad():
        assert model.eval()(*padded_batch()).logits.shape[1] == 9


@pytest.mark.parametrize(
    ("args", "changes", "settings"),
    [
        (RTDETR, {"nheads": 2}, "nheads 4"),
        (RTDETR, {"query_init": "mixed_selection"}, "query_init topk_features"),
        (RTDETR, {"feature_levels": "16,32"}, "feature_levels 8,16,32"),
        (RTDETR, {"box_refine": False}, "box_refine"),
        (DENSE, {"score_refine": False}, "score_refine"),
        (DENSE, {"two_stage_head": "encoder"}, "two_stage_head dense"),
        (POINTS, {"num_points": 2}, "num_points 4"),
        (SMALL, BASE, "trained with backbone resnet18 box_refine false decoder full feature_levels ''"),
    ],
)
def test_misfit_names_the_setting(args: dict[str, Any], changes: dict[str, Any], settings: str) -> None:
    _, weights = made(args)
    with pytest.raises(WeightsError, match=rf"{settings}( |$)") as error:
        fitted(args, weights, *PETS, **changes)
    assert "\n" not in str(error.value)


def test_a_bare_state_dict_of_a_variant_is_refused(tmp_path: Path) -> None:
    model, _ = made(RTDETR)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="found no settings of its architecture; expected a checkpoint of detrkit"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_dim": 64}, "settings by which .* would be"),
        ({"num_classes": 4}, "num_classes 4 where the weights have 3"),
        ({"dec_layers": 10**9}, "dec_layers 1000000000 where the weights have 2"),
        ({"nheads": 5}, "settings that make no model .*nheads"),
    ],
)
def test_a_header_that_is_not_true_of_the_weights(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    _, weights = made(RTDETR)
    write_reference_checkpoint(replace(weights, model_args=weights.model_args | change), tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=f'the entry "detrkit" of .* holds {sentence}'):
        load_weights(tmp_path / "w.ckpt")


def test_normalization_stays_with_the_model(tmp_path: Path) -> None:
    _, weights = made(RTDETR)
    zero_to_one = replace(weights.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    write_reference_checkpoint(replace(weights, preprocessing=zero_to_one), tmp_path / "w.ckpt")
    model = load_weights(tmp_path / "w.ckpt").build_model()
    assert model.backbone.mean == (0.0, 0.0, 0.0)
    assert model.backbone.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("args", [RTDETR, ANCHORS | {"backbone": "resnet18"}], ids=["rtdetr", "dab"])
def test_only_the_classic_model_is_written_for_transformers(tmp_path: Path, args: dict[str, Any]) -> None:
    _, weights = made(args)
    with pytest.raises(WeightsError, match=r"Hugging Face's DETR has .*write a \.pth"):
        write_huggingface(weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()
