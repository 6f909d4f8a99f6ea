"""How far work is and how long it will take, in words."""

import pytest

from exporter.util import progress
from exporter.util.progress import Progress, at_most_once_a_second, duration


@pytest.fixture
def clock(monkeypatch):
    """A list whose only element is the time that `progress` reads."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_time_left_goes_by_the_steps_done_since_the_start(clock):
    work, resumed = Progress(30, begun=clock[0]), Progress(30, before=20, begun=clock[0])
    clock[0] += 4
    assert work.line("packing: layer", 10) == "packing: layer 10 of 30, 8 s left"
    assert resumed.left(22) == "16 s left"
    assert work.line("packing: layer", 30) == "packing: layer 30 of 30, 0 s left"


def test_nothing_done_is_no_error(clock):
    assert Progress(30).left(0) == "0 s left"


def test_lines_within_a_second_are_dropped(clock):
    lines: list[str] = []
    report = at_most_once_a_second(lines.append)
    for text, step in (("a", 0.5), ("b", 0.6), ("c", 0.5), ("d", 0.5)):
        clock[0] += step
        report(text)
    assert lines == ["b", "d"]
