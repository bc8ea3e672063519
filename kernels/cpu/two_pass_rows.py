"""The two-pass step for a team that partitions the rows of the products instead of every layer.

Row a of a suffix product, of G and of a co-state depends only on row a of the previous product, so
each member takes its rows down the whole chain and up again without synchronisation. Only the
updates need all rows. Hence a step has two barriers whatever the depth. Partitioning every layer
takes two barriers a layer, which at width 26 cost more than the second thread gained. Every member
reads all layers, which suits networks that stay in cache.

Every sum has the terms and the order of `regression_loop.descend`: the bits are the same.
"""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.gemm import ZERO
from fastdln.kernels.cpu.groups import (
    Block,
    Costates,
    GradientStep,
    Member,
    Network,
    Regression,
    Span,
    Workspace,
)
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import (
    OFFSET,
    PRODUCT,
    ROWS,
    STRIDE,
    VECTORS,
    Layout,
    aligned_zeros,
)
from fastdln.kernels.cpu.regression_loop import continues, row_residual
from fastdln.kernels.cpu.team import partition, wait
from fastdln.kernels.cpu.two_pass import (
    block_rows,
    copy_last_layer,
    costate_columns,
    finish_costate,
    suffix_product,
    update_last_layer,
    update_rows,
)


class RowWorkspace(NamedTuple):
    """The co-states of all layers, and scratch memory; from `row_workspace`.

    Attributes
    ----------
    C : ndarray
        All co-states, laid out as the products; initially holds ``−η_1 G`` of the first step.
    scratch : ndarray
        As in `Workspace`.
    sums : ndarray of float64, shape (q_padded,)
        The sum of squares of each row of the residual.
    """

    C: np.ndarray
    scratch: np.ndarray
    sums: np.ndarray


def row_workspace(layout: Layout, workspace: Workspace) -> tuple[RowWorkspace, Workspace]:
    """Return a workspace for teams, and one for a single thread that shares its gradient."""
    C = aligned_zeros(layout.product_size, layout.dtype)
    rows = RowWorkspace(C, workspace.scratch, np.empty(layout.q_padded))
    return rows, workspace._replace(C=C)


@kernel
def descend_by_rows(
    network: Network,
    workspace: RowWorkspace,
    step: GradientStep,
    problem: Regression,
    span: Span,
    member: Member,
) -> int:
    """Advance as `regression_loop.descend` does; the two may alternate between calls.

    Parameters
    ----------
    network : Network
    workspace : RowWorkspace
    step : GradientStep
    problem : Regression
    span : Span
    member : Member
    """
    first, end = partition(network.q_padded, member.rank, member.team)
    rows, t, known = end - first, max(span.start, 0), span.start >= 0
    loss = problem.losses[t]
    # Call every part at one place only: a part is compiled again at every call site.
    while True:
        if not known:
            _residual_rows(network, problem, workspace, step.step_sizes[0], first, rows)
        _costates(network, workspace, step, first, rows, member.rank)
        wait(member.barrier, member.team)
        if not known:
            loss = problem.constant + 0.5 * _total(workspace.sums)
            if member.rank == 0:
                problem.losses[t] = loss
        if t >= span.goal or not continues(loss, span.floor):
            break
        _update(network, workspace.C, step.decay, member)
        wait(member.barrier, member.team)
        t, known = t + 1, False
    wait(member.barrier, member.team)
    return t


@part
def _residual_rows(
    network: Network,
    problem: Regression,
    workspace: RowWorkspace,
    step_size: float,
    first: int,
    rows: int,
) -> None:
    """Form this member's rows of the suffix products, of ``−η_1 G`` and of the squared residual."""
    layers = network.layers
    last = layers.shape[0] - 1
    copy_last_layer(network, Block(first, rows, ZERO, layers[last, STRIDE]))
    for layer in range(last - 1, -1, -1):
        suffix_product(network, layer, Block(first, rows, ZERO, layers[layer, VECTORS]))
    factor = np.float64(step_size)
    for a in range(first, first + rows):
        workspace.sums[a] = row_residual(network, problem, workspace.C, factor, a)


@part
def _total(sums: np.ndarray) -> float:
    """Return the sum over all members' rows, in order."""
    total = 0.0
    for a in range(sums.size):
        total += sums[a]
    return total


@part
def _costates(
    network: Network, workspace: RowWorkspace, step: GradientStep, first: int, rows: int, rank: int
) -> None:
    """Form `rows` rows of all co-states; slot l holds ``−η_l C_{l-1}``."""
    layers, C = network.layers, workspace.C
    for layer in range(layers.shape[0] - 1):
        c = layers[layer, PRODUCT] + first * layers[layer, STRIDE]
        d = layers[layer + 1, PRODUCT] + first * layers[layer + 1, STRIDE]
        costates = Costates(C, c, C, d, rows)
        end = (layers[layer, ROWS] + 3) // 4 * 4
        height, row = block_rows(network, layer), ZERO
        while row < end:
            count = min(height, end - row)
            costate_columns(network, costates, layer, row, count, workspace.scratch, rank)
            row += height
        finish_costate(network, costates, step.step_sizes, layer, ZERO, end)


@part
def _update(network: Network, C: np.ndarray, decay: float, member: Member) -> None:
    """Update this member's part of the weights, in whole blocks of four rows."""
    layers, rank, team = network.layers, member.rank, member.team
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    begin, end = partition(layers[last, OFFSET] + network.q * stride, rank, team)
    for layer in range(last + 1):
        row, stop = _row_at(layers, layer, begin), _row_at(layers, layer, end)
        c = layers[layer, PRODUCT]
        if layer == last:
            # If q is not a multiple of four, the weights end inside a block of four rows.
            stop = network.q if rank == team - 1 else min(stop, network.q)
            update_last_layer(network, C, c, decay, Block(row, stop - row, ZERO, stride))
            return
        height = block_rows(network, layer)
        while row < stop:
            count = min(height, stop - row)
            update_rows(network, C, c, layer, row, count, decay)
            row += height


@part
def _row_at(layers: np.ndarray, layer: int, element: int) -> int:
    """Return the first row of the four-row block that contains a weight, clipped to the layer."""
    height, stride = (layers[layer, ROWS] + 3) // 4 * 4, layers[layer, STRIDE]
    within = element - layers[layer, OFFSET]
    if within <= 0:
        return ZERO
    if within >= height * stride:
        return height
    return within // (4 * stride) * 4
