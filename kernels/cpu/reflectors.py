"""Blocks of Householder reflectors drawn from an addressable stream, in compact WY form.

Reflector j of an n-row frame comes from n − j independent normals x, numbers j·n − j(j−1)/2 and
on of the frame's stream (Stewart 1980). With σ the sign of x₀ and v = x + σ|x|e₀, the
reflection H_j = I − v vᵀ/d, d = |x|² + |x||x₀|, takes e₀ to −σx/|x|, so that −σ H_j e₀ is x/|x|,
uniform on the sphere. A block of 32 is H_j ··· H_{j+31} = I − V T Vᵀ with T upper triangular and
T⁻¹ = diag(d) + the strict upper part of VᵀV: no reflector has to be applied to another.

Storage. V of one block is row-major, BLOCK numbers a row whatever the count of reflectors, from
row j of the frame down to `padded(n)`, a multiple of four. Counts are padded to multiples of
four with zero vectors, which reflect nothing. A frame's blocks lie one after the other in one
vector (`block_start`). Every product goes through `sweep`, whose sums run along rows in order
with one fused multiply-add a term: no vector width and no split of the work changes a bit.
"""

import numpy as np

from .jit import inlined, kernel, part
from .random import fill_normals
from .tiles import WIDE, lanes, product_tile

# Constants as NumPy's: Numba would compile a kernel anew for each literal it is called with.
NO = np.bool_(False)
_0 = np.intp(0)
_1 = np.intp(1)
BLOCK = np.intp(32)
TILE = np.intp(4)
# Rows packed at a time: their normals and their part of V fit the second-level cache.
PACKED_ROWS = 2048
# Rows gathered at a time: their part of V and of the panel fit the first-level cache.
GATHERED_ROWS = 64
# Numbers of scratch that `invert` takes.
INVERT_WORK = 2 * int(BLOCK * TILE)
_LANES_32 = lanes(np.float32)
_LANES_64 = lanes(np.float64)


@inlined
def clear(out, begin, count):
    """Set ``out[begin : begin + count]`` to zero: an assignment to the slice compiles for long."""
    for i in range(np.uintp(count)):  # unsigned, for the check of negative indices costs as much
        out[np.uintp(begin) + np.uintp(i)] = 0.0


@inlined
def lanes_of(array):
    """Return how many numbers of a float array one vector register holds."""
    return _LANES_32 if array.itemsize == 4 else _LANES_64


@inlined
def padded(n):
    """Return n rounded up to whole tiles."""
    return (n + TILE - 1) // TILE * TILE


@inlined
def block_start(n, block):
    """Return where V of a block starts in the vector that holds all blocks of an n-row frame."""
    return (block * padded(n) - block * (block - 1) // 2 * BLOCK) * BLOCK


@inlined
def work_size(n):
    """Return how many numbers of scratch the preparation of a block of n-row frames takes."""
    return BLOCK * BLOCK + INVERT_WORK + BLOCK * min(padded(n), PACKED_ROWS)


@inlined
def first_normal(n, j):
    """Return the number, in its stream, of the first normal of reflector j of n-row frames."""
    return j * n - j * (j - 1) // 2


@kernel
def sweep(tiles, wide, X, x0, x_tile, x_row, x_k, Y, y0, y_tile, y_k, out, o0, o_tile, count, less):
    """For each tile t add to four rows of out: ``out[a, :] += Σ_k X[a, k] Y[k, :]``.

    `wide` vectors a row, ``count − t·less`` terms. Tile t starts at ``X[x0 + t·x_tile]``,
    ``Y[y0 + t·y_tile]``, ``out[o0 + t·o_tile]``; its four rows of out lie o_tile/4 apart.
    """
    width = lanes_of(out)
    o_row = o_tile // 4
    v = 0
    while v < wide:
        y, o = y0 + v * width, o0 + v * width
        step = min(wide - v, WIDE)
        for t in range(tiles):
            x, y_t, o_t, terms = x0 + t * x_tile, y + t * y_tile, o + t * o_tile, count - t * less
            if step == 4:
                product_tile(
                    4, 4, X, x, x_row, x_k, Y, y_t, y_k, out, o_t, o_row, terms, False, y_t
                )
            elif step == 3:
                product_tile(
                    4, 3, X, x, x_row, x_k, Y, y_t, y_k, out, o_t, o_row, terms, False, y_t
                )
            elif step == 2:
                product_tile(
                    4, 2, X, x, x_row, x_k, Y, y_t, y_k, out, o_t, o_row, terms, False, y_t
                )
            else:
                product_tile(
                    4, 1, X, x, x_row, x_k, Y, y_t, y_k, out, o_t, o_row, terms, False, y_t
                )
        v += step


@kernel
def draw_rows(key, stream, n, j, count, begin, end, V, v0, squares, where, scratch):
    """Draw rows begin ≤ i < end of reflectors j, ..., j + count − 1 into V, Σ x² into `squares`.

    Rows are counted from row j of the frame, V's first; rows from n − j to the padding are
    zero. `squares` has BLOCK float64 numbers; scratch are `where`, BLOCK intp numbers, and
    `scratch`, BLOCK × PACKED_ROWS of V's kind.
    """
    for a in range(BLOCK):
        squares[a] = 0.0
    for row in range(begin, end, PACKED_ROWS):
        stop = min(row + PACKED_ROWS, end)
        drawn = min(stop, n - j)
        _draw(key, stream, n, j, count, row, drawn, scratch, where)
        _pack(count, row, drawn, scratch, where, V, v0, squares)
        clear(V, v0 + drawn * BLOCK, (stop - drawn) * BLOCK)


@part
def _draw(key, stream, n, j, count, begin, end, scratch, where):
    """Draw rows begin ≤ i < end; row i of reflector a will be ``scratch[where[a] + i]``."""
    base = first_normal(n, j)
    if begin == 0 and end == n - j:  # one call, for the numbers of a block follow each other
        fill_normals(key, stream, np.uint64(base), scratch[: first_normal(n, j + count) - base])
        for a in range(count):
            where[a] = first_normal(n, j + a) - base - a
    else:
        for a in range(count):
            top = max(begin, a)
            x = scratch[a * PACKED_ROWS : a * PACKED_ROWS + max(end - top, 0)]
            fill_normals(key, stream, np.uint64(first_normal(n, j + a) + top - a), x)
            where[a] = a * PACKED_ROWS - top


@part
def _pack(count, begin, end, scratch, where, V, v0, squares):
    """Transpose the drawn rows into V, where row i has zeros from column i + 1 or `count` on."""
    for i in range(begin, end):
        row = V[v0 + i * BLOCK : v0 + (i + 1) * BLOCK]
        filled = min(i + 1, count)
        for a in range(filled):
            row[a] = scratch[np.uintp(where[a] + i)]
        for a in range(filled, BLOCK):
            row[a] = 0.0
        for a in range(BLOCK):
            squares[a] += np.float64(row[a]) * np.float64(row[a])


@kernel
def finish_vectors(count, V, v0, squares, sizes, signs):
    """Turn the heads x₀ into x₀ + σ|x|; write each d into `sizes` and −σ into `signs`.

    −σ is the sign that makes the column built on a reflector start as x/|x|.
    """
    for a in range(count):
        head = v0 + a * BLOCK + a
        x = np.float64(V[head])
        length = np.sqrt(squares[a])
        sizes[a] = squares[a] + length * abs(x)
        signs[a] = 1.0 if x < 0.0 else -1.0
        V[head] = x - length if x < 0.0 else x + length


@kernel
def add_products(V, v0, begin, end, count, S):
    """Add to S (BLOCK × BLOCK, flat) the upper part of VᵀV over rows begin ≤ i < end."""
    width = lanes_of(V)
    wide = BLOCK // width
    for row in range(begin, end, GATHERED_ROWS):
        stop = min(row + GATHERED_ROWS, end)
        for a in range(0, count, TILE):
            first = max(row, a)  # reflector a has zeros above row a
            v = v0 + first * BLOCK
            c = a // width
            sweep(
                _1, wide - c, V, v + a, _0, _1, BLOCK, V, v + c * width, _0, BLOCK,
                S, a * BLOCK + c * width, TILE * BLOCK, stop - first, _0,
            )  # fmt: skip


@kernel
def invert(count, S, sizes, T, scratch):
    """Write −T into the flat BLOCK × BLOCK matrix T, T⁻¹ = diag(sizes) + upper part of S.

    Of S the part strictly above the diagonal is read. Rows and columns of T from `count` on
    become zero. `scratch` has INVERT_WORK numbers: corners, then the rows of one tile.
    """
    clear(T, _0, BLOCK * BLOCK)
    width = lanes_of(T)
    rows = BLOCK * TILE
    _invert_corners(count, S, sizes, scratch)
    for a in range(padded(count) - TILE, -1, -TILE):
        # −T's rows of this tile are −(inverse of its corner of T⁻¹) (I + S T') where T' are the
        # rows of −T below, which are zero before column a + TILE.
        below = a + TILE
        c = a // width
        clear(scratch, rows, TILE * BLOCK)
        for r in range(TILE):
            scratch[rows + r * BLOCK + a + r] = 1.0
        sweep(
            _1, BLOCK // width - c, S, a * BLOCK + below, _0, BLOCK, _1,
            T, below * BLOCK + c * width, _0, BLOCK,
            scratch, rows + c * width, TILE * BLOCK, padded(count) - below, _0,
        )  # fmt: skip
        sweep(
            _1, BLOCK // width - c, scratch, a * TILE, _0, TILE, _1,
            scratch, rows + c * width, _0, BLOCK,
            T, a * BLOCK + c * width, TILE * BLOCK, TILE, _0,
        )  # fmt: skip


@part
def _invert_corners(count, S, sizes, corners):
    """Write minus the inverse of each 4 × 4 corner on the diagonal of T⁻¹, one after the other."""
    clear(corners, _0, BLOCK * TILE)
    for a in range(count, padded(count)):
        sizes[a] = np.inf
    for a in range(0, count, TILE):
        s, c = a * BLOCK + a, a * TILE
        w, x, y, z = -1 / sizes[a], -1 / sizes[a + 1], -1 / sizes[a + 2], -1 / sizes[a + 3]
        wx, wy, wz = w * S[s + 1], w * S[s + 2], w * S[s + 3]
        xy, xz = x * S[s + BLOCK + 2], x * S[s + BLOCK + 3]
        yz = y * S[s + 2 * BLOCK + 3] * z
        corners[c], corners[c + 5], corners[c + 10], corners[c + 15] = w, x, y, z
        corners[c + 11] = yz
        corners[c + 6] = xy * y
        corners[c + 7] = xz * z + xy * yz
        corners[c + 1] = wx * x
        corners[c + 2] = wy * y + wx * (xy * y)
        corners[c + 3] = wz * z + wy * yz + wx * (xz * z + xy * yz)


@kernel
def gather(V, v0, j, count, Q, q0, q_row, wide, begin, end, Z, z_row):
    """Add VᵀQ over rows begin ≤ i < end of the frame to Z: `count` rows of `wide` vectors.

    Row i of Q starts at ``q0 + i·q_row``, row a of Z at ``a·z_row``.
    """
    tiles = padded(count) // TILE
    for row in range(begin, end, GATHERED_ROWS):
        # From row j on, tile t of the reflectors starts at row j + 4t.
        skip = TILE if row == j else _0
        sweep(
            tiles, wide, V, v0 + (row - j) * BLOCK, TILE + skip * BLOCK, _1, BLOCK,
            Q, q0 + row * q_row, skip * q_row, q_row,
            Z, _0, TILE * z_row, min(GATHERED_ROWS, end - row), skip,
        )  # fmt: skip


@kernel
def scatter(V, v0, j, count, W, w_row, wide, Q, q0, q_row, begin, end):
    """Add V W to rows begin ≤ i < end of Q, whole tiles of rows."""
    row = begin
    if begin == j:  # the triangle on top: tile t meets the first 4 (t + 1) reflectors
        sweep(
            padded(count) // TILE, wide, V, v0, TILE * BLOCK, BLOCK, _1, W, _0, _0, w_row,
            Q, q0 + j * q_row, TILE * q_row, TILE, -TILE,
        )  # fmt: skip
        row += padded(count)
    sweep(
        (end - row) // TILE, wide, V, v0 + (row - j) * BLOCK, TILE * BLOCK, BLOCK, _1,
        W, _0, _0, w_row, Q, q0 + row * q_row, TILE * q_row, padded(count), _0,
    )  # fmt: skip


@kernel
def times_minus_t(T, t0, count, transposed, Z, z_row, wide, W):
    """Set W = −T Z, or −Tᵀ Z; rows of W lie as those of Z."""
    tiles = padded(count) // TILE
    clear(W, _0, padded(count) * z_row)
    if transposed:
        sweep(
            tiles, wide, T, t0, TILE, _1, BLOCK, Z, _0, _0, z_row,
            W, _0, TILE * z_row, padded(count), _0,
        )  # fmt: skip
    else:  # upper triangular: tile t starts at its own first column
        sweep(
            tiles, wide, T, t0, TILE * BLOCK + TILE, BLOCK, _1, Z, _0, TILE * z_row, z_row,
            W, _0, TILE * z_row, padded(count), TILE,
        )  # fmt: skip
