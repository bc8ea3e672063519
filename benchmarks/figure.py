"""Time the whole command ``fastdln figure1`` against the sum of its networks' rooflines.

``python -m benchmarks.figure quick`` runs the command in new processes, the first to fill the
caches of kernels, and prints where its time went. With ``--fraction 0.1`` a grid of about a tenth
of the preset's networks is trained, evenly spread over widths and depths.

Training is what the threads spent on cells, drawing included, divided by their number. Everything
else is the rest of the time from the start of the process to its end, the time in which a thread
has no cell left included. A thread that waits for a processor counts as training: the seconds of
processor time beside it tell whether the machine was disturbed.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastdln.config import SWEPT_INITS, SWEPT_SEEDS, TrainConfig
from fastdln.figures import DTYPE, FIGURE1, Preset
from fastdln.objectives.regression import paper_regression
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.store import read
from fastdln.utils import threads

from . import common

# Bytes of a network that stay in cache from step to step.
IN_CACHE = 24 * 2**20


class Report(NamedTuple):
    """Where the seconds of one run of the command went.

    Attributes
    ----------
    whole : float
        From the start of the process to its end.
    training : float
        Time of the threads in cells over the number of threads.
    processor : float
        The same in processor time.
    drawing : float
        Expected time to draw all networks, at the measured rate of normals on all threads.
    rooflines : float
        Sum over cells of the least time of the steps that were taken.
    """

    whole: float
    training: float
    processor: float
    drawing: float
    rooflines: float

    @property
    def else_(self) -> float:
        """Seconds outside training."""
        return self.whole - self.training


def smaller(preset: Preset, fraction: float) -> Preset:
    """Return about this fraction of a preset's networks, evenly spread, the largest included."""

    def some(values: tuple[int, ...]) -> tuple[int, ...]:
        count = max(1, round(len(values) * fraction**0.5))
        places = len(values) - 1 - np.linspace(0, len(values), count, endpoint=False).astype(int)
        return tuple(values[i] for i in sorted(places))

    widths, depths = some(preset.widths), some(preset.depths)
    return dataclasses.replace(preset, widths=widths, depths=depths)


# Runs the command with a preset's axes replaced, and notes the time of every batch of cells.
PROGRAM = """
import json, sys, time
from fastdln import cli, figures
from fastdln.sweeps.cell_runs import CellRuns

preset, folder, axes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
widths, depths, steps, recorded = axes
figures.FIGURE1[preset] = figures.Preset(tuple(widths), tuple(depths), steps, tuple(recorded))
train, spent = CellRuns.train, []

def timed(self, batch, report=None):
    begun, processor = time.perf_counter(), time.thread_time()
    yield from train(self, batch, report)
    spent.append((time.perf_counter() - begun, time.thread_time() - processor))

CellRuns.train = timed
sys.argv = ["fastdln", "figure1", "--preset", preset, "--output", folder, "--quiet"]
sys.argv += ["--device", "cpu"]
try:
    cli.main()
finally:
    print(json.dumps(spent))
"""


def run(name: str, preset: Preset) -> tuple[float, np.ndarray, np.ndarray]:
    """Run the command once in a new process.

    Returns
    -------
    whole : float
        Seconds of the process.
    spent : ndarray
        Seconds, and seconds of processor time, of every thread in cells.
    steps : ndarray
        Steps taken of every cell.
    """
    with tempfile.TemporaryDirectory() as folder:
        axes = json.dumps(dataclasses.astuple(preset))
        begun = time.perf_counter()
        said = common.in_new_process(PROGRAM, name, folder, axes)
        whole = time.perf_counter() - begun
        steps = read(Path(folder) / "figure1.zarr")["steps_taken"].values
    spent = np.array(json.loads(said.splitlines()[-1])).sum(axis=0)
    return whole, spent / threads.available(), steps


def measured(name: str, fraction: float) -> Report:
    """Run the command once in a new process; measure this machine's limits before and after."""
    preset = smaller(FIGURE1[name], fraction)
    before = machine_limits()
    whole, spent, steps = run(name, preset)
    # The better of two measurements, before and after: another process may disturb one.
    flops, copied, normals = map(max, before, machine_limits())
    rooflines, drawing = _limits_of(preset, steps, (flops, copied, normals))
    return Report(whole, spent[0], spent[1], drawing, rooflines)


def machine_limits() -> tuple[float, float, float]:
    """Return flops, copied bytes and normals per second of all threads."""
    flops, copied = common.matmul_flops(DTYPE), common.copied_bytes_per_second()
    return flops, copied, common.normals_per_second()


def _limits_of(
    preset: Preset, steps: np.ndarray, limits: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the sum of the rooflines of the steps taken, and the time to draw all networks."""
    flops, copied, normals = limits
    config = TrainConfig(steps=preset.steps, dtype=DTYPE)
    runs = CellRuns.of(paper_regression(), config, preset.record_steps)
    grid = Grid(SWEPT_INITS, preset.widths, preset.depths, SWEPT_SEEDS, preset.record_steps)
    rooflines, drawn = 0.0, 0
    for cell, plan in runs.plans(grid.cells()).items():
        n = plan.widths
        weights = sum(a * b for a, b in zip(n, n[1:], strict=False))
        drawn += weights
        nbytes = weights * plan.dtype.itemsize
        # Weights that fit in cache are not transferred from memory.
        traffic = 1.5 * nbytes / copied if nbytes > IN_CACHE else 0.0
        rooflines += steps[cell.index] * max(6.0 * min(n[0], n[-1]) * weights / flops, traffic)
    return rooflines, drawn / normals


class WholeFigure:
    """Seconds of ``fastdln figure1 --preset quick``, or of a part of its networks."""

    params = [[0.03, 1.0]]
    param_names = ["fraction"]
    timeout = 300

    def setup(self, fraction):
        run("quick", smaller(FIGURE1["quick"], 0.03))  # fills the caches of kernels

    def track_everything_else(self, fraction):
        return measured("quick", fraction).else_

    track_everything_else.unit = "s"

    def track_over_rooflines(self, fraction):
        report = measured("quick", fraction)
        return report.whole / report.rooflines

    track_over_rooflines.unit = "×"


def main() -> None:
    """Print the report of a preset of Figure 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("preset", choices=FIGURE1)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the networks, at most 1")
    given = parser.parse_args()
    if not 0 < given.fraction <= 1:
        parser.error(f"--fraction must be above 0 and at most 1, not {given.fraction}")
    run("quick", smaller(FIGURE1["quick"], 0.03))  # fills the caches of kernels
    found = measured(given.preset, given.fraction)
    for name, value, unit in (
        ("whole", found.whole, "s"),
        ("training, of every thread", found.training, "s"),
        ("  in processor time", found.processor, "s"),
        ("  of it drawing, at least", found.drawing, "s"),
        ("everything else", found.else_, "s"),
        ("sum of rooflines", found.rooflines, "s"),
        ("whole / rooflines", found.whole / found.rooflines, ""),
        ("training / rooflines", found.training / found.rooflines, ""),
    ):
        print(f"{name:<28} {value:8.2f} {unit}".rstrip())


if __name__ == "__main__":
    main()
