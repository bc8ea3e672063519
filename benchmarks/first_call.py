"""Time the first call of a new process: imports, and training without and with a filled cache."""

import json
import tempfile

from . import common

PROGRAM = """
import sys, time
import fastdln
problem = fastdln.paper_regression(seed=0)
begun = time.perf_counter()
fastdln.train(problem, width=20, depth=3, init=sys.argv[1], steps=4, dtype="float32", tolerance=0)
print(time.perf_counter() - begun)
"""


def first_call_seconds(init, cache=None):
    """Return the seconds of the first call of `train` in a new process, without imports.

    `cache` names the process's cache folder of kernels.
    """
    return float(common.in_new_process(PROGRAM, init, cache=cache))


class FirstCall:
    """Seconds of a process's first call of `train`, without and with compiled kernels in the cache.

    The warm call comes after one that has filled the cache. It still loads the kernels and what
    the package imports on first use.
    """

    params = ["gaussian", "orthogonal"]
    param_names = ("init",)
    unit = "s"
    timeout = 300

    def track_cold_first_call(self, init):
        with tempfile.TemporaryDirectory() as empty:
            return first_call_seconds(init, cache=empty)

    def track_warm_first_call(self, init):
        first_call_seconds(init)
        return min(first_call_seconds(init) for _ in range(2))


class Import:
    """Seconds to import a module in a new process, less those of an empty program."""

    params = ["fastdln", "fastdln.cli", "numba"]
    param_names = ("module",)
    unit = "s"

    def track_import(self, module):
        program = (
            "import time; begun = time.perf_counter(); "
            f"import {module}; print(time.perf_counter() - begun)"
        )
        return min(json.loads(common.in_new_process(program)) for _ in range(3))
