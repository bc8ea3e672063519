"""Blocks of Householder reflectors drawn from an addressable stream, in compact WY form.

Reflector j of an n-row frame is formed from n − j independent normals x, from position
j·n − j(j−1)/2 of the frame's stream on (Stewart 1980). With σ the sign of x₀ and
v = x + σ|x|e₀, the reflection H_j = I − v vᵀ/d, d = |x|² + |x||x₀|, maps e₀ to −σx/|x|. Hence
−σ H_j e₀ = x/|x| is uniform on the sphere. A block of 32 is H_j ··· H_{j+31} = I − V T Vᵀ with T
upper triangular and
T⁻¹ = diag(d) + the strict upper part of VᵀV, so no reflector is applied to another.

Storage. V of one block is row-major, BLOCK elements per row whatever the number of reflectors,
from row j of the frame down to row ``padded(n)``, a multiple of four. The number of reflectors is
padded to a multiple of four with zero vectors, which reflect nothing. All blocks of a frame lie
consecutively in one vector (`block_start`). Every product goes through `multiply_tiles`, which
adds the terms of a sum in order, one fused multiply-add per term: the result does not depend on
the vector width or on how the work is divided.
"""

from typing import NamedTuple, cast

import numpy as np

from .jit import inlined, kernel, part
from .random import Source, fill_normals
from .tile_products import (
    ONE,
    TILE,
    ZERO,
    Left,
    Right,
    Sums,
    clear,
    index,
    lanes_of,
    multiply_tiles,
    padded,
)

BLOCK = index(32)
# The argument `transposed` of `times_minus_t`: a NumPy scalar, see `tile_products.index`.
NO = cast(bool, np.bool_(False))
# Rows packed at a time, so that their normals and their part of V fit the second-level cache.
PACKED_ROWS = 2048
# Rows gathered at a time, so that their parts of V and of the panel fit the first-level cache.
GATHERED_ROWS = 64
# Elements of scratch for `invert`.
INVERT_WORK = 2 * int(BLOCK * TILE)


class ReflectorBlock(NamedTuple):
    """Reflectors j, …, j + size − 1 of an n-row frame; their vectors start at ``V[start]``."""

    V: np.ndarray
    start: int
    n: int
    j: int
    size: int


class Panel(NamedTuple):
    """Columns of a matrix: row i, of `wide` vectors, starts at ``array[start + i·stride]``."""

    array: np.ndarray
    start: int
    stride: int
    wide: int


@inlined
def block_start(n: int, block: int) -> int:
    """Return the start of a block's V in the vector that holds all blocks of an n-row frame."""
    return (block * padded(n) - block * (block - 1) // 2 * BLOCK) * BLOCK


@inlined
def work_size(n: int) -> int:
    """Return the elements of scratch needed to prepare a block of an n-row frame."""
    return BLOCK * BLOCK + INVERT_WORK + BLOCK * min(padded(n), PACKED_ROWS)


@inlined
def first_normal(n: int, j: int) -> int:
    """Return the stream position of the first normal of reflector j of an n-row frame."""
    return j * n - j * (j - 1) // 2


@kernel
def draw_rows(
    source: Source,
    block: ReflectorBlock,
    begin: int,
    end: int,
    squares: np.ndarray,
    places: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Draw rows begin ≤ i < end of a block's reflectors into V, and Σ x² into `squares`.

    Rows are counted from row j of the frame, the first of V; rows from n − j to the padding are
    zero. `squares` has BLOCK float64 elements. Scratch: `places`, BLOCK intp elements, and
    `scratch`, BLOCK × PACKED_ROWS elements of V's dtype.
    """
    for a in range(BLOCK):
        squares[a] = 0.0
    for row in range(begin, end, PACKED_ROWS):
        stop = min(row + PACKED_ROWS, end)
        drawn = min(stop, block.n - block.j)
        _draw(source, block, row, drawn, scratch, places)
        _pack(block, row, drawn, scratch, places, squares)
        clear(block.V, block.start + drawn * BLOCK, (stop - drawn) * BLOCK)


@part
def _draw(
    source: Source,
    block: ReflectorBlock,
    begin: int,
    end: int,
    scratch: np.ndarray,
    places: np.ndarray,
) -> None:
    """Draw rows begin ≤ i < end; row i of reflector a is written to ``scratch[places[a] + i]``."""
    key, stream = source.key, source.stream
    n, j, count = block.n, block.j, block.size
    base = first_normal(n, j)
    if begin == 0 and end == n - j:  # one call: the normals of a block are consecutive
        fill_normals(key, stream, np.uint64(base), scratch[: first_normal(n, j + count) - base])
        for a in range(count):
            places[a] = first_normal(n, j + a) - base - a
    else:
        for a in range(count):
            top = max(begin, a)
            x = scratch[a * PACKED_ROWS : a * PACKED_ROWS + max(end - top, 0)]
            fill_normals(key, stream, np.uint64(first_normal(n, j + a) + top - a), x)
            places[a] = a * PACKED_ROWS - top


@part
def _pack(
    block: ReflectorBlock,
    begin: int,
    end: int,
    scratch: np.ndarray,
    places: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Transpose the drawn rows into V; row i of V is zero from column min(i + 1, count) on."""
    V, v0, count = block.V, block.start, block.size
    for i in range(begin, end):
        row = V[v0 + i * BLOCK : v0 + (i + 1) * BLOCK]
        filled = min(i + 1, count)
        for a in range(filled):
            row[a] = scratch[np.uintp(places[a] + i)]
        for a in range(filled, BLOCK):
            row[a] = 0.0
        for a in range(BLOCK):
            squares[a] += np.float64(row[a]) * np.float64(row[a])


@part
def finish_vectors(
    block: ReflectorBlock, squares: np.ndarray, sizes: np.ndarray, signs: np.ndarray
) -> None:
    """Replace the heads x₀ by x₀ + σ|x|; write each d into `sizes` and −σ into `signs`.

    With the sign −σ, the column formed from a reflector starts as x/|x|.
    """
    V = block.V
    for a in range(block.size):
        head = block.start + a * BLOCK + a
        x = np.float64(V[head])
        length = np.sqrt(squares[a])
        sizes[a] = squares[a] + length * abs(x)
        signs[a] = 1.0 if x < 0.0 else -1.0
        V[head] = x - length if x < 0.0 else x + length


@kernel
def add_products(block: ReflectorBlock, begin: int, end: int, S: np.ndarray) -> None:
    """Add to S (BLOCK × BLOCK, flat) the upper part of VᵀV over rows begin ≤ i < end."""
    V = block.V
    width = lanes_of(V)
    wide = BLOCK // width
    for row in range(begin, end, GATHERED_ROWS):
        stop = min(row + GATHERED_ROWS, end)
        for a in range(0, padded(block.size), TILE):
            first = max(row, a)  # reflector a has zeros above row a
            v = block.start + first * BLOCK
            c = a // width
            multiply_tiles(
                ONE,
                wide - c,
                Left(V, v + a, ZERO, ONE, BLOCK),
                Right(V, v + c * width, ZERO, BLOCK),
                Sums(S, a * BLOCK + c * width, TILE * BLOCK),
                stop - first,
                ZERO,
            )


@kernel
def invert(
    count: int, S: np.ndarray, sizes: np.ndarray, T: np.ndarray, scratch: np.ndarray
) -> None:
    """Write −T into the flat BLOCK × BLOCK matrix T, T⁻¹ = diag(sizes) + upper part of S.

    Only the strict upper part of S is read. Rows and columns of T from `count` on become zero.
    `scratch` has INVERT_WORK elements: the corners, then the rows of one tile.
    """
    clear(T, ZERO, BLOCK * BLOCK)
    width = lanes_of(T)
    rows = BLOCK * TILE
    _invert_corners(count, S, sizes, scratch)
    for a in range(padded(count) - TILE, -1, -TILE):
        # This tile's rows of −T are −(inverse of its corner of T⁻¹) (I + S T'), where T' is the
        # rows of −T below, which are zero before column a + TILE.
        below = a + TILE
        c = a // width
        wide = BLOCK // width - c
        sums = Sums(scratch, rows + c * width, TILE * BLOCK)
        clear(scratch, rows, TILE * BLOCK)
        for r in range(TILE):
            scratch[rows + r * BLOCK + a + r] = 1.0
        multiply_tiles(
            ONE,
            wide,
            Left(S, a * BLOCK + below, ZERO, BLOCK, ONE),
            Right(T, below * BLOCK + c * width, ZERO, BLOCK),
            sums,
            padded(count) - below,
            ZERO,
        )
        multiply_tiles(
            ONE,
            wide,
            Left(scratch, a * TILE, ZERO, TILE, ONE),
            Right(scratch, sums.start, ZERO, BLOCK),
            Sums(T, a * BLOCK + c * width, TILE * BLOCK),
            TILE,
            ZERO,
        )


@part
def _invert_corners(count: int, S: np.ndarray, sizes: np.ndarray, corners: np.ndarray) -> None:
    """Write the negated inverse of each 4 × 4 diagonal block of T⁻¹, consecutively."""
    clear(corners, ZERO, BLOCK * TILE)
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
def gather(block: ReflectorBlock, Q: Panel, begin: int, end: int, Z: np.ndarray) -> None:
    """Add VᵀQ over rows begin ≤ i < end of the frame to Z, which has the row stride of Q."""
    tiles = padded(block.size) // TILE
    for row in range(begin, end, GATHERED_ROWS):
        # Tile t of the reflectors starts at row j + 4t.
        skip = TILE if row == block.j else ZERO
        multiply_tiles(
            tiles,
            Q.wide,
            Left(block.V, block.start + (row - block.j) * BLOCK, TILE + skip * BLOCK, ONE, BLOCK),
            Right(Q.array, Q.start + row * Q.stride, skip * Q.stride, Q.stride),
            Sums(Z, ZERO, TILE * Q.stride),
            min(GATHERED_ROWS, end - row),
            skip,
        )


@kernel
def scatter(block: ReflectorBlock, W: np.ndarray, Q: Panel, begin: int, end: int) -> None:
    """Add V W to rows begin ≤ i < end of Q, whole tiles of rows; W has the row stride of Q."""
    tiles = padded(block.size) // TILE
    row = begin
    if begin == block.j:  # the top triangle: 4 (t + 1) reflectors are nonzero in tile t
        multiply_tiles(
            tiles,
            Q.wide,
            Left(block.V, block.start, TILE * BLOCK, BLOCK, ONE),
            Right(W, ZERO, ZERO, Q.stride),
            Sums(Q.array, Q.start + row * Q.stride, TILE * Q.stride),
            TILE,
            -TILE,
        )
        row += tiles * TILE
    multiply_tiles(
        (end - row) // TILE,
        Q.wide,
        Left(block.V, block.start + (row - block.j) * BLOCK, TILE * BLOCK, BLOCK, ONE),
        Right(W, ZERO, ZERO, Q.stride),
        Sums(Q.array, Q.start + row * Q.stride, TILE * Q.stride),
        tiles * TILE,
        ZERO,
    )


@kernel
def times_minus_t(
    T: np.ndarray, t0: int, count: int, transposed: bool, Z: Panel, W: np.ndarray
) -> None:
    """Set W = −T Z, or −Tᵀ Z, with −T starting at ``T[t0]``; W has the row stride of Z."""
    tiles = padded(count) // TILE
    sums = Sums(W, ZERO, TILE * Z.stride)
    clear(W, ZERO, padded(count) * Z.stride)
    if transposed:
        multiply_tiles(
            tiles,
            Z.wide,
            Left(T, t0, TILE, ONE, BLOCK),
            Right(Z.array, Z.start, ZERO, Z.stride),
            sums,
            padded(count),
            ZERO,
        )
    else:  # −T is upper triangular: the terms of tile t start at the diagonal
        multiply_tiles(
            tiles,
            Z.wide,
            Left(T, t0, TILE * BLOCK + TILE, BLOCK, ONE),
            Right(Z.array, Z.start, TILE * Z.stride, Z.stride),
            sums,
            padded(count),
            TILE,
        )
