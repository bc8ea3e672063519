"""Prepare a training run: check its options against the problem and this machine, and plan it.

Runs that differ in seed and learning rate only share a `PreparedRun`: they are checked and planned
once.
"""

import dataclasses
import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.backends import devices, selection
from fastdln.backends.interface import is_plain_regression
from fastdln.config import TrainConfig
from fastdln.initializers.layers import Draw
from fastdln.network import Network
from fastdln.objectives.base import Objective, ReducedObjective, reduced_objective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import relative_floor
from fastdln.optim.minibatches import minibatches
from fastdln.optim.optimizers import Optimizer
from fastdln.reduction import initial_layers
from fastdln.reduction.initial_layers import InitialLayers
from fastdln.reduction.plan import Plan, plan, plan_network
from fastdln.utils import memory, threads

if TYPE_CHECKING:
    from fastdln.backends.gpu.launcher import Launcher

log = logging.getLogger("fastdln")


@dataclass(frozen=True)
class PreparedRun:
    """A checked and planned run, complete except for its seed and its learning rate.

    Attributes
    ----------
    problem : Objective
        As given.
    config : TrainConfig
        The options, with the device chosen.
    network : Network or None
        The network to train, where it is not drawn.
    bases : tuple of ndarray
        Its invariant subspaces; empty where it is trained at full width.
    objective : ReducedObjective
        The problem on the span of its inputs.
    plan : Plan
    tolerance : float
        Relative loss at or below which the run has converged.
    reason : str
        Reason for the method, and for the device where fastdln chose it.
    """

    problem: Objective
    config: TrainConfig
    network: Network | None
    bases: tuple[np.ndarray, ...]
    objective: ReducedObjective
    plan: Plan
    tolerance: float
    reason: str

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser and its constants."""
        return Optimizer.of(self.config)

    @property
    def rows(self) -> np.ndarray:
        """Rows of every layer of the full-width network, which decide its step size."""
        return np.array(self.plan.full_widths[1:], dtype=np.float64)

    @functools.cached_property
    def launcher(self) -> "Launcher | None":
        """Launches kernels on the GPU that trains the network; None on the CPU."""
        if not devices.is_gpu(self.config.device):
            return None
        from fastdln.backends.gpu import launcher  # needs CuPy

        return launcher.launcher_on(self.config.device, self.plan.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "launcher"}

    def require_memory(self) -> None:
        """Raise MemoryError unless the network fits; on a GPU, the backend checks its memory."""
        if self.launcher is None and self.plan.bytes > memory.SMALL_BYTES:
            hidden = self.plan.full_widths[1:-1]
            what = f"a network of depth {len(hidden) + 1} and width {max(hidden, default=0)}"
            available = memory.available()
            memory.require(self.plan.bytes, available, f"training {what}", "reduce width or depth")

    def initial_layers(self, key: int) -> InitialLayers:
        """Return the layers to train for a seed (its `seed_key`), and where they come from."""
        basis = self.objective.basis
        if self.network is None:
            config, chosen = self.config, self.plan
            draw = Draw(
                chosen.full_widths, config.value("init"), key, chosen.dtype, config.value("gain")
            )
            return initial_layers.drawn(draw, chosen, basis, self.launcher)
        if self.bases:
            return initial_layers.in_subspaces(self.network, self.bases, basis)
        return initial_layers.dense(iter(self.network.weights), basis)


def prepare(
    problem: Objective, config: TrainConfig, network: Network | None = None, count: int = 1
) -> PreparedRun:
    """Check a run against its problem and this machine, and plan it.

    Parameters
    ----------
    problem : Objective
    config : TrainConfig
        Its seed and learning rate are left to `fastdln.training.run.Run.of`.
    network : Network, optional
        Train this network instead of drawing one.
    count : int
        Number of such runs, which decides where ``device="auto"`` trains them.

    Raises
    ------
    TypeError, ValueError, ImportError, RuntimeError
        As `fastdln.train` does.
    """
    with threads.limited(config.threads):
        return _prepared(problem, config, network, count)


def _prepared(
    problem: Objective, config: TrainConfig, network: Network | None, count: int
) -> PreparedRun:
    devices.check_device(config.device)  # before anything slow
    chosen, bases = _planned(problem, config, network)
    minibatches(problem, config.batch_size, key=0)  # only to check the size
    optimizer = Optimizer.of(config)
    objective = reduced_objective(problem, whole=not optimizer.equivariant)
    device, why = selection.choose_device(
        config.device, work(config, objective, {chosen.widths: count}, chosen)
    )
    plain = is_plain_regression(objective, optimizer, config.batch_size is not None)
    selection.check_kernel(config.kernel, device, plain, optimizer.adam)
    log.info("%s: %s", chosen.method, chosen.reason)
    return PreparedRun(
        problem,
        config if device == config.device else dataclasses.replace(config, device=device),
        network,
        bases,
        objective,
        chosen,
        relative_floor(config.tolerance, chosen.dtype),
        f"{chosen.reason}; {why}" if why else chosen.reason,
    )


def work(
    config: TrainConfig,
    objective: ReducedObjective,
    networks: dict[tuple[int, ...], int],
    largest: Plan,
) -> selection.Work:
    """Return the sizes and options of the networks to train, for the choice of a device."""
    optimizer = Optimizer.of(config)
    return selection.Work(
        networks,
        largest.dtype,
        config.steps,
        config.kernel,
        is_plain_regression(objective, optimizer, config.batch_size is not None),
        isinstance(objective, ReducedRegression),
        optimizer,
        largest.bytes,
    )


def _planned(
    problem: Objective, config: TrainConfig, network: Network | None
) -> tuple[Plan, tuple[np.ndarray, ...]]:
    """Return the plan of a run, and the invariant subspaces of a given network."""
    optimizer = Optimizer.of(config)
    if network is not None:
        if any(getattr(config, name) is not None for name in ("width", "depth", "init", "gain")):
            raise ValueError(
                "width, depth, init and gain must be left out where a network is given"
            )
        chosen, bases = plan_network(
            problem,
            network,
            dtype=config.dtype,
            method=config.method,
            optimizer=optimizer,
            tolerance=config.rank_tolerance,
        )
        return chosen, tuple(bases)
    if config.rank_tolerance is not None:
        raise ValueError("rank_tolerance is for a given network; it must be left out")
    return planned_draw(problem, config), ()


def planned_draw(problem: Objective, config: TrainConfig) -> Plan:
    """Return the plan of a run that draws its network."""
    return plan(
        problem,
        width=config.width,
        depth=config.depth,
        init=config.value("init"),
        dtype=config.value("dtype"),
        method=config.method,
        optimizer=Optimizer.of(config),
    )
