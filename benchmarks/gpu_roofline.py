"""Measure the GPU's rates, and bound the time of a step from below by them."""

import statistics
import time

import numpy as np

from .gpu_peers import D, Q

# Seconds of a call above which few repeats are timed.
LIMIT_SECONDS = 4.0
# Eight independent chains of multiply-adds per thread, enough to hide their latency.
MULTIPLY_ADDS = """
extern "C" __global__ void multiply_adds(float* out, float x) {
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = threadIdx.x + i;
    for (int k = 0; k < 4096; k++) {
        #pragma unroll
        for (int i = 0; i < 8; i++) s[i] = s[i] * x + x;
    }
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += s[i];
    if (sum == 12345) out[0] = sum;
}"""


def milliseconds(function, repeats=7, limit=LIMIT_SECONDS):
    """Return the median time of a call that waits for the GPU, excluding the first call."""
    function()
    times, begun = [], time.perf_counter()
    while len(times) < repeats and (len(times) < 1 or time.perf_counter() - begun < limit):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def roofline(launcher):
    """Return the measured rates of copying (bytes/s, read plus written) and of FMAs (flop/s)."""
    cupy = launcher.xp
    a = cupy.zeros(1 << 28, np.float32)
    b = cupy.empty_like(a)

    def copy():
        cupy.copyto(b, a)
        launcher.synchronize()

    kernel = cupy.RawKernel(MULTIPLY_ADDS, "multiply_adds")
    blocks = 16 * launcher.device.multiprocessors

    def multiply():
        kernel((blocks,), (256,), (b, np.float32(0.5)))
        launcher.synchronize()

    return {
        "copy bytes/s": 2 * a.nbytes / milliseconds(copy) * 1e3,
        "float32 flop/s": 2.0 * 4096 * 8 * 256 * blocks / milliseconds(multiply) * 1e3,
    }


def floor_milliseconds(rates, networks, width, depth):
    """Return the least milliseconds of a step of all networks: one read and one write, or flops."""
    elements = networks * (width * width * (depth - 2) + width * (D + Q))
    flops = 2 * 1.5 * (D + Q) * elements
    traffic = 8 * elements
    return 1e3 * max(traffic / rates["copy bytes/s"], flops / rates["float32 flop/s"])
