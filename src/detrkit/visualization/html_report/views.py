"""Sections of a report in the form that the template shows: formatted, cleaned and limited in number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from detrkit.ops.text import escape_controls, shorten
from detrkit.visualization.html_report.sections import (
    BoxOverlay,
    Cell,
    Chart,
    Charts,
    Curve,
    Gallery,
    Interval,
    Matrix,
    Notes,
    Section,
    Settings,
    Summary,
    Table,
)

if TYPE_CHECKING:
    from detrkit.visualization.html_report.gallery_images import EncodedImage

LONGEST_TEXT = 300
"""Letters of a text in a table; the middle of longer ones is left out."""

LONGEST_LABEL = 40
"""Letters of the label of a box."""

LAYERS = 6
"""Layers of boxes that a gallery can show and hide."""


@dataclass(frozen=True)
class Limits:
    """Most items of each kind on a page."""

    image_bytes: int
    """Bytes of all images of galleries together, with their boxes."""
    images: int = 100
    """Per gallery."""
    boxes: int = 200
    """Per image."""
    rows: int = 1000
    """Per table; also names and values of settings, and sentences."""
    curves: int = 100
    """Per chart."""
    points: int = 400
    """Per curve."""
    labels: int = 40
    """Rows and columns of a matrix."""

    def halved(self) -> Limits:
        """Half of the rows, curves, points and labels."""
        halves = {name: max(1, getattr(self, name) // 2) for name in ("rows", "curves", "points", "labels")}
        return replace(self, **halves)


def clean(text: str) -> str:
    """Make a text that any HTML file can hold: codes in place of control characters and undecodable bytes."""
    return escape_controls(text).encode("utf-8", "backslashreplace").decode("utf-8")


def view_of(section: Section, limits: Limits, encoded: Sequence[EncodedImage]) -> dict[str, Any] | None:
    """Prepare a section for the template; None if it has nothing to show.

    Args:
        section: any section.
        limits: most items of each kind.
        encoded: images of a gallery; empty for other sections.
    """
    match section:
        case Summary():
            figures = [(name, _cell(value, 3)) for name, value in section.values.items()]
            return {"kind": "summary", "title": section.title, "values": figures} if figures else None
        case Table():
            return _table(section, limits) if section.rows else None
        case Charts():
            charts = [_chart(chart, limits) for chart in section.charts if chart.curves]
            view = {"charts": charts, "note": section.note, "small": section.small}
            return {"kind": "charts", "title": section.title, **view} if charts else None
        case Matrix():
            return _matrix(section, limits) if section.labels else None
        case Gallery():
            return _gallery(section, limits, encoded) if section.images else None
        case Settings():
            values = [(name, shorten(_plain(value), LONGEST_TEXT)) for name, value in section.values.items()]
            return {"kind": "settings", "title": section.title, "values": values[: limits.rows]} if values else None
        case Notes():
            sentences = [shorten(sentence, 5 * LONGEST_TEXT) for sentence in section.sentences[: limits.rows]]
            return {"kind": "notes", "title": section.title, "sentences": sentences} if sentences else None


def _plain(value: Any) -> str:
    """A setting as a user types it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(table: Table, limits: Limits) -> dict[str, Any]:
    numeric = [_is_numeric(row[k] for row in table.rows) for k in range(len(table.columns))]
    tops = [_top(row[k] for row in table.rows) if column.bar else 0.0 for k, column in enumerate(table.columns)]
    total = max(table.total, len(table.rows))
    shown = table.rows[: limits.rows]

    def cells(row: Sequence[Cell]) -> list[dict[str, Any]]:
        return [_cell(value, column.digits, top) for value, column, top in zip(row, table.columns, tops, strict=True)]

    return {
        "kind": "table",
        "title": table.title,
        "columns": [
            {"name": c.name, "numeric": n or c.align_right} for c, n in zip(table.columns, numeric, strict=True)
        ],
        "rows": [cells(row) for row in shown],
        "footer": cells(table.footer) if table.footer else [],
        "note": table.note,
        "shown": _how_many(len(shown), total, "rows"),
    }


def _is_numeric(values: Iterable[Cell]) -> bool:
    present = [value for value in values if value is not None]
    return all(isinstance(value, Real | Interval) for value in present)


def _top(values: Iterable[Cell]) -> float:
    """The value that fills the bar of a column."""
    return max((value for value in map(_number, values) if value is not None), default=1.0) or 1.0


def _number(value: Cell) -> float | None:
    """The number to sort a cell by; None for a text or an absent value."""
    number = value.value if isinstance(value, Interval) else value
    if isinstance(number, str) or number is None or not math.isfinite(number):
        return None
    return float(number)


def _cell(value: Cell, digits: int, bar_top: float = 0.0) -> dict[str, Any]:
    number = _number(value)
    if isinstance(value, str):
        return {"text": shorten(value, LONGEST_TEXT), "is_text": True, "sort": None, "bar": None, "interval": ""}
    if number is None:
        return {"text": "–", "is_text": False, "sort": None, "bar": None, "interval": ""}
    interval = f"{value.low:.{digits}f} to {value.high:.{digits}f}" if isinstance(value, Interval) else ""
    text = f"{value:,}" if isinstance(value, Integral) else f"{number:,.{digits}f}"
    top = 1.0 if 0 < bar_top <= 1 else bar_top
    bar = round(100 * max(0.0, min(1.0, number / top)), 1) if top else None
    return {"text": text, "is_text": False, "sort": f"{number:.9g}", "bar": bar, "interval": interval}


def _how_many(shown: int, total: int, noun: str) -> str:
    return f"The first {shown:,} of {total:,} {noun}." if shown < total else ""


def _chart(chart: Chart, limits: Limits) -> dict[str, Any]:
    curves = chart.curves[: limits.curves]
    axes: list[list[float | None]] = []  # curves of one data set share their x, which is stored once
    rows = []
    for curve in curves:
        x, y = _thinned(curve, limits.points)
        if x not in axes:
            axes.append(x)
        style = {"dashed": curve.dashed, "strong": curve.strong, "on": curve.shown}
        rows.append({"name": clean(curve.name), "x": axes.index(x), "y": y, **style})
    data = {
        "title": clean(chart.title),
        "xLabel": clean(chart.x_label),
        "range": chart.y_range,
        "fromZero": chart.from_zero,
        "log": chart.log_y,
        "axes": axes,
        "curves": rows,
    }
    return {"title": chart.title, "data": data, "shown": _how_many(len(curves), len(chart.curves), "curves")}


def _thinned(curve: Curve, most: int) -> tuple[list[float | None], list[float | None]]:
    """At most about `most` points of a curve, evenly spaced, its last point included."""
    step = max(1, math.ceil(len(curve.x) / most))
    kept = sorted({*range(0, len(curve.x), step), *([len(curve.x) - 1] if len(curve.x) else [])})
    return [_rounded(curve.x[k]) for k in kept], [_rounded(curve.y[k]) for k in kept]


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _matrix(matrix: Matrix, limits: Limits) -> dict[str, Any]:
    """Rows and columns of the labels with the most counts off the diagonal, in their given order."""
    size = len(matrix.labels)
    off = [sum(matrix.counts[k]) + sum(row[k] for row in matrix.counts) - 2 * matrix.counts[k][k] for k in range(size)]
    kept = sorted(sorted(range(size), key=lambda k: -off[k])[: limits.labels])
    rows = []
    for r in kept:
        whole = sum(matrix.counts[r])
        cells = [
            {"count": matrix.counts[r][c], "heat": math.ceil(9 * matrix.counts[r][c] / max(whole, 1)), "column": c}
            for c in kept
        ]
        rows.append({"label": matrix.labels[r], "cells": cells, "index": r})
    shown = f"{len(kept)} of {size} rows and columns, those with the most errors." if len(kept) < size else ""
    return {
        "kind": "matrix",
        "title": matrix.title,
        "labels": [matrix.labels[k] for k in kept],
        "rows": rows,
        "row_label": matrix.row_label,
        "column_label": matrix.column_label,
        "note": matrix.note,
        "shown": shown,
    }


def _gallery(gallery: Gallery, limits: Limits, encoded: Sequence[EncodedImage]) -> dict[str, Any]:
    present = dict.fromkeys(box.layer for item in encoded for box in item.source.boxes)
    ordered = dict.fromkeys([*(layer for layer in gallery.layers if layer in present), *present])
    layers = list(ordered)[:LAYERS]
    groups: dict[str, int] = {}
    for item in encoded:
        groups[item.source.group] = groups.get(item.source.group, 0) + 1
    names = list(groups)
    total = max(gallery.total, len(gallery.images))
    return {
        "kind": "gallery",
        "title": gallery.title,
        "note": gallery.note,
        "shown": f"{len(encoded):,} of {total:,} images." if len(encoded) < total else f"{total:,} images.",
        "layers": layers,
        "groups": [(name or "other", count) for name, count in groups.items()] if len(groups) > 1 else [],
        "images": [
            {
                "uri": item.uri,
                "width": item.width,
                "height": item.height,
                "letters": round(max(item.width, item.height * 4 / 3) / 24, 1),
                "caption": shorten(item.source.caption, LONGEST_TEXT),
                "detail": shorten(item.source.detail, LONGEST_TEXT),
                "group": names.index(item.source.group),
                "boxes": [
                    view
                    for box in item.source.boxes
                    if box.layer in layers and (view := _box(box, item, layers.index(box.layer))) is not None
                ][-limits.boxes :],
            }
            for item in encoded
        ],
    }


def _box(box: BoxOverlay, item: EncodedImage, layer: int) -> Mapping[str, Any] | None:
    """A box in pixels of the encoded image, cut at its edges; None if it lies outside or is not finite."""
    if not all(map(math.isfinite, box.xyxy)):
        return None
    x1, y1, x2, y2 = box.xyxy
    x1, x2 = (min(max((x - item.left) * item.scale_x, 0.0), item.width) for x in (x1, x2))
    y1, y2 = (min(max((y - item.top) * item.scale_y, 0.0), item.height) for y in (y1, y2))
    if x2 <= x1 or y2 <= y1:
        return None
    return {
        "x": round(x1, 1),
        "y": round(y1, 1),
        "width": round(x2 - x1, 1),
        "height": round(y2 - y1, 1),
        "label": shorten(box.label, LONGEST_LABEL),
        "layer": layer,
        "color": "#{:02x}{:02x}{:02x}".format(*box.color) if box.color else "",
        "dashed": box.dashed,
    }
