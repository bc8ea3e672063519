"""Time the exact reduction of the width, against dense peers and against the reduced width."""

import fastdln

from . import chain_peers, common

K = 26  # d + d_y of the paper's data: the width at which every network is trained


def reduced_seconds(width, depth, dtype="float32"):
    """Return the seconds of one step of reduced training by `fastdln.train`."""
    return common.seconds_per_step(width=width, depth=depth, init="orthogonal", dtype=dtype)


def peer_seconds(run, steps, repeats):
    """Return the seconds of a peer's step."""
    run(1)
    return common.medians({"peer": lambda: run(steps)}, repeats=repeats)["peer"] / steps


class ReducedAgainstDense:
    """Ratio of fastdln's reduced step to a peer's step at full width."""

    params = [["300x50"], chain_peers.PEERS]
    param_names = ["width × depth", "peer"]
    unit = "ratio"
    timeout = 300

    def setup(self, case, peer):
        self.peer = chain_peers.MAKERS[peer](case, "float32")

    def track_time_over_peer(self, case, peer):
        seconds = peer_seconds(self.peer, steps=1, repeats=3)
        return reduced_seconds(*common.shape_of(case)) / seconds


class ReducedAgainstReduced:
    """Ratio of fastdln's reduced step to a peer's step at width 26: the gain of the kernels."""

    params = [[100], chain_peers.PEERS]
    param_names = ["depth", "peer"]
    unit = "ratio"
    timeout = 300

    def setup(self, depth, peer):
        self.peer = chain_peers.MAKERS[peer](f"{K}x{depth}", "float32")

    def track_time_over_peer(self, depth, peer):
        return reduced_seconds(1000, depth) / peer_seconds(self.peer, steps=20, repeats=5)


class Step:
    """Seconds of a step of reduced training at depth 700, which do not depend on the width."""

    params = [[100, 100_000]]
    param_names = ["width"]
    unit = "s"
    timeout = 300

    def track_step(self, width):
        return reduced_seconds(width, 700)


class Draw:
    """Seconds to draw a very wide network for a reduced run, without training."""

    params = [[1000, 100_000]]
    param_names = ["width"]
    rounds = 1
    repeat = (2, 5, 1.0)
    timeout = 300

    @common.once
    def setup(self, width):
        self.time_draw(1000)

    def time_draw(self, width):
        fastdln.train(fastdln.paper_regression(), width=width, depth=4, steps=0, dtype="float32")
