"""docs/which-weights.md holds the table of `detrkit models`, and its first lines name models that exist."""

import re

from detrkit.config.presets import MODELS
from detrkit.models.named_models import IN_PACKAGE, NamedModel, list_models

from .pages import ROOT, Page

PAGE = Page(ROOT / "docs/which-weights.md")
HEAD = "| name | M parameters | GFLOPs | AP, COCO | license | weights | AP from |\n|---|--:|--:|--:|---|---|---|"


def row(model: NamedModel) -> str:
    """The row of a model."""
    if not model.origin:
        return f"| `{model.name}` | {model.parameters:g} | {model.gflops:g} | | | from scratch | |"
    if model.origin == IN_PACKAGE:
        cells = f"{model.parameters:g} | {model.gflops:g} | | {model.license} | [{IN_PACKAGE}](model-card.md) | |"
        return f"| `{model.name}` | {cells}"
    url = model.origin if model.published else f"https://huggingface.co/{model.origin}"
    text = model.origin.rpartition("/")[2] if model.published else model.origin
    source = model.ap_source.removeprefix("github.com/").removesuffix("/latest/learn/run/detection")
    return (
        f"| `{model.name}` | {model.parameters:g} | {model.gflops:g} | {model.coco_ap:.3f} | {model.license} "
        f"| [{text}]({url}) | [{source}](https://{model.ap_source}) |"
    )


def test_the_table_is_that_of_the_command() -> None:
    table = "\n".join([HEAD, *map(row, list_models())])
    assert table in PAGE.text, f"put this into docs/which-weights.md:\n{table}"


def test_the_decision_is_five_lines_with_commands_of_models_that_exist() -> None:
    above = PAGE.text.split("\n## ")[0]
    lines = re.findall(r"^\d\. .+(?:\n {3}.+)*", above, re.MULTILINE)
    assert len(lines) == 5
    known = {model.name: model for model in list_models()}
    for line in lines:
        for flag, name in re.findall(r"--(weights|model) (\w+)", line):
            assert name == "none" or (known[name].origin if flag == "weights" else name in MODELS), name
