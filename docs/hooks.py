"""Hooks of the site: pages that lie outside `docs/`, notebooks, the table of settings, and links to other files.

MkDocs knows only the Markdown below `docs/`. Here the pages in the root of the repository join it, each notebook
becomes a page, and links are written for the site: to such a page, or, where the target is source code, to the
repository, if `repo_url` is set.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from detrkit.config.settings_page import settings_tables

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("README", "README.zh-CN", "ARCHITECTURE", "CONTRIBUTING", "CODE_OF_CONDUCT", "CHANGELOG")
SETTINGS = "<!-- settings -->"
"""The comment in docs/api/settings.md that the table of settings replaces."""

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_TESTED_LAYOUT = re.compile(r"\A```text \w+$", re.MULTILINE)
"""A block that names its data format for the tests; the site knows blocks with a single word alone."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the root of the repository, and a page for each notebook."""
    for name in ROOT_PAGES:
        content = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        page = File.generated(config, f"{name}.md", content=content)
        if name == "README":
            page.dest_uri = page.url = "index.html"
        files.append(page)
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        notebook = json.loads(Path(str(file.abs_src_path)).read_text(encoding="utf-8"))
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=notebook_page(notebook)))
    return files


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: its text, and its code in fences."""
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"])
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in cells)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the links of a page for the site, and the table of settings into its page."""
    parts = _FENCE.split(markdown.replace(SETTINGS, settings_tables() if SETTINGS in markdown else ""))
    uri = page.file.src_uri
    return "".join(
        _TESTED_LAYOUT.sub("```text", part)
        if part.startswith("```")
        else _LINK.sub(lambda m: _link(m, uri, config), part)
        for part in parts
    )


def _link(match: re.Match[str], uri: str, config: MkDocsConfig) -> str:
    text, (target, _, anchor) = match["text"], match["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return match[0]
    folder = "" if posixpath.splitext(uri)[0] in ROOT_PAGES else posixpath.join("docs", posixpath.dirname(uri))
    path = posixpath.normpath(posixpath.join(folder, target))  # from the root of the repository
    if path.startswith("docs/") or posixpath.splitext(path)[0] in ROOT_PAGES:
        path = path.removeprefix("docs/").replace(".ipynb", ".md")
        return f"[{text}]({posixpath.relpath(path, posixpath.dirname(uri) or '.')}{'#' + anchor if anchor else ''})"
    return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text
