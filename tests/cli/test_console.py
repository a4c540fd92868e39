"""Whatever is printed arrives: no markup in names, and no letter that an output lacks ends in a traceback."""

import ast
import io
import sys

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from detrkit.ops.console import TaskText, make_console, make_progress, track
from detrkit.ops.text import degrading_output, escape_controls, one_line, print_text, shorten, to_encoding
from tests.conftest import ROOT

NAMES = ["[bold]x[/bold]", "[/]", ":smile:", "127.0.0.1 'str' None", "裂纹", "é–×…", "\x1b[31mred", "50% {0} %s"]
ENCODINGS = ["utf-8", "ascii", "cp1252", "cp437", "cp932", "cp949", "latin-1", "no-such-encoding"]


def strict(monkeypatch: pytest.MonkeyPatch, encoding: str, stream: str = "stdout") -> io.TextIOWrapper:
    known = "ascii" if encoding == "no-such-encoding" else encoding
    written = io.TextIOWrapper(io.BytesIO(), encoding=known, errors="strict", newline="")
    monkeypatch.setattr(sys, stream, written)
    return written


def text_of(written: io.TextIOWrapper) -> str:
    written.flush()
    raw = written.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(written.encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_on_any_output(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    written = strict(monkeypatch, encoding)
    console = make_console()
    table = Table("class", "AP50", title=NAMES[0], box=SIMPLE_HEAD)
    table.columns[0].overflow = "fold"
    for name in NAMES:
        table.add_row(name, "0.123 / 0.456 / 0.789")
        console.print(name)
        console.row("Data", name)
        print_text(name)
    console.print(Group(table, Text(NAMES[4])))
    text = text_of(written)
    for name in NAMES:
        shown = to_encoding(escape_controls(name), written.encoding)
        assert text.count(f"{shown}\n") >= 3
        assert all(letter in text for letter in shown.split()[:1])
    assert "\x1b" not in text
    assert text.count("0.123 / 0.456 / 0.789") == len(NAMES)  # a narrow terminal loses no number


def test_missing_letters_are_replaced_by_similar_ones() -> None:
    assert to_encoding("a – b … × é ß “q”", "ascii") == 'a - b ... x e ss "q"'
    assert to_encoding("裂😀\udcff", "cp437") == "\\u88c2\\U0001f600\\xff"
    assert to_encoding("裂纹é", "cp932") == "裂\\u7eb9e"
    assert to_encoding("裂 –", "utf-8") == "裂 –"
    assert to_encoding("裂", "no-such-encoding") == "\\u88c2"
    assert to_encoding("\udcff", None) == "\\xff"


def test_names_cannot_steer_a_terminal() -> None:
    assert escape_controls("a\tb\n") == "a\tb\n"
    assert escape_controls("\x1b[2J\x07\u202eabc") == "\\x1b[2J\\x07\\u202eabc"
    assert one_line(" two\nlines\t\r\nof it ") == "two lines of it"
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abcde", 5) == "abcde"


def test_columns_stay_straight_where_letters_are_degraded(monkeypatch: pytest.MonkeyPatch) -> None:
    written = strict(monkeypatch, "ascii")
    table = Table("class", "n", box=SIMPLE_HEAD)
    for name in ("裂纹", "scratch"):
        table.add_row(name, "1")
    make_console().print(table)
    assert len({len(line) for line in text_of(written).splitlines()}) == 1


def test_a_long_name_does_not_widen_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    written = strict(monkeypatch, "utf-8")
    table = Table("n", box=SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    table.add_row("12345", "x" * 300)
    make_console().print(table)
    text = text_of(written)
    assert text.count("x") == 300
    assert max(map(len, text.splitlines())) <= 60


def test_styles_are_kept_and_only_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    written = strict(monkeypatch, "ascii")
    make_console().print(Text.assemble(("3 ×", "bold"), " 裂"))
    assert text_of(written) == "\x1b[1m3 x\x1b[0m \\u88c2\n"


def test_progress_bars_take_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    written = strict(monkeypatch, "cp437")
    with make_progress(make_console(), TaskText("note")) as progress:
        progress.add_task("[/red] 裂", total=2, note="[bold] {0}")
        progress.refresh()
        print("beside – the bar")
        progress.console.print("[/red] passed over")
    text = text_of(written)
    for shown in ("[/red] \\u88c2", "[bold] {0}", "beside - the bar", "[/red] passed over"):
        assert shown in text


def test_no_bar_outside_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "Detecting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_program_without_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    print_text("x")
    make_console().print("x")
    assert list(track([1], "x")) == [1]


def test_foreign_prints_are_degraded_while_the_command_line_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    written = strict(monkeypatch, "ascii")
    with degrading_output():
        print("裂 –")
    assert written.errors == "strict"
    assert text_of(written) == "\\u88c2 -\n"


def test_nothing_is_printed_but_through_the_console() -> None:
    wrong = []
    for path in sorted((ROOT / "src/detrkit").rglob("*.py")):
        if path.name in ("console.py", "text.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("print", "Console", "Progress"):
                wrong.append(f"{path.name}:{called.lineno} {called.id}")
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ("sys.stdout.write", "sys.stderr.write"):
                wrong.append(f"{path.name}:{called.lineno} {ast.unparse(called)}")
    assert wrong == []
