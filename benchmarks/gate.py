"""The benchmarks that guard a change, steady enough for ``asv continuous --factor``.

Each states its noise: how much larger the largest of ten values was than the least, on a shared
virtual machine of two processors while other programs ran. Values do not depend on a machine's
state, because they are of one of two kinds: counts, and times over that of a fixed piece of work
in NumPy, both on one thread, in turns, the least of many (`common.minima`). `benchmarks.memory` is
as steady.
``python -m benchmarks.noise`` measures the noise.
"""

import sys
import tempfile
import threading
from itertools import count

import numpy as np

import fastdln

from . import common

# Seconds of turns for one value.
SECONDS = 1.0
FIXED = {"tolerance": 0.0, "learning_rate": 1e-9, "init": "gaussian", "dtype": "float32"}
# Runs of some milliseconds in the second-level cache, by what they exercise.
RUNS = {
    "two-pass": {"width": 64, "depth": 10, "steps": 100, "kernel": "two-pass"},
    "two-pass, float64": {"width": 40, "depth": 10, "steps": 100, "dtype": "float64"},
    "zigzag": {"width": 64, "depth": 10, "steps": 100, "kernel": "zigzag"},
    "momentum": {"width": 64, "depth": 10, "steps": 100, "momentum": 0.9},
    "adam": {"width": 64, "depth": 10, "steps": 50, "optimizer": "adam"},
    "reduced": {"width": 200, "depth": 20, "steps": 1000, "init": "orthogonal"},
}


def over_fixed_work(function):
    """Return the least time of a function over that of fixed work in NumPy."""
    a = np.full((48, 48), 1 / 48, np.float32)

    def fixed_work():
        b = a
        for _ in range(100):
            b = a @ b

    with common.one_thread():
        function()
        least = common.minima({"fastdln": function, "fixed": fixed_work}, SECONDS)
    return least["fastdln"] / least["fixed"]


class Train:
    """Time of a call of `train` over fixed work."""

    params = [list(RUNS)]
    param_names = ["run"]
    unit = "ratio"
    noise = 0.1

    def track_train(self, name):
        problem = fastdln.paper_regression()
        return over_fixed_work(lambda: fastdln.train(problem, **FIXED | RUNS[name]))


class TrainMany:
    """Time of training 32 networks in a batch over fixed work."""

    unit = "ratio"
    noise = 0.1

    def track_train_many(self):
        problem = fastdln.paper_regression()
        options = {"init": "gaussian", "dtype": "float32", "tolerance": 0.0}
        return over_fixed_work(
            lambda: fastdln.train_many(
                problem,
                seeds=range(32),
                learning_rates=1e-9,
                width=16,
                depth=4,
                steps=100,
                **options,
            )
        )


class Haar:
    """Time to sample Haar-distributed matrices over fixed work."""

    params = [[(8, 200), (64, 20)]]
    param_names = ["(n, matrices)"]
    unit = "ratio"
    noise = 0.1

    def track_haar(self, size):
        n, count = size
        sample = lambda: fastdln.haar_orthogonal(n, size=count, seed=1, dtype="float32")
        return over_fixed_work(sample)


class Calls:
    """Number of calls of functions in one call of `train` or `sweep`, from its second on.

    It stands for the time that Python takes, which is too noisy to guard a change.
    """

    params = [["train", "sweep", "sweep with a store"]]
    param_names = ["function"]
    unit = "calls"
    noise = 0.02

    def track_calls(self, function):
        problem = fastdln.paper_regression()
        if function == "train":
            return calls_of(lambda: fastdln.train(problem, width=4, depth=2, steps=1))
        grid = {"widths": [8, 16], "depths": [2, 4], "steps": 20}
        with common.one_thread(), tempfile.TemporaryDirectory() as directory:
            stores = (None if function == "sweep" else f"{directory}/{n}" for n in count())
            return calls_of(
                lambda: fastdln.sweep(
                    problem, **grid, store=next(stores), device="cpu", progress=False
                )
            )


def calls_of(function):
    """Return how many functions a call calls, the functions of threads that it starts included."""
    calls = 0

    def note(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    # Threads that a first call starts and leaves, such as Zarr's, are counted, too.
    threading.setprofile(note)
    try:
        for _ in range(2):
            function()
        calls = 0
        sys.setprofile(note)
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


class Start:
    """Number of modules that the start of a program loads."""

    params = ["import fastdln", "import fastdln.cli", "fastdln.train", "fastdln.sweep"]
    param_names = ["program"]
    unit = "modules"
    noise = 0.0

    def track_modules(self, program):
        text = program if program.startswith("import") else f"import fastdln; {program}"
        counted = f"{text}; import sys; print(len(sys.modules))"
        return int(common.in_new_process(counted))
