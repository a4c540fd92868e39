"""The list of slow tests in docs/testing.md names files that exist, and why they are slow."""

import re

import pytest

from .pages import ROOT, Page

PAGE = Page(ROOT / "docs/testing.md")
ROWS = re.findall(r"^\| `(tests/[\w/]+\.py)` \| (.+?) \| (\d+) \| (.+) \|$", PAGE.text, re.MULTILINE)


def test_the_list_is_in_order() -> None:
    files = [row[0] for row in ROWS]
    assert len(files) > 20
    assert files == sorted({*files})


@pytest.mark.parametrize(("path", "subject", "seconds", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_a_slow_test_exists_and_has_a_reason(path: str, subject: str, seconds: str, reason: str) -> None:
    assert (ROOT / path).exists(), f"{path} is listed in docs/testing.md, but not there"
    assert int(seconds) >= 5
    assert subject
    assert reason
