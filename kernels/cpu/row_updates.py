"""Pass 2 for optimisers that need the gradient explicitly: the traversal of the row blocks.

The gradient is formed and used one row block at a time, while the rows and the optimiser's arrays
are in cache; the gradient of a whole layer is never stored.
"""

from collections.abc import Callable
from typing import Any

from fastdln.kernels.cpu.gemm import FOUR, ONE, ZERO
from fastdln.kernels.cpu.groups import Costates, Member, Network, Operand, Workspace
from fastdln.kernels.cpu.jit import part
from fastdln.kernels.cpu.layout import OFFSET, STRIDE
from fastdln.kernels.cpu.team import partition, wait
from fastdln.kernels.cpu.two_pass import clear_costate_padding, costate_columns, partition_rows


@part
def update_by_rows(
    update_block: Callable[..., None],
    update_row: Callable[..., None],
    network: Network,
    workspace: Workspace,
    step: Any,
    member: Member,
) -> None:
    """Update every layer, forming the next co-state from each row block before its update.

    Parameters
    ----------
    update_block : part
        ``update_block(network, C, step, layer, row, rows)`` forms the gradient ``Bᵀ C`` of a row
        block and updates it.
    update_row : part
        ``update_row(weights, gradient, step, layer, w, g, size)`` updates ``weights[w : w + size]``
        by ``gradient[g : g + size]``.
    network : Network
    workspace : Workspace
        C holds G itself on entry, not scaled by a step size.
    step : MomentumStep, or Adam's
        Passed on to `update_block` and `update_row`.
    member : Member
    """
    layers, C, D = network.layers, workspace.C, workspace.D
    last, height = layers.shape[0] - 1, max(network.lane, FOUR)
    for layer in range(last):
        begin, end = partition_rows(network, layer, member)
        costates = Costates(C, ZERO, D, ZERO, network.q_padded)
        gradient = Operand(C, ZERO, layers[layer, STRIDE], ONE)
        for row in range(begin, end, height):
            rows = min(height, end - row)
            costate_columns(network, costates, layer, row, rows, workspace.scratch, member.rank)
            update_block(network, gradient, step, layer, row, rows)
        clear_costate_padding(network, costates, layer, begin, end)
        C, D = D, C
        wait(member.barrier, member.team)
    stride = layers[last, STRIDE]
    begin, end = partition(stride, member.rank, member.team)
    for a in range(network.q):
        w = layers[last, OFFSET] + a * stride + begin
        update_row(network.weights, C, step, last, w, a * stride + begin, end - begin)
    wait(member.barrier, member.team)
