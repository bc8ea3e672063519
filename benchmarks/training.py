"""Time `fastdln.train` as it is called: short runs, options, resuming, drawing, saving.

`benchmarks.chain` and `benchmarks.haar` compare kernels and peers; these benchmarks time the whole
path of a call, from the second on.
"""

import functools

import fastdln

from . import common

# Options of runs of a few milliseconds to a tenth of a second.
CALLS = {
    "gaussian 20x3": {"width": 20, "depth": 3, "init": "gaussian", "steps": 10},
    "gaussian 100x20": {"width": 100, "depth": 20, "init": "gaussian", "steps": 100},
    "orthogonal 1000x100": {"width": 1000, "depth": 100, "steps": 100},
    "momentum": {"width": 64, "depth": 10, "init": "gaussian", "steps": 200, "momentum": 0.9},
    "adam": {"width": 64, "depth": 10, "init": "gaussian", "steps": 200, "optimizer": "adam"},
    "minibatches": {"width": 64, "depth": 10, "init": "gaussian", "steps": 200, "batch_size": 4},
}
RATE = 1e-9


problem = functools.cache(fastdln.paper_regression)


def train(**options):
    """Train in float32 on the paper's data, at a rate at which no run ends early."""
    fixed = {"dtype": "float32", "tolerance": 0.0, "learning_rate": RATE}
    return fastdln.train(problem(), **fixed | options)


class Call:
    """Seconds of a whole call of `train`."""

    params = [list(CALLS)]
    param_names = ["options"]
    rounds = 1
    repeat = (3, 10, 1.0)

    @common.once
    def setup(self, name):
        train(**CALLS[name])

    def time_train(self, name):
        train(**CALLS[name])


class ShortRun:
    """Ratio of a short run's seconds per step to a long run's, for a given network."""

    params = [["300x30"], [5, 100]]
    param_names = ["width × depth", "steps"]
    unit = "ratio"

    def setup(self, case, steps):
        width, depth = common.shape_of(case)
        size = {"width": width, "depth": depth, "init": "gaussian", "dtype": "float32"}
        self.network = fastdln.initialize(problem().d_x, problem().d_y, **size)

    def track_short_over_long(self, case, steps):
        call = lambda: train(network=self.network, steps=steps)
        short = common.medians({"short": call}, repeats=5)["short"] / steps
        return short / common.seconds_per_step(network=self.network)


class Resume:
    """Seconds to train a run for more steps."""

    params = [["gd", "adam"]]
    param_names = ["optimizer"]
    rounds = 1
    repeat = (3, 10, 1.0)

    @common.once
    def setup(self, optimizer):
        size = {"width": 64, "depth": 10, "init": "gaussian", "steps": 100}
        self.run = train(**size, optimizer=optimizer, resumable=True)
        self.time_resume(optimizer)

    def time_resume(self, optimizer):
        fastdln.resume(self.run, steps=100)


class Initialize:
    """Seconds to draw a network of depth 20 in float32."""

    params = [["gaussian", "orthogonal"], [512]]
    param_names = ["init", "width"]
    rounds = 1
    repeat = (3, 10, 1.0)

    @common.once
    def setup(self, init, width):
        self.time_initialize(init, width)

    def time_initialize(self, init, width):
        fastdln.initialize(1024, 10, width=width, depth=20, init=init, dtype="float32")


class File:
    """Seconds to write a run's network of 4 MB and its losses, and to read the network.

    asv gives every benchmark an empty directory to work in, and removes it.
    """

    rounds = 1
    repeat = (3, 10, 1.0)

    @common.once
    def setup(self):
        self.run = train(width=200, depth=20, init="gaussian", steps=100)
        self.time_save()

    def time_save(self):
        self.run.save("run.npz")

    def time_load(self):
        fastdln.Network.load("run.npz")
