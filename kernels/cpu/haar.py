"""Haar orthogonal frames: independent reflectors multiplied out, one panel of columns at a time.

Q = H_0 ··· H_{p−1} D, first p columns, by backward accumulation. Columns never meet, so a panel
narrow enough to stay in the second-level cache is taken through all blocks of reflectors before
the next is begun, and panels need no word between threads. Column c is untouched by reflectors
after its own and has nothing above the first row that one has reached: 4/3 n³ flops for p = n.
"""

import numpy as np

from . import reflectors
from .jit import kernel, part
from .reflectors import (
    BLOCK,
    INVERT_WORK,
    NO,
    _0,
    add_products,
    block_start,
    clear,
    draw_rows,
    finish_vectors,
    gather,
    invert,
    lanes_of,
    padded,
    scatter,
    times_minus_t,
)

# Bytes of one row of a panel: four AVX-512 registers.
PANEL_BYTES = 256


def work_size(n):
    """Return how many numbers of scratch `form_frames` takes, besides panels."""
    width = PANEL_BYTES // 4  # as for the smaller kind
    return reflectors.work_size(n) + 2 * int(BLOCK) * width


@kernel
def form_frames(
    key,
    stream,
    special,
    first,
    last,
    begin,
    end,
    group,
    V,
    T,
    signs,
    small,
    where,
    work,
    panels,
    out,
):
    """Take part in filling out[k], n × p, with the Haar frame of stream + k, for all k.

    Prepares blocks first ≤ b < last of reflectors, then forms columns begin ≤ c < end from all
    blocks, `group`, a multiple of the panel width, at a time.

    V has ``block_start(n, blocks)`` numbers, T BLOCK² a block, `signs` p. Scratch: 2·BLOCK
    float64 in `small`, BLOCK intp in `where`, ``work_size(n)`` in `work`, padded(n) rows of
    PANEL_BYTES for each panel of a group in `panels`.

    One kernel for both steps: with one of each and a third to call them, LLVM optimised all of
    it once more, for a second.
    """
    n, p = out.shape[1:]
    for k in range(out.shape[0]):
        for block in range(first, last):
            _prepare_block(key, stream + np.uint64(k), n, p, block, V, T, signs, small, where, work)
        if special:
            _set_determinant(signs, n)
        for c in range(begin, end, group):
            _form_columns(V, T, signs, n, c, min(c + group, end), panels, work, out[k])


@part
def _prepare_block(key, stream, n, p, block, V, T, signs, small, where, work):
    """Draw one block of an n × p frame: its part of V, of −T and of the diagonal D."""
    j = block * BLOCK
    count = min(BLOCK, p - j)
    rows = padded(n) - j
    v0 = block_start(n, block)
    inverse, drawn = BLOCK * BLOCK, BLOCK * BLOCK + INVERT_WORK
    squares, sizes = small[:BLOCK], small[BLOCK:]
    clear(work, _0, BLOCK * BLOCK)
    draw_rows(key, stream, n, j, count, _0, rows, V, v0, squares, where, work[drawn:])
    finish_vectors(count, V, v0, squares, sizes, signs[j:])
    add_products(V, v0, _0, rows, padded(count), work)
    invert(count, work, sizes, T[block * BLOCK * BLOCK :], work[inverse:])


@part
def _set_determinant(signs, n):
    """Choose the last sign so that the n × n matrix has determinant one.

    A reflection has determinant −1, so that of Q is the product of −D's diagonal.
    """
    negative = 0
    for j in range(n):
        negative += signs[j] > 0.0
    if negative % 2:
        signs[n - 1] = -signs[n - 1]


@part
def _form_columns(V, T, signs, n, begin, end, panels, work, out):
    """Write columns begin ≤ c < end of Q into `out`.

    All their panels go through one block of reflectors before the next block is fetched.
    """
    width = PANEL_BYTES // out.itemsize
    lanes = lanes_of(panels)
    size = padded(n) * width
    Z, W = work[: BLOCK * width], work[BLOCK * width : 2 * BLOCK * width]
    for c in range(begin, end, width):
        _start(signs, c, min(c + width, end), panels, (c - begin) // width * size, size, width)
    last = (end - 1) // BLOCK
    for block in range(last, -1, -1):
        for c in range(begin, end, width):
            stop = min(c + width, end)
            if block * BLOCK < stop:
                wide = (stop - c + lanes - 1) // lanes
                q0 = (c - begin) // width * size
                _reflect(V, T, n, signs.size, block, c, stop, panels, q0, width, wide, Z, W)
    for c in range(begin, end, width):
        _finish(panels, (c - begin) // width * size, width, c, min(c + width, end), out)


@part
def _start(signs, c, stop, panels, q0, size, width):
    """Set a panel to its columns of the diagonal matrix D."""
    clear(panels, q0, size)
    for i in range(c, stop):
        panels[q0 + i * width + i - c] = signs[i]


@part
def _finish(panels, q0, width, c, stop, out):
    """Copy a panel to columns c ≤ ... < stop of `out`."""
    n, p = out.shape
    flat = out.reshape(n * p)
    for i in range(n):
        source, target = np.uintp(q0 + i * width), np.uintp(i * p + c)
        for a in range(np.uintp(stop - c)):
            flat[target + np.uintp(a)] = panels[source + np.uintp(a)]


@part
def _reflect(V, T, n, p, block, c, stop, panels, q0, width, wide, Z, W):
    """Apply one block of reflectors to the panel of columns c ≤ ... < stop."""
    j = block * BLOCK
    count = min(BLOCK, p - j)
    v0 = block_start(n, block)
    # Rows that are not zero: those of D before the panel's first block, then all reached so far.
    fresh = (stop - 1) // BLOCK == block
    top = max(j, min(c, j + BLOCK))
    clear(Z, _0, BLOCK * width)
    gather(V, v0, j, count, panels, q0, width, wide, top, stop if fresh else n, Z, width)
    times_minus_t(T, block * BLOCK * BLOCK, count, NO, Z, width, wide, W)
    scatter(V, v0, j, count, W, width, wide, panels, q0, width, j, padded(n))
