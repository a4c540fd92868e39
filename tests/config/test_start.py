"""Which weights a run starts from: those of the package by default, random ones where they do not fit."""

from typing import Any

import pytest

from detrkit.cli import train_defaults
from detrkit.config.presets import WITH_WEIGHTS, default_settings
from detrkit.config.train import TrainConfig
from detrkit.models.checkpoints import load_weights
from detrkit.models.checkpoints.weights_file import PACKAGED


def fast(**settings: Any) -> TrainConfig:
    return TrainConfig.from_recipe("fast", **settings)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_package_has_the_weights_of_the_named_model_as_it_is_now(name: str) -> None:
    assert PACKAGED.keys() == set(WITH_WEIGHTS)
    assert PACKAGED[name].stat().st_size <= 12e6
    stored = load_weights(name)
    config = fast(model=name, num_queries=stored.model_args["num_queries"]).model_config(len(stored.categories))
    differing = {
        setting: (value, getattr(config, setting))
        for setting, value in stored.model_args.items()
        if getattr(config, setting) != value and setting != "backbone_norm"
    }
    assert not differing


def test_fast_starts_a_named_model_from_the_package() -> None:
    config = fast(model="detrkit_n")
    assert config.weights == "detrkit_n"
    assert config.starts_from_package
    assert not config.fine_tunes
    assert config.lr == fast(model="detrkit_n", weights="none").lr


def test_the_weights_alone_choose_their_model() -> None:
    assert fast(weights="detrkit_n") == fast(model="detrkit_n")


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "none"},
        {"weights": ""},
        {"hidden_dim": 64},
        {"backbone": "resnet18"},
        {"backbone_weights": "file.pth"},
        {"dense_convs": 2},
        {"model": "detrkit_s"},
    ],
    ids=str,
)
def test_random_weights_where_chosen_or_where_the_architecture_differs(change: dict[str, Any]) -> None:
    config = fast(**{"model": "detrkit_n", **change})
    assert config.weights == ""
    assert not config.starts_from_package
    assert not config.fine_tunes


def test_settings_that_weights_do_not_depend_on_keep_the_start() -> None:
    assert fast(model="detrkit_n", num_queries=300, dropout=0.1, task="instance", lr=1e-3).weights == "detrkit_n"


def test_the_classic_recipe_starts_as_the_reference_does() -> None:
    assert TrainConfig().weights == TrainConfig.from_recipe("classic", model="detrkit_n").weights == ""


def test_another_detector_is_fine_tuned_at_low_rates() -> None:
    config = fast(weights="runs/x")
    assert config.fine_tunes
    assert config.lr < fast(model="detrkit_n").lr


def test_a_run_reads_its_settings_back_equal(tmp_path: Any) -> None:
    for weights in ("auto", "none"):
        config = fast(model="detrkit_n", weights=weights)
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config


def test_without_a_gpu_the_command_line_takes_the_small_model_and_its_weights() -> None:
    for words, weights in (([], "auto"), (["--weights", "none"], "auto"), (["--weights", "detrkit_n"], "auto")):
        defaults = train_defaults(["--device", "cpu", *words])
        assert (defaults["model"], defaults["weights"]) == ("detrkit_n", weights)
    assert train_defaults(["--device", "cpu", "--weights", "runs/x"])["model"] == ""


def test_the_default_of_the_recipe_is_auto() -> None:
    assert default_settings({"recipe": "fast"})["weights"] == "auto"
