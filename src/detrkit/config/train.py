"""What a training run can be told: `TrainConfig` is the flags, the `--config` file and what a run folder stores.

Each value has one owner and one flat name, so `lr` is `--lr` on the command line, `lr:` in YAML and `config.lr` in
Python. The settings themselves, with their help, are in `settings.py`.

Nothing here imports torch: `detrkit VERB --help` must answer at once. Below this file and `cli`, constructors take
plain arguments and finished parts, never a config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import isfinite, lcm
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import yaml

from detrkit.config.fields import CHANCES, LOWEST, DataConfig, LossConfig, ModelConfig, OptimConfig, RunConfig
from detrkit.config.presets import FROM_WEIGHTS, MODELS, RECIPES
from detrkit.config.suggestions import suggestion
from detrkit.errors import ConfigError

CONFIG_GROUPS = (DataConfig, OptimConfig, RunConfig, ModelConfig, LossConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LossConfig, ModelConfig, RunConfig, OptimConfig, DataConfig):
    """Everything a training run can be told; what it is not told is as the --recipe has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check_lowest(self, LOWEST)
        if self.masks and self.task == "detect":
            object.__setattr__(self, "task", "instance")
        object.__setattr__(self, "masks", self.task != "detect")
        if self.frozen_weights and (self.weights or not self.masks):
            wrong = "--weights as well" if self.weights else "no --task instance or panoptic"
            raise ConfigError(f"--frozen_weights brings the detector that a mask head is trained on, found {wrong}")
        check_named("recipe", self.recipe, RECIPES)
        if self.model:
            check_named("model", self.model, MODELS)
        if self.hidden_dim % self.nheads:
            width = lcm(4, self.nheads)  # the position encoding wants whole fours as well
            raise ConfigError(
                f"--hidden_dim must be a multiple of --nheads, found {self.hidden_dim} and {self.nheads}; "
                f"try --hidden_dim {width * max(1, round(self.hidden_dim / width))}"
            )
        check_highest(self, (*CHANCES, "query_nms_iou", "dn_label_noise"), 1)
        if not self.lr > 0:
            raise ConfigError(f"--lr must be above 0, found {self.lr:g}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema must be at least 0 and below 1, found {self.ema:g}")
        if self.set_cost_class == self.set_cost_bbox == self.set_cost_giou == 0:
            raise ConfigError("one of --set_cost_class, --set_cost_bbox, --set_cost_giou must be above 0, found none")
        for name, value in asdict(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise ConfigError(f"--{name} must be a finite number, found {value}")

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what YAML and checkpoints hold."""
        return asdict(self)

    def to_yaml(self) -> str:
        """As the text of `config.yaml`; `from_yaml` reads it back equal."""
        return yaml.dump(asdict(self), Dumper=_Dumper, sort_keys=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; absent keys take their defaults.

        Raises:
            ConfigError: a key is not a setting; the sentence suggests the nearest name.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"there is no setting {key!r}{suggestion(key, known, dashes='')}")
        return cls(**values)

    @classmethod
    def from_recipe(cls, recipe: str, **changes: Any) -> Self:
        """A recipe's settings, with changes: `TrainConfig.from_recipe("fast", data="images", epochs=20)`.

        `model="detr_resnet50"` names a model; see `default_settings`.

        Raises:
            ConfigError: there is no such recipe, model or setting.
        """
        return cls.from_dict({**default_settings({**changes, "recipe": recipe}), **changes})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a `config.yaml`."""
        return cls.from_dict(read_settings(path, [f.name for f in fields(cls)]))


class _Dumper(yaml.SafeDumper):
    """Quotes text that some readers of YAML take for a number, as `1e3`."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _quoted)


def default_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What settings are unless told: a recipe's, and over them a named model's; absent ones are `TrainConfig`'s.

    Args:
        chosen: what was told. `recipe` (without one: classic), `model` (without one: the recipe's; empty: none) and
            whether there are `weights` or `frozen_weights` count.

    Raises:
        ConfigError: there is no such recipe or model.
    """
    recipe = chosen.get("recipe", "classic")
    check_named("recipe", recipe, RECIPES)
    from_weights = FROM_WEIGHTS[recipe]() if chosen.get("weights") or chosen.get("frozen_weights") else {}
    settings = {"recipe": recipe, "model": "", **RECIPES[recipe](), **from_weights}
    model = chosen.get("model", settings["model"])
    if model:
        check_named("model", model, MODELS)
        settings |= MODELS[model]()
        settings |= {name: rate for name, rate in from_weights.items() if name in ("lr", "lr_backbone")}
    return settings | {"model": model}


def check_named(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuse a name that is none of `known`.

    Raises:
        ConfigError: it is none; the sentence suggests the nearest.
    """
    names = list(known)
    if name not in names:
        near = did_you_mean(str(name), names) or f"; there are {', '.join(names)}"
        raise ConfigError(f"there is no {kind} {name!r}{near}")


def read_settings(path: str | Path, known: list[str]) -> dict[str, Any]:
    """The settings of a YAML file, by name, with their values unchecked.

    Raises:
        ConfigError: there is no such file, it holds something else, or a key is none of `known`; the sentence suggests
            the nearest name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a file of settings at {path}, found none") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} of {path}" if mark else path
        raise ConfigError(f"expected settings, one `name: value` a line, found something else in {where}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected settings, one `name: value` a line, found something else in {path}")
    for key in values:
        if key not in known:
            raise ConfigError(f"there is no setting {key!r}, found in {path}{suggestion(str(key), known, dashes='')}")
    return values


def check_choices(config: object) -> None:
    """Refuse words that are none of those that a setting may be.

    Raises:
        ConfigError: one is none.
    """
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            *first, last = map(str, get_args(hint))
            raise ConfigError(f"--{name} must be {', '.join(first)} or {last}, found {getattr(config, name)!r}")


def check_lowest(config: object, lowest: Mapping[int, Iterable[str]]) -> None:
    """Refuse numbers that are too low, or are none.

    Raises:
        ConfigError: one is.
    """
    for low, names in lowest.items():
        for name in names:
            value = getattr(config, name)
            if isinstance(value, int | float) and not value >= low:
                raise ConfigError(f"--{name} must be at least {low}, found {value}")


def check_highest(config: object, names: Iterable[str], high: float) -> None:
    """Refuse numbers that are too high.

    Raises:
        ConfigError: one is.
    """
    for name in names:
        if getattr(config, name) > high:
            raise ConfigError(f"--{name} must be at most {high:g}, found {getattr(config, name):g}")


def did_you_mean(word: str, known: list[str]) -> str:
    """` (did you mean ...?)` with the nearest of `known`, or nothing."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
