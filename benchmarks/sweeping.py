"""Time sweeps of small networks, in memory and with a store, and continuing one."""

import shutil
from pathlib import Path

import fastdln
from fastdln.sweeps import store

from . import common

# 2 inits × 2 widths × 2 depths × 4 seeds: 32 cells.
GRID = {"widths": [10, 20], "depths": [2, 8], "seeds": range(4), "steps": 50, "dtype": "float32"}


def sweep(path=None):
    """Run the sweep in memory or into a store."""
    return fastdln.sweep(
        fastdln.paper_regression(), **GRID, store=path, device="cpu", progress=False
    )


class InMemory:
    """Seconds of a sweep of 32 cells without a store."""

    rounds = 1
    repeat = (3, 5, 2.0)

    @common.once
    def setup(self):
        sweep()

    def time_sweep(self):
        sweep()


class Store:
    """Seconds of a sweep of 32 cells with a store: new, half done, done, and reading it."""

    rounds = 1
    repeat = (3, 5, 2.0)
    timeout = 300

    def setup(self):
        """Make the store of a finished sweep, once, and a half done one for the next sample.

        asv gives every benchmark an empty directory to work in, and removes it.
        """
        if not Path("done").exists():
            sweep("done")
        for name in ("new", "half"):
            shutil.rmtree(name, ignore_errors=True)
        shutil.copytree("done", "half")
        # A cell's status is written last: a cell without one was interrupted.
        for init in Path("half/status/c").iterdir():
            shutil.rmtree(next(init.iterdir()))

    def time_new(self):
        sweep("new")

    def time_half_done(self):
        sweep("half")

    def time_done(self):
        sweep("done")

    def time_read(self):
        store.read("done")
