"""What a recipe does to a run: settings left to the data, settings that weights bring, and every named model's step."""

import signal
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import yaml

from detrkit.config.presets import MODELS
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError
from detrkit.models.checkpoints import Weights
from detrkit.structures import Categories
from detrkit.training import auto_batch as memory
from detrkit.training import resolve_auto as resolve_auto
from detrkit.training import setup as parts
from detrkit.training import train
from detrkit.training.setup import build_training_model, load_data, warn_of_crowds

from .helpers import assert_same_run, in_a_process
from .test_resume import DIE_IN_STEP, OFTEN

pytestmark = pytest.mark.timeout(240)

CLASSES = Categories((3, 7), ("red", "green"))
SMALL = {
    "backbone_weights": "none",
    "hidden_dim": 16,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 16,
    "num_queries": 6,
    "dn_queries": 8,
}
SMALL_BACKBONES = {"nano": "nano", "resnet18vd": "resnet18vd", "resnet50vd": "resnet18vd"}


@pytest.fixture
def quick(tiny_data, tmp_path):
    """The recipe `fast` with the smallest model, where a run takes seconds; keywords override."""

    def make(**settings):
        small = {name: value for name, value in SMALL.items() if name != "num_queries"}
        changes = {"data": str(tiny_data), "output_dir": str(tmp_path / "run"), "model": "detrkit_n", **small}
        run = {"num_workers": 0, "epochs": 2, "no_aug_epochs": 1, "eval_every": 1, "warmup_steps": 2, "device": "cpu"}
        return TrainConfig.from_recipe("fast", **{**changes, **run, **settings})

    return make


def test_settings_left_to_the_data_become_numbers_with_a_reason_and_stay(quick, capsys, monkeypatch):
    config = quick(epochs=1)
    assert (config.num_queries, config.image_size, config.batch_size) == ("auto", "auto", "auto")
    run_dir = train(config).run_dir
    output = capsys.readouterr().out
    assert (
        output.splitlines()[0]
        == "Recipe    fast, which converges on little data; --recipe classic has the settings of the reference DETR"
    )
    stored = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (stored["recipe"], stored["model"]) == ("fast", "detrkit_n")
    for word, name in resolve_auto.WORDS.items():
        assert type(stored[word]) is int
        assert f"{name:<9} {stored[word]}: " in output
    assert stored["image_size"] % 32 == 0

    # A resumed run keeps them, whatever would be proposed by now.
    monkeypatch.setattr(resolve_auto, "suggest_settings", None)
    train(quick(epochs=2, resume="auto"))
    again = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert again == stored | {"epochs": 2}
    assert "Queries" not in capsys.readouterr().out


def test_overfitting_takes_all_images_at_once_and_small(quick):
    config = quick(overfit=3)
    split = load_data(config).train
    actual, output = resolve_auto.resolve_auto(config, split, None, on_cpu=True)
    assert actual.batch_size == 3
    assert output["Batch"] == "3: all images at once"
    large = replace(split, images=[replace(image, width=1500, height=1500) for image in split.images])
    assert resolve_auto.resolve_auto(config, large, None, on_cpu=True)[0].image_size == 256
    assert resolve_auto.resolve_auto(config, large, None, on_cpu=False)[0].image_size > 256
    usual, output = resolve_auto.resolve_auto(replace(config, overfit=0), large, None, on_cpu=True)
    assert usual.image_size > 256
    assert usual.batch_size == 2
    many = replace(split, images=list(split.images) * 5)
    assert resolve_auto.resolve_auto(config, many, None, on_cpu=True)[1]["Batch"] == "8: the most that overfit well"


def test_a_run_of_the_fast_recipe_is_resumed_exactly(quick, tmp_path):
    numbers = {"num_queries": "auto", "image_size": 64, "batch_size": 4}
    whole = train(quick(**numbers, output_dir=str(tmp_path / "whole"))).run_dir
    killed = tmp_path / "killed"
    config = quick(**numbers, output_dir=str(killed), save_minutes=OFTEN)
    assert in_a_process(config, DIE_IN_STEP % 3) == -signal.SIGKILL
    train(replace(TrainConfig.from_yaml(killed / "config.yaml"), resume="auto"))
    assert_same_run(killed, whole)


def test_more_objects_than_queries_are_warned_about_once_and_trained_on(tiny):
    with pytest.warns(UserWarning, match="queries can detect") as shown:
        result = train(tiny(num_queries=2, epochs=1))
    assert result.metrics
    crowds = [str(warning.message) for warning in shown if "queries can detect" in str(warning.message)]
    assert len(crowds) == 1
    assert crowds[0].startswith("4 images have more objects than the 2 queries can detect, ")
    assert crowds[0].endswith("(3); raise num_queries to detect them all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_crowds(load_data(tiny()), 3)


def test_another_grouping_of_the_optimizer_cannot_be_resumed(tiny):
    train(tiny(epochs=1))
    for change in ({"norm_decay": False}, {"lr_backbone": 0.0}):
        with pytest.raises(ConfigError, match="the parameters are grouped by other learning rates; resume with"):
            train(tiny(epochs=2, resume="auto", **change))
    train(tiny(epochs=2, resume="auto", lr_linear_proj_mult=0.1))  # this model has no such part


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights_of(monkeypatch):
    """Makes `--weights w` a detector with random weights that the given settings make."""

    def make(untold=(), **settings):
        config = TrainConfig.from_recipe("classic", **{"backbone": "resnet18", **SMALL, **settings})
        start = build_training_model(config, CLASSES, None)
        shown = {name: value for name, value in start.model_args.items() if name not in untold}
        weights = Weights(start.model.state_dict(), shown, CLASSES, start.preprocessing, "w")
        monkeypatch.setattr(parts, "load_weights", lambda source, **shown: weights)
        return config

    return make


def test_weights_of_a_classic_model_bring_it_whole(weights_of):
    weights_of()
    start = build_training_model(TrainConfig.from_recipe("fast", weights="w"), CLASSES, None)
    actual = start.config
    assert (actual.encoder, actual.query_init, actual.feature_levels, actual.num_queries) == ("full", "learned", "", 6)
    assert (actual.class_loss, actual.set_cost_class, actual.dense_head) == ("softmax", 1.0, "none")
    assert (actual.lr_schedule, actual.lr) == ("flat_cosine", 1e-4)  # how to train is still the recipe's
    assert start.settings_from_weights["hidden_dim"] == 16
    assert not start.model_args["sigmoid"]
    assert all(row.kept_from for row in start.class_rows)


@pytest.fixture
def unfilled(monkeypatch):
    """Only settings matter: leave the random weights."""
    monkeypatch.setattr(parts, "fit_weights", lambda model, weights, categories: [])


def test_weights_of_a_modern_model_bring_its_architecture_and_losses(weights_of, unfilled):
    taught = weights_of(model="rtdetr_r18", denoising="plain", num_points=2, two_stage_head="dense", dense_head="atss")
    for recipe in ("fast", "classic"):
        start = build_training_model(TrainConfig.from_recipe(recipe, weights="w"), CLASSES, None)
        for name in (*parts._STORED, *parts._TRAINING_ONLY):
            assert getattr(start.config, name) == getattr(taught, name), name
        assert start.model_args["sigmoid"]
        loss = "varifocal" if recipe == "fast" else "focal"
        assert (start.config.class_loss, start.config.set_cost_class) == (loss, 2.0)
    # And what was set stays, as far as weights do not have to fit it.
    start = build_training_model(TrainConfig.from_recipe("fast", weights="w", denoising="contrastive"), CLASSES, None)
    assert (start.config.denoising, start.config.dense_head) == ("contrastive", "atss")


def test_a_named_model_gives_way_to_weights_of_another(weights_of, unfilled):
    weights_of(model="rtdetr_r18", dec_layers=1, untold=("denoising", "dn_queries"))
    config = TrainConfig.from_recipe("fast", model="rtdetr_r18", weights="w")
    start = build_training_model(config, CLASSES, None)
    assert (start.config.dec_layers, start.config.model) == (1, "")
    assert (start.config.denoising, start.config.dn_queries) == ("contrastive", 200)  # of which the weights do not tell
    # Stored and read again, they mean the same.
    again = build_training_model(TrainConfig.from_dict(start.config.to_dict()), CLASSES, None)
    assert again.config == start.config
    assert again.model_args == start.model_args


# --- every named model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_every_named_model_learns_at_every_step(name):
    """Also from images without objects: processes that train together wait for the same gradients."""
    settings = MODELS[name]()
    small = SMALL | {"backbone": SMALL_BACKBONES.get(settings.get("backbone", ""), "resnet18")}
    small |= {"num_queries_one2many": 8} if settings.get("num_queries_one2many") else {}
    config = TrainConfig.from_recipe("fast", model=name, **small)
    start = build_training_model(config, CLASSES, None)
    model = start.model.train()
    for objects in (2, 0):
        targets = [{"labels": torch.arange(objects), "boxes": torch.full((objects, 4), 0.4)} for _ in range(2)]
        model.zero_grad(set_to_none=True)
        out = model(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool), targets)
        start.criterion.weighted_sum(start.criterion(out, targets)).backward()
        idle = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_what_auto_tries_is_all_that_a_step_does():
    further = {"denoising": "contrastive", "query_groups": 2, "num_queries_one2many": 4}
    model = build_training_model(
        TrainConfig.from_recipe("fast", model="detrkit_n", **SMALL, **further), CLASSES, None
    ).model
    memory._step(model.train(), 2, 64, 64, torch.device("cpu"), nullcontext)
    assert not [key for key, p in model.named_parameters() if p.grad is None]
