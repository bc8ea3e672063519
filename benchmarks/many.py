"""Time many small networks: `train_many` against PyTorch by hand and against the roofline.

``python -m benchmarks.many`` prints the table: whole calls of `train_many`, drawing included, and
single steps, from the difference of two calls.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np

import fastdln

from . import common, many_peers
from .chain_peers import RATE, D, Q

# Networks × width × depth.
CASES = ["64x10x4", "64x26x4", "64x100x4", "256x32x3"]
# Steps of a call: the length of RESULTS.md's table.
STEPS = 1000


def parsed(case: str) -> tuple[int, str]:
    """Return the number of networks and the shape, ``"<width>x<depth>"``, of a case."""
    count, _, shape = case.partition("x")
    return int(count), shape


def flops(case: str) -> float:
    """Return the operations of a step of all networks: three products of Q rows a layer."""
    count, shape = parsed(case)
    width, depth = common.shape_of(shape)
    return 6.0 * Q * count * width * (D + Q + width * (depth - 2))


class TrainMany:
    """Calls of `train_many` on one case.

    Parameters
    ----------
    case : str
    dtype : str
    **options
        More options of `train_many`.
    """

    def __init__(self, case: str, dtype: str, **options: Any):
        count, shape = parsed(case)
        width, depth = common.shape_of(shape)
        self._problem = fastdln.paper_regression(seed=0)
        self._options: dict[str, Any] = {
            "seeds": range(count),
            "learning_rates": RATE,
            "width": width,
            "depth": depth,
            "init": "gaussian",
            "dtype": dtype,
            "tolerance": 0.0,
            **options,
        }
        self.run(1)  # compile

    def run(self, steps: int) -> None:
        """Train all networks for this many steps."""
        fastdln.train_many(self._problem, steps=steps, **self._options)


class Many:
    """Small networks together: seconds of a call, and its ratios to PyTorch and the roofline."""

    params = (CASES[:2], ["float32"])
    param_names = ("networks x width x depth", "dtype")
    timeout = 300

    def setup(self, case: str, dtype: str) -> None:
        self.ours = TrainMany(case, dtype)

    def track_seconds(self, case: str, dtype: str) -> float:
        return common.medians({"ours": lambda: self.ours.run(STEPS)}, 3)["ours"]

    track_seconds.unit = "s"  # type: ignore[attr-defined]

    def track_ratio_to_roofline(self, case: str, dtype: str) -> float:
        limit = STEPS * flops(case) / common.matmul_flops(dtype)
        return self.track_seconds(case, dtype) / limit

    track_ratio_to_roofline.unit = "ratio"  # type: ignore[attr-defined]


class ManyPeers:
    """Ratio of the time of a call to that of PyTorch's batched products by hand."""

    params = (CASES[:2], ["float32"])
    param_names = ("networks x width x depth", "dtype")
    timeout = 300

    def setup(self, case: str, dtype: str) -> None:
        self.theirs = many_peers.torch_steps(*parsed(case), dtype)
        self.ours = TrainMany(case, dtype)

    def track_ratio_torch(self, case: str, dtype: str) -> float:
        runs = {"ours": lambda: self.ours.run(STEPS), "torch": lambda: self.theirs(STEPS // 10)}
        seconds = common.medians(runs, 3)
        return seconds["ours"] / (10 * seconds["torch"])

    track_ratio_torch.unit = "ratio"  # type: ignore[attr-defined]


def _seconds(run: Any, steps: int) -> float:
    time.sleep(common.REST)  # threads of the last call may still spin
    begun = time.perf_counter()
    run(steps)
    return time.perf_counter() - begun


def table(cases: list[str], dtype: str, rounds: int = 5) -> None:
    """Print every case as Markdown: medians over interleaved rounds."""
    columns = "case | ms | torch over ours | over roofline | step only: torch | roofline"
    print(f"| {columns} |\n{'|---' * 6}|", flush=True)
    runs = {
        case: (TrainMany(case, dtype).run, many_peers.torch_steps(*parsed(case), dtype))
        for case in cases
    }
    limits: list[float] = []
    found: dict[str, list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _, theirs in runs.values():
        theirs(3)
    for _ in range(rounds):
        limits.append(common.matmul_flops(dtype))
        for case, (ours, theirs) in runs.items():
            whole, half = _seconds(ours, STEPS), _seconds(ours, STEPS // 2)
            peer = _seconds(theirs, STEPS // 20) / (STEPS // 20)
            found[case].append((whole / STEPS, 2 * (whole - half) / STEPS, peer))
    limit = statistics.median(limits)
    for case, times in found.items():
        call, step, peer = np.median(times, axis=0)
        floor = flops(case) / limit
        cells = [case, f"{call * STEPS * 1e3:.3g}", f"{peer / call:.2f}", f"{call / floor:.2f}"]
        print(f"| {' | '.join([*cells, f'{peer / step:.2f}', f'{step / floor:.2f}'])} |")
    print(f"matmul {dtype}: {limit / 1e9:.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    dtypes = [name for name in sys.argv[1:] if name.startswith("float")] or ["float32"]
    for name in dtypes:
        table([case for case in sys.argv[1:] if case[0].isdigit()] or CASES, name)
