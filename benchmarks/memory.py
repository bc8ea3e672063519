"""Measure the peak memory of training one large network."""

import json
import sys

from . import chain_peers, common

PROGRAM = """
import ctypes, json, sys
from pathlib import Path
import fastdln
problem = fastdln.paper_regression(seed=0)
width, depth = int(sys.argv[1]), int(sys.argv[2])
def train():
    fastdln.train(problem, width=width, depth=depth, init="gaussian", steps=4,
                  dtype="float32", tolerance=0.0)
def status(name):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
train()  # compiles the kernels of this size
ctypes.CDLL(None).malloc_trim(0)  # freed pages must not hide the growth
Path("/proc/self/clear_refs").write_text("5")  # the peak so far was the compiler's
before = status("VmRSS")
train()
print(json.dumps(status("VmHWM") - before))
"""


class Memory:
    """Ratio of the peak memory of one large network to the bytes of its weights."""

    params = ["1024x16"]
    param_names = ("width x depth",)
    unit = "ratio"
    timeout = 300
    noise = 0.02

    def setup(self, case):
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("peak memory is read from /proc")

    def track_peak_over_weights(self, case):
        width, depth = common.shape_of(case)
        # The first layer is kept at its full width of 1024 inputs.
        nbytes = 4 * width * ((depth - 2) * width + 1024 + chain_peers.Q)
        return json.loads(common.in_new_process(PROGRAM, width, depth)) / nbytes
