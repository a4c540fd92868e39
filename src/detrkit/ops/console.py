"""Console of all commands: tables, bold text and progress bars on any terminal, file or pipe.

Printed text is never parsed for markup, emoji codes or highlighting, since it contains names that users wrote. Nothing
is cut off: long lines are wrapped by the terminal, and a table takes the width that it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypeVar, cast

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, OverflowMethod, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from detrkit.ops.text import escape_controls, to_encoding

T = TypeVar("T")

UNBOUNDED = 10_000
"""Terminal columns for measuring tables: wider than any table."""

FOLDED = 12
"""Smallest width of table columns that wrap, which hold names that users wrote."""


def make_console(*, stderr: bool = False, quiet: bool = False) -> TextConsole:
    """Make a console on stdout or stderr, as they are at the time of printing; a quiet one prints nothing."""
    return TextConsole(stderr=stderr, quiet=quiet)


class TextConsole(Console):
    """A rich console that prints strings as plain text."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        stream = cast(IO[str], _Stream(stderr))
        super().__init__(file=stream, stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def row(self, head: str, text: str) -> None:
        """Print a line that starts with a bold word."""
        self.print(Text.assemble((f"{head:<9}", "bold"), " ", text))

    def print(self, *objects: Any, **options: Any) -> None:
        """Print text unchanged, and tables as wide as they need to be."""
        tables = [each for each in objects if not isinstance(each, str | Text)]
        if tables:
            options = {"soft_wrap": False, "crop": False} | options
        previous = self._width
        self._width = max([self.width, *(self._least_width(each) for each in tables)])
        try:
            super().print(*objects, **options)
        finally:
            self._width = previous

    def _least_width(self, renderable: Any) -> int:
        """Width of a table without cut or wrapped cells, except for columns that fold, which may be narrow."""
        if isinstance(renderable, Group):
            return max((self._least_width(each) for each in renderable.renderables), default=0)
        if not isinstance(renderable, Table):
            return 0
        folding = [column for column in renderable.columns if column.overflow == "fold"]
        for column in renderable.columns:
            column.no_wrap = column not in folding  # so that folding columns give way first
        for column in folding:
            column.max_width = column.min_width or FOLDED
        try:
            return Measurement.get(self, self.options.update(width=UNBOUNDED), renderable).maximum
        finally:
            for column in folding:
                column.max_width = None

    def render_str(
        self,
        text: str,
        *,
        style: Any = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: Any = None,
    ) -> Text:
        """Convert a string to text without markup, in letters that the output can show, so that table columns align."""
        return Text(to_encoding(escape_controls(text), self.encoding), style=style, justify=justify, overflow=overflow)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything, with text in letters that the output can show."""
        if isinstance(renderable, Text):
            renderable = self._encodable(renderable)
        return super().render(renderable, options)

    def status(self, status: RenderableType, *, spinner: str = "line", **options: Any) -> Status:
        """Show a status line with an ASCII spinner."""
        return super().status(status, spinner=spinner, **options)

    def on_broken_pipe(self) -> None:
        """Let the command line handle a closed output pipe."""
        raise BrokenPipeError

    def _encodable(self, text: Text) -> Text:
        plain = to_encoding(escape_controls(text.plain), self.encoding)
        if plain == text.plain:
            return text
        shown = text.blank_copy()
        for part in text.divide(sorted({place for span in text.spans for place in (span.start, span.end)})):
            style = part.spans[0].style if part.spans else None
            shown.append(to_encoding(escape_controls(part.plain), self.encoding), style)
        return shown


class _Stream:
    """Writes to the current stdout or stderr, with substitutes for letters that they cannot show."""

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr

    @property
    def encoding(self) -> str:
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        stream = self._stream()
        return 0 if stream is None else stream.write(to_encoding(text, self.encoding))

    def flush(self) -> None:
        stream = self._stream()
        if stream is not None:
            stream.flush()

    def isatty(self) -> bool:
        stream = self._stream()
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        stream = self._stream()
        if stream is None:
            raise OSError("there is no output")
        return stream.fileno()

    def _stream(self) -> IO[str] | None:
        stream = sys.stderr if self._stderr else sys.stdout
        return getattr(stream, "rich_proxied_file", stream)  # set by rich while a progress bar is shown


def make_progress(console: Console, *columns: ProgressColumn, transient: bool = True) -> Progress:
    """Make a progress bar: description, bar, and the given columns (default: count and remaining time).

    Nothing is shown if the output is no terminal.
    """
    rest = columns or (MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal or console.is_jupyter
    columns = (TaskText(), BarColumn(), *rest)
    return Progress(*columns, console=console, transient=transient, disable=not shown)


class TaskText(ProgressColumn):
    """Column of a progress bar that shows a field of the task as plain text.

    Args:
        field: name of a keyword of `add_task`, such as `note`; empty: the description.
    """

    def __init__(self, field: str = "") -> None:
        self.field = field
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> str:
        """The current text of the field."""
        return str(task.fields[self.field] if self.field else task.description)


def track(items: Iterable[T], description: str, *, quiet: bool = False) -> Iterator[T]:
    """Iterate over the items with a progress bar."""
    with make_progress(make_console(quiet=quiet)) as progress:
        yield from progress.track(items, description=description)
