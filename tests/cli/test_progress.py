"""Progress: silent when quick, few lines off a terminal, a bar on one."""

import io
from typing import Any

import pytest
from rich.console import Console

from lastblock.cli.progress import BarProgress, LineProgress, amount, make_progress


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lastblock.cli.progress.time.perf_counter", clock)
    return clock


def work(progress: Any, clock: Clock, total: int, seconds: float, unit: str = "texts") -> None:
    with progress.task("frozen pass", total, unit) as advance:
        for _ in range(10):
            clock.now += seconds / 10
            advance(total // 10)


def test_off_a_terminal_a_long_task_is_two_lines(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(LineProgress(), clock, total=1000, seconds=20)
    assert capsys.readouterr().err.splitlines() == [
        "frozen pass: 1,000 texts, about 18 s to go",
        "frozen pass: 1,000 texts in 20.0 s (50 texts/s)",
    ]


def test_a_quick_task_leaves_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(LineProgress(), clock, total=1000, seconds=0.5)
    assert capsys.readouterr().err == ""


def test_an_unknown_total_is_no_error(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress().task("downloading", 0, "B") as advance:
        clock.now += 3
        advance(9_000_000)
    assert capsys.readouterr().err == "downloading: 9.0 MB in 3.0 s (3.0 MB/s)\n"


@pytest.mark.parametrize(("total", "unit"), [(1000, "texts"), (93_000_000, "B"), (0, "B")])
def test_on_a_terminal_there_is_a_bar_and_one_line_stays(
    clock: Clock, total: int, unit: str
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    progress = BarProgress(console)
    progress.say("5,574 rows [not markup]")
    work(progress, clock, total, seconds=20, unit=unit)
    shown = stream.getvalue()
    assert "5,574 rows [not markup]" in shown
    assert "━" in shown
    assert f"frozen pass: {amount(total, unit)} in 20.0 s" in shown.splitlines()[-1]


def test_no_bars_into_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(make_progress(), LineProgress)


def test_an_error_within_a_task_is_not_hidden(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    for progress in (LineProgress(), BarProgress(console)):
        with pytest.raises(ValueError, match="inside"), progress.task("x", 3):
            raise ValueError("inside")
