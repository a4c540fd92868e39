"""One typed config: flags, `--config run.yaml`, what the run folder stores, and what is said about mistakes in them."""

from pathlib import Path

import pytest
import yaml

from detrkit.cli import COMMANDS, parse, with_stored_settings
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError

from .conftest import TINY_FLAGS, Command


def settings(*argv: str | Path) -> TrainConfig:
    config = parse("train", COMMANDS["train"], [str(word) for word in argv])
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.usefixtures("gpu")
def test_without_flags_all_is_as_the_recipe_has_it() -> None:
    assert settings() == TrainConfig.from_recipe("fast")


@pytest.mark.usefixtures("gpu")
def test_flags_reach_the_config_with_their_types() -> None:
    parsed_config = settings("--data", "d", "--lr", "1e-3", "--epochs=7", "--batch_size", "max", "--activation", "gelu")
    assert parsed_config == TrainConfig.from_recipe(
        "fast", data="d", lr=1e-3, epochs=7, batch_size="max", activation="gelu"
    )
    assert settings("--data", "123").data == "123"
    assert settings("--precision", "32").precision == "32"


@pytest.mark.usefixtures("gpu")
def test_switches_may_stand_bare_as_in_the_reference() -> None:
    expected = TrainConfig.from_recipe("fast", pre_norm=True, nheads=4, masks=True)
    assert settings("--pre_norm", "--nheads", "4", "--masks") == expected
    assert settings("--pre_norm", "true", "--strict=true", "--wandb", "False").pre_norm is True
    assert settings("--pre_norm", "false") == settings()


@pytest.mark.usefixtures("gpu")
def test_a_file_gives_settings_and_flags_override_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-3\nepochs: 9\nbackbone: resnet18\nbatch_size: max\n")
    expected = TrainConfig.from_recipe("fast", lr=1e-3, epochs=9, backbone="resnet18", batch_size="max")
    assert settings("--config", path) == expected
    assert settings("--config", path, "--epochs", "4").epochs == 4


@pytest.mark.usefixtures("gpu")
def test_what_print_config_prints_can_be_fed_back(detrkit: Command, tmp_path: Path) -> None:
    shown = detrkit("train", "--data", "d", "--lr", "3e-4", "--pre_norm", "--print_config")
    assert (shown.status, shown.err) == (0, "")
    path = tmp_path / "run.yaml"
    path.write_text(shown.out)
    assert settings("--config", path) == TrainConfig.from_recipe("fast", data="d", lr=3e-4, pre_norm=True)
    assert set(yaml.safe_load(shown.out)) - {"config"} == set(TrainConfig().to_dict())


def test_yaml_and_dictionaries_are_the_same_config(tmp_path: Path) -> None:
    config = TrainConfig(data="d", lr=1e-5, batch_size="max", masks=True)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert (
        settings("--config", path) == TrainConfig.from_yaml(path) == TrainConfig.from_dict(config.to_dict()) == config
    )
    with pytest.raises(ConfigError, match="no setting 'lrr'; did you mean 'lr'"):
        TrainConfig.from_dict({"lrr": 1})


def test_a_run_folder_stores_what_config_takes(detrkit: Command, shapes: Path, tmp_path: Path, no_report: None) -> None:
    run_dir = tmp_path / "out"
    assert detrkit("train", "--data", shapes, *TINY_FLAGS, "--epochs", "1", "--output_dir", run_dir).status == 0
    stored = settings("--config", run_dir / "config.yaml")
    assert stored == settings("--data", shapes, *TINY_FLAGS, "--epochs", "1", "--output_dir", run_dir)
    assert stored.recipe == "classic"

    # Resuming takes these settings, and flags override them.
    argv = with_stored_settings(["--resume", "auto", "--output_dir", str(run_dir), "--epochs", "2"])
    assert settings(*argv).epochs == 2
    assert settings(*argv).hidden_dim == stored.hidden_dim
    shown = detrkit("train", "--resume", "auto", "--output_dir", run_dir, "--epochs=2")
    assert shown.status == 0, shown.err
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 3

    # So it does in a folder that has moved meanwhile, by the name of the checkpoint.
    moved = run_dir.rename(tmp_path / "moved")
    shown = detrkit("train", "--resume", moved / "last.ckpt", "--epochs", "3")
    assert shown.status == 0, shown.err
    assert len((moved / "metrics.csv").read_text().splitlines()) == 4
    assert not run_dir.exists()


def test_runs_from_before_there_were_recipes_stay_classic(tmp_path: Path) -> None:
    old = {
        name: value for name, value in TrainConfig(epochs=7).to_dict().items() if name in ("lr", "epochs", "backbone")
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    argv = with_stored_settings(["--resume", str(tmp_path / "last.ckpt")])
    assert settings(*argv) == TrainConfig(epochs=7, resume=str(tmp_path / "last.ckpt"), output_dir=str(tmp_path))


def test_resume_without_stored_settings_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("lr: 7\n")  # of somebody else
    for argv in (["--resume", "auto"], ["--resume", "nowhere/last.ckpt"], ["--data", "d"], ["--resume"]):
        assert with_stored_settings(argv) == argv
    chosen = ["--config", "mine.yaml", "--resume", "auto", "--output_dir", "."]
    assert with_stored_settings(chosen) == chosen


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["tran"], "there is no command 'tran'; did you mean 'train'? (see detrkit --help)"),
        (["train", "--datta", "x"], "there is no flag --datta; did you mean '--data'? (see detrkit train --help)"),
        (["train", "--batch-size=2"], "there is no flag --batch-size; did you mean '--batch_size'?"),
        (["train", "--data_form", "coco"], "there is no flag --data_form; did you mean '--data_format'?"),
        (["check", "d", "--jsom", "x"], "there is no flag --jsom; did you mean '--json'? (see detrkit check --help)"),
        (["check", "d", "--zzz"], "there is no flag --zzz, nor one of a similar name (see detrkit check --help)"),
        (["demo", "word"], "expected a flag, found the word 'word'"),
        (["export", "runs/a"], "expected a flag, found the word 'runs/a'; did you mean --weights runs/a?"),
        (["train", "a", "b"], "expected a flag, found the word 'b'"),
        (["train", "a", "--data", "b"], "expected the data set once, found a and --data b; leave one out"),
        (["train", "--lr", "fast"], "--lr: expected a number, found 'fast'"),
        (["train", "--epochs", "1.5"], "--epochs: expected a whole number, found '1.5'"),
        (
            ["train", "--batch_size", "many"],
            "--batch_size: expected a whole number, auto or max, found 'many'",
        ),
        (["train", "--device", "quantum"], "--device: expected auto, cpu, cuda or mps, found 'quantum'"),
        (["train", "--dilation=maybe"], "--dilation: expected true or false, found 'maybe'"),
        (["eval", "--dilation=maybe"], "--dilation: expected true or false, found 'maybe'"),
        (["convert", "a", "b", "--nheads", "x"], "--nheads: expected a whole number, found 'x'"),
        (["train", "--lr"], "--lr: expected a value, found none"),
        (["check"], "expected DATA, found none (see detrkit check --help)"),
        (["predict", "a.jpg"], "expected --weights, found none"),
        (["predict", "--weights", "w"], "expected SOURCE, found none"),
        (["convert"], "expected WEIGHTS and OUTPUT, found none"),
        (["train", "--batch_size", "0"], "--batch_size must be at least 1, found 0"),
        (["train", "--lr", "0"], "--lr must be above 0, found 0"),
        (["train", "--lr", ".nan"], "--lr must be above 0, found nan"),
        (["train", "--dn_box_noise", ".inf"], "--dn_box_noise must be a finite number, found inf"),
        (["train", "--query_nms_iou", "1.5"], "--query_nms_iou must be at most 1, found 1.5"),
        (["train", "--nheads", "0"], "--nheads must be at least 1, found 0"),
        (["train", "--num_workers", "-1"], "--num_workers must be at least 0, found -1"),
        (["train", "--weight_decay", ".nan"], "--weight_decay must be at least 0, found nan"),
        (["train", "--set_cost_class=0", "--set_cost_bbox=0", "--set_cost_giou=0"], "must be above 0, found none"),
        (
            ["train", "--hidden_dim", "100"],
            "and of --nheads 8, found 100; try --hidden_dim 96",
        ),
        (["train", "--hidden_dim", "32", "--nheads", "5"], "--nheads 5, found 32; try --hidden_dim 40"),
        (["eval", "--weights", "w", "--batch_size", "0"], "--batch_size must be at least 1, found 0"),
        (["predict", "--weights", "w", "a.jpg", "--image_size", "-1"], "--image_size must be at least 0, found -1"),
        (["demo", "--minutes", "-1"], "--minutes must be at least 0, found -1"),
        (["check", "d", "--num_queries", "0"], "--num_queries must be at least 1, found 0"),
        (["train", "--config", "nowhere.yaml"], "expected a file of settings at nowhere.yaml, found none"),
        (["train", "--config"], "--config: expected a value, found none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_on_the_command_line(detrkit: Command, argv: list[str], sentence: str) -> None:
    assert sentence in detrkit(*argv).sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: 0.1\nlrr: 3\n", "there is no setting 'lrr', found in run.yaml; did you mean 'lr'?"),
        ("numworkers: 3\n", "there is no setting 'numworkers', found in run.yaml; did you mean 'num_workers'?"),
        ("data:\n  path: x\n", "--data: expected text"),
        ("lr: fast\n", "--lr: expected a number, found 'fast'"),
        ("- lr\n", "expected settings, one `name: value` per line, found something else in run.yaml"),
        ("lr: [1\n", "one `name: value` per line, found something else in line 2 of run.yaml"),
        ("\x00", "found something else in"),
        ("epochs: 0\n", "--epochs must be at least 1, found 0"),
    ],
)
def test_mistakes_in_a_file_of_settings(detrkit: Command, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert sentence in detrkit("train", "--config", "run.yaml").sentence
