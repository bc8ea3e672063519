"""Time the exact reduction of the width, against dense peers and against the reduced width."""

import fastdln

from . import chain_peers, common

K = 26  # d + d_y of the paper's data: the width at which every network is trained


def reduced_seconds(width, depth, dtype="float32"):
    """Return the seconds of one step of reduced training by `fastdln.train`."""
    return common.seconds_per_step(width=width, depth=depth, init="orthogonal", dtype=dtype)


def peer_seconds(peer, case, steps, repeats):
    """Return the seconds of a peer's step in float32."""
    run = chain_peers.MAKERS[peer](case, "float32")
    run(1)
    return common.medians({"peer": lambda: run(steps)}, repeats=repeats)["peer"] / steps


class ReducedAgainstDense:
    """Ratio of fastdln's reduced step to a peer's step at full width."""

    params = [["100x10", "1000x700"], chain_peers.PEERS]
    param_names = ["width × depth", "peer"]
    timeout = 900

    def track_ratio(self, case, peer):
        width, depth = common.shape_of(case)
        seconds = peer_seconds(peer, case, steps=1, repeats=3)
        return reduced_seconds(width, depth) / seconds


class ReducedAgainstReduced:
    """Ratio of fastdln's reduced step to a peer's step at width 26: the gain of the kernels."""

    params = [[10, 700], chain_peers.PEERS]
    param_names = ["depth", "peer"]
    timeout = 600

    def track_ratio(self, depth, peer):
        seconds = peer_seconds(peer, f"{K}x{depth}", steps=20, repeats=5)
        return reduced_seconds(1000, depth) / seconds


class FlatInWidth:
    """Ratio of the slowest step to the fastest over widths 10² … 10⁶."""

    params = [[10, 700]]
    param_names = ["depth"]
    timeout = 600

    def track_slowest_over_fastest(self, depth):
        widths = [10**2, 10**3, 10**4] if depth < 100 else [10**n for n in range(2, 7)]
        seconds = [min(reduced_seconds(w, depth) for _ in range(2)) for w in widths]
        return max(seconds) / min(seconds)


class Draw:
    """Seconds to draw a very wide network for a reduced run, without training."""

    params = [[1000, 1_000_000]]
    param_names = ["width"]
    timeout = 300

    def time_draw(self, width):
        fastdln.train(fastdln.paper_regression(), width=width, depth=4, steps=0, dtype="float32")
