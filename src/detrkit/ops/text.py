"""Print text to any output: letters that the output cannot show are replaced, control characters are escaped.

Everything that detrkit prints goes through this file, or through `console`, which makes tables and progress bars. An
output may be ASCII, a Windows code page or a file, and users may give classes and folders any name.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

DEGRADE = "detrkit.degrade"
"""Name under which the codec error handler `degrade` is registered."""

PLAIN_SIGNS = {
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2018": "'",
    "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00d7": "x", "\u00a0": " ", "\u2022": "*",
    "\u2192": "->", "\u00b1": "+-", "\u00b7": ".", "\u2500": "-", "\u2501": "-", "\u2502": "|", "\u00df": "ss",
}  # fmt: skip
"""ASCII substitutes of common signs."""

DIRECTION_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Invisible characters that change the direction of the text around them."""


def degrade(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: replace letters that an encoding lacks by similar ASCII, else by their code (`\\u732b`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ascii_likeness(letter) for letter in error.object[error.start : error.end]), error.end


codecs.register_error(DEGRADE, degrade)


def to_encoding(text: str, encoding: str | None) -> str:
    """Replace the letters that an encoding lacks, see `degrade`."""
    try:
        return text.encode(encoding or "utf-8", DEGRADE).decode(encoding or "utf-8")
    except LookupError:  # an encoding that Python does not know
        return text.encode("ascii", DEGRADE).decode("ascii")


def escape_controls(text: str) -> str:
    """Replace control characters other than line breaks and tabs by their codes (`\\x1b`).

    Otherwise a name in a file could change the colors of a terminal, or reverse the order of a line.
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
    """Put a text on one line, with single blanks for white space and codes for control characters."""
    return escape_controls(" ".join(text.split()))


def shorten(text: str, longest: int) -> str:
    """Shorten a text to at most `longest` letters by cutting out its middle, since names often differ at the ends."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def first_names(names: Iterable[object], limit: int = 5) -> str:
    """List the first names and count the others: "cat, dog and 3 more"."""
    listed = [str(name) for name in names]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")


def command_line() -> str:
    """The command of this process as a user types it, such as `detrkit eval --data DATA`; for reports."""
    program, *words = sys.argv or [""]
    name = Path(program).name
    start = ["python", "-m", "detrkit"] if name == "__main__.py" else [name]
    return shlex.join([*start, *words])


def print_text(text: str, *, stderr: bool = False) -> None:
    """Print lines to stdout or stderr, neither wrapped nor colored."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None:  # a program without a console has none
        stream.write(to_encoding(escape_controls(text), getattr(stream, "encoding", None)) + "\n")


@contextlib.contextmanager
def degrading_output() -> Iterator[None]:
    """Let stdout and stderr replace letters that they cannot show, also in text of argparse and of other packages.

    For the command line, which owns its process; in other processes `print_text` and `console` replace the letters.
    """
    streams = [(s, s.errors) for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    for stream, _ in streams:
        stream.reconfigure(errors=DEGRADE)
    try:
        yield
    finally:
        for stream, errors in streams:
            if not stream.closed:
                with contextlib.suppress(OSError):  # buffered output cannot be written
                    stream.reconfigure(errors=errors)


def flush_output() -> None:
    """Flush stdout, while an error can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_unwritable_output() -> None:
    """Discard buffered output of stdout if it cannot be written, since Python would try again at exit."""
    try:
        flush_output()
    except OSError:
        discard_output(sys.stdout)


def discard_output(stream: IO[str] | None) -> None:
    """Discard all further output of a stream, whose reader is gone or whose disk is full."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stream, or no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _ascii_likeness(letter: str) -> str:
    if letter in PLAIN_SIGNS:
        return PLAIN_SIGNS[letter]
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not valid text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter in "\ufe0e\ufe0f\u200d" or unicodedata.combining(letter):
        return ""  # modifies the letter before it
    bare = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if bare and bare.isascii() and bare.isprintable():
        return bare
    return letter.encode("ascii", "backslashreplace").decode("ascii")
