"""Fine-tuning: rows of the class head follow class names, everything else must fit."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from detrkit.errors import WeightsError
from detrkit.models import build_model
from detrkit.models.checkpoints import FitRow, fit_table, fit_weights, load_weights
from detrkit.structures import Categories

from .small import SMALL, padded_batch, small_model, small_weights


def named(*names: str) -> Categories:
    return Categories(tuple(range(len(names))), names)


def test_rows_follow_names() -> None:
    weights = small_weights(("cat", "Dog", "bird"))
    ours = named("plate", "bird", "dog", "cat", "Cat")
    model = build_model(**(SMALL | {"num_classes": 5}))
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    rows = fit_weights(model, weights, ours)
    assert rows == [
        FitRow("plate", None),
        FitRow("bird", "bird"),
        FitRow("dog", "Dog"),  # but for upper and lower case
        FitRow("cat", "cat"),
        FitRow("Cat", None),  # each row is taken over once, the exact name first
    ]
    for leaf in ("weight", "bias"):
        mine, theirs = model.state_dict()[f"class_embed.{leaf}"], weights.state_dict[f"class_embed.{leaf}"]
        for row, source in ((1, 2), (2, 1), (3, 0), (5, 3)):  # the last one is "no object"
            assert torch.equal(mine[row], theirs[source])
        for row in (0, 4):
            assert torch.equal(mine[row], fresh[f"class_embed.{leaf}"][row])
    for key, value in model.state_dict().items():
        assert key.startswith("class_embed") or torch.equal(value, weights.state_dict[key])


def test_same_classes_give_the_same_model() -> None:
    weights = small_weights()
    model = build_model(**SMALL).eval()
    assert all(row.kept_from == row.name for row in fit_weights(model, weights, weights.categories))
    with torch.no_grad():
        assert torch.equal(model(*padded_batch()).logits, small_model()(*padded_batch()).logits)


def test_names_used_twice_stay_in_place() -> None:
    names = named("a", "a", "b")
    weights = replace(small_weights(), categories=names)
    model = build_model(**SMALL)
    fit_weights(model, weights, names)
    assert torch.equal(model.class_embed.weight, weights.state_dict["class_embed.weight"])


def test_rows_without_names_are_category_ids(tmp_path: Path) -> None:
    """The original uses category ids as classes, so row k of its head is category k."""
    torch.save(small_model(num_classes=8).state_dict(), tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    model = build_model(**SMALL)
    rows = fit_weights(model, replace(weights, model_args=SMALL), Categories((1, 5, 7), ("cat", "dog", "bird")))
    assert [row.kept_from for row in rows] == ["1", "5", "7"]
    assert torch.equal(model.class_embed.weight[1], weights.state_dict["class_embed.weight"][5])
    rows = fit_weights(model, replace(weights, model_args=SMALL), Categories((1, 5, 80), ("cat", "dog", "bird")))
    assert [row.kept_from for row in rows] == [None, None, None]


def test_table_is_short() -> None:
    rows = [FitRow("bird", "Bird"), *(FitRow(f"class {i}", None) for i in range(200))]
    console = Console(file=StringIO(), width=100)
    console.print(fit_table(rows, small_weights().source))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 201 kept" in text
    assert "kept from Bird" in text
    assert "new" in text
    assert "no object" in text
    assert "and 181 more" in text
    assert text.count("\n") < 30


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"dilation": True}, "dilation"),
        ({"position_embedding": "learned"}, "position_embedding learned"),
        ({"enc_layers": 3}, "enc_layers 3"),
        ({"dec_layers": 1}, "dec_layers 1"),
        ({"hidden_dim": 64}, "hidden_dim 64"),
        ({"dim_feedforward": 24}, "dim_feedforward 24"),
        ({"backbone": "resnet34"}, "backbone resnet34"),
        ({"backbone": "resnet50"}, "backbone resnet50"),
        ({"pre_norm": True}, "pre_norm"),
        ({"nheads": 2}, "nheads 2"),
        ({"activation": "glu"}, "activation glu"),
        ({"activation": "gelu"}, "activation gelu"),
        ({"backbone_norm": "group"}, "backbone_norm group"),
    ],
    ids=str,
)
def test_misfit_names_keys_and_setting(changes: dict[str, Any], setting: str) -> None:
    weights = small_weights(**changes)
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        fit_weights(model, weights, weights.categories)
    sentence = str(error.value)
    assert sentence.endswith(f"it was likely trained with {setting}")
    assert "\n" not in sentence
    if not changes.keys() & {"dilation", "nheads"} and changes != {
        "activation": "gelu"
    }:  # these leave no trace in the keys
        differing = [key for key in weights.state_dict.keys() | before.keys() if key in sentence]
        assert 1 <= len(differing) <= 3 or sentence.count(" instead of ") in (1, 2, 3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # untouched


def test_misfit_the_other_way() -> None:
    """Keys that the model has and the checkpoint lacks are named as well."""
    model = build_model(**(SMALL | {"dilation": True, "pre_norm": True}))
    with pytest.raises(WeightsError, match="dilation false pre_norm false"):
        fit_weights(model, small_weights(dilation=False), named("a", "b", "c"))


@pytest.mark.parametrize(("theirs", "ours"), [("frozen", "batch"), ("batch", "frozen")])
def test_batch_norms_fit_frozen_ones(theirs: str, ours: str) -> None:
    weights = small_weights(backbone_norm=theirs)
    model = build_model(**(SMALL | {"backbone_norm": ours})).eval()
    fit_weights(model, weights, weights.categories)
    with torch.no_grad():
        torch.testing.assert_close(model(*padded_batch()).logits, small_model()(*padded_batch()).logits)


def test_unknown_dilation_follows_the_model(tmp_path: Path) -> None:
    torch.save(small_model(nheads=8).state_dict(), tmp_path / "w.pth")
    model = build_model(**(SMALL | {"dilation": True}))
    fit_weights(model, load_weights(tmp_path / "w.pth"), named("a", "b", "c"))


def test_timm_backbone_is_named() -> None:
    weights = small_weights()
    state_dict = {key.replace("body.layer", "body.blocks."): value for key, value in weights.state_dict.items()}
    weights = replace(weights, state_dict=state_dict, model_args=SMALL | {"backbone": "timm:efficientnet_lite0"})
    with pytest.raises(WeightsError, match="backbone timm:efficientnet_lite0"):
        fit_weights(small_model(), weights, weights.categories)
