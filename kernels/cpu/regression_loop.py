"""Take many steps of gradient descent on a regression in one call, without returning to Python."""

import math

import numpy as np

from fastdln.kernels.cpu.groups import (
    GradientStep,
    Member,
    MomentumStep,
    Network,
    Regression,
    Span,
    Workspace,
)
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import PRODUCT, STRIDE
from fastdln.kernels.cpu.momentum import update_layers_with_momentum
from fastdln.kernels.cpu.team import goes_on, stop_if_late, wait
from fastdln.kernels.cpu.two_pass import suffix_products_part, update_layers_part


@part
def residual(network: Network, problem: Regression, C: np.ndarray, factor: float) -> float:
    """Return ``½‖M∘S − T‖²`` in float64 and write ``−factor·(M∘S − T)∘S`` to C."""
    total = 0.0
    for a in range(network.q_padded):
        total += row_residual(network, problem, C, factor, a)
    return 0.5 * total


@part
def row_residual(
    network: Network, problem: Regression, C: np.ndarray, factor: float, a: int
) -> float:
    """Return the sum of squares of one (padded) row of the residual, and write that row of C.

    Rows are summed separately so that team members can partition them, and so that the additions
    of different rows do not depend on each other.
    """
    layers, scale, target = network.layers, problem.scale, problem.target
    stride, n, total = layers[0, STRIDE], scale.shape[1], 0.0
    m, c = layers[0, PRODUCT] + a * stride, a * stride
    for j in range(n if a < network.q else 0, stride):
        C[np.uintp(c + j)] = 0
    if a < network.q:
        for b in range(n):
            r = network.products[m + b] * scale[a, b] - target[a, b]
            total += r * r
            C[c + b] = -factor * r * scale[a, b]
    return total


@part
def continues(loss: float, floor: float) -> bool:
    """Return whether a run continues after this loss: it is finite and above the floor."""
    return math.isfinite(loss) and loss > floor


@part
def _continues(problem: Regression, span: Span, member: Member, t: int) -> bool:
    """Return whether a step follows step t."""
    return continues(problem.losses[t], span.floor) and goes_on(member.barrier)


@part
def _evaluate(
    network: Network, problem: Regression, C: np.ndarray, factor: float, t: int, member: Member
) -> None:
    """Write ``losses[t]``, and ``−factor·G`` to C."""
    suffix_products_part(network, member)
    if member.rank == 0:
        problem.losses[t] = problem.constant + residual(network, problem, C, factor)
        stop_if_late(member.barrier)
    wait(member.barrier, member.team)


@kernel
def descend(
    network: Network,
    workspace: Workspace,
    step: GradientStep,
    problem: Regression,
    span: Span,
    member: Member,
) -> int:
    """Advance from step ``span.start`` to ``span.goal``; return the last step whose loss is known.

    Every member of the team calls it with its own rank. A team that is late (see
    `team.new_barrier`) stops before.

    Parameters
    ----------
    network : Network
    workspace : Workspace
        C holds the gradient between two calls.
    step : GradientStep
    problem : Regression
    span : Span
    member : Member
    """
    t, factor = span.start, np.float64(step.step_sizes[0])
    while t < 0 or (t < span.goal and _continues(problem, span, member, t)):
        if t >= 0:
            update_layers_part(network, workspace, step, member)
        t += 1
        _evaluate(network, problem, workspace.C, factor, t, member)
    return t


@kernel
def descend_with_momentum(
    network: Network,
    workspace: Workspace,
    step: MomentumStep,
    problem: Regression,
    span: Span,
    member: Member,
) -> int:
    """Advance as `descend` does, with momentum."""
    t = span.start
    while t < 0 or (t < span.goal and _continues(problem, span, member, t)):
        if t >= 0:
            update_layers_with_momentum(network, workspace, step, member)
        t += 1
        _evaluate(network, problem, workspace.C, -1.0, t, member)
    return t
