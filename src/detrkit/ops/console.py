"""The console of all commands: tables, coloured words and progress bars on any terminal, file or pipe.

What is printed is text and never markup, emoji codes or anything to be highlighted, for it holds names that users
wrote. Nothing is cut off: a line that is too long is left to the terminal, and a table takes the width that it needs.
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

from detrkit.ops.text import fit, visible

T = TypeVar("T")

UNBOUNDED = 10_000
"""Columns of a terminal on which everything fits."""

FOLDED = 12
"""Columns of names of users in a table at the least."""


def make_console(*, stderr: bool = False, quiet: bool = False) -> TextConsole:
    """A console on stdout or stderr, whatever these are when something is printed; a quiet one prints nothing."""
    return TextConsole(stderr=stderr, quiet=quiet)


class TextConsole(Console):
    """rich's console, to which a str is text."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        stream = cast(IO[str], _Stream(stderr))
        super().__init__(file=stream, stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def row(self, head: str, text: str) -> None:
        """Print a line that begins with a word in bold."""
        self.print(Text.assemble((f"{head:<9}", "bold"), " ", text))

    def print(self, *objects: Any, **how: Any) -> None:
        """Print text as it stands, or tables as wide as they need to be."""
        laid_out = [each for each in objects if not isinstance(each, str | Text)]
        if laid_out:
            how = {"soft_wrap": False, "crop": False} | how
        given = self._width
        self._width = max([self.width, *(self._least_width(each) for each in laid_out)])
        try:
            super().print(*objects, **how)
        finally:
            self._width = given

    def _least_width(self, renderable: Any) -> int:
        """Width of a table in which no cell is cut off or wrapped, but for columns that fold, which may be narrow."""
        if isinstance(renderable, Group):
            return max((self._least_width(each) for each in renderable.renderables), default=0)
        if not isinstance(renderable, Table):
            return 0
        folding = [column for column in renderable.columns if column.overflow == "fold"]
        for column in renderable.columns:
            column.no_wrap = column not in folding  # so that these give way first
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
        """Text of a str: never markup, and as the output can show it, so that columns of a table stay straight."""
        return Text(fit(visible(text), self.encoding), style=style, justify=justify, overflow=overflow)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of anything, text as the output can show it."""
        if isinstance(renderable, Text):
            renderable = self._shown(renderable)
        return super().render(renderable, options)

    def status(self, status: RenderableType, *, spinner: str = "line", **how: Any) -> Status:
        """A line that says what goes on, with a spinner of ASCII."""
        return super().status(status, spinner=spinner, **how)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line that the reader of the output has gone."""
        raise BrokenPipeError

    def _shown(self, text: Text) -> Text:
        plain = fit(visible(text.plain), self.encoding)
        if plain == text.plain:
            return text
        shown = text.blank_copy()
        for part in text.divide(sorted({place for span in text.spans for place in (span.start, span.end)})):
            style = part.spans[0].style if part.spans else None
            shown.append(fit(visible(part.plain), self.encoding), style)
        return shown


class _Stream:
    """stdout or stderr as they are now, degrading what they cannot show."""

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr

    @property
    def encoding(self) -> str:
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        stream = self._stream()
        return 0 if stream is None else stream.write(fit(text, self.encoding))

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
        proxied: IO[str] | None = getattr(stream, "rich_proxied_file", stream)  # while a progress bar is shown
        return proxied


def make_progress(console: Console, *columns: ProgressColumn, transient: bool = True) -> Progress:
    """A progress bar: the task's description, a bar, then the given columns; of none, count and time left.

    Where the output is no terminal, nothing is shown.
    """
    rest = columns or (MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal or console.is_jupyter
    columns = (TaskText(), BarColumn(), *rest)
    return Progress(*columns, console=console, transient=transient, disable=not shown)


class TaskText(ProgressColumn):
    """A column of a progress bar: a field of the task as text."""

    def __init__(self, field: str = "") -> None:
        """Prepare.

        Args:
            field: `note` of what was given as `add_task(note=...)`; empty: the description.
        """
        self.field = field
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> str:
        """The text, as it stands now."""
        return str(task.fields[self.field] if self.field else task.description)


def track(items: Iterable[T], description: str, *, quiet: bool = False) -> Iterator[T]:
    """The items, with a bar that shows how many have come."""
    with make_progress(make_console(quiet=quiet)) as progress:
        yield from progress.track(items, description=description)
