"""The words of a command line: the data set without a flag, `~`, any text as a value, flags of other tools."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest

from detrkit.cli import COMMANDS, parse
from detrkit.commands.detr import build_parser
from detrkit.config.commands import CheckConfig, PlotConfig, PredictConfig
from detrkit.config.parser import from_home
from detrkit.config.suggestions import NOT_NEEDED, SYNONYMS, suggestion
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError

from .conftest import Command

SETTINGS = {name: list(get_type_hints(command.config)) for name, command in COMMANDS.items()}


def parsed(command: str, *argv: str) -> Any:
    return parse(command, COMMANDS[command], list(argv))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", ["set"]),
        ("train", ["set", "--epochs", "3", "--pre_norm"]),
        ("train", ["--epochs", "3", "set", "--pre_norm"]),
        ("train", ["--pre_norm", "set"]),
        ("train", ["--masks", "--lr=1e-4", "--", "set"]),
        ("train", ["--data", "set"]),
        ("train", ["--data=set", "--num_workers", "0"]),
        ("eval", ["set", "--weights", "w"]),
        ("eval", ["--weights", "w", "set"]),
        ("eval", ["--weights=w", "--data", "set"]),
        ("check", ["set"]),
        ("check", ["--num_queries", "5", "set", "--json", "j"]),
    ],
)
def test_the_data_set_needs_no_flag(command: str, argv: list[str]) -> None:
    assert parsed(command, *argv).data == "set"


def test_words_may_stand_anywhere_among_the_flags() -> None:
    options = parsed("predict", "a.jpg", "--weights", "w", "b.jpg", "--no_images", "c.jpg")
    assert options.source == ["a.jpg", "b.jpg", "c.jpg"]
    assert parsed("bench", "--device", "cpu", "data").part == "data"
    options = parsed("convert", "--nheads", "4", "w.pth", "out")
    assert (options.weights, options.output, options.nheads) == ("w.pth", "out", 4)


TEXTS = (
    "[bold]", "a: b", "{0}", "{a: 1}", "null", "true", "1e3", "007", "%s", "# x", "'x'", "$x$", ":smile:", "猫", "a b",
    "*", "&a", "!x", "| x", "2020-01-01", "[", "a\nb",
)  # fmt: skip


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_a_value(text: str, tmp_path: Path) -> None:
    config = TrainConfig(resume=text)
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert TrainConfig.from_yaml(tmp_path / "run.yaml") == config
    flags = ["--config", str(tmp_path / "run.yaml"), f"--weights={text}", "--output_dir", text]
    options = parsed("train", *flags, text)
    assert (options.data, options.weights, options.output_dir, options.resume) == (text, text, text, text)


def test_any_text_is_a_word_without_a_flag() -> None:
    assert parsed("predict", *TEXTS, "--weights", "w").source == list(TEXTS)
    assert parsed("plot", *TEXTS).runs == list(TEXTS)
    for text in ("[bold]", "null", "1e3"):
        assert parsed("check", text).data == text


@pytest.mark.usefixtures("gpu")
def test_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detrkit: Command) -> None:
    home = tmp_path / "home [1]"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    in_home = str(home / "set")
    assert from_home(["--data=~/set", "~/set", "--lr=1", "a~b", "--x=a~", "~"]) == [
        f"--data={in_home}", in_home, "--lr=1", "a~b", "--x=a~", str(home),
    ]  # fmt: skip
    assert from_home(["~no_such_user_at_all/x", "--data=~no_such_user_at_all"]) == [
        "~no_such_user_at_all/x",
        "--data=~no_such_user_at_all",
    ]
    (home / "run.yaml").write_text("data: ~/set\nweights: ~/w.ckpt\n")
    options = parsed("train", f"--config={home / 'run.yaml'}")
    assert (options.data, options.weights) == (in_home, str(home / "w.ckpt"))
    assert "expected a data set at" in detrkit("train", "--config=~/run.yaml", "--device=cpu", "--weights=").sentence
    assert in_home in detrkit("check", "~/set").sentence
    assert in_home in detrkit("detr", "--coco_path=~/set", "--device=cpu", "--output_dir=out").sentence
    assert TrainConfig(data="~/set").data == in_home
    assert CheckConfig(data="~/set").data == in_home
    assert PredictConfig(weights="w", source=["~/set", "b"]).source == [in_home, "b"]
    assert PlotConfig(runs=["~/set"]).runs == [in_home]


@pytest.mark.parametrize(
    ("command", "flag", "expected"),
    [
        ("train", "--learning_rate", "did you mean '--lr'?"),
        ("train", "--early_stopping", "did you mean '--patience'?"),
        ("train", "--distinct", "did you mean '--query_nms_iou'?"),
        ("train", "--hybrid_queries", "did you mean '--num_queries_one2many'?"),
        ("train", "--hybrid_repeat", "did you mean '--k_one2many'?"),
        ("train", "--hybrid_expansion", "did you mean '--encoder_expansion'?"),
        ("train", "--imgsz", "did you mean '--image_size'?"),
        ("train", "--gpus", "did you mean '--devices'?"),
        ("train", "-b", "did you mean '--batch_size'?"),
        ("train", "--cfg", "did you mean '--config'?"),
        ("train", "--lr-drop", "did you mean '--lr_drop'?"),
        ("train", "--num_classes", "; the classes are those of the data set"),
        ("train", "--optimizer", "the optimizer is AdamW"),
        ("train", "--eval", "detrkit eval measures a detector"),
        ("train", "--label_smoothing", "nor one of a similar name"),
        ("eval", "--num_classes", "; the classes are those of the data set"),
        ("eval", "--epochs", "it belongs to detrkit train"),
        ("predict", "--conf", "did you mean '--threshold'?"),
        ("train", "--verbose", "show their progress unless --quiet is given"),
        ("plot", "-v", "show their progress unless --quiet is given"),
        ("train", "--anchors", "are --query_init anchors in training"),
        ("predict", "--image_mean", "normalization comes with the weights or the backbone"),
        ("eval", "--save_txt", "detrkit predict always writes"),
        ("predict", "--iou", "a DETR needs no non-maximum suppression"),
        ("predict", "--input", "give SOURCE without a flag"),
        ("predict", "--device_", "did you mean '--device'?"),
        ("export", "--opset", "ONNX files have opset 18"),
        ("export", "--imgsz", "did you mean '--image_size'?"),
        ("export", "--device", "it belongs to detrkit train, eval, compare, review, predict, serve, explain and bench"),
    ],
)
def test_an_unknown_flag_is_answered_by_its_meaning(detrkit: Command, command: str, flag: str, expected: str) -> None:
    for argv in ([flag, "x"], [f"{flag}=x"]):
        sentence = detrkit(command, *argv).sentence
        assert sentence.startswith(f"there is no flag {flag}")
        assert expected in sentence
        assert sentence.endswith(f"(see detrkit {command} --help)")


@pytest.mark.parametrize("command", [name for name, settings in SETTINGS.items() if "quiet" not in settings])
def test_quiet_is_answered_where_it_is_none(detrkit: Command, command: str) -> None:
    assert "a progress bar is shown in a terminal alone" in detrkit(command, "--quiet").sentence


def test_the_table_of_meanings_names_settings_that_there_are() -> None:
    known = {name for settings in SETTINGS.values() for name in settings} | {
        "config",
        "quiet",
        "num_classes",
    }  # the last: of build_model
    assert set(SYNONYMS) <= known
    for command, settings in SETTINGS.items():
        for name in settings:
            answer = suggestion(name, settings)
            assert name in answer, f"{command} --{name}"  # a setting is never answered by another
    for words in [*SYNONYMS.values(), *NOT_NEEDED]:
        assert len(words.split()) == len(set(words.split())), words
    flags = {word.strip(",;") for text in NOT_NEEDED.values() for word in text.split() if word.startswith("--")}
    assert {flag.removeprefix("--") for flag in flags} <= known


def test_flags_of_main_py_are_answered_too(detrkit: Command) -> None:
    assert "main.py has no flag --learning_rate; did you mean '--lr'?" in detrkit("detr", "--learning_rate=1").sentence
    names = [word.removeprefix("--") for action in build_parser()._actions for word in action.option_strings]
    assert "'--resume'" in suggestion("resume_from", names)


def test_settings_in_files_and_in_python_are_answered_too(tmp_path: Path, detrkit: Command) -> None:
    (tmp_path / "run.yaml").write_text("learning_rate: 1\n")
    assert "found in run.yaml; did you mean 'lr'?" in detrkit("train", "--config", "run.yaml").sentence
    with pytest.raises(ConfigError, match="no setting 'optimizer'; the optimizer is AdamW"):
        TrainConfig.from_dict({"optimizer": "sgd"})
