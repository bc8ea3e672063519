"""Chain kernels: seconds a step, against peers, the roofline, depth and width; many networks.

``python -m benchmarks.chain`` prints the table of RESULTS.md, ``python -m benchmarks.chain
calibrate`` the constants of `fastdln.kernel_choice`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastdln
from fastdln import parallel
from fastdln.kernel_choice import choose, step_seconds
from fastdln.kernels.cpu.chain import scratch_numbers
from fastdln.kernels.cpu.descent import descend
from fastdln.kernels.cpu.layout import aligned_zeros, make_layout
from fastdln.kernels.cpu.team import new_meeting
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.zigzag import descend_zigzag, zigzag_buffers

from . import common

# Inputs and outputs of the paper's problem, reduced; the sizes of the issue, smallest first.
D, Q = 16, 10
CASES = ["100x4", "26x700", "100x200", "300x30", "1000x50"]
DTYPES = ["float32", "float64"]
PEERS = ["numpy", "torch", "autograd", "jax"]
RATE = 1e-6


def _shape(case: str) -> tuple[int, int]:
    width, depth = map(int, case.split("x"))
    return width, depth


def _problem(case: str, dtype: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return layers, inputs S (d, d) and targets T (q, d) of a seeded network."""
    width, depth = _shape(case)
    rng = np.random.default_rng(0)
    widths = (D, *(width,) * (depth - 1), Q)
    layers = [
        (rng.standard_normal((m, n), dtype=np.float32) / np.sqrt(n)).astype(dtype)
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    return layers, np.eye(D, dtype=dtype), rng.standard_normal((Q, D)).astype(dtype)


class Steps:
    """The kernels themselves, as `fastdln.train` calls them, on one network."""

    def __init__(self, case: str, dtype: str, kernel: str = "auto", threads: int | None = None):
        layers, _, target = _problem(case, dtype)
        self.layout = make_layout((D, *(w.shape[0] for w in layers)), dtype)
        threads = parallel.threads() if threads is None else threads
        self.choice = choose(self.layout, threads, kernel=kernel)
        self.weights = aligned_zeros(self.layout.size, dtype)
        for i, w in enumerate(layers):
            self.layout.view(self.weights, i)[:] = w
        self.products = aligned_zeros(self.layout.product_size, dtype)
        edge = self.layout.q_padded * self.layout.widest
        self.costates = [aligned_zeros(edge, dtype) for _ in range(2)]
        self.scratch = aligned_zeros(self.choice.team * scratch_numbers(dtype), dtype)
        self.rates = np.full(len(layers), RATE, dtype)
        self.target = np.ascontiguousarray(target, dtype=np.float64)
        self.step, self.losses = -1, np.empty(1)
        self.pool = ThreadPoolExecutor(self.choice.team)
        self.buffers = (
            zigzag_buffers(self.layout, self.choice.team)
            if self.choice.kernel == "zigzag"
            else None
        )

    def run(self, steps: int) -> None:
        """Take `steps` steps."""
        stop, team = max(self.step, 0) + steps, self.choice.team
        self.losses = np.concatenate([self.losses[: self.step + 1], np.empty(stop + 1)])
        meeting = new_meeting()
        results = list(self.pool.map(lambda r: self._member(stop, r, team, meeting), range(team)))
        self.step = results[0]

    def _member(self, stop: int, rank: int, team: int, meeting: np.ndarray) -> int:
        one, layout = self.layout.dtype.type(1), self.layout
        network = self.weights, layout.layers, self.products, *self.costates
        data = np.ones_like(self.target), self.target, 0.0, self.losses, self.step, stop
        place = layout.q, layout.q_padded, lanes(layout.dtype), rank, team, meeting
        if self.buffers is not None:
            return descend_zigzag(
                *network, *self.buffers, self.rates, one, *data, 2**62, -1.0, *place
            )
        return descend(*network, self.scratch, self.rates, one, *data, -1.0, *place)


def numpy_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Backpropagation as one writes it by hand in NumPy, in-place updates."""
    layers, S, T = _problem(case, dtype)
    rate = layers[0].dtype.type(RATE)

    def run(steps: int) -> None:
        for _ in range(steps):
            hidden = [S]
            for w in layers:
                hidden.append(w @ hidden[-1])
            G = hidden.pop() - T
            for w, h in zip(reversed(layers), reversed(hidden), strict=True):
                below = w.T @ G
                w -= rate * (G @ h.T)
                G = below

    return run


def torch_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Do the same in torch, the update fused into the product by ``addmm_``."""
    torch = common.peer("torch")
    arrays, S, T = _problem(case, dtype)
    layers, S, T = [torch.from_numpy(w) for w in arrays], torch.from_numpy(S), torch.from_numpy(T)

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                hidden = [S]
                for w in layers:
                    hidden.append(w @ hidden[-1])
                G = hidden.pop() - T
                for w, h in zip(reversed(layers), reversed(hidden), strict=True):
                    below = w.T @ G
                    w.addmm_(G, h.T, alpha=-RATE)
                    G = below

    return run


def autograd_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Do as a torch user does: autograd and ``torch.optim.SGD``."""
    torch = common.peer("torch")
    arrays, S, T = _problem(case, dtype)
    layers = [torch.nn.Parameter(torch.from_numpy(w)) for w in arrays]
    S, T = torch.from_numpy(S), torch.from_numpy(T)
    optimizer = torch.optim.SGD(layers, lr=RATE)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            h = S
            for w in layers:
                h = w @ h
            (0.5 * ((h - T) ** 2).sum()).backward()
            optimizer.step()

    return run


def jax_steps(case: str, dtype: str) -> Callable[[int], None]:
    """``jax.jit`` over a scan of the hidden layers; the weights are donated."""
    jax = common.peer("jax")
    jnp = jax.numpy
    arrays, S, T = _problem(case, dtype)
    state = [jnp.asarray(arrays[0]), jnp.asarray(np.stack(arrays[1:-1])), jnp.asarray(arrays[-1])]

    def loss(weights: list[Any]) -> Any:
        first, hidden, last = weights
        h, _ = jax.lax.scan(lambda h, w: (w @ h, None), first @ S, hidden)
        return 0.5 * jnp.sum((last @ h - T) ** 2)

    def step(weights: list[Any]) -> list[Any]:
        slopes = jax.grad(loss)(weights)
        return [w - RATE * g for w, g in zip(weights, slopes, strict=True)]

    compiled = jax.jit(step, donate_argnums=0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state)
        state[0].block_until_ready()

    return run


MAKERS = {"numpy": numpy_steps, "torch": torch_steps, "autograd": autograd_steps, "jax": jax_steps}


def _count(run: Callable[[int], None], seconds: float) -> int:
    """Return how many steps take about this long."""
    run(1)
    begun = time.perf_counter()
    run(1)
    return max(1, int(seconds / max(time.perf_counter() - begun, 1e-7)))


def step_times(runs: dict[str, Callable[[int], None]], seconds: float) -> dict[str, float]:
    """Return the median seconds of one step of each, taken in turns."""
    counts = {name: _count(run, seconds) for name, run in runs.items()}
    taken = common.medians(
        {name: (lambda run=run, n=counts[name]: run(n)) for name, run in runs.items()}
    )
    return {name: t / counts[name] for name, t in taken.items()}


def roofline(case: str, dtype: str, matmul: float, copy: float) -> float:
    """Return the seconds below which no step of three products and 1½ passes can fall."""
    width, depth = _shape(case)
    numbers = width * (D + Q + width * (depth - 2))
    nbytes = numbers * np.dtype(dtype).itemsize
    # Weights in cache do not cross memory.
    traffic = 1.5 * nbytes / copy if nbytes > 24 * 2**20 else 0.0
    return max(6.0 * Q * numbers / matmul, traffic)


class Step:
    """Ten steps by every kernel, in one call."""

    params = (CASES, DTYPES, ["two-pass", "zigzag"])
    param_names = ("width x depth", "dtype", "kernel")
    timeout = 300

    def setup(self, case: str, dtype: str, kernel: str) -> None:
        self.steps = Steps(case, dtype, kernel)
        self.steps.run(2)

    def time_ten_steps(self, case: str, dtype: str, kernel: str) -> None:
        self.steps.run(10)


class Peers:
    """Times longer than ours that a peer takes for the same step."""

    params = (CASES, DTYPES)
    param_names = ("width x depth", "dtype")
    timeout = 600

    def _ratio(self, name: str, case: str, dtype: str) -> float:
        runs = {name: MAKERS[name](case, dtype), "fastdln": Steps(case, dtype).run}
        return common.ratio_to_fastest("fastdln", step_times(runs, 0.05))

    def track_ratio_numpy(self, case: str, dtype: str) -> float:
        return self._ratio("numpy", case, dtype)

    def track_ratio_torch(self, case: str, dtype: str) -> float:
        return self._ratio("torch", case, dtype)

    def track_ratio_autograd(self, case: str, dtype: str) -> float:
        return self._ratio("autograd", case, dtype)

    def track_ratio_jax(self, case: str, dtype: str) -> float:
        return self._ratio("jax", case, dtype)

    def track_ratio_to_roofline(self, case: str, dtype: str) -> float:
        limits = common.matmul_flops(dtype), common.copied_bytes_per_second()
        seconds = step_times({"fastdln": Steps(case, dtype).run}, 0.05)["fastdln"]
        return seconds / roofline(case, dtype, *limits)


class Growth:
    """Cost against depth and width."""

    params = ([100, 1000, 10_000, 100_000],)
    param_names = ("depth",)
    timeout = 300

    def track_seconds_per_layer(self, depth: int) -> float:
        run = Steps(f"26x{depth}", "float32").run
        return step_times({"us": run}, 0.02)["us"] / depth

    track_seconds_per_layer.unit = "s"  # type: ignore[attr-defined]


class Width:
    params = ([16, 64, 256, 1024, 2048],)
    param_names = ("width",)
    timeout = 300

    def track_flops_per_second(self, width: int) -> float:
        steps = Steps(f"{width}x10", "float32")
        return 6 * Q * steps.layout.size / step_times({"us": steps.run}, 0.05)["us"]


class Many:
    """Networks per second, trained together, over one after the other."""

    params = ([4, 64],)
    param_names = ("seeds",)
    timeout = 300

    def track_ratio_together(self, seeds: int, steps: int = 1000) -> float:
        return many_ratio(seeds, steps)


def many_ratio(seeds: int, steps: int, repeats: int = 3) -> float:
    """Return how many times longer one by one takes for 100 x 4 networks in float32."""
    from fastdln.many import train_many

    problem = fastdln.paper_regression(seed=0)
    options: dict[str, Any] = {
        "width": 100, "depth": 4, "init": "gaussian", "dtype": "float32", "steps": steps,
        "tolerance": 0.0,
    }  # fmt: skip
    times = common.medians(
        {
            "together": lambda: train_many(problem, seeds=range(seeds), **options),
            "alone": lambda: [fastdln.train(problem, seed=s, **options) for s in range(seeds)],
        },
        repeats,
    )
    return times["alone"] / times["together"]


PROGRAM = """
import json, sys, time
from pathlib import Path
import fastdln
problem = fastdln.paper_regression(seed=0)
def train(width, depth, steps):
    start = time.perf_counter()
    fastdln.train(problem, width=width, depth=depth, init="gaussian", steps=steps,
                  dtype="float32", tolerance=0.0)
    return time.perf_counter() - start
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
found = {"first": train(20, 3, 4), "second": train(20, 3, 4)}
width, depth = int(sys.argv[1]), int(sys.argv[2])
if width:
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was the compiler's
    before = status("VmRSS")
    train(width, depth, 4)
    found["grown"] = status("VmHWM") - before
print(json.dumps(found))
"""


def in_fresh_process(width: int = 0, depth: int = 0, cache: str | None = None) -> dict[str, float]:
    """Return what a new process measures: its first call, its second, and its memory's growth."""
    environment = dict(os.environ)
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(width), str(depth)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


class FreshProcess:
    """The first call with nothing compiled, and with everything; peak memory of a large network."""

    timeout = 300

    def track_cold_first_call(self) -> float:
        with tempfile.TemporaryDirectory() as cache:
            return in_fresh_process(cache=cache)["first"]

    def track_warm_first_call(self) -> float:
        return in_fresh_process()["first"]

    def track_peak_memory_over_weights(self, width: int = 1024, depth: int = 64) -> float:
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("peak memory is read from /proc")
        # The first layer is kept as drawn: the problem has 1024 inputs.
        nbytes = 4 * width * ((depth - 2) * width + 1024 + Q)
        return in_fresh_process(width, depth)["grown"] / nbytes


def table(dtypes: list[str], cases: list[str]) -> None:
    """Print seconds and ratios of every case as Markdown."""
    names = [name for name in PEERS if _available(name)]
    print(f"| width × depth | dtype | fastdln ms | kernel | {' | '.join(names)} | roofline |")
    print("|---" * (5 + len(names)) + "|")
    copy = common.copied_bytes_per_second()
    for dtype in dtypes:
        matmul = common.matmul_flops(dtype)
        for case in cases:
            ours = Steps(case, dtype)
            runs: dict[str, Callable[[int], None]] = {"fastdln": ours.run}
            runs |= {name: MAKERS[name](case, dtype) for name in names}
            seconds = step_times(runs, 0.05)
            ratios = [f"{seconds[name] / seconds['fastdln']:.1f}×" for name in names]
            limit = seconds["fastdln"] / roofline(case, dtype, matmul, copy)
            kernel = f"{ours.choice.kernel}, {ours.choice.team}"
            print(
                f"| {case} | {dtype} | {seconds['fastdln'] * 1e3:.3g} | {kernel} |"
                f" {' | '.join(ratios)} | {limit:.2f} |",
                flush=True,
            )
        print(f"matmul {matmul / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.0f} GB/s", file=sys.stderr)


def _available(name: str) -> bool:
    try:
        common.peer("torch" if name == "autograd" else name)
    except NotImplementedError:
        return False
    return True


def calibrate() -> None:
    """Print what `fastdln.kernel_choice.COSTS` should be on this machine."""
    for dtype in DTYPES:
        near, far = Steps("300x12", dtype, "two-pass", 1), Steps("1500x20", dtype, "two-pass", 1)
        seconds = step_times({"near": near.run, "far": far.run}, 0.1)
        rate = 6 * Q * near.layout.size / seconds["near"]
        nbytes = 3 * far.layout.size * far.layout.dtype.itemsize
        traffic = (seconds["far"] - 6 * Q * far.layout.size / rate) / nbytes
        print(f"{dtype}: {rate:.3g} flops a second, {traffic:.3g} s a byte")
    thin = {t: Steps("26x700", "float32", "two-pass", t) for t in (1, 2)}
    for t, steps in thin.items():
        steps.choice = steps.choice._replace(team=t)
        steps.pool = ThreadPoolExecutor(t)
    seconds = step_times({str(t): steps.run for t, steps in thin.items()}, 0.05)
    work = step_seconds(thin[1].layout, "two-pass", 1) - 700 * 3e-7
    print(f"layer: {(seconds['1'] - work) / 700:.2g} s")
    print(f"meeting: {(seconds['2'] - seconds['1'] + work / 2) / 1402:.2g} s")


if __name__ == "__main__":
    if sys.argv[1:] == ["calibrate"]:
        calibrate()
    else:
        table(DTYPES, sys.argv[1:] or CASES)
