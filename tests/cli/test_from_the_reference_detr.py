"""The page for users of the reference DETR leaves no flag out, and says no wrong default."""

import re

from tests.conftest import ROOT

from .reference_flags import MAIN_FLAGS, SUBMITIT_FLAGS

PAGE = (ROOT / "docs/from-the-reference-detr.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `--(\w+)(?: ([^`]+))?` \|", PAGE, re.MULTILINE))
"""Flag -> default, as the table of main.py says."""


def test_every_flag_of_main_py_is_on_the_page_with_its_default() -> None:
    assert list(ROWS) == list(MAIN_FLAGS)
    for name, text in ROWS.items():
        default = MAIN_FLAGS[name]
        if default is None or default is False or default == "":
            assert not text, name
        else:
            assert type(default)(text) == default, name


def test_every_flag_of_run_with_submitit_is_on_the_page() -> None:
    for name, default in SUBMITIT_FLAGS.items():
        assert f"| `{name}` {default} |".replace("  ", " ") in PAGE, name
