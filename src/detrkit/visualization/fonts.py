"""Text on images and plots: any name is drawn, on one line, in a font that has its letters.

DejaVu Sans comes with matplotlib, so most letters look the same everywhere. It has no Chinese, Japanese or Korean,
among others; the fonts of the machine are searched for these, once, when they occur.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

from detrkit.ops.text import one_line, shorten
from detrkit.visualization.matplotlib_backend import import_matplotlib

Color = tuple[int, int, int]

NO_LETTER = "?"
"""Drawn in place of a letter that no font has."""

LONGEST_NAME = 40
"""Letters of a name that are drawn; of a longer one, its ends."""

UNNAMED = "(no name)"

IDEOGRAPHIC = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO")
"""How Unicode's names of letters begin that a font for Chinese, Japanese and Korean has."""


def name_of(text: str) -> str:
    """Shorten a name for drawing: one line, at most 40 letters, never empty."""
    return shorten(one_line(text), LONGEST_NAME) or UNNAMED


def text_width(text: str, size: int) -> float:
    """Width in pixels of a text in letters of a size in pixels."""
    return sum(font(path, size).getlength(part) for part, path in runs(text))


def write(
    pen: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    color: Color,
    *,
    above: bool = False,
    stroke: Color | None = None,
) -> None:
    """Write a text on an image.

    Args:
        pen: drawing context of the image.
        xy: x of the left end and y of the middle in pixels.
        text: text to write; letters that no font has become ?.
        size: height of the letters in pixels.
        color: RGB of the letters.
        above: y is that of its lower edge instead.
        stroke: RGB of a line around the letters; None: there is none.
    """
    ascent, descent = font(builtin_font(), size).getmetrics()
    x, baseline = xy[0], xy[1] + (-descent if above else (ascent - descent) / 2)
    width = 0 if stroke is None else max(1, size // 8)
    for part, path in runs(text):
        letters = font(path, size)
        pen.text((x, baseline), part, color, letters, anchor="ls", stroke_width=width, stroke_fill=stroke)
        x += letters.getlength(part)


def cut_to(text: str, size: int, width: float) -> str:
    """Cut a text to a width in pixels, keeping its end, the most specific part of a path."""
    text = drawable(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width("…" + text, size) > width:
        text = text[1:]
    return "…" + text


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """Put a text on one line, with ? for letters that no font of the machine has, and one warning."""
    text = "".join(c for c in unicodedata.normalize("NFC", one_line(text)) if not _unseen(c))
    _fonts().look_for(c for c in text if not c.isspace())
    return "".join(c if c.isspace() or _fonts().path_of[c] else NO_LETTER for c in text)


@lru_cache(maxsize=4096)
def runs(text: str) -> tuple[tuple[str, str], ...]:
    """Split a text into parts drawn in one font each: (part, file of the font)."""
    text = drawable(text)
    letters = {c for c in text if not c.isspace()}
    for path, known in _fonts().chosen.items():
        if {ord(c) for c in letters} <= known:
            return ((text, path),) if text else ()
    parts: list[tuple[str, str]] = []
    for c in text:
        path = parts[-1][1] if parts and (c.isspace() or unicodedata.combining(c)) else _fonts().path_of.get(c, "")
        path = path or builtin_font()
        if parts and parts[-1][1] == path:
            parts[-1] = (parts[-1][0] + c, path)
        else:
            parts.append((c, path))
    return tuple(parts)


def families(texts: Iterable[str]) -> list[str]:
    """Names of the fonts, for matplotlib, that have the letters of these texts; the usual font comes first."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    paths = dict.fromkeys([builtin_font(), *(path for text in texts for _, path in runs(text))])
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in paths:
        if path not in known:
            font_manager.fontManager.addfont(path)
    return [FT2Font(path).family_name for path in paths]


@lru_cache(maxsize=64)
def font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of a size in pixels."""
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=1)
def builtin_font() -> str:
    """The file of DejaVu Sans."""
    import_matplotlib()
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def letters_of(path: str) -> npt.NDArray[np.int32]:
    """[n]: codes of the letters that a font has; none of a file that cannot be drawn with."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        ImageFont.truetype(path, 12)
    except (OSError, RuntimeError, ValueError):
        return np.zeros(0, dtype=np.int32)
    return np.array(list(font.get_charmap()) if font.scalable else [], dtype=np.int32)


@lru_cache(maxsize=1)
def system_fonts() -> tuple[str, ...]:
    """Files of the fonts of this machine, plain ones first."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name.casefold()
        fancy = any(word in name for word in ("bold", "italic", "oblique", "black", "thin", "light", "mono", "serif"))
        return fancy, "sans" not in name, name

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


@dataclass
class _Fonts:
    """Which font has which letter."""

    chosen: dict[str, frozenset[int]] = field(default_factory=dict)
    """Files of the fonts in use, and the letters of each."""
    path_of: dict[str, str] = field(default_factory=dict)
    """The font of each letter that occurred; empty: none has it."""
    warned: bool = False

    def look_for(self, letters: Iterable[str]) -> None:
        """Find fonts for letters: those in use first, then whichever font of the machine has most of the rest."""
        missing = {c for c in letters if c not in self.path_of}
        missing = self._take(missing, self.chosen)
        while missing:
            codes = [ord(c) for c in missing]
            counts = {path: int(np.isin(codes, letters_of(path)).sum()) for path in system_fonts()}
            best = max(counts, key=lambda path: counts[path], default="")
            if not counts.get(best):
                break
            self.chosen[best] = frozenset(letters_of(best).tolist())
            missing = self._take(missing, {best: self.chosen[best]})
        self.path_of |= dict.fromkeys(missing, "")
        if missing and not self.warned:
            self.warned = True  # first, since a warning may be an error
            warnings.warn(_advice(missing), stacklevel=3)

    def _take(self, letters: set[str], fonts: dict[str, frozenset[int]]) -> set[str]:
        """Note the font of each letter that one of some fonts has; the others."""
        for path, known in fonts.items():
            here = {c for c in letters if ord(c) in known}
            self.path_of |= dict.fromkeys(here, path)
            letters = letters - here
        return letters


@lru_cache(maxsize=1)
def _fonts() -> _Fonts:
    return _Fonts({builtin_font(): frozenset(letters_of(builtin_font()).tolist())})


def _unseen(letter: str) -> bool:
    """Whether a character is invisible by itself, such as a joiner or a variation selector."""
    return unicodedata.category(letter) == "Cf" or letter in "\ufe0e\ufe0f"


def _advice(missing: set[str]) -> str:
    letters = sorted(missing)
    some = "".join(letters[:10]) + (" ..." if len(letters) > 10 else "")
    if any(unicodedata.name(c, "").startswith(IDEOGRAPHIC) for c in letters):
        package = "fonts-noto-cjk"
    else:
        package = "fonts-symbola" if all(unicodedata.category(c) == "So" for c in letters) else "fonts-noto-core"
    return (
        f"no font on this machine has the letters {some} of names that are drawn, so {NO_LETTER} stands for them; "
        f"install one (on Debian and Ubuntu: apt-get install {package}), or put a .ttf or .otf file that has them into "
        "~/.local/share/fonts"
    )
