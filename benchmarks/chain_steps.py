"""Time steps of one network by the CPU trainer, and compute the machine's limits."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastdln.backends.cpu.cost_model import ALONE, Team, choose
from fastdln.backends.cpu.optimizer_state import OptimizerState
from fastdln.backends.cpu.packed_chain import PackedChain
from fastdln.backends.cpu.steppers import RegressionStepper
from fastdln.objectives.regression import reduce_regression
from fastdln.optim.loop import LossRecord
from fastdln.optim.optimizers import LayerRates, Optimizer
from fastdln.utils import threads

from . import common
from .chain_peers import RATE, D, Q, problem

DTYPES = ["float32", "float64"]
# Seconds that members of a team wait for each other: a measurement includes all waiting.
NEVER = 3600.0


class Steps:
    """One network in the CPU trainer with a fixed team, chosen by the cost model or given.

    Parameters
    ----------
    case : str
        ``"<width>x<depth>"``.
    dtype : str
    kernel : {"auto", "two-pass", "zigzag"}
    team : int, optional
        Threads that share the network; by default the cost model's choice.
    sharing : {"layers", "segments"}
        What the members of a given team have their parts of.
    most : int
        Maximum number of steps.
    """

    def __init__(
        self,
        case: str,
        dtype: str,
        kernel: str = "auto",
        team: int | None = None,
        sharing: str = "layers",
        most: int = 10**8,
    ):
        layers, _, target = problem(case, dtype)
        objective, optimizer = reduce_regression(np.eye(D), target), Optimizer()
        widths = (D, *(w.shape[0] for w in layers))
        chain = PackedChain(layers, widths, np.dtype(dtype))
        choice = choose(chain.layout, threads.available(), kernel=kernel)
        if team is not None:
            choice = choice._replace(teams={Team(team, sharing) if team > 1 else ALONE: 0.0})
        self.choice, self.layout = choice, chain.layout
        # With one row per layer, every layer's step size is RATE.
        rates = LayerRates.of(optimizer, RATE, np.ones(len(layers)))
        state = OptimizerState(optimizer, rates, chain, choice.team.size)
        self._record = LossRecord(objective, most, tolerance=0.0)
        pool, teams = ThreadPoolExecutor(choice.team.size), (ALONE, choice.team)
        self._stepper = RegressionStepper(
            chain, state, objective, self._record, choice.kernel, teams, pool
        )
        self._stepper.advance(0, ALONE, 0.0)

    def run(self, steps: int) -> None:
        """Take `steps` steps."""
        late = self._stepper.advance(self._record.step + steps, self.choice.team, NEVER)
        assert not late


def _count(run: Callable[[int], None], seconds: float) -> int:
    """Return the number of steps, even and at least four, that take about `seconds`.

    Time several calls of growing length: the first call compiles, and starting a team takes as long
    as ten steps of a small network. The number is even because zigzag alternates down and up
    passes.
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
    """Return the median seconds of one step of each run, from interleaved timings."""
    counts = {name: _count(run, seconds) for name, run in runs.items()}
    taken = common.medians(
        {name: (lambda run=run, n=counts[name]: run(n)) for name, run in runs.items()}
    )
    return {name: t / counts[name] for name, t in taken.items()}


def roofline(case: str, dtype: str, matmul: float, copy: float) -> float:
    """Return a lower bound on the seconds of a step: three products, 1½ transfers of weights."""
    width, depth = common.shape_of(case)
    elements = width * (D + Q + width * (depth - 2))
    nbytes = elements * np.dtype(dtype).itemsize
    # Weights that fit in cache are not transferred from memory.
    traffic = 1.5 * nbytes / copy if nbytes > 24 * 2**20 else 0.0
    return max(6.0 * Q * elements / matmul, traffic)
