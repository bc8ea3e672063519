"""Advance one network: many steps per kernel call, or single steps with any objective."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from fastdln.backends.cpu.cost_model import Team, segment_count
from fastdln.backends.cpu.optimizer_state import OptimizerState
from fastdln.backends.cpu.packed_chain import PackedChain, oriented_regression
from fastdln.kernels.cpu.adam import update_layers_with_adam
from fastdln.kernels.cpu.groups import (
    AdamStep,
    GradientStep,
    Member,
    MomentumStep,
    Regression,
    Span,
    Workspace,
)
from fastdln.kernels.cpu.momentum import update_layers_with_momentum
from fastdln.kernels.cpu.regression_loop import descend, descend_with_momentum
from fastdln.kernels.cpu.team import new_barrier, was_late
from fastdln.kernels.cpu.two_pass import new_workspace, suffix_products, update_layers
from fastdln.kernels.cpu.two_pass_segments import (
    SegmentWorkspace,
    descend_by_segments,
    segment_workspace,
    words,
)
from fastdln.kernels.cpu.zigzag import apply_deferred_update, descend_zigzag
from fastdln.kernels.cpu.zigzag_workspace import DEFERRED, ZigzagWorkspace, zigzag_workspace
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import LossRecord
from fastdln.utils import threads

# A kernel that takes many steps, ``kernel(network, workspace, step, problem, span, member)``, and
# returns the last step whose loss is known.
RegressionKernel = Callable[..., int]
AnyWorkspace = Workspace | SegmentWorkspace | ZigzagWorkspace


class Stepper(Protocol):
    """Advance a network by a team of threads."""

    def advance(self, goal: int, team: Team, patience: float) -> bool:
        """Take steps to number `goal`, or fewer where the run ends or the team is late.

        A team is late once a member has waited `patience` seconds for another; return whether.
        """
        ...

    def weights(self) -> np.ndarray:
        """Return the packed weights after the last step: the chain's array, or a copy."""
        ...


class RegressionStepper:
    """Take many steps of gradient descent on a regression in one kernel call.

    Parameters
    ----------
    chain : PackedChain
    state : OptimizerState
    objective : ReducedRegression
    record : LossRecord
    kernel : {"two-pass", "zigzag"}
    teams : tuple of Team
        The teams that may take steps.
    pool : ThreadPoolExecutor
        The threads of teams of more than one.
    """

    def __init__(
        self,
        chain: PackedChain,
        state: OptimizerState,
        objective: ReducedRegression,
        record: LossRecord,
        kernel: str,
        teams: tuple[Team, ...],
        pool: ThreadPoolExecutor,
    ):
        self._network, self._step = chain.network, state.step
        self._record, self._pool = record, pool
        scale, target = oriented_regression(objective, chain.mirrored)
        self._problem = Regression(scale, target, objective.constant, record.losses)
        self._kernels = _kernels(chain, state, kernel, teams)
        self._alone = Member(0, 1, new_barrier())

    def advance(self, goal: int, team: Team, patience: float) -> bool:
        """Take steps to number `goal`, or fewer where the run ends or the team is late."""
        record = self._record
        span = Span(record.step, goal, record.losses.size - 1, record.floor)
        kernel, workspace = self._kernels[team.sharing]
        arguments = self._network, workspace, self._step, self._problem, span
        if team.size == 1:
            record.step = kernel(*arguments, self._alone)
            return False
        count = 0
        if isinstance(workspace, SegmentWorkspace):
            count = words(team.size, workspace.borders.size - 1)
        barrier = new_barrier(count, int(1e9 * patience))

        def work(rank: int, size: int, barrier: np.ndarray) -> int:
            return kernel(*arguments, Member(rank, size, barrier))

        record.step = threads.run_team(self._pool, team.size, work, barrier)
        return was_late(barrier)

    def weights(self) -> np.ndarray:
        """Return the packed weights after the last step; a copy where zigzag deferred an update."""
        weights, step = self._network.weights, self._step
        _, workspace = self._kernels["layers"]
        if (
            isinstance(workspace, ZigzagWorkspace)
            and isinstance(step, GradientStep)
            and workspace.state[DEFERRED]
        ):
            # Apply it to a copy: the next up pass applies the same update to the weights.
            weights = weights.copy()
            network = self._network._replace(weights=weights)
            apply_deferred_update(network, workspace, step.decay, self._alone)
        return weights


def _kernels(
    chain: PackedChain, state: OptimizerState, kernel: str, teams: tuple[Team, ...]
) -> dict[str, tuple[RegressionKernel, AnyWorkspace]]:
    """Return the kernel of every way of sharing, with its workspace; all continue each other.

    The kernel for teams that share layers is also that of one thread.
    """
    layout, most = chain.layout, max(team.size for team in teams)
    if kernel == "zigzag":
        return {"layers": (descend_zigzag, zigzag_workspace(layout, most))}
    workspace = new_workspace(layout, most)
    if isinstance(state.step, MomentumStep):
        return {"layers": (descend_with_momentum, workspace)}
    found: dict[str, tuple[RegressionKernel, AnyWorkspace]] = {}
    by_segments = [team.size for team in teams if team.sharing == "segments"]
    if by_segments:
        count = segment_count(layout.depth, max(by_segments))
        segments, workspace = segment_workspace(layout, workspace, most, count)
        found["segments"] = descend_by_segments, segments
    return found | {"layers": (descend, workspace)}


class ObjectiveStepper:
    """Take single steps by the two-pass kernels, evaluating any objective after each.

    Parameters
    ----------
    chain : PackedChain
    state : OptimizerState
    record : LossRecord
    first_step : int
        Number of steps taken before the run.
    team : int
        Maximum size of the team.
    pool : ThreadPoolExecutor
        The threads of teams of more than one.
    """

    def __init__(
        self,
        chain: PackedChain,
        state: OptimizerState,
        record: LossRecord,
        first_step: int,
        team: int,
        pool: ThreadPoolExecutor,
    ):
        self._chain, self._state, self._record, self._pool = chain, state, record, pool
        self._network, self._first_step = chain.network, first_step
        self._workspace = new_workspace(chain.layout, team)
        self._alone = Member(0, 1, new_barrier())

    def advance(self, goal: int, team: Team, patience: float) -> bool:
        """Take steps to number `goal`, or fewer where the run ends or the team is late."""
        record, chain, late = self._record, self._chain, False
        factor, C = self._state.gradient_factor, self._workspace.C
        while record.step < 0 or (record.step < goal and not record.finished and not late):
            if team.size == 1:
                self._work(0, 1, self._alone.barrier)
            else:
                barrier = new_barrier(patience=int(1e9 * patience))
                threads.run_team(self._pool, team.size, self._work, barrier)
                late = was_late(barrier)
            G = record.record(chain.end_to_end())
            if G is not None:
                chain.put_gradient(G, factor, C)
        return late

    def _work(self, rank: int, team: int, barrier: np.ndarray) -> None:
        """Update the layers (except before the first step) and form the suffix products."""
        network, workspace, step = self._network, self._workspace, self._state.step
        member = Member(rank, team, barrier)
        if self._record.step >= 0:
            if isinstance(step, AdamStep):
                number = self._first_step + self._record.step + 1
                update_layers_with_adam(network, workspace, step, number, member)
            elif isinstance(step, GradientStep):
                update_layers(network, workspace, step, member)
            else:
                update_layers_with_momentum(network, workspace, step, member)
        suffix_products(network, member)

    def weights(self) -> np.ndarray:
        """Return the packed weights."""
        return self._network.weights
