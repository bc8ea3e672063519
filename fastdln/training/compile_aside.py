"""Compile the kernels that train while this process compiles those that draw.

Haar-distributed layers are drawn by kernels that take about as long to compile as those that train,
and Numba compiles one kernel at a time. So before the first draw another Python process compiles
the latter, by training a tiny network with the same options, and leaves them in Numba's cache, from
which this process loads them.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastdln.backends.interface import is_plain_regression
from fastdln.kernels.cpu import haar, haar_batched, jit
from fastdln.kernels.cpu.compile_time import charge
from fastdln.training.prepared import PreparedRun
from fastdln.utils import memory, threads

# Seconds to wait for the other process; after that this one compiles for itself.
PATIENCE = 60.0
# Bytes that the other process takes, with some to spare.
_BYTES = 1 << 29
# Dtypes for which nothing need be compiled, so that later runs look at no file.
_drawn_by_cached_kernels: set[str] = set()
_PROGRAM = """
import json, sys
sys.path[:], options = json.loads(sys.argv[1])
import fastdln
problem = fastdln.Regression([[1.0, 2.0, 3.0], [2.0, -1.0, 1.0]], [[1.0, 0.0, 2.0]])
fastdln.train(problem, width=2, depth=3, init="gaussian", steps=1, seed=0, **options)
"""


@contextlib.contextmanager
def training_kernels(prepared: PreparedRun) -> Iterator[Callable[[], None]]:
    """Start compiling a run's kernels; yield a function that waits for their being in the cache.

    Does nothing where nothing is gained: on a GPU, where the kernels that draw are cached or not
    needed, where nothing is cached, or where there is one thread. A failure of the other process
    goes unnoticed: this one then compiles for itself.
    """
    if not _is_worthwhile(prepared):
        yield _nothing
        return
    try:
        process = subprocess.Popen(**_command(_options(prepared)))
    except OSError:  # no process left, or none may be started
        yield _nothing
        return
    stop = lambda: _stop(process)
    atexit.register(stop)
    try:
        yield lambda: _wait(process)
    finally:
        atexit.unregister(stop)
        stop()


def _nothing() -> None:
    """Wait for no process."""


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process, and count this as compiling."""
    begun = time.perf_counter()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    charge(time.perf_counter() - begun)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def _is_worthwhile(prepared: PreparedRun) -> bool:
    """Return whether layers are drawn by kernels that must be compiled, on more than one thread."""
    drawn = prepared.network is None and prepared.config.value("init") in ("orthogonal", "identity")
    if not drawn or prepared.launcher is not None:
        return False
    # In a reduced run, they are drawn in float64.
    dtype = prepared.plan.dtype.name if prepared.plan.method == "dense" else "float64"
    if dtype in _drawn_by_cached_kernels:
        return False
    if any(jit.is_compiled(k, dtype) for k in (haar_batched.form_batch, haar.form_frames)):
        _drawn_by_cached_kernels.add(dtype)
        return False
    if not jit.keeps_kernels() or threads.available() == 1 or memory.available() < _BYTES:
        return False
    return _runs_python()


def _runs_python() -> bool:
    """Return whether `sys.executable` runs Python programs, and this process may start others.

    A frozen application's executable is the application; daemonic processes have no children.
    """
    name = Path(sys.executable or "").name.lower()
    python = name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
    return python and not multiprocessing.current_process().daemon


def _options(prepared: PreparedRun) -> dict[str, Any]:
    """Return the options of a run on a tiny regression that needs the same kernels."""
    config = prepared.config
    regression = is_plain_regression(prepared.objective, prepared.optimizer, minibatches=False)
    single_steps = config.batch_size is not None or not (regression or prepared.optimizer.momentum)
    return {
        "dtype": prepared.plan.dtype.name,
        "optimizer": config.optimizer,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "kernel": "two-pass" if config.kernel == "auto" else config.kernel,
        "batch_size": 2 if single_steps else None,
    }


def _command(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of Popen."""
    environment = os.environ | {"FASTDLN_NUM_THREADS": "1"}  # it starts no process of its own
    folder = jit.cache_folder()
    if folder:
        environment["NUMBA_CACHE_DIR"] = folder
    return {
        # -I: no module of the user's folder is taken for one of the standard library.
        "args": [sys.executable, "-I", "-c", _PROGRAM, json.dumps([sys.path, options])],
        "env": environment,
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0),
    }
