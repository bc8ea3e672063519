"""Time training and sampling on a GPU against PyTorch, JAX and CuPy with the same step.

``python -m benchmarks.gpu`` prints the table and writes JSON; it needs neither asv nor internet
access. ``--teams`` times the likely teams of blocks and threads, to check
`fastdln.backends.gpu.cost_model`.
"""

import argparse
import datetime
import gc
import json
import subprocess
import sys
import time

import numpy as np

from fastdln.backends.gpu import device as gpu
from fastdln.backends.interface import Workload
from fastdln.optim.optimizers import Optimizer

from .gpu_peers import D, Q, cupy_steps, haar_peers, jax_steps, problem, torch_steps
from .gpu_roofline import floor_milliseconds, milliseconds, roofline

# name: (networks, width, depth, unit of work, required time, stretch goal), times in milliseconds.
TRAINING = {
    "one m=1000 L=700": (1, 1000, 700, "step", 2.2, 1.5),
    "four m=1000 L=700": (4, 1000, 700, "network-step", 1.8, 1.35),
    "132 of m=100 L=200": (132, 100, 200, "step of all", 1.0, 0.55),
    "400 of k=26 L=700": (400, 26, 700, "step of all", 2.0, 0.8),
}
SAMPLING = {"700 Haar 1000×1000": (700, 1000, 150.0, 50.0)}
# name: (preset, few steps, more steps, required time, stretch goal), times in milliseconds; the
# time of all steps is extrapolated from the difference.
FIGURES = {"figure1 paper": ("paper", 50, 550, 30 * 60e3, 8 * 60e3)}


def setup_gpu():
    """Return a launcher; skip the benchmark if there is no GPU."""
    from fastdln.backends.gpu.launcher import launcher_on

    try:
        return launcher_on("gpu", "float32")
    except (ImportError, RuntimeError, ValueError) as error:
        raise NotImplementedError(str(error)) from error


class Ours:
    """Networks in training by the zigzag kernel; `step(n)` takes n steps of every network."""

    def __init__(self, launcher, networks, width, depth, team=None, ends=(D, Q)):
        from fastdln.backends.gpu.cost_model import choose_team
        from fastdln.backends.gpu.loading import motion_of, regression_problem
        from fastdln.kernels.cuda.packing import Packing
        from fastdln.kernels.cuda.random import fill_normals
        from fastdln.kernels.cuda.zigzag import Batch

        widths = (ends[0], *[width] * (depth - 1), ends[1])
        packing = Packing([widths] * networks, "float32")
        self.team = team or choose_team(packing, False, launcher.device)
        # The learning rate is small enough that no network converges or diverges while timed.
        workload = Workload(
            widths,
            np.array(widths[1:], float),
            launcher.dtype,
            Optimizer(),
            1e-12,
            problem(*ends),
            100_000,
            0.0,
            lambda: (),
        )
        self._launcher, self._active, self._goal = launcher, np.arange(networks), 0
        self.batch = Batch(
            launcher.xp,
            packing,
            [motion_of(workload)] * networks,
            steps=workload.steps,
            tolerance=0.0,
            problems=[regression_problem(workload.objective)],
            team=self.team,
        )
        for j in range(depth):
            layer = self.batch.layer(0, j)
            scale = layer.shape[0] ** -0.5
            fill_normals(launcher, 0, j, layer, stream_step=0, step=layer.shape[1], scale=scale)
        # Copy the first network to all others: drawing each would take longer than the timing.
        each = self.batch.weights.reshape(networks, -1)
        each[1:] = each[0]
        self.step(0)

    def step(self, count):
        self._goal += count
        self.batch.advance(self._launcher.zigzag, self._active, self._goal)
        self._launcher.synchronize()


def ours_haar(device, count, n):
    """Return a function that samples a batch of Haar matrices by fastdln."""
    from fastdln.backends.gpu.haar import haar_batch
    from fastdln.rng import Stream

    def sample():
        with gpu.on_device(device) as cupy:
            haar_batch(device, 1, int(Stream.HAAR), 0, count, n, n, "float32")
            cupy.cuda.get_current_stream().synchronize()

    return {"fastdln": sample}


def our_step(launcher, networks, width, depth, steps=20, team=None, ends=(D, Q)):
    """Return the team, and the milliseconds in which every network takes one step."""
    ours = Ours(launcher, networks, width, depth, team, ends)
    return ours.team, milliseconds(lambda: ours.step(steps)) / steps


def likely_teams(launcher, networks, width, depth, ends=(D, Q), most=8):
    """Return the teams expected to be fastest, with the expected cycles of a layer update."""
    from fastdln.backends.gpu.cost_model import networks_at_once, step_cycles, teams
    from fastdln.kernels.cuda.packing import Packing

    packing = Packing([(ends[0], *[width] * (depth - 1), ends[1])] * networks, "float32")
    device = launcher.device
    cycles = {
        team: step_cycles(packing, team, False, device)
        for team in teams(packing, False, device)
        if team.group == 1 or networks <= networks_at_once(packing, team, False, device)
    }
    return sorted(cycles.items(), key=lambda item: item[1])[:most]


def compare_teams(launcher, name, ends=(D, Q)):
    """Time the likely teams of one training case; print and return a row per team."""
    networks, width, depth = TRAINING[name][:3]
    compared = []
    for team, cycles in likely_teams(launcher, networks, width, depth, ends):
        _, ms = our_step(launcher, networks, width, depth, team=team, ends=ends)
        compared.append(
            {"work": name, "team": list(team), "expected cycles": cycles, "step of all": ms}
        )
        blocks = f"{team.group:4} blocks of {team.warp_groups} × {team.threads:3} threads"
        print(
            f"{name:22} {blocks}, {team.parts:2} parts: {ms:9.3f} ms,"
            f" {cycles * depth:.3g} cycles expected",
            flush=True,
        )
        release(launcher)
    return compared


def release(launcher):
    """Free the GPU memory in the libraries' memory pools."""
    gc.collect()
    launcher.xp.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def training_row(launcher, rates, name, peers=True):
    """Return the times of one training case, fastdln's and the peers', in milliseconds."""
    networks, width, depth, counted, at_most, stretch = TRAINING[name]
    share = networks if counted == "network-step" else 1
    team, ours = our_step(launcher, networks, width, depth)
    times = {"fastdln": ours / share}
    row = {
        "work": name,
        "counted": counted,
        "at most": at_most,
        "stretch": stretch,
        "unit": "ms",
        "floor": floor_milliseconds(rates, networks, width, depth) / share,
        "team": list(team),
        "times": times,
        "errors": {},
    }
    release(launcher)
    for build in (torch_steps, jax_steps, cupy_steps) if peers else ():
        try:
            for peer, step in build(networks, width, depth).items():
                times[peer] = milliseconds(step) / share
        except Exception as error:  # a peer that fails is reported, not hidden
            row["errors"][build.__name__] = f"{type(error).__name__}: {error}"[:300]
        release(launcher)
    return row


def sampling_row(launcher, rates, name, peers=True):
    """Return the times of sampling; peers' times are extrapolated from a few matrices."""
    count, n, at_most, stretch = SAMPLING[name]
    times = {k: milliseconds(f, 5) for k, f in ours_haar(launcher.device, count, n).items()}
    row = {
        "work": name,
        "counted": "all",
        "at most": at_most,
        "stretch": stretch,
        "unit": "ms",
        # Applying the reflectors takes 4/3 n³ flops per matrix.
        "floor": 1e3 * count * 4 / 3 * n**3 / rates["float32 flop/s"],
        "times": times,
        "errors": {},
    }
    release(launcher)
    few = 8
    for peer, sample in haar_peers(n, few).items() if peers else ():
        try:
            times[f"{peer} (from {few})"] = milliseconds(sample, 3) * count / few
        except Exception as error:  # a peer that fails is reported, not hidden
            row["errors"][peer] = f"{type(error).__name__}: {error}"[:300]
    return row


def swept_milliseconds(preset, steps):
    """Return the milliseconds to draw a preset's networks and take `steps` steps of each."""
    import fastdln

    begun = time.perf_counter()
    fastdln.sweep(
        fastdln.paper_regression(),
        preset.widths,
        preset.depths,
        steps=steps,
        record_steps=[steps],
        device="gpu",
        dtype="float32",
        progress=False,
    )
    return 1e3 * (time.perf_counter() - begun)


def figure_row(name):
    """Return the time of all networks of a figure, extrapolated from a few steps."""
    from fastdln import figures

    preset_name, few, more, at_most, stretch = FIGURES[name]
    preset = figures.FIGURE1[preset_name]
    swept_milliseconds(preset, 0)  # compiles
    short, long = (swept_milliseconds(preset, steps) for steps in (few, more))
    whole = short + (long - short) / (more - few) * (preset.steps - few)
    return {
        "work": name,
        "counted": "all",
        "at most": at_most,
        "stretch": stretch,
        "unit": "ms",
        "times": {"fastdln": whole},
        "errors": {},
        "from steps": [few, more],
    }


def show(row):
    """Print one line of the table."""
    times = row["times"]
    ours = times["fastdln"]
    peers = {k: v for k, v in times.items() if k != "fastdln"}
    ratio = f"{min(peers.values()) / ours:6.1f}×" if peers else "      -"
    floor = f"{row['floor']:8.3f}" if "floor" in row else "       -"
    print(
        f"{row['work']:22} {row['counted']:13} {ours:9.3f} {row['at most']:8} {row['stretch']:8}"
        f" {floor} {ratio}  " + ", ".join(f"{k} {v:.3f}" for k, v in peers.items())
    )
    for name, error in row["errors"].items():
        print(f"    {name}: {error}")
    sys.stdout.flush()


def rows(launcher, rates, name, chosen):
    """Print and return the rows of one case, as selected on the command line."""
    if chosen.teams:
        return compare_teams(launcher, name) if name in TRAINING else []
    if name in TRAINING:
        row = training_row(launcher, rates, name, not chosen.no_peers)
    elif name in SAMPLING:
        row = sampling_row(launcher, rates, name, not chosen.no_peers)
    else:
        row = figure_row(name)
    show(row)
    return [row]


def driver():
    """Return the driver's version as reported by nvidia-smi."""
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
        launcher = setup_gpu()
    except NotImplementedError as error:
        print(error, file=sys.stderr)
        return 1
    with launcher.here():
        result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": launcher.device.name,
            "driver": driver(),
            "command": " ".join(["python -m benchmarks.gpu", *(arguments or sys.argv[1:])]),
            "roofline": roofline(launcher),
            "rows": [],
        }
        print({k: f"{v:.3e}" for k, v in result["roofline"].items()})
        print(
            f"{'work':22} {'counted':13} {'ms':>9} {'at most':>8} {'stretch':>8}"
            f" {'floor':>8} {'ratio':>7}  peers"
        )
        for name in chosen.only or names:
            result["rows"] += rows(launcher, result["roofline"], name, chosen)
            if chosen.out:
                with open(chosen.out, "w") as file:
                    json.dump(result, file, indent=1)
    return 0


class Training:
    """Milliseconds of a training step on the GPU."""

    params = [list(TRAINING)[::-1]]
    param_names = ["networks"]
    unit = "ms"

    def setup(self, name):
        networks, width, depth = TRAINING[name][:3]
        self.ours = Ours(setup_gpu(), networks, width, depth)

    def track_step(self, name):
        share = TRAINING[name][0] if TRAINING[name][3] == "network-step" else 1
        return milliseconds(lambda: self.ours.step(20)) / 20 / share


class Sampling:
    """Milliseconds to sample a batch of Haar matrices on the GPU."""

    params = [list(SAMPLING)]
    param_names = ["matrices"]
    unit = "ms"

    def setup(self, name):
        self.device = setup_gpu().device

    def track_sample(self, name):
        count, n = SAMPLING[name][:2]
        return milliseconds(ours_haar(self.device, count, n)["fastdln"], 5)


if __name__ == "__main__":
    sys.exit(main())
