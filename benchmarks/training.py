"""Time training and sampling through the public API: steps, initialisation, wide networks.

`benchmarks.chain` and `benchmarks.haar` compare kernels and peers; these benchmarks time the whole
path of a call.
"""

import tempfile
import time

import fastdln

from .common import in_new_process, seconds_per_step


class TrainStep:
    """Seconds of a step of dense training: float32, the paper's data, Gaussian initialisation."""

    params = [[(100, 4), (26, 700), (100, 200), (300, 30), (1000, 50)]]
    param_names = ["width × depth"]
    unit = "s"

    def track_step(self, shape):
        width, depth = shape
        return seconds_per_step(width=width, depth=depth, init="gaussian")


class ReducedStep:
    """Seconds of a step of reduced training at depth 700, which do not depend on the width."""

    params = [[100, 1000, 10_000, 100_000, 1_000_000]]
    param_names = ["width"]
    timeout = 300
    unit = "s"

    def track_step(self, width):
        return seconds_per_step(width=width, depth=700, init="orthogonal")


class Initialize:
    """Seconds to draw a network of depth 20 in float32."""

    params = [["gaussian", "orthogonal"], [64, 512]]
    param_names = ["init", "width"]

    def setup(self, init, width):
        self.time_initialize(init, width)

    def time_initialize(self, init, width):
        fastdln.initialize(1024, 10, width=width, depth=20, init=init, dtype="float32")


class Cold:
    """Seconds of the first call in a new process."""

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
