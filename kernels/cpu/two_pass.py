"""The two-pass step: a down pass for suffix products, an up pass for co-states and updates.

With ``M = W_L ··· W_1``, suffix products ``B_l = W_L ··· W_{l+1}`` and ``G = ∂ℓ/∂M``, the gradient
of layer l is ``B_lᵀ C_{l-1}``, where ``C_0 = G`` and ``C_l = C_{l-1} W_lᵀ`` are the co-states.
Pass 1 reads every layer once and stores all suffix products; pass 2 reads and writes every layer
once, one row block at a time: it updates the block after forming its part of the next co-state.
Every product has q rows, as many as M.

Teams partition the columns of a layer in pass 1 and its rows in pass 2, so that every element is
summed in the same order by any team: the bits do not depend on the number of threads.
"""

from typing import Any

import numpy as np

from fastdln.kernels.cpu.gemm import (
    ACCUMULATE,
    FAR,
    FOUR,
    NO_PREFETCH,
    ONE,
    OVERWRITE,
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
    Workspace,
)
from fastdln.kernels.cpu.jit import inlined, kernel, part
from fastdln.kernels.cpu.layout import (
    COLUMNS,
    OFFSET,
    PRODUCT,
    ROWS,
    STRIDE,
    VECTORS,
    Layout,
    aligned_zeros,
)
from fastdln.kernels.cpu.team import partition, wait
from fastdln.kernels.cpu.tiles import lanes, transpose_tile

# Rows of a layer that one call adds to a product. In cache 128 rows beat 16 by a fifth to a third
# (fewer calls); from memory 16 rows, prefetched one block ahead, beat no prefetching by a third.
NEAR_TERMS, FAR_TERMS = 128, 16
# Limits on the bytes and the rows of a row block in pass 2. Compared with 4 rows, 64 made pass 2 at
# widths 100 to 300 1.8 to 2.5 times as fast: a call costs as much as its work on 4 rows of 100
# elements, and every block reads B and C again.
BLOCK_BYTES, BLOCK_ROWS = 2**18, 64
# Maximum vectors per row of a layer that is transposed to form the next co-state. Sums across SIMD
# lanes cost as much as 2 vectors of multiply-adds, a transposition as 1 or 2: at width 26 in
# float32 the co-states took 580 cycles a layer by dot products and 420 by transposing.
TRANSPOSED_VECTORS = 2


def _suffix_products(network: Network, member: Member) -> None:
    """Pass 1: ``B_{l-1} = B_l W_l`` for l = L … 1; the last product, B_0, is M.

    Parameters
    ----------
    network : Network
    member : Member
    """
    last = network.layers.shape[0] - 1
    begin, end = partition(network.layers[last, STRIDE], member.rank, member.team)
    copy_last_layer(network, Block(ZERO, network.q_padded, begin, end))
    wait(member.barrier, member.team)
    for layer in range(last - 1, -1, -1):
        begin, end = partition(network.layers[layer, VECTORS], member.rank, member.team)
        suffix_product(network, layer, Block(ZERO, network.q_padded, begin, end))
        wait(member.barrier, member.team)


# A kernel to call from Python, and a part to inline in the kernels that take many steps.
suffix_products, suffix_products_part = kernel(_suffix_products), part(_suffix_products)


@part
def copy_last_layer(network: Network, block: Block) -> None:
    """Fill a block (counted in columns) of ``B_{L-1}``, which is the last layer."""
    layers = network.layers
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    # The padding rows of the product are copied from the layer, where they are zero.
    for a in range(block.first, block.first + block.rows):
        w, b = layers[last, OFFSET] + a * stride, layers[last, PRODUCT] + a * stride
        for j in range(block.begin, block.end):
            network.products[np.uintp(b + j)] = network.weights[np.uintp(w + j)]


@part
def suffix_product(network: Network, layer: int, block: Block) -> None:
    """Form a block (counted in vectors) of one suffix product."""
    height = network.layers[layer, ROWS]
    far = network.weights.nbytes > FAR and not is_transposed(network.layers, layer)
    terms = FAR_TERMS if far else NEAR_TERMS
    k = ZERO
    while k < height:  # `range` would divide by a step that is not a compile-time constant
        add_layer_rows(network, layer, k, min(terms, height - k), block, far, k == 0, ZERO)
        k += terms


@part
def add_layer_rows(
    network: Network,
    layer: int,
    row: int,
    count: int,
    block: Block,
    far: bool,
    overwrite: bool,
    strip: int,
) -> None:
    """Add to a block of ``B_l = B_{l+1} W_l`` the terms of `count` rows of the layer from `row` on.

    If the layer is `far`, also prefetch the next `count` rows; see `add_product`.
    """
    layers = network.layers
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    b = layers[layer + 1, PRODUCT] + block.first * above + row
    target = layers[layer, PRODUCT] + block.first * stride
    add_product(
        Operand(network.products, b, above, ONE),
        Operand(network.weights, w, stride, ONE),
        Operand(network.products, target, stride, ONE),
        Extent(block.rows, count, block.begin, block.end, network.lane),
        overwrite,
        Prefetch(count * stride if far else ZERO, strip),
    )


def _update_layers(
    network: Network, workspace: Workspace, step: GradientStep, member: Member
) -> None:
    """Pass 2: ``W_l := decay·W_l − η_l B_lᵀ C_{l-1}``, ``C_l = C_{l-1} W_lᵀ``, layer by layer.

    Parameters
    ----------
    network : Network
    workspace : Workspace
        C holds ``−η_1 G`` on entry (stride of layer 1).
    step : GradientStep
    member : Member

    Notes
    -----
    The buffers hold ``−η_l C_{l-1}``, so that updates need no factor; they are rescaled only where
    the step size changes from one layer to the next.
    """
    layers, C, D = network.layers, workspace.C, workspace.D
    last = layers.shape[0] - 1
    for layer in range(last):
        begin, end = partition_rows(network, layer, member)
        height, row = block_rows(network, layer), begin
        costates = Costates(C, ZERO, D, ZERO, network.q_padded)
        while row < end:
            rows = min(height, end - row)
            costate_columns(network, costates, layer, row, rows, workspace.scratch, member.rank)
            update_rows(network, C, ZERO, layer, row, rows, step.decay)
            row += height
        finish_costate(network, costates, step.step_sizes, layer, begin, end)
        C, D = D, C
        wait(member.barrier, member.team)
    begin, end = partition(layers[last, STRIDE], member.rank, member.team)
    update_last_layer(network, C, ZERO, step.decay, Block(ZERO, network.q, begin, end))
    wait(member.barrier, member.team)


update_layers, update_layers_part = kernel(_update_layers), part(_update_layers)


@part
def update_last_layer(network: Network, C: np.ndarray, c0: int, decay: float, block: Block) -> None:
    """``W_L := decay·W_L + C_{L-1}`` in a block (counted in columns)."""
    layers, weights = network.layers, network.weights
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    for a in range(block.first, block.first + block.rows):
        w, c = layers[last, OFFSET] + a * stride, c0 + a * stride
        for j in range(block.begin, block.end):
            i = np.uintp(w + j)
            weights[i] = decay * weights[i] + C[np.uintp(c + j)]


@inlined
def is_transposed(layers: np.ndarray, layer: int) -> bool:
    """Return whether a layer is narrow enough to be transposed for the next co-state."""
    return layers[layer, VECTORS] <= TRANSPOSED_VECTORS


def scratch_size(dtype: Any) -> int:
    """Return the elements of scratch per team member; see `costate_columns`."""
    return TRANSPOSED_VECTORS * lanes(dtype) * BLOCK_ROWS


def new_workspace(layout: Layout, team: int) -> Workspace:
    """Return a new workspace for a network of this layout and a team of this size."""
    edge, dtype = layout.q_padded * layout.widest, layout.dtype
    C, D = aligned_zeros(edge, dtype), aligned_zeros(edge, dtype)
    return Workspace(C, D, aligned_zeros(team * scratch_size(dtype), dtype))


@inlined
def partition_rows(network: Network, layer: int, member: Member) -> tuple[int, int]:
    """Return the range of rows that a member updates: whole vectors of the next co-state.

    The last range is padded to blocks of four rows.
    """
    padded = (network.layers[layer, ROWS] + 3) // 4 * 4
    if member.team == 1:
        return ZERO, padded
    unit = max(network.lane, FOUR) if is_transposed(network.layers, layer) else FOUR
    begin, end = partition((padded + unit - 1) // unit, member.rank, member.team)
    return unit * begin, min(unit * end, padded)


@inlined
def block_rows(network: Network, layer: int) -> int:
    """Return the rows of a row block of pass 2: a multiple of 4."""
    row = network.layers[layer, STRIDE] * network.weights.itemsize
    if row * BLOCK_ROWS <= BLOCK_BYTES:
        return ONE * BLOCK_ROWS
    return max(FOUR, BLOCK_BYTES // row // 4 * 4)


@part
def costate_columns(
    network: Network,
    costates: Costates,
    layer: int,
    row: int,
    rows: int,
    scratch: np.ndarray,
    rank: int,
) -> None:
    """Form columns row, …, row + rows of ``D = C W_lᵀ``.

    A narrow layer is transposed into this member's part of `scratch`.
    """
    layers, lane = network.layers, network.lane
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    C = Operand(costates.C, costates.c0, stride, ONE)
    W = Operand(network.weights, layers[layer, OFFSET] + row * stride, stride, ONE)
    D = Operand(costates.D, costates.d0 + row, above, ONE)
    if is_transposed(layers, layer):
        start = rank * TRANSPOSED_VECTORS * lane * BLOCK_ROWS
        transposed = Operand(scratch, start, ONE * BLOCK_ROWS, ONE)
        transpose_rows(W, rows, layers[layer, VECTORS], transposed, lane)
        end = (rows + lane - 1) // lane
        extent = Extent(costates.rows, layers[layer, COLUMNS], ZERO, end, lane)
        add_product(C, transposed, D, extent, OVERWRITE, NO_PREFETCH)
    else:
        ahead = Prefetch(rows * stride, ZERO)
        dot_blocks(C, W, D, costates.rows, rows, layers[layer, VECTORS], ahead)


@part
def transpose_rows(W: Operand, rows: int, vectors: int, out: Operand, lane: Any) -> None:
    """Transpose at most BLOCK_ROWS rows of a narrow layer."""
    r = ZERO
    while r < rows:
        for v in range(vectors):
            transpose_tile(
                Operand(W.data, W.start + r * W.row + v * lane, W.row, ONE),
                rows - r,
                Operand(out.data, out.start + v * lane * out.row + r, out.row, ONE),
            )
        r += lane


@part
def finish_costate(
    network: Network, costates: Costates, step_sizes: np.ndarray, layer: int, begin: int, end: int
) -> None:
    """Clear the padding of the next co-state and rescale its columns to the next step size."""
    clear_costate_padding(network, costates, layer, begin, end)
    if step_sizes[layer + 1] != step_sizes[layer]:
        factor = step_sizes[layer + 1] / step_sizes[layer]
        stride = network.layers[layer + 1, STRIDE]
        D = Operand(costates.D, costates.d0, stride, ONE)
        scale_columns(D, costates.rows, begin, end, factor)


@part
def clear_costate_padding(
    network: Network, costates: Costates, layer: int, begin: int, end: int
) -> None:
    """Clear the next co-state's padding if columns begin ≤ j < end include the last column."""
    width = network.layers[layer, ROWS]
    # Products with a transposed layer are written as whole vectors, zero padding included.
    if begin < width <= end and not is_transposed(network.layers, layer):
        stride, d0 = network.layers[layer + 1, STRIDE], costates.d0
        for a in range(costates.rows):
            for j in range(a * stride + width, (a + 1) * stride):
                costates.D[np.uintp(d0 + j)] = 0


@part
def update_rows(
    network: Network, C: np.ndarray, c0: int, layer: int, row: int, rows: int, decay: float
) -> None:
    """``W := decay·W + Bᵀ C`` on `rows` rows of a layer from `row` on, both multiples of 4."""
    layers = network.layers
    stride = layers[layer, STRIDE]
    W = Operand(network.weights, layers[layer, OFFSET] + row * stride, stride, ONE)
    if decay != 1:
        scale_columns(W, ONE, ZERO, rows * stride, decay)
    add_gradient(network, Operand(C, c0, stride, ONE), W, layer, row, rows, ACCUMULATE)


@part
def add_gradient(
    network: Network, C: Operand, out: Operand, layer: int, row: int, rows: int, overwrite: bool
) -> None:
    """Add ``Bᵀ C``, for `rows` rows of a layer from `row` on, to `out`, or `overwrite` `out`."""
    layers = network.layers
    B = Operand(network.products, layers[layer + 1, PRODUCT] + row, ONE, layers[layer + 1, STRIDE])
    extent = Extent(rows, network.q_padded, ZERO, layers[layer, VECTORS], network.lane)
    add_product(B, C, out, extent, overwrite, NO_PREFETCH)


@part
def scale_columns(matrix: Operand, rows: int, begin: int, end: int, factor: float) -> None:
    """Multiply columns begin ≤ j < end of `rows` rows of an `Operand`."""
    for a in range(rows):
        row = matrix.start + a * matrix.row
        for j in range(row + begin, row + end):
            matrix.data[np.uintp(j)] *= factor
