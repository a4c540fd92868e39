"""Recipes and named models: whose settings are the defaults, what goes over them, and what is said about it."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from detrkit.cli import COMMANDS, parse
from detrkit.config import presets as recipes
from detrkit.config.presets import MODELS, RECIPES, default_settings
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError

from .conftest import Command

pytestmark = pytest.mark.timeout(240)


def settings(*argv: str | Path) -> TrainConfig:
    config = parse("train", COMMANDS["train"], [str(word) for word in argv])
    assert isinstance(config, TrainConfig)
    return config


# --- what the tables hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RECIPES, *MODELS])
def test_every_function_gives_settings_of_the_right_type(name: str) -> None:
    preset = {**RECIPES, **MODELS}[name]()
    hints = get_type_hints(TrainConfig)
    for setting, value in preset.items():
        assert valid(value, hints[setting]), f"{setting}: {value!r}"
    TrainConfig(**preset)


def valid(value: object, hint: Any) -> bool:
    """Whether a value is of a setting's type; a whole number is no float, so that YAML reads it back equal."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    parts = get_args(hint) or (hint,)
    return any(valid(value, part) if get_args(part) else type(value) is part for part in parts)


def test_every_function_of_a_model_is_in_the_table() -> None:
    public = {name for name, f in inspect.getmembers(recipes, inspect.isfunction) if f.__module__ == recipes.__name__}
    helpers = {"fast_from_weights", "softmax_losses", "sigmoid_losses", "default_settings"}
    assert public == {*RECIPES, *MODELS} | helpers


def test_a_model_says_nothing_of_how_long_or_on_what_it_is_trained() -> None:
    for name, model in MODELS.items():
        output = model().keys() - (
            {"lr"} if name == "detrkit_n" else set()
        )  # so small that it stands a rate of its own
        assert not output & {"epochs", "lr", "lr_backbone", "batch_size", "image_size", "ema", "data"}, name


# --- what goes over what ---------------------------------------------------------------------------------------------


pytestmark = pytest.mark.usefixtures("gpu")


def test_without_a_gpu_fast_takes_its_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("--device", "cpu") == TrainConfig.from_recipe("fast", model="detrkit_n", device="cpu")
    assert settings("--device", "cpu", "--model", "detrkit_s").model == "detrkit_s"
    assert settings("--device", "cpu", "--weights", "detr_resnet50").model == ""
    assert settings("--device", "cpu", "--recipe", "classic").model == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert settings().model == "detrkit_n"
    assert settings("--device", "cuda").model == "detrkit_s"


def test_train_defaults_to_fast_and_python_to_classic() -> None:
    assert settings() == TrainConfig.from_recipe("fast")
    assert settings().recipe == "fast"
    assert settings().model == "detrkit_s"
    assert settings("--recipe", "classic") == TrainConfig() == TrainConfig.from_recipe("classic")
    assert TrainConfig().recipe == "classic"


def test_a_model_goes_over_the_recipe() -> None:
    actual = settings("--model", "dino_r50")
    assert actual == TrainConfig.from_recipe("fast", model="dino_r50")
    assert (actual.num_queries, actual.lr_linear_proj_mult, actual.encoder) == (900, 0.1, "deformable")
    assert (actual.lr, actual.epochs) == (recipes.fast()["lr"], recipes.fast()["epochs"])
    assert actual.dense_head == "none"  # nothing is left of the recipe's own model
    published = settings("--model=dino_r50", "--recipe=classic")
    assert (published.lr, published.epochs, published.num_queries) == (1e-4, 300, 900)
    assert settings("--model", "").query_init == "learned"
    assert settings("--model", "detr_resnet50").num_queries == "auto"


def test_a_flag_goes_over_all_even_where_it_says_the_default_of_the_reference_detr() -> None:
    actual = settings("--lr", "1e-4", "--num_queries=100", "--query_init", "learned", "--ema", "0", "--norm_decay")
    assert (actual.lr, actual.num_queries, actual.query_init, actual.ema, actual.norm_decay) == (
        1e-4,
        100,
        "learned",
        0,
        True,
    )
    assert actual == TrainConfig.from_recipe(
        "fast", lr=1e-4, num_queries=100, query_init="learned", ema=0.0, norm_decay=True
    )
    assert settings("--lr", "1e-4", "--recipe", "fast").lr == 1e-4  # whatever comes first


def test_a_file_goes_between_flags_and_models(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 300\nnum_queries: 100\nmodel: dino_r50\n")
    actual = settings("--config", path)
    assert actual == TrainConfig.from_recipe("fast", model="dino_r50", epochs=300, num_queries=100)
    assert settings("--config", path, "--epochs", "7").epochs == 7
    assert settings("--config", path, "--recipe", "classic") == TrainConfig.from_recipe(
        "classic", model="dino_r50", num_queries=100
    )
    other = settings("--config", path, "--model", "dab_r50")
    assert other == TrainConfig.from_recipe("fast", model="dab_r50", epochs=300, num_queries=100)
    path.write_text("recipe: classic\n")
    assert settings("--config", path) == TrainConfig()
    assert settings("--config", path, "--recipe", "fast") == settings()


def test_a_stored_recipe_is_not_applied_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    stored = TrainConfig.from_recipe("fast", data="d", lr=1e-4, num_queries=100, query_init="two_stage", batch_size=7)
    assert stored.recipe == "fast"
    path.write_text(stored.to_yaml())
    assert settings("--config", path) == TrainConfig.from_yaml(path) == stored
    assert settings("--config", path, "--recipe", "fast", "--model", "detrkit_s") == stored


@pytest.mark.parametrize("flag", ["--recipe=classic", "--model=dino_r50"])
def test_a_recipe_beside_a_whole_file_is_no_quiet_nothing(tmp_path: Path, flag: str) -> None:
    (tmp_path / "config.yaml").write_text(TrainConfig.from_recipe("fast").to_yaml())
    with pytest.raises(ConfigError, match=r"would change nothing, since .*config\.yaml sets every setting"):
        settings("--config", tmp_path / "config.yaml", flag)


def test_a_run_that_goes_on_takes_no_other_recipe(tmp_path: Path, detrkit: Command) -> None:
    (tmp_path / "config.yaml").write_text(TrainConfig.from_recipe("fast", data="d").to_yaml())
    output = detrkit("train", "--resume", "auto", "--output_dir", str(tmp_path), "--recipe", "classic").sentence
    assert "a resumed run keeps its own settings, so --recipe classic would change nothing; leave it out" in output


def test_weights_bring_their_own_model_and_low_rates() -> None:
    actual = settings("--weights", "detr_resnet50")
    assert actual == TrainConfig.from_recipe("fast", weights="detr_resnet50")
    assert (actual.model, actual.encoder, actual.denoising) == ("", "full", "none")
    assert actual.lr < settings().lr
    assert settings("--weights", "w", "--model", "rtdetr_r18").denoising == "contrastive"
    assert settings("--weights", "w", "--recipe", "classic") == TrainConfig(weights="w")


def test_in_python() -> None:
    actual = TrainConfig.from_recipe("fast", data="d", model="detr_resnet101", epochs=3)
    assert (actual.data, actual.model, actual.backbone, actual.epochs) == ("d", "detr_resnet101", "resnet101", 3)
    assert actual.lr_schedule == "flat_cosine"
    with pytest.raises(ConfigError, match="no setting 'epoch'; did you mean 'epochs'"):
        TrainConfig.from_recipe("fast", epoch=3)
    assert default_settings({}) == {"recipe": "classic", "model": ""}


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--recipe", "fats"], "--recipe must be classic or fast, found 'fats'; did you mean 'fast'?"),
        (["--recipe", "zzz"], "--recipe must be classic or fast, found 'zzz'"),
        (["--model", "dino_r51"], "rtdetr_r50, found 'dino_r51'; did you mean 'dino_r50'?"),
        (["--model", "zzz"], "--model must be detrkit_n, detrkit_s"),
        (["--recipe"], "--recipe: expected a value, found none"),
        (["--num_queries", "many"], "--num_queries: expected a whole number or auto, found 'many'"),
    ],
)
def test_mistakes(detrkit: Command, argv: list[str], sentence: str) -> None:
    assert sentence in detrkit("train", *argv).sentence


def test_mistakes_in_python_and_in_a_file(detrkit: Command, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 'fats'; did you mean 'fast'"):
        TrainConfig.from_recipe("fats")
    with pytest.raises(ConfigError, match="found 'detr_resnet5'; did you mean 'detr_resnet50'"):
        TrainConfig(model="detr_resnet5")
    (tmp_path / "run.yaml").write_text("recipe: [fast]\n")
    assert "--recipe must be classic or fast, found ['fast']" in detrkit("train", "--config", "run.yaml").sentence


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_help_shows_the_defaults_that_hold(detrkit: Command) -> None:
    def default(name: str, *argv: str) -> str:
        text = detrkit("train", *argv, "--help").out
        match = re.search(rf"^  --{name} .*?\(default: ([^)]*)\)", text, re.MULTILINE | re.DOTALL)
        assert match, name
        return match[1]

    fast = recipes.fast()
    assert default("lr") == str(fast["lr"])
    assert default("recipe") == "fast"
    assert default("lr", "--recipe", "classic") == "0.0001"
    assert default("num_queries", "--model", "dino_r50") == "900"


def test_the_first_line_says_the_recipe(detrkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = detrkit("train", "--data", "nowhere")
    assert shown.out.splitlines() == [
        "Recipe    fast, which converges on little data; --recipe classic has the settings of the reference DETR"
    ]
    shown = detrkit("train", "--data", "nowhere", "--recipe", "classic")
    assert shown.out.splitlines()[0].startswith("Recipe    classic, with the settings of the reference DETR")
    shown = detrkit("detr", "--coco_path", "nowhere", "--device", "cpu")
    assert "Recipe" not in shown.out  # it has no such flag


def test_recipes_import_nothing_heavy() -> None:
    code = (
        "import sys, detrkit.config.presets; print([m for m in ('torch', 'yaml', 'jsonargparse') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_keep_their_low_rates_under_a_named_model() -> None:
    assert TrainConfig.from_recipe("fast", model="detrkit_n").lr == 2e-3
    assert TrainConfig.from_recipe("fast", model="detrkit_n", weights="best.ckpt").lr == 1e-4
