"""Chain kernels: seconds a step, against peers, the roofline, depth and width; many networks.

``python -m benchmarks.chain`` prints the table of RESULTS.md, ``python -m benchmarks.chain
calibrate`` the constants of `fastdln.backends.cpu.cost_model`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastdln
from fastdln.backends.cpu.cost_model import Choice
from fastdln.backends.cpu.trainer import Descent
from fastdln.objectives.regression import reduce_regression
from fastdln.optim.optimizers import Rule

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
    """One network as `fastdln.train` trains it, a team and a way to share it chosen or given."""

    def __init__(
        self, case: str, dtype: str, kernel: str = "auto", team: int | None = None,
        sharing: str = "layers", most: int = 10**8,
    ):  # fmt: skip
        layers, _, target = _problem(case, dtype)
        widths = (D, *(w.shape[0] for w in layers))
        # A rate for every layer: that of a layer of one row.
        self.descent = Descent(
            layers, widths, np.dtype(dtype), np.ones(len(layers)), RATE, Rule(),
            reduce_regression(np.eye(D), target), most, 0.0, kernel=kernel,
        )  # fmt: skip
        if team is not None:
            self.descent.choice = self.descent.choice._replace(team=team, sharing=sharing)
        self.choice, self.layout = self.descent.choice, self.descent.chain.layout
        self.pool = ThreadPoolExecutor(self.choice.team)
        self.advance = self.descent.advancing(self.pool)
        self.advance(0, 1)

    def run(self, steps: int) -> None:
        """Take `steps` steps."""
        self.advance(self.descent.step + steps, self.choice.team)


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
    """Return how many steps take about this long.

    Several calls of growing length: a first one compiles, and starting a team takes as long as
    ten steps of a small network. Always an even number, of at least four: the zigzag step takes
    turns.
    """
    run(1)
    count, taken = 1, 0.0
    while taken < seconds / 4:
        count = max(2 * count, min(16 * count, int(count * seconds / max(taken, 1e-7))))
        begun = time.perf_counter()
        run(count)
        taken = time.perf_counter() - begun
    return max(4, int(count * seconds / taken) // 2 * 2)


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
    """Our time over a peer's for the same step."""

    params = (CASES, DTYPES)
    param_names = ("width x depth", "dtype")
    timeout = 600

    def _ratio(self, name: str, case: str, dtype: str) -> float:
        runs = {name: MAKERS[name](case, dtype), "fastdln": Steps(case, dtype).run}
        return common.ours_over_fastest("fastdln", step_times(runs, 0.05))

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

    def track_seconds_per_gigaflop(self, width: int) -> float:
        steps = Steps(f"{width}x10", "float32")
        return step_times({"us": steps.run}, 0.05)["us"] / (6e-9 * Q * steps.layout.size)

    track_seconds_per_gigaflop.unit = "s"  # type: ignore[attr-defined]


class Many:
    """Small networks trained together: seconds of each, and over one after the other."""

    params = (["10x4", "26x4", "100x4"], DTYPES, [4, 64])
    param_names = ("width x depth", "dtype", "seeds")
    timeout = 300

    def track_seconds_per_network(self, case: str, dtype: str, seeds: int) -> float:
        return many_seconds(case, dtype, seeds, 1000)["together"] / seeds

    track_seconds_per_network.unit = "s"  # type: ignore[attr-defined]

    def track_together_over_alone(self, case: str, dtype: str, seeds: int) -> float:
        seconds = many_seconds(case, dtype, seeds, 1000)
        return seconds["together"] / seconds["alone"]


def many_seconds(
    case: str, dtype: str, seeds: int, steps: int, repeats: int = 3
) -> dict[str, float]:
    """Return the seconds of training so many networks together, and one after the other."""
    width, depth = _shape(case)
    problem = fastdln.paper_regression(seed=0)
    options: dict[str, Any] = {
        "width": width, "depth": depth, "init": "gaussian", "dtype": dtype, "steps": steps,
        "tolerance": 0.0,
    }  # fmt: skip
    return common.medians(
        {
            "together": lambda: fastdln.train_many(
                problem, seeds=range(seeds), learning_rates=RATE, **options
            ),
            "alone": lambda: [
                fastdln.train(problem, seed=s, learning_rate=RATE, **options) for s in range(seeds)
            ],
        },
        repeats,
    )


PROGRAM = """
import ctypes, json, sys, time
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
    train(width, depth, 4)  # compiles what this size needs
    ctypes.CDLL(None).malloc_trim(0)  # what it has given back must not hide what comes
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
    """The first call with nothing compiled, and with everything."""

    timeout = 300

    def track_cold_first_call(self) -> float:
        with tempfile.TemporaryDirectory() as cache:
            return in_fresh_process(cache=cache)["first"]

    def track_warm_first_call(self) -> float:
        return in_fresh_process()["first"]


class Memory:
    """Peak memory of one large network over the bytes of its weights."""

    params = ["1024x64", "3072x12"]
    param_names = ("width x depth",)
    timeout = 300

    def track_peak_over_weights(self, case: str) -> float:
        if not sys.platform.startswith("linux"):
            raise NotImplementedError("peak memory is read from /proc")
        width, depth = _shape(case)
        # The first layer is kept as drawn: the problem has 1024 inputs.
        nbytes = 4 * width * ((depth - 2) * width + 1024 + Q)
        return in_fresh_process(width, depth)["grown"] / nbytes


def table(dtypes: list[str], cases: list[str], rounds: int = 5) -> None:
    """Print seconds and ratios of every case as Markdown: medians over rounds of all cases.

    Several rounds, for a shared machine is another one a minute later: two processors that share
    a cache now may not then.
    """
    names = [name for name in PEERS if _available(name)]
    rows = [(case, dtype) for dtype in dtypes for case in cases]
    found: dict[tuple[str, str], list[dict[str, float]]] = {row: [] for row in rows}
    limits: dict[str, list[float]] = {name: [] for name in ("copy", *dtypes)}
    kernels: dict[tuple[str, str], str] = {}
    for _ in range(rounds):
        limits["copy"].append(common.copied_bytes_per_second())
        for dtype in dtypes:
            limits[dtype].append(common.matmul_flops(dtype))
        for case, dtype in rows:
            ours = Steps(case, dtype)
            kernels[case, dtype] = chosen(ours.choice)
            runs: dict[str, Callable[[int], None]] = {"fastdln": ours.run}
            runs |= {name: MAKERS[name](case, dtype) for name in names}
            found[case, dtype].append(step_times(runs, 0.05))
    rates = {name: statistics.median(values) for name, values in limits.items()}
    print(f"| width × depth | dtype | fastdln ms | kernel | {' | '.join(names)} | roofline |")
    print("|---" * (5 + len(names)) + "|")
    for case, dtype in rows:
        taken = found[case, dtype]
        ours_ms = statistics.median(t["fastdln"] for t in taken) * 1e3
        ratios = [statistics.median(t[name] / t["fastdln"] for t in taken) for name in names]
        limit = ours_ms / 1e3 / roofline(case, dtype, rates[dtype], rates["copy"])
        cells = [case, dtype, f"{ours_ms:.3g}", kernels[case, dtype]]
        cells += [*(f"{ratio:.1f}×" for ratio in ratios), f"{limit:.2f}"]
        print(f"| {' | '.join(cells)} |")
    said = ", ".join(f"{dtype} {rates[dtype] / 1e9:.0f} GFLOP/s" for dtype in dtypes)
    print(f"matmul {said}; copy {rates['copy'] / 1e9:.0f} GB/s", file=sys.stderr)


def chosen(choice: Choice) -> str:
    """Return kernel, threads and what they share, for a table."""
    shared = f" by {choice.sharing}" if choice.team > 1 else ""
    return f"{choice.kernel}, {choice.team}{shared}"


def _available(name: str) -> bool:
    try:
        common.peer("torch" if name == "autograd" else name)
    except NotImplementedError:
        return False
    return True


def calibrate() -> None:
    """Print what `fastdln.backends.cpu.cost_model.COSTS` should be on this machine."""
    rates, traffic = {}, []
    for dtype in DTYPES:
        near, far = Steps("300x12", dtype, "two-pass", 1), Steps("1500x20", dtype, "two-pass", 1)
        seconds = step_times({"near": near.run, "far": far.run}, 0.2)
        rates[dtype] = 6 * near.layout.q_padded * near.layout.size / seconds["near"]
        nbytes = 3 * far.layout.size * far.layout.dtype.itemsize
        work = 6 * far.layout.q_padded * far.layout.size / rates[dtype]
        traffic.append((seconds["far"] - work) / nbytes)
    thin = {
        "alone": Steps("64x100", "float32", "two-pass", 1),
        "layers": Steps("64x100", "float32", "two-pass", 2, "layers"),
        "rows": Steps("64x100", "float32", "two-pass", 2, "rows"),
    }
    seconds = step_times({name: steps.run for name, steps in thin.items()}, 0.1)
    layout = thin["alone"].layout
    work = 6 * layout.q_padded * layout.size / rates["float32"]
    layer = max(seconds["alone"] - work, 0) / layout.depth
    halved = seconds["alone"] - work / 2
    meeting = (seconds["layers"] - halved) / (2 * layout.depth + 2)
    shared = (seconds["rows"] - halved - 2 * meeting) / (layout.size * 4 / 2)
    print("flops_per_second", {name: f"{rate:.3g}" for name, rate in rates.items()})
    print("seconds_per_byte", *(f"{x:.2g}" for x in traffic))
    print(f"seconds_per_meeting {meeting:.2g}")
    print(f"seconds_per_shared_byte {shared:.2g}")
    print(f"seconds_per_layer {layer:.2g}")


if __name__ == "__main__":
    if sys.argv[1:] == ["calibrate"]:
        calibrate()
    else:
        table(DTYPES, sys.argv[1:] or CASES)
