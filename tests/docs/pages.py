"""The pages for readers, taken apart: code blocks, code in the text, links, headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n)(?:(?: {4}[^\n]*)?\n)*", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced piece of code."""

    info: str
    """What stands behind the fence: `sh`, `python`, `text coco`, or nothing."""
    code: str
    line: int
    """Of the page, where the code begins."""


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(m["info"].strip(), m["code"], self.text.count("\n", 0, m.start("code")) + 1)
            for m in _FENCE.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """The page without its fenced code."""
        return _FENCE.sub("\n", self.text)

    @cached_property
    def lines_of_code(self) -> list[str]:
        """Every line of fenced and indented code that is not Python."""
        code = [b.code for b in self.blocks if b.info in ("", "sh")] + _INDENTED.findall(self.prose)
        return [line.strip() for text in code for line in text.replace("\\\n", " ").splitlines() if line.strip()]

    @cached_property
    def spans(self) -> list[str]:
        """Code within the text, as it is written between single backticks."""
        return _SPAN.findall(_INDENTED.sub("\n", self.prose))

    @cached_property
    def links(self) -> list[str]:
        return [m["target"] for m in _LINK.finditer(_SPAN.sub("", self.prose))]

    @cached_property
    def anchors(self) -> set[str]:
        """The headings as GitHub makes anchors of them, and the Python names that the site documents here."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        names = re.findall(r"^::: (\S+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings} | {*names}

    @cached_property
    def levels(self) -> list[int]:
        """The level of each heading."""
        return [len(marks) for marks in re.findall(r"^(#+) ", self.prose, re.MULTILINE)]

    @cached_property
    def table_numbers(self) -> list[list[str]]:
        """The cells of each table row that hold a number alone."""
        rows = re.findall(r"^\|(.+)\|$", self.prose, re.MULTILINE)
        return [[cell.strip() for cell in row.split("|") if re.fullmatch(r" *[\d.]+ *", cell)] for row in rows]


_IN_ROOT = ("README", "README.zh-CN", "ARCHITECTURE", "CHANGELOG", "CODE_OF_CONDUCT", "CONTRIBUTING")
_ROOT_PAGES = [ROOT / f"{name}.md" for name in _IN_ROOT]
PAGES = [Page(path) for path in (*_ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md")))]

_TRANSLATION = re.compile(r"\.zh(-CN)?\.md$")
TRANSLATIONS = {
    Page(page.path): Page(page.path.with_name(_TRANSLATION.sub(".md", page.path.name)))
    for page in PAGES
    if _TRANSLATION.search(page.name)
}
"""Translated page -> the page in English."""


def commands_of(line: str) -> list[list[str]]:
    """The commands of a shell line as words, without its comment and the variables set before them; `$NAME` is 1."""
    commands: list[list[str]] = [[]]
    for word in shlex.split(re.sub(r"\$[A-Z_]+", "1", line), comments=True):
        if word == "&&":
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            commands[-1].append(word)
    return [words for words in commands if words]


def detrkit_arguments(words: list[str]) -> list[str] | None:
    """The arguments of detrkit, started directly, by torchrun or by srun; None for other commands."""
    started = [k for k, word in enumerate(words) if word == "detrkit" and (k == 0 or words[k - 1] in ("-m", "srun"))]
    return words[started[0] + 1 :] if started else None
