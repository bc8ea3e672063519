"""A sweep that is killed or stopped continues, with the results of an uninterrupted one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run, same

from fastdln.sweeps import store

SCRIPT = Path(sweep_cases.__file__).with_name("sweep_script.py")
# Long enough for a cell to be interrupted in the middle: about 0.1 s to 0.5 s each.
LONG = 120_000


def start(path, steps=LONG):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), str(steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def done(path):
    """How many cells are done, from the files alone."""
    return len([f for f in (path / "status" / "c").rglob("*") if f.is_file()])


def wait_for_cells(process, path, count):
    deadline = time.monotonic() + 60
    while done(path) < count:
        assert process.poll() is None, "the sweep ended too early to be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_in_the_middle_and_continued_it_equals_the_uninterrupted_sweep(tmp_path):
    path = tmp_path / "killed.zarr"
    for cells in (1, 3):  # killed twice
        process = start(path)
        wait_for_cells(process, path, cells)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    partial = store.read(path)
    finished = partial.status.values != "pending"
    assert 3 <= finished.sum() < finished.size
    assert np.isnan(partial.initial_loss.values[~finished]).sum() >= (~finished).sum() - 2
    continued = run(store=path, steps=LONG)
    assert same(continued, run(steps=LONG))
    assert same(continued, store.read(path))
    # Cells that were done are not done again.
    np.testing.assert_array_equal(
        continued.seconds.values[finished], partial.seconds.values[finished]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_stops_within_about_a_second_and_says_how_to_continue(tmp_path):
    path = tmp_path / "stopped.zarr"
    process = start(path, steps=100 * LONG)  # hours
    wait_for_cells(process, path, 0)
    while not (path / "zarr.json").exists():
        time.sleep(0.01)
    time.sleep(1.0)  # into the training
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert time.monotonic() - begin < 3
    assert process.returncode == 130
    assert "run the same sweep again to continue from" in said
    assert "of 12 networks done" in said
    assert not store.read(path).status.isin(["completed"]).all()
