"""Write an HTML report: one file that opens from disk, without a network, and stays below 10 MB.

    page = Page(
        "Comparison of runs/a and runs/b",
        [
            Summary({"Images": 60, "AP of a": Interval(0.412, 0.380, 0.441)}),
            Table("Class by class", [Column("class"), Column("AP", bar=True)], [["cat", 0.5], ["dog", 0.3]]),
            Gallery("Images that differ most", [GalleryImage("1.jpg", "AP 0.1 and 0.6", [BoxOverlay(xyxy, "cat")])]),
            Settings({"split": "val"}),
        ],
        command="detrkit compare runs/a runs/b",
    )
    write_page("report.html", page)

All text is escaped, whatever names a data set has. The page allows no script but its own and no connection (Content
Security Policy), so that a report from somebody else is safe to open.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detrkit.files import write_atomic
from detrkit.version import __version__
from detrkit.visualization.html_report.gallery_images import GalleryEncoder
from detrkit.visualization.html_report.sections import Section
from detrkit.visualization.html_report.views import Limits, clean, view_of

MAX_BYTES = 9_500_000
"""Largest page in bytes: mail programs and chats accept it."""


@dataclass(frozen=True)
class Page:
    """An HTML report."""

    title: str
    sections: Sequence[Section]
    """In their order; empty ones are left out."""
    subtitle: str = ""
    """One line on where the numbers come from, such as the data set and its split."""
    command: str = ""
    """The command that wrote the report; empty: none is shown."""


def write_page(path: str | Path, page: Page, max_bytes: int = MAX_BYTES) -> Path:
    """Write an HTML report atomically.

    Where it would be larger than `max_bytes`, the last images of galleries and the last rows of tables are left out;
    the page says how many of how many it shows.

    Args:
        path: file to write.
        page: its content.
        max_bytes: largest size of the file.

    Raises:
        DataError: an image of a gallery cannot be read.
    """
    path = Path(path)
    write_atomic(path, render_page(page, max_bytes))
    return path


def render_page(page: Page, max_bytes: int = MAX_BYTES) -> str:
    """Make the text of an HTML report; see `write_page`."""
    encoder = GalleryEncoder()
    limits = Limits(image_bytes=0)
    text = _render(page, limits, encoder)
    while _size(text) > max_bytes // 3 and limits.rows > 1:
        limits = limits.halved()
        text = _render(page, limits, encoder)
    limits = replace(limits, image_bytes=max_bytes - _size(text))
    text = _render(page, limits, encoder)
    while _size(text) > max_bytes and limits.image_bytes > 0:
        limits = replace(limits, image_bytes=limits.image_bytes // 2)
        text = _render(page, limits, encoder)
    return text


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _render(page: Page, limits: Limits, encoder: GalleryEncoder) -> str:
    views: list[dict[str, Any]] = []
    chosen = encoder.choose(page.sections, limits)
    for section in page.sections:
        view = view_of(section, limits, chosen.get(id(section), []))
        if view:
            views.append({**view, "id": f"section-{len(views) + 1}"})
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("page.html.jinja")
    return template.render(page=page, sections=views, policy=policy, style=style, script=script, version=__version__)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("detrkit", "visualization/html_report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression of a Content Security Policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
