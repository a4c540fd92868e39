"""Messages name settings as flags on the command line, and by their names alone in Python."""

import warnings

import pytest

from detrkit import TrainConfig, build_model
from detrkit.cli import main, show_warning
from detrkit.errors import ConfigError, DetrkitWarning, MissingExtraError, NonFiniteLossError


def test_python_sees_names_and_the_command_line_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(lr=0.0)
    assert str(caught.value) == "lr must be above 0, found 0"
    assert caught.value.message == "--lr must be above 0, found 0"
    assert main(["train", "--lr", "0"]) == 2
    assert "error: --lr must be above 0, found 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_dim": 100},
        {"look_forward_twice": True, "query_init": "anchors"},
        {"backbone": "resnet19"},
        {"denoising": "plain"},
        {"num_queries": 0},
    ],
)
def test_no_dashes_reach_those_who_build_a_model(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(3, **settings)
    assert "--" not in str(caught.value)


def test_commands_within_a_message_keep_their_flags() -> None:
    error = NonFiniteLossError(
        "the loss became nan; resume with --resume r/last.ckpt and --lr 1e-5; see detrkit check DATA --strict, or "
        "--val_fraction; `tool -- --save-media`; /data/a--b/--c"
    )
    assert str(error) == (
        "the loss became nan; resume with resume r/last.ckpt and lr 1e-5; see detrkit check DATA --strict, or "
        "val_fraction; `tool -- --save-media`; /data/a--b/--c"
    )
    assert str(MissingExtraError("--wandb", "wandb")).startswith("wandb needs an optional package; ")


def test_warnings_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(DetrkitWarning, match="^if it has, add dilation$") as caught:
        warnings.warn(DetrkitWarning("if it has, add --dilation"), stacklevel=1)
    show_warning(caught[0].message, DetrkitWarning, "", 0)
    assert capsys.readouterr().err == "detrkit: warning: if it has, add --dilation\n"
