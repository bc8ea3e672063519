"""Training and sampling on a card, beside PyTorch, JAX and CuPy doing the same step.

``python -m benchmarks.gpu`` prints the table and writes JSON; it needs neither asv nor a network.
``--teams`` times other teams of blocks and threads than the chosen one, for `fastdln.backends.gpu.cost_model`.
"""

import argparse
import datetime
import gc
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from fastdln.backends.gpu import device as gpu
from fastdln.optim.optimizers import Rule

# JAX would take three quarters of the card for itself when first used.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

D, Q = 16, 10
# name: (networks, width, depth, "what is counted", at most, stretch), times in milliseconds.
TRAINING = {
    "one m=1000 L=700": (1, 1000, 700, "step", 2.2, 1.5),
    "four m=1000 L=700": (4, 1000, 700, "network-step", 1.8, 1.35),
    "132 of m=100 L=200": (132, 100, 200, "step of all", 1.0, 0.55),
    "400 of k=26 L=700": (400, 26, 700, "step of all", 2.0, 0.8),
}
SAMPLING = {"700 Haar 1000×1000": (700, 1000, 150.0, 50.0)}
# name: (preset, few steps, more steps, at most, stretch); all steps follow from the difference.
FIGURES = {"figure1 paper": ("paper", 50, 550, 30 * 60e3, 8 * 60e3)}
# A peer that takes longer than this for one step is timed by few of them.
PEER_SECONDS = 4.0


def setup_card():
    """Return the card and a launcher; without a card the benchmark is left out."""
    try:
        card = gpu.require_gpu("gpu")
    except (ImportError, RuntimeError, ValueError) as error:
        raise NotImplementedError(str(error)) from error
    from fastdln.backends.gpu.launcher import Launcher

    return card, Launcher(card, "float32")


# Eight chains of multiply-adds a thread, as many as hide their latency.
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


class Ours:
    """Networks at work in the zigzag kernel; `step(n)` takes n steps of all of them."""

    def __init__(self, launcher, networks, width, depth, team=None):
        from fastdln.backends.gpu.batch import Job, motion, regression_problem
        from fastdln.backends.gpu.cost_model import choose_team
        from fastdln.kernels.cuda.packing import Packing
        from fastdln.kernels.cuda.random import fill_normals
        from fastdln.kernels.cuda.zigzag import Batch

        widths = (D, *[width] * (depth - 1), Q)
        packing = Packing([widths] * networks, "float32")
        self.team = team or choose_team(packing, False, launcher.card)
        # So small a rate that no network converges or diverges while it is timed.
        job = Job(widths, np.array(widths[1:], float), 1e-12, lambda: ())
        self._launcher, self._active, self._goal = launcher, np.arange(networks), 0
        self.batch = Batch(
            launcher.xp, packing, [motion(job, Rule())] * networks, steps=100_000, tolerance=0.0,
            problems=[regression_problem(problem())], team=self.team,
        )  # fmt: skip
        for j in range(depth):
            layer = self.batch.layer(0, j)
            scale = layer.shape[0] ** -0.5
            fill_normals(launcher, 0, j, layer, stream_step=0, step=layer.shape[1], scale=scale)
        # All alike: drawing every network would take longer than timing them.
        each = self.batch.weights.reshape(networks, -1)
        each[1:] = each[0]
        self.step(0)

    def step(self, count):
        self._goal += count
        self.batch.advance(self._launcher.zigzag, self._active, self._goal)
        self._launcher.synchronize()


def problem():
    """Return a regression from D inputs to Q outputs."""
    import fastdln

    rng = np.random.default_rng(0)
    return fastdln.Regression(rng.standard_normal((D, D)), rng.standard_normal((Q, D))).reduced


def host_layers(networks, width, depth):
    """Return layers for the peers, shape (networks, rows, columns) each; hidden ones repeat."""
    rng = np.random.default_rng(0)
    shapes = [(width, D), (width, width), (Q, width)]
    first, hidden, last = (
        (rng.standard_normal((networks, *s), np.float32) / s[0] ** 0.5).astype(np.float32)
        for s in shapes
    )
    return [first, *[hidden] * (depth - 2), last]


def two_pass(weights, matmul, transposed, subtract, s, target):
    """Take the hand-written step that every peer takes, on stacks of networks."""
    above, product = [], weights[-1]
    for w in weights[-2::-1]:
        above.append(product)
        product = matmul(product, w)
    C = (product * s - target) * s
    for w in weights[:-1]:
        B = above.pop()
        following = matmul(C, transposed(w))
        subtract(w, B, C)
        C = following
    subtract(weights[-1], None, C)


def torch_steps(networks, width, depth):
    """Return PyTorch's step, eager and captured in a CUDA graph."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    weights = [torch.tensor(w, device="cuda") for w in host_layers(networks, width, depth)]
    p = problem()
    s, target = (torch.tensor(a, device="cuda", dtype=torch.float32) for a in (p.scale, p.target))

    def subtract(w, B, C):
        if B is None:
            w.add_(C, alpha=-1e-12)
        else:
            w.baddbmm_(B.mT, C, alpha=-1e-12)

    def step():
        two_pass(weights, torch.matmul, lambda w: w.mT, subtract, s, target)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return {
        "torch eager": lambda: (step(), torch.cuda.synchronize()),
        "torch CUDA graph": lambda: (graph.replay(), torch.cuda.synchronize()),
    }


def cupy_steps(networks, width, depth):
    """Return plain CuPy's step."""
    import cupy

    weights = [cupy.asarray(w) for w in host_layers(networks, width, depth)]
    p = problem()
    s, target = (cupy.asarray(a, dtype=np.float32) for a in (p.scale, p.target))

    def subtract(w, B, C):
        w -= np.float32(1e-12) * (C if B is None else cupy.matmul(B.transpose(0, 2, 1), C))

    def step():
        two_pass(weights, cupy.matmul, lambda w: w.transpose(0, 2, 1), subtract, s, target)
        cupy.cuda.get_current_stream().synchronize()

    return {"CuPy": step}


def jax_steps(networks, width, depth):
    """Return JAX's step: jitted, with a scan over the hidden layers."""
    import jax
    import jax.numpy as jnp

    if jax.devices()[0].platform != "gpu":
        raise RuntimeError("JAX is installed without a card")
    host = host_layers(networks, width, depth)
    p = problem()
    s, target = jnp.asarray(p.scale, jnp.float32), jnp.asarray(p.target, jnp.float32)
    high = jax.lax.Precision.HIGHEST

    def product(a, b):
        return jnp.matmul(a, b, precision=high)

    def step(first, hidden, last):
        def down(B, w):
            return product(B, w), B

        top, above = jax.lax.scan(down, last, hidden, reverse=True)
        G = (product(top, first) * s - target) * s

        def up(C, pair):
            w, B = pair
            return product(C, w.mT), w - 1e-12 * product(B.mT, C)

        C, moved = jax.lax.scan(up, product(G, first.mT), (hidden, above))
        return first - 1e-12 * product(top.mT, G), moved, last - 1e-12 * C

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    state = [jnp.asarray(host[0]), jnp.stack([jnp.asarray(host[1])] * (depth - 2)), None]
    state[2] = jnp.asarray(host[-1])

    def run():
        state[:] = compiled(*state)
        jax.block_until_ready(state)

    return {"JAX jit + scan": run}


def ours_haar(card, count, n):
    """Return fastdln's sampling of a batch."""
    from fastdln.backends.gpu.haar import haar_batch
    from fastdln.rng import Stream

    def sample():
        with gpu.on_card(card) as cupy:
            haar_batch(card, 1, int(Stream.HAAR), 0, count, n, n, "float32")
            cupy.cuda.get_current_stream().synchronize()

    return {"fastdln": sample}


def haar_peers(n, count):
    """Return each peer's sampling of `count` matrices by QR, signs left out where it has none."""
    found = {}
    try:
        import cupy

        def by_cupy():
            cupy.linalg.qr(cupy.random.standard_normal((count, n, n), np.float32))
            cupy.cuda.get_current_stream().synchronize()

        found["cupy.linalg.qr"] = by_cupy
    except ImportError:
        pass
    try:
        import torch

        def by_torch():
            torch.linalg.qr(torch.randn(count, n, n, device="cuda"))
            torch.cuda.synchronize()

        found["torch.linalg.qr"] = by_torch
    except ImportError:
        pass
    try:
        import jax

        def by_jax():
            if jax.devices()[0].platform != "gpu":
                raise RuntimeError("JAX is installed without a card")
            jax.block_until_ready(jax.random.orthogonal(jax.random.key(0), n, (count,)))

        found["jax.random.orthogonal"] = by_jax
    except ImportError:
        pass
    return found


def milliseconds(function, repeats=7, limit=PEER_SECONDS):
    """Return the median time of a call that waits for the card, the first one left out."""
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
    blocks = 16 * launcher.card.multiprocessors

    def multiply():
        kernel((blocks,), (256,), (b, np.float32(0.5)))
        launcher.synchronize()

    return {
        "copy bytes/s": 2 * a.nbytes / milliseconds(copy) * 1e3,
        "float32 flop/s": 2.0 * 4096 * 8 * 256 * blocks / milliseconds(multiply) * 1e3,
    }


def floor_milliseconds(rates, networks, width, depth):
    """Return the least time of a step of all: one read and one write, or its flops."""
    numbers = networks * (width * width * (depth - 2) + width * (D + Q))
    flops = 2 * 1.5 * (D + Q) * numbers
    traffic = 8 * numbers
    return 1e3 * max(traffic / rates["copy bytes/s"], flops / rates["float32 flop/s"])


def our_step(launcher, networks, width, depth, steps=20, team=None):
    """Return the team, and the milliseconds of one step of all networks."""
    ours = Ours(launcher, networks, width, depth, team)
    return ours.team, milliseconds(lambda: ours.step(steps)) / steps


def likely_teams(launcher, networks, width, depth, most=8):
    """Return the teams that should be fastest, and the cycles expected of a visit of a layer."""
    from fastdln.backends.gpu.cost_model import networks_at_once, step_cycles, teams
    from fastdln.kernels.cuda.packing import Packing

    packing = Packing([(D, *[width] * (depth - 1), Q)] * networks, "float32")
    card = launcher.card
    cycles = {t: step_cycles(packing, t, False, card) for t in teams(packing, False, card)
              if t.group == 1 or networks <= networks_at_once(packing, t, False, card)}  # fmt: skip
    return sorted(cycles.items(), key=lambda item: item[1])[:most]


def compare_teams(launcher, name):
    """Time the likely teams of one kind of training; print and return a row for each."""
    networks, width, depth = TRAINING[name][:3]
    compared = []
    for team, cycles in likely_teams(launcher, networks, width, depth):
        _, ms = our_step(launcher, networks, width, depth, team=team)
        compared.append(
            {"work": name, "team": list(team), "expected cycles": cycles, "step of all": ms}
        )
        blocks = f"{team.group:4} blocks of {team.crews} × {team.threads:3} threads"
        print(f"{name:22} {blocks}, {team.parts:2} parts: {ms:9.3f} ms,"
              f" {cycles * depth:.3g} cycles expected", flush=True)  # fmt: skip
        release(launcher)
    return compared


def release(launcher):
    """Give back to the card what libraries keep of memory that nothing holds."""
    gc.collect()
    launcher.xp.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def training_row(launcher, rates, name, peers=True):
    """Return the times of one kind of training, ours and the peers', in milliseconds."""
    networks, width, depth, counted, at_most, stretch = TRAINING[name]
    share = networks if counted == "network-step" else 1
    team, ours = our_step(launcher, networks, width, depth)
    times = {"fastdln": ours / share}
    row = {
        "work": name, "counted": counted, "at most": at_most, "stretch": stretch, "unit": "ms",
        "floor": floor_milliseconds(rates, networks, width, depth) / share,
        "team": list(team), "times": times, "errors": {},
    }  # fmt: skip
    release(launcher)
    for build in (torch_steps, jax_steps, cupy_steps) if peers else ():
        try:
            for peer, step in build(networks, width, depth).items():
                times[peer] = milliseconds(step) / share
        except Exception as error:  # a peer that fails is reported, not hidden
            row["errors"][build.__name__] = f"{type(error).__name__}: {error}"[:300]
        release(launcher)
    return row


def sampling_row(card, launcher, rates, name, peers=True):
    """Return the times of sampling; peers draw a few matrices and are scaled up."""
    count, n, at_most, stretch = SAMPLING[name]
    times = {k: milliseconds(f, 5) for k, f in ours_haar(card, count, n).items()}
    row = {
        "work": name, "counted": "all", "at most": at_most, "stretch": stretch, "unit": "ms",
        # Reflectors multiplied out: 4/3 n³ flops a matrix.
        "floor": 1e3 * count * 4 / 3 * n**3 / rates["float32 flop/s"], "times": times, "errors": {},
    }  # fmt: skip
    release(launcher)
    few = 8
    for peer, sample in haar_peers(n, few).items() if peers else ():
        try:
            times[f"{peer} (from {few})"] = milliseconds(sample, 3) * count / few
        except Exception as error:  # a peer that fails is reported, not hidden
            row["errors"][peer] = f"{type(error).__name__}: {error}"[:300]
    return row


def swept_milliseconds(preset, steps):
    """Return the time of the preset's networks for so many steps, drawing them included."""
    import fastdln
    from fastdln import figures

    begun = time.perf_counter()
    fastdln.sweep(
        fastdln.paper_regression(), preset.widths, preset.depths, figures.INITS, steps=steps,
        record_steps=[steps], device="gpu", dtype="float32", progress=False,
    )  # fmt: skip
    return 1e3 * (time.perf_counter() - begun)


def figure_row(name):
    """Return the time of all networks of a figure, from a few of their steps."""
    from fastdln import figures

    preset_name, few, more, at_most, stretch = FIGURES[name]
    preset = figures.FIGURE1[preset_name]
    swept_milliseconds(preset, 0)  # compiles
    short, long = (swept_milliseconds(preset, steps) for steps in (few, more))
    whole = short + (long - short) / (more - few) * (preset.steps - few)
    return {
        "work": name, "counted": "all", "at most": at_most, "stretch": stretch, "unit": "ms",
        "times": {"fastdln": whole}, "errors": {}, "from steps": [few, more],
    }  # fmt: skip


def show(row):
    """Print one line of the table."""
    times = row["times"]
    ours = times["fastdln"]
    peers = {k: v for k, v in times.items() if k != "fastdln"}
    ratio = f"{min(peers.values()) / ours:6.1f}×" if peers else "      -"
    floor = f"{row['floor']:8.3f}" if "floor" in row else "       -"
    print(f"{row['work']:22} {row['counted']:13} {ours:9.3f} {row['at most']:8} {row['stretch']:8}"
          f" {floor} {ratio}  " + ", ".join(f"{k} {v:.3f}" for k, v in peers.items()))  # fmt: skip
    for name, error in row["errors"].items():
        print(f"    {name}: {error}")
    sys.stdout.flush()


def rows(card, launcher, rates, name, chosen):
    """Print and return what the command asks for of one kind of work."""
    if chosen.teams:
        return compare_teams(launcher, name) if name in TRAINING else []
    if name in TRAINING:
        row = training_row(launcher, rates, name, not chosen.no_peers)
    elif name in SAMPLING:
        row = sampling_row(card, launcher, rates, name, not chosen.no_peers)
    else:
        row = figure_row(name)
    show(row)
    return [row]


def driver():
    """Return the driver's version as nvidia-smi names it."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def main(arguments=None):
    """Print the table and write it as JSON."""
    names = [*TRAINING, *SAMPLING, *FIGURES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the results, JSON")
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--teams", action="store_true", help="compare teams instead")
    chosen = parser.parse_args(arguments)
    try:
        card, launcher = setup_card()
    except NotImplementedError as error:
        print(error, file=sys.stderr)
        return 1
    with gpu.on_card(card):
        result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "card": card.name, "driver": driver(),
            "command": " ".join(["python -m benchmarks.gpu", *(arguments or sys.argv[1:])]),
            "roofline": roofline(launcher), "rows": [],
        }  # fmt: skip
        print({k: f"{v:.3e}" for k, v in result["roofline"].items()})
        print(f"{'work':22} {'counted':13} {'ms':>9} {'at most':>8} {'stretch':>8}"
              f" {'floor':>8} {'ratio':>7}  peers")  # fmt: skip
        for name in chosen.only or names:
            result["rows"] += rows(card, launcher, result["roofline"], name, chosen)
            if chosen.out:
                with open(chosen.out, "w") as file:
                    json.dump(result, file, indent=1)
    return 0


class Training:
    """A step on the card, in milliseconds."""

    params = [list(TRAINING)[::-1]]
    param_names = ["networks"]
    unit = "ms"

    def setup(self, name):
        networks, width, depth = TRAINING[name][:3]
        _, launcher = setup_card()
        self.ours = Ours(launcher, networks, width, depth)

    def track_step(self, name):
        share = TRAINING[name][0] if TRAINING[name][3] == "network-step" else 1
        return milliseconds(lambda: self.ours.step(20)) / 20 / share


class Sampling:
    """A batch of Haar matrices on the card, in milliseconds."""

    params = [list(SAMPLING)]
    param_names = ["matrices"]
    unit = "ms"

    def setup(self, name):
        self.card, _ = setup_card()

    def track_sample(self, name):
        count, n = SAMPLING[name][:2]
        return milliseconds(ours_haar(self.card, count, n)["fastdln"], 5)


if __name__ == "__main__":
    sys.exit(main())
