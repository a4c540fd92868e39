"""Settings that do not fit each other, and names that no table has, are refused before any data is read."""

from typing import Any

import pytest

from detrkit.cli import COMMANDS, main
from detrkit.config.commands import BenchConfig, ExportConfig
from detrkit.config.fields import NamesOf, hints_of, markers_of
from detrkit.config.settings_page import help_of
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"feature_levels": "7"}, "feature_levels as strides that begin with 4, 8, 16 or 32 and double"),
        ({"feature_levels": "8,32"}, "found '8,32'"),
        ({"feature_levels": "fine"}, "found 'fine'"),
        ({"backbone": "resnet19"}, "backbone must be resnet18, .*found 'resnet19'; did you mean 'resnet18'"),
        ({"denoising": "contrastive", "query_init": "anchors", "dn_queries": 1}, "found 1 with contrastive"),
        ({"denoising": "plain", "query_init": "anchors", "dn_queries": 0}, "found 0 with plain"),
        ({"dilation": True, "feature_levels": "8,16"}, "leave out one of the two"),
        ({"dilation": True, "backbone": "nano", "backbone_weights": "none"}, "leave out dilation"),
        ({"backbone": "nano"}, "found imagenet, but no weights are published under that name"),
        ({"backbone": "timm:x", "backbone_norm": "group"}, "group, which is for ResNets only"),
        ({"model": "detrkit_x"}, "model must be detrkit_n, .*found 'detrkit_x'"),
        ({"value_range": "dark"}, "expected value_range auto or LOW,HIGH"),
        ({"val_fraction": 1.0}, "val_fraction must be below 1, found 1"),
        ({"data_format": "tfrecord"}, "data_format must be auto, coco, .*found 'tfrecord'"),
        ({"box_format": "corners"}, "box_format must be auto, xywh, .*found 'corners'"),
    ],
)
def test_training_settings_are_refused_at_once(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(data="nowhere", **settings)


def test_weights_may_bring_the_settings_that_do_not_fit() -> None:
    assert TrainConfig(weights="w.ckpt", denoising="plain").denoising == "plain"
    assert TrainConfig(dilation=True, feature_levels="16").dilation
    assert TrainConfig(backbone="timm:anything", dilation=True).backbone == "timm:anything"


def test_names_of_other_commands_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="format must be onnx, openvino, torch or tensorrt, found 'foo'"):
        ExportConfig(weights="w", format="foo")
    with pytest.raises(ConfigError, match=r"model must be detrkit_n, .*found 'foo'"):
        BenchConfig(model="foo")
    with pytest.raises(ConfigError, match="size: expected HEIGHTxWIDTH in pixels, such as 640x640, found '640'"):
        ExportConfig(weights="w", size="640")


def test_help_has_every_name_of_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    tables = {}
    for command, row in COMMANDS.items():
        assert main([command, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        for setting, hint in hints_of(row.config).items():
            for marker in markers_of(hint):
                if isinstance(marker, NamesOf) and setting != "box_format":  # whose names are explained by their parts
                    tables[setting] = marker.names()
                    missing = [name for name in marker.names() if name not in shown]
                    assert not missing, (command, setting)
    assert tables.keys() == {"data_format", "recipe", "model", "backbone", "format", "write"}


def test_help_texts_are_inherited() -> None:
    assert help_of(ExportConfig)["weights"] == help_of(COMMANDS["convert"].config)["weights"]
    assert help_of(COMMANDS["eval"].config)["weights"] == help_of(COMMANDS["predict"].config)["weights"]
    assert "exported file" in help_of(COMMANDS["eval"].config)["weights"]
    assert "exported file" not in help_of(COMMANDS["explain"].config)["weights"]
