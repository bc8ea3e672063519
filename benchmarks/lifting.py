"""Time what is read from the result of a reduced run: M, its singular values, and full layers."""

import statistics
import time

import fastdln

from . import common


def trained(case, dtype="float64"):
    """Return the network of a reduced run of ten steps on the paper's data."""
    width, depth = common.shape_of(case)
    return fastdln.train(
        fastdln.paper_regression(), width=width, depth=depth, steps=10, dtype=dtype
    ).network


def seconds(function):
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class EndToEnd:
    """Seconds of the first, and of a later, end-to-end matrix, loss and singular values."""

    params = [["300x60", "1000x700"]]
    param_names = ["width × depth"]
    unit = "s"
    timeout = 300

    def setup(self, case):
        trained(case).singular_values()  # compiles

    def track_first_end_to_end(self, case):
        networks = [trained(case) for _ in range(3)]
        return statistics.median(seconds(network.end_to_end) for network in networks)

    def track_loss(self, case):
        problem, network = fastdln.paper_regression(), trained(case)
        return statistics.median(
            seconds(lambda: problem.loss(network.end_to_end())) for _ in range(9)
        )

    def track_singular_values(self, case):
        network = trained(case)
        return statistics.median(seconds(network.singular_values) for _ in range(9))


class Layers:
    """Reading all full layers of a result, forward or in reverse, by iteration or by index."""

    params = [["100x20", "300x60"]]
    param_names = ["width × depth"]
    timeout = 300

    def setup(self, case):
        self.weights = trained(case).weights
        self.orders = {
            "forward": lambda: [None for _ in self.weights],
            "reverse": lambda: [None for _ in reversed(self.weights)],
            "indexed": lambda: [
                self.weights[i] is None for i in range(len(self.weights) - 1, -1, -1)
            ],
        }
        self.orders["forward"]()  # compiles, and keeps the checkpoints

    def _over_forward(self, order):
        found = common.medians({name: self.orders[name] for name in ("forward", order)}, repeats=3)
        return found[order] / found["forward"]

    def track_forward(self, case):
        return common.medians({"forward": self.orders["forward"]}, repeats=3)["forward"]

    def track_reverse_over_forward(self, case):
        return self._over_forward("reverse")

    def track_reverse_by_index_over_forward(self, case):
        return self._over_forward("indexed")

    def track_fresh_reverse_over_forward(self, case):
        """Ratio for a result of which nothing has been read: its checkpoints are made first."""
        fresh = [trained(case).weights for _ in range(3)]
        reverse = statistics.median(seconds(lambda w=w: [None for _ in reversed(w)]) for w in fresh)
        return reverse / self.track_forward(case)

    track_forward.unit = "s"
    track_reverse_over_forward.unit = "ratio"
    track_reverse_by_index_over_forward.unit = "ratio"
    track_fresh_reverse_over_forward.unit = "ratio"
