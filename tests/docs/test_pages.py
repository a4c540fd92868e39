"""What the pages say of the project is so: commands parse, flags, files and links exist, quoted code is the code."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

import detrkit
from detrkit import cli
from detrkit.commands import detr as classic
from detrkit.config.data import AugmentConfig
from detrkit.config.loss import LossFlags
from detrkit.config.model import ModelFlags
from detrkit.config.presets import MODELS, RECIPES
from detrkit.config.train import OptimConfig, TrainConfig
from detrkit.data.validation.findings import actions_table
from detrkit.models import DETR

from .pages import PAGES, ROOT, TRANSLATIONS, Page, commands_of, detrkit_arguments

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def flags_of_commands() -> dict[str, set[str]]:
    """Command -> its flags."""
    common = {"--help", "--version"}
    flags = {name: {f"--{f.name}" for f in fields(command.config)} | common for name, command in cli.COMMANDS.items()}
    flags["train"] |= {"--config", "--print_config"}
    flags["detr"] = {word for action in classic.build_parser()._actions for word in action.option_strings}
    return flags


FLAGS = flags_of_commands()


def parse(words: list[str]) -> object:
    """Parse as the command line does, which complains of what it does not know."""
    command, *rest = words
    if "--help" in words or "--print_config" in words:
        return command
    if command == "detr":
        return classic.build_parser().parse_args(rest)
    return cli.parse(command, cli.COMMANDS[command], rest)


@each_page
def test_every_command_parses(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_dump({"epochs": 3})
    for name in ("run.yaml", "FILE"):
        Path(name).write_text(settings, encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in page.lines_of_code:
        for words in commands_of(line):
            arguments = detrkit_arguments(words)
            if arguments:
                parse(arguments)
            elif words[0] == "make":
                assert words[1] in targets, line
            elif words[0] in ("pip", "pytest"):
                check_tool(words)


def check_tool(words: list[str]) -> None:
    """The extras and test files that a line names exist."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for word in words[1:]:
        for extra in re.findall(r"detrkit\[(\w+)\]", word):
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), word
        if words[0] == "pytest" and not word.startswith("-"):
            assert (ROOT / word).exists(), word


@each_page
def test_every_flag_and_verb_in_the_text_exists(page: Page) -> None:
    every = set().union(*FLAGS.values())
    for span in page.spans:
        try:
            words = (commands_of(span) or [[""]])[0]
        except ValueError:  # an apostrophe: not a command
            continue
        arguments = detrkit_arguments(words)
        if arguments and re.fullmatch(r"[a-z]+", arguments[0]):
            assert arguments[0] in FLAGS, f"there is no command {arguments[0]} ({page.name})"
            known = FLAGS[arguments[0]]
        elif span.startswith("--"):
            arguments, known = words, every
        else:
            if words[0] in ("pip", "pytest"):
                check_tool(words)
            continue
        for word in arguments:
            flag = word.split("=")[0]
            assert not flag.startswith("--") or flag in known, f"there is no flag {flag} ({page.name}: `{span}`)"


@each_page
def test_code_that_starts_processes_has_a_main_guard(page: Page) -> None:
    starts = {"train", "run_training", "evaluate", "demo", "bench", "export", "collect_split"}
    for block in page.blocks:
        if block.info != "python" or block.code.startswith("def forward"):
            continue
        guarded = 'if __name__ == "__main__":'
        for node in ast.parse(block.code).body:
            calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
            called = {ast.unparse(function).rpartition(".")[2] for function in calls}
            shown = isinstance(node, ast.FunctionDef) or ast.unparse(node).replace("'", '"').startswith(guarded)
            assert shown or not called & starts, f"{page.name}: {ast.unparse(node)}"


@each_page
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in Page(path).anchors, f"{page.name} links to {link}, which has no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = Page(left.pop())
        reached.add(page.path)
        links = [link.partition("#")[0] for link in page.links if not link.startswith("https://")]
        targets = {(page.path.parent / link).resolve() for link in links if link.endswith(".md")}
        left += targets - reached - {*left}
    assert {page.path for page in PAGES} <= reached


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translated_page_has_the_code_links_and_headings_of_the_english_one(page: Page) -> None:
    english = TRANSLATIONS[page]
    assert [(b.info, b.code) for b in page.blocks] == [(b.info, b.code) for b in english.blocks]
    assert page.levels == english.levels
    assert page.path.name in english.links
    assert english.path.name in page.links


def test_the_two_readmes_hold_the_same_figures_and_lead_to_the_same_pages() -> None:
    chinese, english = (Page(ROOT / name) for name in ("README.zh-CN.md", "README.md"))
    assert chinese.table_numbers == english.table_numbers
    links = {page: {link.replace(".zh.md", ".md") for link in page.links if "README" not in link} for page in PAGES}
    assert links[chinese] == links[english]


def test_the_readme_is_short() -> None:
    assert len(Page(ROOT / "README.md").text.splitlines()) <= 130


def test_the_concepts_quote_the_forward_pass_as_it_is() -> None:
    quoted = [b.code for b in Page(ROOT / "docs/concepts.md").blocks if b.code.startswith("def forward")]
    methods = [textwrap.dedent(inspect.getsource(method)) for method in (DETR.forward, DETR.forward_detection)]
    assert quoted == ["\n\n".join(methods)]


def test_the_page_of_the_command_line_lists_every_command() -> None:
    rows = re.findall(r"^\| `detrkit (\w+)` \|", Page(ROOT / "docs/commands.md").text, re.MULTILINE)
    assert rows == [*cli.COMMANDS, "detr"]


def test_the_readme_s_table_is_an_extract_of_the_measured_one() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", MODELS_PAGE.text, re.MULTILINE))
    assert [*rows] == [*MODELS]
    for name, rest in re.findall(r"^\| `(\w+)` \|[^|]*\|(.*)$", Page(ROOT / "README.md").text, re.MULTILINE):
        assert rest.startswith(rows[name]), name


def test_the_findings_in_the_docs_are_those_of_the_check() -> None:
    assert actions_table() in Page(ROOT / "docs/your-own-data.md").text, "put the text of actions_table() there"


MODELS_PAGE = Page(ROOT / "docs/benchmarks/models.md")
SWITCHES = Page(ROOT / "docs/switches.md")
ELSEWHERE = {
    "backbone_norm", "max_minutes", "accumulate_grad_batches", "precision", "patience", "monitor", "compile",
    "checkpoint_activations",
}  # fmt: skip
"""Settings that the original has not and that are no switches; other pages explain them."""


def test_every_switch_and_every_choice_is_on_its_page() -> None:
    new = {f.name for group in (ModelFlags, LossFlags, OptimConfig) for f in fields(group)}
    new = {name for name in new if f"--{name}" not in FLAGS["detr"]} - ELSEWHERE
    new |= {f.name for f in fields(AugmentConfig)} - {"augmentation"}
    assert {f"--{name}" for name in new} <= {word for span in SWITCHES.spans for word in span.split()}
    hints = get_type_hints(TrainConfig)
    for name in ("encoder", "decoder", "query_init", "dense_head", "denoising", "class_loss"):
        assert {f"--{name} {choice}" for choice in get_args(hints[name]) if choice != "none"} <= {*SWITCHES.spans}
    assert {*RECIPES} <= {*SWITCHES.spans}


def model_row(name: str, base: str) -> str:
    """The row of docs/switches.md for a named model, by its differences from another, or from the classic one."""
    classic = TrainConfig().to_dict()
    ours, theirs = (classic | MODELS[which]() if which else classic for which in (name, base))
    changes = {key: value for key, value in ours.items() if theirs[key] != value}
    differs = ", ".join(
        f"`{key}={value:g}`" if isinstance(value, float) else f"`{key}={str(value).lower()}`"
        for key, value in changes.items()
    )
    return f"| `{name}` | {f'`{base}`' if base else ''} | {differs} |"


def test_the_table_of_named_models_equals_the_presets() -> None:
    table = SWITCHES.text[SWITCHES.text.index("| `--model` | based on |") :].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? *\|.*$", table, re.MULTILINE)
    assert [name for name, _ in rows] == list(MODELS)
    for name, base in rows:
        row = model_row(name, base)
        assert row in SWITCHES.text, f"put this into docs/switches.md: {row}"


def test_the_readme_has_the_numbers_of_the_named_models() -> None:
    named = {each.name: each for each in detrkit.list_models()}
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|(.*)\|$", Page(ROOT / "README.md").text, re.MULTILINE)
    assert len(rows) >= 5
    for name, cells in rows:
        parameters, gflops, *_, ap = (cell.strip() for cell in cells.split("|"))
        model = named[name]
        assert (float(parameters), int(gflops)) == (pytest.approx(model.parameters, abs=0.05), round(model.gflops)), (
            name
        )
        assert model.coco_ap is None or ap == f"{model.coco_ap:.3f}", name


def test_the_architecture_names_files_that_exist_and_forgets_no_module() -> None:
    page = Page(ROOT / "ARCHITECTURE.md")
    package = ROOT / "src/detrkit"
    named = {span for span in page.spans if re.fullmatch(r"[\w./]+(\.py|\.typed|\.toml|/)", span)}
    for name in named:
        assert (package / name).exists() or (ROOT / name).exists(), name
    folders = {name.split("/")[0] for name in named}
    assert {p.name for p in package.iterdir() if p.name != "__pycache__"} <= folders
    assert len(page.text.splitlines()) <= 100


def test_the_changelog_has_this_version() -> None:
    assert f"## {detrkit.__version__}" in Page(ROOT / "CHANGELOG.md").text
