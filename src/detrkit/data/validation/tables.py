"""Tables of `detrkit check` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from detrkit.data.validation.findings import ACTIONS, Finding
from detrkit.ops.text import one_line

_EXAMPLES = 3
_FOLDERS = 8
_CLASSES = 100
_STYLES = {"dropped": "bold red", "unused": "bold red", "repaired": "bold yellow", "noted": "bold"}


def split_tables(statistics: dict[str, Any]) -> list[RenderableType]:
    """Make a table of the statistics of all splits, and one of their classes."""
    names = list(statistics)
    numbers = Table(title="Data set", caption="three values: 5th, 50th and 95th percentile", box=SIMPLE_HEAD)
    numbers.add_column("", no_wrap=True)
    for name in names:
        numbers.add_column(name, justify="right")
    for row in statistics_rows(statistics):
        numbers.add_row(*row)
    return [numbers, _class_table(statistics)]


def statistics_rows(statistics: Mapping[str, Any]) -> list[list[str]]:
    """The statistics as rows of text: a label, and its value in each split."""
    return [[label, *map(value, statistics.values())] for label, value in _ROWS.items()]


def findings_lines(findings: list[Finding]) -> list[RenderableType]:
    """Make lines of all findings: kind, number, action and first locations. Paths are too long for a table."""
    if not findings:
        return [Text("No defects found.")]
    order = {kind: number for number, kind in enumerate(ACTIONS)}
    lines: list[RenderableType] = [Text("Findings", style="italic", justify="center")]
    for kind, group in groupby(sorted(findings, key=lambda f: order[f.kind]), key=lambda f: f.kind):
        same = list(group)
        entry = ACTIONS[kind]
        lost = sum(finding.dropped_objects for finding in same)
        count = f"{len(same)} x {entry.defect}"
        with_objects = f" ({lost} objects)" if lost else ""
        lines.append(Text.assemble((count, _STYLES[entry.outcome]), f"; {entry.outcome}: {entry.remedy}{with_objects}"))
        whole_files = entry.outcome == "unused" or kind in ("set_aside", "other_task")
        locations = _folders(same) if whole_files else [_location(finding) for finding in same]
        shown = locations[: _FOLDERS if whole_files else _EXAMPLES]
        # never wrapped, so that paths can be copied
        lines += [Text(f"    {location}", no_wrap=True, overflow="ignore") for location in shown]
        if len(locations) > len(shown):
            unit = "folders" if whole_files else "more"
            lines.append(Text(f"    and {len(locations) - len(shown)} {unit} (all with --json)"))
    return lines


def _folders(findings: list[Finding]) -> list[str]:
    """Summarize unused files per folder and reason: there may be a hundred thousand."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        folder, _, name = finding.file.rpartition("/")
        groups.setdefault((folder, finding.detail), []).append(name)
    return [
        (f"{folder}/{names[0]}" if len(names) == 1 else f"{folder}: {len(names)} files such as {names[0]}")
        + (f": {reason}" if reason else "")
        for (folder, reason), names in groups.items()
    ]


def _location(finding: Finding) -> str:
    location = f"{finding.file}, {finding.record}" if finding.record else finding.file
    return f"{location}: {finding.detail}" if finding.detail else location


def _class_table(statistics: dict[str, Any]) -> Table:
    table = Table(title="Objects per class (images with it)", box=SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for name in statistics:
        table.add_column(name, justify="right")
    used = [
        label
        for label in next(iter(statistics.values()))["objects_per_class"]
        if any(numbers["objects_per_class"][label] for numbers in statistics.values())
    ]
    for label in used[:_CLASSES]:
        cells = [f"{s['objects_per_class'][label]} ({s['images_per_class'][label]})" for s in statistics.values()]
        table.add_row(one_line(label), *cells)
    if len(used) > _CLASSES:
        table.add_row(f"and {len(used) - _CLASSES} more (all with --json)")
    return table


def _share(key: str) -> Any:
    return lambda s: f"{s[key]} ({s[key] / max(1, s['objects']):.0%})"


def _range(key: str, digits: int = 0) -> Any:
    return lambda s: " / ".join(f"{v:.{digits}f}" for v in s[key].values()) or "-"


_ROWS: dict[str, Any] = {
    "images": lambda s: str(s["images"]),
    "images without objects": lambda s: str(s["images_without_objects"]),
    "objects": lambda s: str(s["objects"]),
    "crowd regions": lambda s: str(s["crowds"]),
    "small objects (below 32 x 32 px)": _share("small"),
    "medium objects": _share("medium"),
    "large objects (above 96 x 96 px)": _share("large"),
    "objects per image, median / max": lambda s: "{median:g} / {max}".format(**s["objects_per_image"]),
    "images with more than queries": lambda s: str(s["images_with_more_objects_than_queries"]),
    "object side in px": _range("side"),
    "object side / image side": _range("relative_side", 2),
    "object width / height": _range("aspect", 2),
    "image width in px": _range("image_width"),
    "image height in px": _range("image_height"),
}
