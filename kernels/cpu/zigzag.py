"""The zigzag step: every weight is read once a step and written once in two steps.

The down pass at time t knows the prefix products ``A_l = W_{l-1} ··· W_1`` and G of time t, hence
all co-states ``C_l = G A_lᵀ``, and forms the suffix products of t and of t+1 from one read of every
layer: ``B_l(t+1) = B_{l+1}(t+1) W_l(t+1)``, and with ``W_l(t+1) = W_l(t) − η_l
B_{l+1}(t)ᵀ C_l(t)`` the last product is ``B_{l+1}(t+1) W_l(t)`` less a q×q Gram matrix times C_l:
the layer need not be written. The pass ends with M(t+1). The up pass that follows updates every row
block twice, to t+1 (the deferred update) and to t+2, and stores the prefix products of t+2. Two
steps read the weights twice and write them once; two two-pass steps read them four times and write
them twice. The additional costs are the d rows of the prefix products in the up pass, and buffers
for B, C and A at every layer.

Down passes partition a layer's columns, up passes its rows: the bits are the same for any team.
"""

import numpy as np

from fastdln.kernels.cpu.gemm import (
    ACCUMULATE,
    FAR,
    NO_PREFETCH,
    ONE,
    OVERWRITE,
    TWO,
    ZERO,
    add_product,
    dot_blocks,
)
from fastdln.kernels.cpu.groups import (
    Block,
    Costates,
    Extent,
    GradientStep,
    Member,
    Network,
    Operand,
    Prefetch,
    Regression,
    Span,
)
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import OFFSET, PRODUCT, ROWS, STRIDE, VECTORS
from fastdln.kernels.cpu.regression_loop import continues, residual
from fastdln.kernels.cpu.team import goes_on, partition, stop_if_late, wait
from fastdln.kernels.cpu.two_pass import (
    FAR_TERMS,
    NEAR_TERMS,
    add_layer_rows,
    block_rows,
    costate_columns,
    finish_costate,
    partition_rows,
    scale_columns,
    suffix_products,
    update_last_layer,
    update_rows,
)
from fastdln.kernels.cpu.zigzag_workspace import DEFERRED, UPWARD, ZigzagWorkspace


@part
def _prefix_offset(network: Network, layer: int, d_padded: int) -> int:
    """Return the offset of the prefix product below a layer; slots are in the products' order."""
    return network.layers[layer, PRODUCT] // network.q_padded * d_padded


@part
def _costate(
    network: Network,
    workspace: ZigzagWorkspace,
    step_sizes: np.ndarray,
    layer: int,
    d: int,
    block: Block,
) -> None:
    """Form a block (in vectors) of ``−η_l C_l = −η_l G A_lᵀ``."""
    layers, rows, lane = network.layers, network.q_padded, network.lane
    stride, c = layers[layer, STRIDE], layers[layer, PRODUCT]
    a = _prefix_offset(network, layer, (d + 3) // 4 * 4)
    out = Operand(workspace.costates, c, stride, ONE)
    add_product(
        Operand(workspace.C, ZERO, layers[0, STRIDE], ONE),
        Operand(workspace.prefixes, a, stride, ONE),
        out,
        Extent(rows, d, block.begin, block.end, lane),
        OVERWRITE,
        NO_PREFETCH,
    )
    if step_sizes[layer] != step_sizes[0]:
        factor = step_sizes[layer] / step_sizes[0]
        scale_columns(out, rows, block.begin * lane, block.end * lane, factor)


@part
def _with_products(network: Network, products: np.ndarray) -> Network:
    """Return the network with `products` in place of its suffix products."""
    return Network(
        network.weights, products, network.layers, network.q, network.q_padded, network.lane
    )


@kernel
def pass_down(
    network: Network, workspace: ZigzagWorkspace, step: GradientStep, d: int, member: Member
) -> None:
    """Form suffix products of t and t+1 and co-states of t from prefix products and G of time t.

    Only the last layer is updated. The update of the other layers is deferred, and represented by
    ``workspace.before`` (the suffix products of t) and ``workspace.costates``. The network's
    products become those of t+1.

    Parameters
    ----------
    network : Network
    workspace : ZigzagWorkspace
        C holds ``−η_1 G`` of time t.
    step : GradientStep
    d : int
        Columns of M.
    member : Member
    """
    layers, weights, lane = network.layers, network.weights, network.lane
    last = layers.shape[0] - 1
    stride, c = layers[last, STRIDE], layers[last, PRODUCT]
    begin, end = partition(layers[last, VECTORS], member.rank, member.team)
    block = Block(ZERO, network.q_padded, begin, end)
    _costate(network, workspace, step.step_sizes, last, d, block)
    for a in range(network.q_padded):
        w, p = layers[last, OFFSET] + a * stride, c + a * stride
        old, update = weights[w : w + stride], workspace.costates[p : p + stride]
        now, new = workspace.before[p : p + stride], network.products[p : p + stride]
        for i in range(begin * lane, end * lane):
            j = np.uintp(i)
            now[j] = old[j]
            old[j] = step.decay * old[j] + update[j]
            new[j] = old[j]
    wait(member.barrier, member.team)
    for layer in range(last - 1, -1, -1):
        begin, end = partition(layers[layer, VECTORS], member.rank, member.team)
        block = Block(ZERO, network.q_padded, begin, end)
        _costate(network, workspace, step.step_sizes, layer, d, block)
        _two_suffix_products(network, workspace, step.decay, layer, block, member.rank)
        wait(member.barrier, member.team)


@part
def _two_suffix_products(
    network: Network, workspace: ZigzagWorkspace, decay: float, layer: int, block: Block, rank: int
) -> None:
    """Form a block (in vectors) of ``B_l`` of t and of t+1 from one read of the layer."""
    before = _with_products(network, workspace.before)
    rows, far = network.layers[layer, ROWS], network.weights.nbytes > FAR
    terms = FAR_TERMS if far else NEAR_TERMS
    for k in range(0, rows, terms):
        n = min(terms, rows - k)
        add_layer_rows(before, layer, k, n, block, far, k == 0, ZERO)
        add_layer_rows(network, layer, k, n, block, far, k == 0, TWO)
    _apply_update_to_product(network, workspace, decay, layer, block, rank)


@part
def _apply_update_to_product(
    network: Network, workspace: ZigzagWorkspace, decay: float, layer: int, block: Block, rank: int
) -> None:
    """Apply this layer's deferred update to ``B_l(t+1)``: scale by `decay`, add the Gram term.

    The Gram term is ``B_{l+1}(t+1) B_{l+1}(t)ᵀ C_l``.
    """
    layers, lane, q_padded = network.layers, network.lane, network.q_padded
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    source, target = layers[layer + 1, PRODUCT], layers[layer, PRODUCT]
    wide = (network.q + 3) // 4 * 4
    gram = Operand(workspace.gram, rank * q_padded * wide, wide, ONE)
    dot_blocks(
        Operand(network.products, source, above, ONE),
        Operand(workspace.before, source, above, ONE),
        gram,
        q_padded,
        wide,
        above // lane,
        NO_PREFETCH,
    )
    out = Operand(network.products, target, stride, ONE)
    if decay != 1:
        scale_columns(out, q_padded, block.begin * lane, block.end * lane, decay)
    C = Operand(workspace.costates, target, stride, ONE)
    extent = Extent(q_padded, network.q, block.begin, block.end, lane)
    add_product(gram, C, out, extent, ACCUMULATE, NO_PREFETCH)


@kernel
def pass_up(
    network: Network,
    workspace: ZigzagWorkspace,
    step: GradientStep,
    deferred: bool,
    d: int,
    member: Member,
) -> None:
    """Apply the deferred update, take the step, store the prefix products.

    M of the new weights is stored in place of the last suffix product.

    Parameters
    ----------
    network : Network
    workspace : ZigzagWorkspace
        C holds ``−η_1 G`` on entry.
    step : GradientStep
    deferred : bool
        Whether there is a deferred update.
    d : int
        Columns of M.
    member : Member
    """
    layers, C, D = network.layers, workspace.C, workspace.D
    last, d_padded = layers.shape[0] - 1, (d + 3) // 4 * 4
    for layer in range(last):
        begin, end = partition_rows(network, layer, member)
        height = block_rows(network, layer)
        costates = Costates(C, ZERO, D, ZERO, network.q_padded)
        for row in range(begin, end, height):
            rows = min(height, end - row)
            if deferred:
                _apply_deferred(network, workspace, step.decay, layer, row, rows)
            costate_columns(network, costates, layer, row, rows, workspace.scratch, member.rank)
            update_rows(network, C, ZERO, layer, row, rows, step.decay)
            _prefix_columns(network, workspace.prefixes, layer, row, rows, d_padded)
        finish_costate(network, costates, step.step_sizes, layer, begin, end)
        C, D = D, C
        wait(member.barrier, member.team)
    begin, end = partition(layers[last, STRIDE], member.rank, member.team)
    update_last_layer(network, C, ZERO, step.decay, Block(ZERO, network.q, begin, end))
    wait(member.barrier, member.team)
    if member.rank == 0:
        _end_to_end(network, workspace.prefixes, d_padded)


@part
def _apply_deferred(
    network: Network, workspace: ZigzagWorkspace, decay: float, layer: int, row: int, rows: int
) -> None:
    """Apply the last down pass's deferred update to `rows` rows of a layer."""
    before = _with_products(network, workspace.before)
    c = network.layers[layer, PRODUCT]
    update_rows(before, workspace.costates, c, layer, row, rows, decay)


@part
def _prefix_columns(
    network: Network, prefixes: np.ndarray, layer: int, row: int, rows: int, d_padded: int
) -> None:
    """Form columns row, …, row + rows of the next prefix product."""
    layers = network.layers
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    here = _prefix_offset(network, layer, d_padded)
    there = _prefix_offset(network, layer + 1, d_padded)
    dot_blocks(
        Operand(prefixes, here, stride, ONE),
        Operand(network.weights, layers[layer, OFFSET] + row * stride, stride, ONE),
        Operand(prefixes, there + row, above, ONE),
        d_padded,
        rows,
        layers[layer, VECTORS],
        Prefetch(rows * stride, TWO),
    )


@part
def _end_to_end(network: Network, prefixes: np.ndarray, d_padded: int) -> None:
    """Form M from the last layer and the prefix product below it."""
    layers = network.layers
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    dot_blocks(
        Operand(network.weights, layers[last, OFFSET], stride, ONE),
        Operand(prefixes, _prefix_offset(network, last, d_padded), stride, ONE),
        Operand(network.products, layers[0, PRODUCT], layers[0, STRIDE], ONE),
        network.q_padded,
        d_padded,
        layers[last, VECTORS],
        NO_PREFETCH,
    )


@kernel
def apply_deferred_update(
    network: Network, workspace: ZigzagWorkspace, decay: float, member: Member
) -> None:
    """Apply the last down pass's deferred update, so that the weights are those of its step."""
    for layer in range(network.layers.shape[0] - 1):
        begin, end = partition_rows(network, layer, member)
        height = block_rows(network, layer)
        for row in range(begin, end, height):
            rows = min(height, end - row)
            _apply_deferred(network, workspace, decay, layer, row, rows)
    wait(member.barrier, member.team)


@kernel
def descend_zigzag(
    network: Network,
    workspace: ZigzagWorkspace,
    step: GradientStep,
    problem: Regression,
    span: Span,
    member: Member,
) -> int:
    """Advance as `regression_loop.descend` does; return the last step whose loss is known.

    The weights are current after step ``span.last``, or after a loss that ends the run early; after
    any other step their update may be deferred.

    Parameters
    ----------
    network : Network
    workspace : ZigzagWorkspace
        Holds the state of the passes between two calls.
    step : GradientStep
    problem : Regression
    span : Span
    member : Member
    """
    t, d, losses, state = span.start, problem.scale.shape[1], problem.losses, workspace.state
    factor = np.float64(step.step_sizes[0])
    upward, deferred = state[UPWARD] == 1, state[DEFERRED] == 1
    if t < 0:
        t, upward, deferred = 0, True, False
        suffix_products(network, member)
        _evaluate(network, problem, workspace.C, factor, t, member)
    while t < span.goal and continues(losses[t], span.floor) and goes_on(member.barrier):
        if upward:
            pass_up(network, workspace, step, deferred, d, member)
        else:
            pass_down(network, workspace, step, d, member)
        upward = not upward
        deferred = upward  # by the down pass that has just ended
        t += 1
        _evaluate(network, problem, workspace.C, factor, t, member)
    if deferred and (t >= span.last or not continues(losses[t], span.floor)):
        apply_deferred_update(network, workspace, step.decay, member)
        deferred = False
    wait(member.barrier, member.team)
    if member.rank == 0:
        state[UPWARD], state[DEFERRED] = upward, deferred
    return t


@part
def _evaluate(
    network: Network, problem: Regression, C: np.ndarray, factor: float, t: int, member: Member
) -> None:
    if member.rank == 0:
        problem.losses[t] = problem.constant + residual(network, problem, C, factor)
        stop_if_late(member.barrier)
    wait(member.barrier, member.team)
