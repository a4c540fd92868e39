"""The plot of a benchmark: images per second of each variant, one panel per piece of work, and the phases of a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.benchmark.rows import Row
from detrkit.benchmark.train_step import PHASES
from detrkit.visualization.figures import as_text, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"plain": "0.6", "fast": "C0", "cached": "#6baed6"}
"""Colors of variants; others are orange. Gray, blue and orange differ for color-blind readers and in print."""
OTHER = "C1"
SHADES = ("#08519c", "#3182bd", "#6baed6", "#bdd7e7")
"""Shades of the phases of a step, from dark to light."""


def plot_bench(path: Path, rows: Sequence[Row], title: str, machine: str) -> None:
    """Draw the rows.

    Args:
        path: PNG to write.
        rows: at least one; those of one piece of work together.
        title: above all.
        machine: below it, smaller.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.part, row.what), []).append(row)
    phased = [row for row in rows if row.shares]
    heights = [len(group) for group in groups.values()] + ([len(phased)] if phased else [])
    height = 0.34 * sum(heights) + 0.62 * len(heights) + 0.65
    with figure_file(path, 9, height, [title, machine]) as figure:
        figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.62 / height))  # room for the two lines above all
        panels = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, group in zip(panels, groups.values(), strict=False):
            _rates(axes, group)
        if phased:
            _phases(panels[-1], phased)
        figure.text(0.01, 1 - 0.12 / height, as_text(title), va="top", fontsize=11, fontweight="bold")
        figure.text(0.01, 1 - 0.4 / height, as_text(machine), va="top", fontsize=8, color="0.35")


def _rates(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw bars of images per second, from 0; the whisker ends at the rate that 95 % of the calls reach."""
    for position, row in enumerate(rows):
        color = COLORS.get(row.variant, OTHER)
        axes.barh(position, row.images_per_second, height=0.7, color=color)
        slow = row.images * 1000 / row.p95_ms
        axes.plot([slow, row.images_per_second], [position, position], color="black", linewidth=1)
        text = f" {_short(row.images_per_second)}/s"
        if row.ratio is not None and row.variant != "plain":
            text += f"   {row.ratio:.2f} x plain"
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # a dashed line may be behind it
        axes.text(row.images_per_second, position, text, va="center", fontsize=8, bbox=ground)
    most = max(row.images_per_second for row in rows)
    title = f"{rows[0].part}, {rows[0].what}: images per second"
    limits = {row.precision: row.images * 1000 / row.arithmetic_ms for row in rows if row.arithmetic_ms}
    if limits:
        peaks = ", ".join(f"{_short(limit)}/s in {precision}" for precision, limit in limits.items())
        title += f"; dashed: the machine's peak, {peaks}"
    for limit in limits.values():
        axes.axvline(limit, color="0.35", linestyle="--", linewidth=1)
    axes.set_xlim(0, max(1.35 * most, *(1.03 * limit for limit in limits.values()), 0))
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8)
    _finish(axes, title)


def _phases(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the stacked shares of a training step, named in the bar where there is room."""
    for position, row in enumerate(rows):
        left = 0.0
        for name, shade in zip(PHASES, SHADES, strict=True):
            share = 100 * (row.shares or {}).get(name, 0.0)
            axes.barh(position, share, left=left, height=0.7, color=shade, label=name if position == 0 else None)
            if share >= 4:
                light = shade in SHADES[:2]
                axes.text(
                    left + share / 2, position, f"{share:.0f} %", va="center", ha="center", fontsize=7.5,
                    color="white" if light else "black",
                )  # fmt: skip
            left += share
    axes.set_xlim(0, 135)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8)
    axes.legend(fontsize=7.5, loc="center right", frameon=False, handlelength=1)
    _finish(axes, "training, step: share of the time in per cent")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Row) -> str:
    """The name of the variant, with its precision where that is not float32."""
    return row.variant if row.precision == "fp32" else f"{row.variant}, {row.precision}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
