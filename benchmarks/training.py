"""Training and sampling as a user calls them: steps, networks drawn, the width that costs nothing.

Peers and kernels are compared in chain.py and haar.py; these follow the time of the whole path.
"""

import tempfile
import time

import fastdln

from .common import in_new_process, seconds_per_step


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
    """The first call in a process of its own, in seconds."""

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
            if what == "train, empty cache":
                return self._run(program, empty)
            self._run(program, empty)
            return sorted(self._run(program, empty) for _ in range(3))[1]

    @staticmethod
    def _run(program, cache):
        begun = time.perf_counter()
        in_new_process(program, cache=cache)
        return time.perf_counter() - begun
