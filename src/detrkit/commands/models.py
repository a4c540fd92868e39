"""`detrkit models`: list the models that have a name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from detrkit.config.commands import ModelsConfig
from detrkit.config.fields import did_you_mean
from detrkit.errors import ConfigError
from detrkit.models.named_models import NamedModel, list_models
from detrkit.ops.console import make_console
from detrkit.ops.text import print_text

COLUMNS = ("name", "M parameters", "GFLOPs", "AP, COCO", "license", "cached", "weights")


def models(config: ModelsConfig) -> None:
    """Print the models that have a name, as a table or as JSON.

    Raises:
        ConfigError: no model matches the filter.
    """
    listed = list_models()
    words = config.filter.lower()
    chosen = [each for each in listed if words in f"{each.name} {each.origin} {each.description}".lower()]
    if not chosen:
        raise ConfigError(
            f"expected a part of the name, id or description of a model, found {config.filter!r}"
            f"{did_you_mean(words, [each.name for each in listed])} (`detrkit models` lists all)"
        )
    if config.json:
        plain = [asdict(each) | {"path": str(each.path) if each.path else None} for each in chosen]
        print_text(json.dumps(plain, indent=1))
        return
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for each in chosen:
        table.add_row(*row(each))
    console = make_console()
    console.print(table)
    for note in notes(chosen):
        console.print(note)


def row(model: NamedModel) -> list[str]:
    """The cells of a model, in the order of `COLUMNS`."""
    ap = "" if model.coco_ap is None else f"{model.coco_ap:.3f}"
    cached = "yes" if model.path else "no" if model.origin else ""
    origin = model.origin.rpartition("/")[2] if model.published else model.origin
    return [model.name, f"{model.parameters:g}", f"{model.gflops:g}", ap, model.license, cached, origin or "none"]


def notes(models: Sequence[NamedModel]) -> list[str]:
    """The lines below the table: what its columns mean, and where the AP of each model is published."""
    smaller = "; RF-DETR at 384, 512, 576 and 704" if any(model.name.startswith("rfdetr") for model in models) else ""
    lines = ["", f"GFLOPs: per image of 640 x 640 pixels{smaller}."]
    if any(model.origin for model in models):
        lines.append(
            "weights: for --weights NAME; cached: whether they are on this machine, so that no network is needed."
        )
    if any(model.architecture for model in models):
        architectures = ", ".join(model.name for model in models if model.architecture)
        lines.append(f"Also for --model NAME: {architectures}.")
    for source in dict.fromkeys(model.ap_source for model in models if model.ap_source):
        lines.append(f"AP from {source}: {', '.join(model.name for model in models if model.ap_source == source)}.")
    return lines
