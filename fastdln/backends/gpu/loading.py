"""Load workloads onto a GPU: kernel arguments, layers, and checks of memory."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from fastdln.backends.interface import Layer, Workload, formed
from fastdln.kernels.cuda.zigzag import Motion, Problem, Samples
from fastdln.objectives.base import ReducedObjective
from fastdln.objectives.regression import ReducedRegression
from fastdln.utils import memory

from .device import DeviceArray
from .haar import drawing_bytes
from .launcher import Launcher

SMALLER = "use a smaller width, depth or dtype"


def motion_of(workload: Workload) -> Motion:
    """Return a network's constants of gradient descent for the zigzag kernel."""
    rates = workload.rates
    return Motion(
        rates.step_sizes, rates.weight_decays, rates.decay_factor, workload.optimizer.momentum
    )


def regression_problem(objective: ReducedRegression) -> Problem:
    """Return a reduced regression as the kernels' `Problem`."""
    scale = np.broadcast_to(objective.scale, objective.target.shape)
    return Problem(np.ascontiguousarray(scale), objective.target, objective.constant)


def minibatch_samples(objective: ReducedObjective, workloads: Sequence[Workload]) -> Samples | None:
    """Return the samples from which `workloads` take minibatches, all of one size.

    None for full-batch workloads, and where gradients are formed outside the kernel.
    """
    schedule = workloads[0].schedule if workloads else None
    if schedule is None or not isinstance(objective, ReducedRegression):
        return None
    samples = np.concatenate([data.T for data in objective.samples], axis=1)
    return Samples(samples, schedule.size)


def load_layers(
    launcher: Launcher, layers: Iterable[Layer], destination: Callable[[int], DeviceArray]
) -> None:
    """Write layers one by one to their destinations on the GPU."""
    for i, layer in enumerate(layers):
        destination(i)[...] = launcher.xp.asarray(formed(layer), dtype=launcher.dtype)


def require_memory(launcher: Launcher, widths: tuple[int, ...], needed: int) -> None:
    """Raise MemoryError unless a network that takes `needed` bytes can be drawn on the GPU."""
    needed += drawing_bytes(widths, launcher.dtype)
    memory.require(needed, launcher.free_bytes(), _description(launcher, widths), SMALLER)


def allocation_failed(launcher: Launcher, widths: tuple[int, ...]) -> MemoryError:
    """Return the error for a failed allocation of a network that was expected to fit."""
    free = launcher.free_bytes()
    return MemoryError(
        f"{_description(launcher, widths)} ran out of memory with {free:,} bytes"
        f" ({memory.readable(free)}) left in fragments; other processes may use the GPU,"
        f" or {SMALLER}"
    )


def _description(launcher: Launcher, widths: tuple[int, ...]) -> str:
    width = max(widths[1:-1], default=0)
    return f"a network of depth {len(widths) - 1} and width {width} on {launcher.device}"
