"""How the command line tells that work goes on: bars on a terminal, a few plain lines elsewhere.

Everything goes to stderr; results go to stdout. A task that ends within a second leaves no trace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import Task

    from lastblock.runtime import Progress

_WORTH_TELLING = 1.0  # seconds
# What is left is said after a twentieth, or so many seconds: the first steps prepare the others.
_TELLS_AFTER = 5.0


def make_progress() -> Progress:
    """Bars if stderr is a terminal that can redraw a line, else plain lines."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return BarProgress(console)
    return LineProgress()


class LineProgress:
    """One line when a task turns out to take a while, and one at its end."""

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        start, done, told = time.perf_counter(), 0, False

        def advance(k: int) -> None:
            nonlocal done, told
            done += k
            seconds = time.perf_counter() - start
            left = seconds * (total - done) / done if done else 0.0
            known = done >= total / 20 or seconds >= _TELLS_AFTER
            if not told and known and min(seconds, left) >= _WORTH_TELLING:
                told = True
                self.say(f"{name}: {amount(total, unit)}, about {left:.0f} s to go")

        yield advance
        seconds = time.perf_counter() - start
        if seconds >= _WORTH_TELLING:
            self.say(summary(name, done, unit, seconds))


class BarProgress:
    """A bar with rate and time left while a task runs; one line when it has ended."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        start, done = time.perf_counter(), 0
        with _bars(self.console, unit) as bars:
            bar = bars.add_task(name, total=total or None)

            def advance(k: int) -> None:
                nonlocal done
                done += k
                bars.advance(bar, k)

            yield advance
        seconds = time.perf_counter() - start
        if seconds >= _WORTH_TELLING:
            self.say(summary(name, done, unit, seconds))


class Within:
    """Progress of one part of a longer task: it moves the task's bar, and says a thing once."""

    def __init__(self, progress: Progress, advance: Callable[[int], None]) -> None:
        self._progress, self._advance = progress, advance
        self._said = False

    def say(self, line: str) -> None:
        if not self._said:
            self._progress.say(line)
        self._said = True

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        yield self._advance


def _bars(console: Console, unit: str) -> Bars:
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """Done of total, and how many a second."""

        def render(self, task: Task) -> Text:
            parts = [amount(task.completed, "B" if unit == "B" else "")]
            if task.total:
                parts += ["/", amount(task.total, unit)]
            if task.speed:
                parts.append(f"  {amount(task.speed, 'B' if unit == 'B' else '')}/s")
            return Text("".join(parts))

    columns = (TextColumn("{task.description}"), BarColumn(), Rate(), TimeRemainingColumn())
    return Bars(*columns, console=console, transient=True)


def summary(name: str, done: float, unit: str, seconds: float) -> str:
    """What a task did in how long."""
    return f"{name}: {amount(done, unit)} in {seconds:.1f} s ({amount(done / seconds, unit)}/s)"


def amount(number: float, unit: str) -> str:
    """A number of units as people write it: ``93.1 MB``, ``1,250 tokens``."""
    if unit == "B":
        from rich.filesize import decimal

        return decimal(int(number))
    few = number < 10 and number != round(number)
    return f"{number:{'.2g' if few else ',.0f'}} {unit}".rstrip()
