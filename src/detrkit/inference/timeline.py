"""The times at which the frames of a video are shown, from the time stamps and header of its file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

USUAL_FPS = 25.0
"""Frame rate of a file that states none."""

ROUNDING = 0.002
"""Seconds by which a time stamp may be rounded; some containers store milliseconds."""

TOLERANCE = 0.5
"""Seconds by which a header may exceed the last frame without a warning: it often gives the length of the sound."""

COPY_FPS = (1.0, 120.0)
"""Lowest and highest rate of the copy of a video whose frames come at irregular times."""


@dataclass(frozen=True)
class Timeline:
    """The times at which the frames of a video are shown, including frames that cannot be decoded."""

    times: Sequence[float]
    """Seconds from the first frame, in rising order, indexed by frame number."""
    fps: float
    """Frames per second of a copy that plays as long: the rate of the file, or one that has a place for nearly every
    frame where they come at irregular times."""
    missing: int = 0
    """Frames that the header counts beyond these; their times are unknown."""
    start: float | None = 0.0
    """The time stamp of the first frame in seconds; None: the file has no time stamps."""
    numbers: Sequence[int] | None = None
    """Numbers of the frames that are left, where time stamps only count these; None: time stamps are those of
    frames."""

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.times[-1] + 1 / self.fps if self.times else 0.0

    def number_of(self, stamp: float, lowest: int) -> int:
        """The number of the frame with a time stamp, in seconds, which is at least `lowest`."""
        if self.start is None or lowest >= len(self.times):
            return lowest
        time = stamp - self.start
        if self.numbers is not None:
            return max(lowest, self.numbers[min(max(0, round(time * self.fps)), len(self.numbers) - 1)])
        number = min(bisect_left(self.times, time, lo=lowest), len(self.times) - 1)
        if number > lowest and time - self.times[number - 1] < self.times[number] - time:
            number -= 1
        return number

    def with_intact(self, intact: Sequence[bool]) -> Timeline:
        """The timeline of a file whose frames are counted and have no times of their own, as in AVI.

        Args:
            intact: whether each frame that the file once had is still there. Ignored if it does not match the number
                of frames that are left.
        """
        numbers = [number for number, is_intact in enumerate(intact) if is_intact]
        if len(numbers) != len(self.times) or self.start is None or all(intact):
            return self
        return Timeline([k / self.fps for k in range(len(intact))], self.fps, 0, self.start, numbers)

    @classmethod
    def of(cls, stamps: Iterable[float], fps: float, claimed: int, *, counted: bool = False) -> Timeline:
        """Make the timeline of a file.

        Where the file lists fewer frames than its header claims and its frames come at equal distances, a longer
        distance is a hole: frames that a damaged file has lost, which keep their numbers.

        Args:
            stamps: time stamps of all frames that the file lists, in seconds, in any order. Frames before 0 are never
                shown (a cut that an editor has made without encoding anew).
            fps: frame rate of the header; 0: none.
            claimed: number of frames by the header, which often is an estimate from its duration; 0: unknown.
            counted: whether `claimed` is a count, as in AVI files.
        """
        fps = fps if fps > 0 else USUAL_FPS
        given = list(stamps)
        shown = sorted(stamp for stamp in given if stamp >= -ROUNDING)
        claimed = max(0, claimed - (len(given) - len(shown)))
        if len(set(shown)) <= len(shown) // 2 or len(shown) < 2:  # no time stamps
            count = len(shown) or claimed
            return cls([k / fps for k in range(count)], fps, max(0, claimed - count), None)
        times = [stamp - shown[0] for stamp in shown]
        step = _regular_step(times, fps)
        if step is None:
            steps = sorted(later - sooner for sooner, later in pairwise(times) if later > sooner)
            low, high = COPY_FPS
            copy_fps = min(max(1 / steps[len(steps) // 20], low), high)
        else:
            copy_fps = 1 / step
            if claimed != len(times):
                times = _with_holes(times, step)
        step = 1 / copy_fps
        if counted:
            missing = claimed - len(times)
        else:
            lost = claimed / fps - (times[-1] + step)
            missing = round(lost / step) if lost > TOLERANCE else 0
        return cls(times, copy_fps, max(0, missing), shown[0])


def _regular_step(times: Sequence[float], fps: float) -> float | None:
    """Seconds between frames that come at equal distances, with holes here and there; None: they do not."""
    steps = [later - sooner for sooner, later in pairwise(times)]
    usual = median(steps)
    if usual <= 0:
        return None
    close = [step for step in steps if abs(step - usual) <= max(ROUNDING, usual / 10)]
    if len(close) < 0.9 * len(steps):
        return None
    exact = fmean(close)
    if abs(fps * exact - 1) < 0.02:  # the header is more exact than rounded stamps
        exact = 1 / fps
    odd = any(abs(step - exact * max(1, round(step / exact))) > max(ROUNDING, exact / 4) for step in steps)
    return None if odd else exact


def _with_holes(times: Sequence[float], step: float) -> list[float]:
    """Times at equal distances, with missing ones filled in."""
    filled: list[float] = []
    for time in times:
        first = len(filled)
        number = max(first, round(time / step))
        filled.extend(k * step for k in range(first, number))
        filled.append(time)
    return filled
