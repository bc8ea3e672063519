"""Shared helpers of the benchmarks: interleaved timing, new processes, machine limits, peers."""

import contextlib
import functools
import importlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

import fastdln
from fastdln import rng as random
from fastdln.utils import threads

# Seconds of sleep before each timing: worker threads of OpenMP and OpenBLAS spin for a while after
# their own call and would occupy a core during the next call.
REST = 0.15


def once(setup: Callable[..., None]) -> Callable[..., None]:
    """Make a `setup` act at its first call only.

    asv calls it again before every sample of a ``time_`` benchmark.
    """

    @functools.wraps(setup)
    def first_only(self: Any, *params: Any) -> None:
        if not vars(self).get("_is_set_up"):
            setup(self, *params)
            self._is_set_up = True

    return first_only


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let fastdln use one thread inside the block."""
    before = os.environ.get("FASTDLN_NUM_THREADS")
    os.environ["FASTDLN_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTDLN_NUM_THREADS"]
        else:
            os.environ["FASTDLN_NUM_THREADS"] = before


def peer(name: str) -> ModuleType:
    """Import a peer and give it as many threads as fastdln.

    To be called from `setup`, where asv takes the NotImplementedError that is raised without the
    peer as "n/a". Raised in the benchmark itself it would be a failure with a traceback.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise NotImplementedError(f"{name} is not installed") from error
    if name == "torch":
        module.set_num_threads(threads.available())
    if name == "jax":
        module.config.update("jax_enable_x64", True)
    return module


def shape_of(case: str) -> tuple[int, int]:
    """Return the width and the depth of a case such as ``"26x700"``."""
    width, depth = map(int, case.split("x"))
    return width, depth


def medians(callables: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, float]:
    """Return the median seconds of each callable, from timings interleaved against drift."""
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


def minima(callables: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the least processor time of each, called in turns for `seconds`, at least 10 times.

    Other processes only ever add time, so the least of many short times hardly changes between
    runs. Callables should take milliseconds, and one thread. The processor time, of all threads
    together, leaves out the waiting for a processor and for files.
    """
    least = dict.fromkeys(callables, math.inf)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 10 or time.perf_counter() < end:
        for name, function in callables.items():
            start = time.process_time()
            function()
            least[name] = min(least[name], time.process_time() - start)
        rounds += 1
    return least


def ours_over_fastest(ours: str, seconds: dict[str, float]) -> float:
    """Return the ratio of fastdln's time to the fastest peer's; less is better, as asv assumes."""
    return seconds[ours] / min(s for name, s in seconds.items() if name != ours)


def seconds_per_step(**arguments: Any) -> float:
    """Return the seconds per step of a long run of `fastdln.train`, without its start.

    Time the interval between two callbacks of one run, which is stopped after about a second.
    """
    marks: list[tuple[float, int]] = []

    def mark(step: int, _: float) -> None:
        marks.append((time.perf_counter(), step))
        if marks[-1][0] - marks[0][0] > 1:
            raise TimeoutError

    options: dict[str, Any] = {"dtype": "float32", "tolerance": 0, "learning_rate": 1e-9}
    with contextlib.suppress(TimeoutError):
        fastdln.train(fastdln.paper_regression(), **options | arguments, steps=10**7, callback=mark)
    # The first spans are short trials of both teams.
    (begun, first), (ended, last) = marks[len(marks) // 2], marks[-1]
    return (ended - begun) / (last - first)


def in_new_process(program: str, *arguments: object, cache: str | None = None) -> str:
    """Run a Python program in a new process; return its standard output.

    `cache` names the process's cache folder of kernels.
    """
    environment = os.environ if cache is None else os.environ | {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def matmul_flops(dtype: str, n: int = 2048) -> float:
    """Return the rate of NumPy's matrix product in flops per second."""
    a = np.ones((n, n), dtype)
    return 2 * n**3 / medians({"matmul": lambda: a @ a})["matmul"]


def normals_per_second(count: int = 1 << 22) -> float:
    """Return the rate of fastdln's generator on all threads, in normals per second."""
    out = np.empty(count)
    seconds = medians({"fill": lambda: random.standard_normal(1, 2, count, out=out)})
    return count / seconds["fill"]


def copied_bytes_per_second(size: int = 1 << 28) -> float:
    """Return the rate of one large copy, in bytes read plus bytes written per second."""
    a, b = np.ones(size, np.uint8), np.empty(size, np.uint8)
    return 2 * size / medians({"copy": lambda: np.copyto(b, a)})["copy"]
