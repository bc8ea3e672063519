"""What the benchmarks share: interleaved timing, the machine's limits, and the peers."""

import importlib
import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from fastdln import rng as random
from fastdln.utils import threads as parallel

# Seconds before each timing: worker threads of OpenMP and OpenBLAS go on spinning for a while
# after their own call and would take a core from the next one's.
REST = 0.15


def peer(name: str) -> ModuleType:
    """Import a peer, with as many threads as fastdln has; skip the benchmark without it."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise NotImplementedError(f"{name} is not installed") from error
    if name == "torch":
        module.set_num_threads(parallel.threads())
    if name == "jax":
        module.config.update("jax_enable_x64", True)
    return module


def medians(callables: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, float]:
    """Return the median seconds of each, taken in turns so that the machine's moods are shared."""
    times: dict[str, list[float]] = {name: [] for name in callables}
    for function in callables.values():
        function()
    for _ in range(repeats):
        for name, function in callables.items():
            time.sleep(REST)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def ours_over_fastest(ours: str, seconds: dict[str, float]) -> float:
    """Return our time over that of the fastest of the others: less is better, as asv takes it."""
    return seconds[ours] / min(s for name, s in seconds.items() if name != ours)


def matmul_flops(dtype: str, n: int = 2048) -> float:
    """Return NumPy's matrix-multiply rate, flops per second."""
    a = np.ones((n, n), dtype)
    return 2 * n**3 / medians({"matmul": lambda: a @ a})["matmul"]


def normals_per_second(count: int = 1 << 22) -> float:
    """Return the rate of fastdln's generator, all threads."""
    out = np.empty(count)
    seconds = medians({"fill": lambda: random.standard_normal(1, 2, count, out=out)})
    return count / seconds["fill"]


def copied_bytes_per_second(size: int = 1 << 28) -> float:
    """Return the rate of one large copy, bytes read plus bytes written per second."""
    a, b = np.ones(size, np.uint8), np.empty(size, np.uint8)
    return 2 * size / medians({"copy": lambda: np.copyto(b, a)})["copy"]
