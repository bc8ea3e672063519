"""Training and sampling as a user calls them: steps, networks drawn, the width that costs nothing.

Peers and kernels are compared in chain.py and haar.py; these follow the whole path over time.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time

import fastdln


def seconds_per_step(**arguments):
    """Return the seconds a step of `fastdln.train` takes, drawing the network left out.

    Read off between the callbacks of one run that is stopped after about a second.
    """
    marks = []

    def mark(step, _):
        marks.append((time.perf_counter(), step))
        if marks[-1][0] - marks[0][0] > 1:
            raise TimeoutError

    arguments = {"dtype": "float32"} | arguments
    with contextlib.suppress(TimeoutError):
        fastdln.train(
            fastdln.paper_regression(), **arguments, steps=10**7, tolerance=0,
            learning_rate=1e-9, callback=mark,
        )  # fmt: skip
    # The first pieces are short trials of both teams.
    (begun, first), (ended, last) = marks[len(marks) // 2], marks[-1]
    return (ended - begun) / (last - first)


class TrainStep:
    """A step of dense training: float32, the paper's data, Gaussian initialisation."""

    params = [[(100, 4), (26, 700), (100, 200), (300, 30), (1000, 50)]]
    param_names = ["width × depth"]
    unit = "s"

    def track_step(self, shape):
        width, depth = shape
        return seconds_per_step(width=width, depth=depth, init="gaussian")


class ReducedStep:
    """A step of reduced training at depth 700: flat in the width."""

    params = [[100, 1000, 10_000, 100_000, 1_000_000]]
    param_names = ["width"]
    timeout = 300
    unit = "s"

    def track_step(self, width):
        return seconds_per_step(width=width, depth=700, init="orthogonal")


class Initialize:
    """Drawing whole networks, depth 20, float32."""

    params = [["gaussian", "orthogonal"], [64, 512]]
    param_names = ["init", "width"]

    def setup(self, init, width):
        self.time_initialize(init, width)

    def time_initialize(self, init, width):
        fastdln.initialize(1024, 10, width=width, depth=20, init=init, dtype="float32")


class Cold:
    """What a first call costs in a process of its own, in seconds."""

    params = [["import numba", "import fastdln", "train, warm cache", "train, empty cache"]]
    param_names = ["what"]
    unit = "s"
    timeout = 300

    train = (
        "import fastdln; "
        "fastdln.train(fastdln.paper_regression(), width=64, depth=4, steps=1, dtype='float32')"
    )

    def track_seconds(self, what):
        program = what if what.startswith("import") else self.train
        with tempfile.TemporaryDirectory() as empty:
            cache = {"NUMBA_CACHE_DIR": empty}
            if what == "train, empty cache":
                return self._run(program, cache)
            self._run(program, cache)
            return sorted(self._run(program, cache) for _ in range(3))[1]

    @staticmethod
    def _run(program, extra):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | extra)
        return time.perf_counter() - begun
