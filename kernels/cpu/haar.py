"""Form Haar orthogonal frames from independent reflectors, one panel of columns at a time.

Backward accumulation gives the first p columns of Q = H_0 ··· H_{p−1} D. Columns do not interact,
so all blocks of reflectors are applied to one panel, narrow enough for the second-level cache,
before the next panel starts, and threads that form different panels need no synchronisation.
Reflectors after number c leave column c unchanged, and the column is zero above the first row
reached so far, which leaves 4/3 n³ flops for p = n.
"""

from typing import NamedTuple

import numpy as np

from . import reflectors
from .jit import kernel, part
from .random import Source
from .reflectors import (
    BLOCK,
    INVERT_WORK,
    NO,
    Panel,
    ReflectorBlock,
    add_products,
    block_start,
    draw_rows,
    finish_vectors,
    gather,
    invert,
    scatter,
    times_minus_t,
)
from .tile_products import ZERO, clear, lanes_of, padded

# Bytes of one row of a panel: four AVX-512 registers.
PANEL_BYTES = 256


class Chunk(NamedTuple):
    """Blocks first ≤ b < last to prepare, then columns begin ≤ c < end to form by `group`."""

    first: int
    last: int
    begin: int
    end: int
    group: int


class Reflectors(NamedTuple):
    """All reflectors of an n × p frame.

    V has ``block_start(n, blocks)`` elements, minus_T BLOCK² per block, signs p.
    """

    V: np.ndarray
    minus_T: np.ndarray
    signs: np.ndarray


class Scratch(NamedTuple):
    """Scratch of one thread.

    small: 2·BLOCK float64; places: BLOCK intp; work: ``work_size(n)`` elements of the frame's
    dtype; panels: ``padded(n)`` rows of PANEL_BYTES for each panel of a group.
    """

    small: np.ndarray
    places: np.ndarray
    work: np.ndarray
    panels: np.ndarray


def work_size(n: int) -> int:
    """Return the elements of scratch that `form_frames` needs in addition to panels."""
    width = PANEL_BYTES // 4  # float32, the smaller dtype
    return reflectors.work_size(n) + 2 * int(BLOCK) * width


@kernel
def form_frames(
    source: Source,
    special: bool,
    chunk: Chunk,
    reflectors: Reflectors,
    scratch: Scratch,
    out: np.ndarray,
) -> None:
    """Do one chunk of filling out[k], n × p, with the Haar frame of stream + k, for all k.

    `chunk.group` is a multiple of the panel width.

    One kernel does both steps: with one kernel for each and a third to call them, LLVM optimised
    everything again, which took a second.
    """
    n, p = out.shape[1:]
    for k in range(out.shape[0]):
        frame = Source(source.key, source.stream + np.uint64(k))
        for block in range(chunk.first, chunk.last):
            j = block * BLOCK
            wy = ReflectorBlock(reflectors.V, block_start(n, block), n, j, min(BLOCK, p - j))
            prepare_block(frame, block, wy, reflectors, scratch)
        if special:
            _set_determinant(reflectors.signs, n)
        for c in range(chunk.begin, chunk.end, chunk.group):
            _form_columns(reflectors, c, min(c + chunk.group, chunk.end), scratch, out[k])


@part
def prepare_block(
    source: Source, number: int, block: ReflectorBlock, reflectors: Reflectors, scratch: Scratch
) -> None:
    """Draw one block of a frame: the block's part of V, −T and the diagonal D."""
    rows = padded(block.n) - block.j
    inverse, drawn = BLOCK * BLOCK, BLOCK * BLOCK + INVERT_WORK
    work = scratch.work
    squares, sizes = scratch.small[:BLOCK], scratch.small[BLOCK:]
    clear(work, ZERO, BLOCK * BLOCK)
    draw_rows(source, block, ZERO, rows, squares, scratch.places, work[drawn:])
    finish_vectors(block, squares, sizes, reflectors.signs[block.j :])
    add_products(block, ZERO, rows, work)
    minus_T = reflectors.minus_T[number * BLOCK * BLOCK :]
    invert(block.size, work, sizes, minus_T, work[inverse:])


@part
def _set_determinant(signs: np.ndarray, n: int) -> None:
    """Choose the last sign so that the n × n matrix has determinant one.

    A reflection has determinant −1, so det Q is the product of the diagonal of −D.
    """
    negative = 0
    for j in range(n):
        negative += signs[j] > 0.0
    if negative % 2:
        signs[n - 1] = -signs[n - 1]


@part
def _form_columns(
    reflectors: Reflectors, begin: int, end: int, scratch: Scratch, out: np.ndarray
) -> None:
    """Write columns begin ≤ c < end of Q into `out`.

    One block of reflectors is applied to all panels of these columns before the next is fetched.
    """
    n = out.shape[0]
    width = PANEL_BYTES // out.itemsize
    panels = scratch.panels
    lanes = lanes_of(panels)
    size = padded(n) * width
    for c in range(begin, end, width):
        q0 = (c - begin) // width * size
        clear(panels, q0, size)
        _set_diagonal(reflectors.signs, c, min(c + width, end), panels, q0)
    last = (end - 1) // BLOCK
    for block in range(last, -1, -1):
        for c in range(begin, end, width):
            stop = min(c + width, end)
            if block * BLOCK < stop:
                wide = (stop - c + lanes - 1) // lanes
                panel = Panel(panels, (c - begin) // width * size, width, wide)
                _reflect(reflectors, n, block, c, stop, panel, scratch.work)
    for c in range(begin, end, width):
        _copy_panel(panels, (c - begin) // width * size, c, min(c + width, end), out)


@part
def _set_diagonal(signs: np.ndarray, c: int, stop: int, panels: np.ndarray, q0: int) -> None:
    """Write columns c ≤ … < stop of the diagonal matrix D to a panel of zeros."""
    width = PANEL_BYTES // panels.itemsize
    for i in range(c, stop):
        panels[q0 + i * width + i - c] = signs[i]


@part
def _copy_panel(panels: np.ndarray, q0: int, c: int, stop: int, out: np.ndarray) -> None:
    """Copy a panel to columns c ≤ … < stop of `out`."""
    n, p = out.shape
    width = PANEL_BYTES // panels.itemsize
    flat = out.reshape(n * p)
    for i in range(n):
        source, target = np.uintp(q0 + i * width), np.uintp(i * p + c)
        for a in range(np.uintp(stop - c)):
            flat[target + np.uintp(a)] = panels[source + np.uintp(a)]


@part
def _reflect(
    reflectors: Reflectors, n: int, number: int, c: int, stop: int, Q: Panel, work: np.ndarray
) -> None:
    """Apply one block of reflectors to the panel of columns c ≤ … < stop."""
    j = number * BLOCK
    block = ReflectorBlock(
        reflectors.V, block_start(n, number), n, j, min(BLOCK, reflectors.signs.size - j)
    )
    size = BLOCK * Q.stride
    Z, W = work[:size], work[size : 2 * size]
    # Nonzero rows: at the panel's first block the diagonal of D, then all rows reached so far.
    fresh = (stop - 1) // BLOCK == number
    top = max(j, min(c, j + BLOCK))
    clear(Z, ZERO, size)
    gather(block, Q, top, stop if fresh else n, Z)
    products = Panel(Z, ZERO, Q.stride, Q.wide)
    times_minus_t(reflectors.minus_T, number * BLOCK * BLOCK, block.size, NO, products, W)
    scatter(block, W, Q, j, padded(n))
