"""Haar orthogonal frames: independent reflectors multiplied out, one panel of columns at a time.

Q = H_0 ··· H_{p−1} D, first p columns, by backward accumulation. Columns never meet, so a panel
narrow enough to stay in the second-level cache is taken through all blocks of reflectors before
the next is begun, and panels need no word between threads. Column c is untouched by reflectors
after its own and has nothing above the first row that one has reached: 4/3 n³ flops for p = n.
"""

import numpy as np

from .jit import exact_kernel
from .reflectors import (
    BLOCK,
    add_products,
    block_start,
    draw_rows,
    finish_vectors,
    gather,
    invert,
    lanes_of,
    merged,
    padded,
    scatter,
    times_minus_t,
    work_size,
)

# Bytes of one row of a panel: four AVX-512 registers.
PANEL_BYTES = 256


@exact_kernel
def prepare_block(key, stream, n, p, block, V, T, signs, work):
    """Draw one block of an n × p frame: its part of V, of −T and of the diagonal D.

    V has ``block_start(n, blocks)`` numbers, T BLOCK² a block, `signs` p, the
    scratch `work` has ``work_size(n)``.
    """
    j = block * BLOCK
    count = min(BLOCK, p - j)
    rows = padded(n) - j
    v0 = block_start(n, block)
    S, scratch = work[: BLOCK * BLOCK], work[BLOCK * BLOCK :]
    squares, sizes = np.empty(BLOCK), np.empty(BLOCK)
    S[:] = 0.0
    draw_rows(key, stream, n, j, count, 0, rows, V, v0, squares, scratch)
    finish_vectors(count, V, v0, squares, sizes, signs[j:])
    add_products(V, v0, 0, rows, padded(count), S)
    invert(count, S, sizes, T[block * BLOCK * BLOCK : (block + 1) * BLOCK * BLOCK])


@merged
def set_determinant(signs, n):
    """Choose the last sign so that the n × n matrix has determinant one.

    A reflection has determinant −1, so that of Q is the product of −D's diagonal.
    """
    negative = 0
    for j in range(n):
        negative += signs[j] > 0.0
    if negative % 2:
        signs[n - 1] = -signs[n - 1]


@exact_kernel
def form_columns(V, T, signs, n, begin, end, panels, out):
    """Write columns begin ≤ c < end, a multiple of the panel width apart, of Q into `out`.

    `panels` is scratch for these columns: padded(n) rows of PANEL_BYTES for each panel. All its
    panels go through one block of reflectors before the next block is fetched.
    """
    width = PANEL_BYTES // out.itemsize
    lanes = lanes_of(out)
    size = padded(n) * width
    Z, W = np.empty(BLOCK * width, out.dtype), np.empty(BLOCK * width, out.dtype)
    for c in range(begin, end, width):
        _start(signs, c, min(c + width, end), panels[(c - begin) // width * size :][:size], width)
    last = (end - 1) // BLOCK
    for block in range(last, -1, -1):
        for c in range(begin, end, width):
            stop = min(c + width, end)
            if block * BLOCK < stop:
                wide = (stop - c + lanes - 1) // lanes
                q0 = (c - begin) // width * size
                _reflect(V, T, n, signs.size, block, c, stop, panels, q0, width, wide, Z, W)
    for c in range(begin, end, width):
        _finish(panels[(c - begin) // width * size :], width, c, min(c + width, end), out)


@merged
def _start(signs, c, stop, panel, width):
    """Set a panel to its columns of the diagonal matrix D."""
    panel[:] = 0.0
    for i in range(c, stop):
        panel[i * width + i - c] = signs[i]


@merged
def _finish(panel, width, c, stop, out):
    """Copy a panel to columns c ≤ ... < stop of `out`."""
    n, p = out.shape
    flat = out.reshape(n * p)
    for i in range(n):
        source, target = np.uintp(i * width), np.uintp(i * p + c)
        for a in range(np.uintp(stop - c)):
            flat[target + np.uintp(a)] = panel[source + np.uintp(a)]


@merged
def _reflect(V, T, n, p, block, c, stop, panels, q0, width, wide, Z, W):
    """Apply one block of reflectors to the panel of columns c ≤ ... < stop."""
    j = block * BLOCK
    count = min(BLOCK, p - j)
    v0 = block_start(n, block)
    # Rows that are not zero: those of D before the panel's first block, then all reached so far.
    fresh = (stop - 1) // BLOCK == block
    top = max(j, min(c, j + BLOCK))
    Z[:] = 0.0
    gather(V, v0, j, count, panels, q0, width, wide, top, stop if fresh else n, Z, width)
    times_minus_t(T, block * BLOCK * BLOCK, count, False, Z, width, wide, W)
    scatter(V, v0, j, count, W, width, wide, panels, q0, width, j, padded(n))


@exact_kernel
def form_matrices(key, stream, special, out):
    """Fill out[k], n × p, with the Haar frame of stream + k."""
    n, p = out.shape[1:]
    blocks = (p + BLOCK - 1) // BLOCK
    width = PANEL_BYTES // out.itemsize
    V = np.empty(block_start(n, blocks), out.dtype)
    T = np.empty(blocks * BLOCK * BLOCK, out.dtype)
    signs = np.empty(p, out.dtype)
    panel = np.empty(padded(n) * width, out.dtype)
    work = np.empty(work_size(n), out.dtype)
    for k in range(out.shape[0]):
        for block in range(blocks):
            prepare_block(key, stream + np.uint64(k), n, p, block, V, T, signs, work)
        if special:
            set_determinant(signs, n)
        for c in range(0, p, width):
            form_columns(V, T, signs, n, c, min(c + width, p), panel, out[k])
