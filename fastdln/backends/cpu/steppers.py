"""Advance one network: many steps per kernel call, or single steps with any objective."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from fastdln.backends.cpu.cost_model import Choice
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
from fastdln.kernels.cpu.team import new_barrier
from fastdln.kernels.cpu.two_pass import new_workspace, suffix_products, update_layers
from fastdln.kernels.cpu.two_pass_rows import RowWorkspace, descend_by_rows, row_workspace
from fastdln.kernels.cpu.zigzag import apply_deferred_update, descend_zigzag
from fastdln.kernels.cpu.zigzag_workspace import DEFERRED, ZigzagWorkspace, zigzag_workspace
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import LossRecord
from fastdln.utils import threads

# A kernel that takes many steps, ``kernel(network, workspace, step, problem, span, member)``, and
# returns the last step whose loss is known.
RegressionKernel = Callable[..., int]
AnyWorkspace = Workspace | RowWorkspace | ZigzagWorkspace


class Stepper(Protocol):
    """Advance a network by a team of threads."""

    def advance(self, goal: int, team: int) -> None:
        """Take steps to number `goal`, or fewer where the run ends, with a team of this size."""
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
    choice : Choice
    pool : ThreadPoolExecutor
        The threads of teams of more than one.
    """

    def __init__(
        self,
        chain: PackedChain,
        state: OptimizerState,
        objective: ReducedRegression,
        record: LossRecord,
        choice: Choice,
        pool: ThreadPoolExecutor,
    ):
        self._network, self._step = chain.network, state.step
        self._record, self._pool = record, pool
        scale, target = oriented_regression(objective, chain.mirrored)
        self._problem = Regression(scale, target, objective.constant, record.losses)
        self._one, self._many = _kernels(chain, state, choice)
        self._alone = Member(0, 1, new_barrier())

    def advance(self, goal: int, team: int) -> None:
        """Take steps to number `goal`, or fewer where the run ends, with a team of this size."""
        record = self._record
        span = Span(record.step, goal, record.losses.size - 1, record.floor)
        if team == 1:
            kernel, workspace = self._one
            record.step = kernel(
                self._network, workspace, self._step, self._problem, span, self._alone
            )
        else:
            work = functools.partial(self._work, span)
            record.step = threads.run_team(self._pool, team, work)

    def _work(self, span: Span, rank: int, team: int, barrier: np.ndarray) -> int:
        kernel, workspace = self._many
        member = Member(rank, team, barrier)
        return kernel(self._network, workspace, self._step, self._problem, span, member)

    def weights(self) -> np.ndarray:
        """Return the packed weights after the last step; a copy where zigzag deferred an update."""
        weights, step, (_, workspace) = self._network.weights, self._step, self._one
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
    chain: PackedChain, state: OptimizerState, choice: Choice
) -> tuple[tuple[RegressionKernel, AnyWorkspace], tuple[RegressionKernel, AnyWorkspace]]:
    """Return the kernels of one thread and of a team, with their workspaces."""
    if choice.kernel == "zigzag":
        zigzag = descend_zigzag, zigzag_workspace(chain.layout, choice.team)
        return zigzag, zigzag
    workspace = new_workspace(chain.layout, choice.team)
    if isinstance(state.step, MomentumStep):
        momentum = descend_with_momentum, workspace
        return momentum, momentum
    if choice.sharing == "rows":
        rows, workspace = row_workspace(chain.layout, workspace)
        return (descend, workspace), (descend_by_rows, rows)
    two_pass = descend, workspace
    return two_pass, two_pass


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

    def advance(self, goal: int, team: int) -> None:
        """Take steps to number `goal`, or fewer where the run ends, with a team of this size."""
        record, chain = self._record, self._chain
        factor, C = self._state.gradient_factor, self._workspace.C
        while record.step < 0 or (record.step < goal and not record.finished):
            if team == 1:
                self._work(0, 1, self._alone.barrier)
            else:
                threads.run_team(self._pool, team, self._work)
            G = record.record(chain.end_to_end())
            if G is not None:
                chain.put_gradient(G, factor, C)

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
