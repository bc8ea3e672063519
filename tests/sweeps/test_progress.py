"""Progress of a sweep: counted in work, and shown or not."""

import time

import pytest
from sweep_cases import run

from fastdln.sweeps.grid import Grid
from fastdln.sweeps.progress import Tally, duration


def test_progress_off_is_silent_and_on_is_plain_lines_without_a_terminal(capfd):
    run()
    assert capfd.readouterr() == ("", "")
    run(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%  12/12 cells" in err
    assert "\x1b" not in err


def test_the_bar_shows_pace_and_what_is_running(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    run(progress=True)
    err = capfd.readouterr().err
    assert "12/12 cells" in err
    assert "100%" in err


def test_the_tally_counts_work_and_not_cells():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0,))
    small, large = grid.cells()
    tally = Tally({small: 1.0, large: 99.0}, steps=10)
    assert tally.remaining() is None
    tally.finish(small, 10)
    assert tally.fraction == pytest.approx(0.01)
    tally.watch({large: 5})
    assert tally.fraction == pytest.approx(0.505)
    assert tally.now() == "training gaussian width 2 depth 1 (50%)"
    assert "1/2 cells" in tally.text()
    assert "left" in tally.text()


def test_the_time_left_is_not_fooled_by_cells_that_stopped_early():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0,))
    first, second = grid.cells()
    early, full = (Tally({first: 1.0, second: 1.0}, steps=10) for _ in range(2))
    time.sleep(0.01)
    early.finish(first, 1)
    full.finish(first, 10)
    assert early.remaining() == pytest.approx(10 * full.remaining(), rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "under 1 s"), (90, "90 s"), (3000, "50 min"), (9000, "2.5 h"), (9e5, "10.4 days")],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words
