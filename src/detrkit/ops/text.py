"""Text for any output: letters that it cannot show are degraded, and names that users wrote stay what they are.

Whatever detrkit prints goes through this file, or through `console`, which lays out tables and progress bars. An output
may be ASCII, a code page of Windows, or a file; and a class or a folder may be called anything.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import IO

DEGRADE = "detrkit.degrade"
"""Name of the codec error handler that never fails, see `degrade`."""

PLAIN_SIGNS = {
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2018": "'",
    "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00d7": "x", "\u00a0": " ", "\u2022": "*",
    "\u2192": "->", "\u00b1": "+-", "\u00b7": ".", "\u2500": "-", "\u2501": "-", "\u2502": "|", "\u00df": "ss",
}  # fmt: skip
"""What to write for a sign where the output has only plain ones."""

DIRECTION_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Signs that are not seen and turn the order of those around them."""


def degrade(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: an ASCII likeness of the letters that an encoding lacks, else their code (`\\u732b`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_likeness(letter) for letter in error.object[error.start : error.end]), error.end


codecs.register_error(DEGRADE, degrade)


def fit(text: str, encoding: str | None) -> str:
    """The text as an output of that encoding can show it."""
    try:
        return text.encode(encoding or "utf-8", DEGRADE).decode(encoding or "utf-8")
    except LookupError:  # an encoding of which Python does not know
        return text.encode("ascii", DEGRADE).decode("ascii")


def visible(text: str) -> str:
    """The text without control characters but line breaks and tabs: their codes stand for them (`\\x1b`).

    Otherwise a name in a file could recolour a terminal, or turn the order of a line.
    """
    if text.isprintable():
        return text
    return "".join(
        f"\\x{ord(c):02x}"
        if unicodedata.category(c) == "Cc" and c not in "\n\t"
        else f"\\u{ord(c):04x}"
        if c in DIRECTION_MARKS
        else c
        for c in text
    )


def one_line(text: str) -> str:
    """The text on one line: any run of blanks, tabs and line breaks is a blank, and control characters are codes."""
    return visible(" ".join(text.split()))


def shortened(text: str, longest: int) -> str:
    """At most so many letters of the text; the middle gives way, since names differ at their ends as well."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def say(text: str, *, stderr: bool = False) -> None:
    """Print a line, or several, to stdout or stderr as it stands: neither wrapped nor coloured."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None:  # a program without a console has none
        stream.write(fit(visible(text), getattr(stream, "encoding", None)) + "\n")


@contextlib.contextmanager
def degrading_output() -> Iterator[None]:
    """Let stdout and stderr degrade what they cannot show, whoever writes to them: help, warnings, other packages.

    For the command line, whose process is ours; in the process of somebody else, `say` and `console` do without.
    """
    streams = [(s, s.errors) for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    for stream, _ in streams:
        stream.reconfigure(errors=DEGRADE)
    try:
        yield
    finally:
        for stream, errors in streams:
            if not stream.closed:
                with contextlib.suppress(OSError):  # what it still holds cannot be written
                    stream.reconfigure(errors=errors)


def flush_output() -> None:
    """Write what stdout holds back, while there is still somebody to tell that this fails."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_output() -> None:
    """Send to nowhere what stdout holds back, if it cannot be written: it would be tried again at the very end."""
    try:
        flush_output()
    except OSError:
        drop_output(sys.stdout)


def drop_output(stream: IO[str] | None) -> None:
    """Send to nowhere what is still to be written to a stream: its reader has gone, or its disk is full."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stream, or none of the system's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _likeness(letter: str) -> str:
    if letter in PLAIN_SIGNS:
        return PLAIN_SIGNS[letter]
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is no text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter in "\ufe0e\ufe0f\u200d" or unicodedata.combining(letter):
        return ""  # how to show the letter before it
    bare = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if bare and bare.isascii() and bare.isprintable():
        return bare
    return letter.encode("ascii", "backslashreplace").decode("ascii")
