"""A Haar frame stored as its reflectors and applied to blocks of vectors without forming it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdln.kernels.cpu import reflectors as kernels
from fastdln.kernels.cpu.random import Source
from fastdln.kernels.cpu.reflectors import Panel, ReflectorBlock
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import Seed, Stream, seed_key, stream_id
from fastdln.utils import arrays, memory, threads, validation

BLOCK = int(kernels.BLOCK)
# Rows of one chunk of work. Sums over rows are split into these chunks whatever the number of
# threads, so that the bits do not depend on it.
CHUNK_ROWS = 16384
# Limit on the bytes of reflectors held at a time: blocks are drawn together up to it, at least one.
_HELD_BYTES = 1 << 25


def frame_shape(n: int, p: int | None) -> tuple[int, int]:
    """Return (n, p) as ints with 1 ≤ p ≤ n; p is n when None."""
    n = validation.positive_integer("n", n)
    p = n if p is None else validation.positive_integer("p", p)
    if p > n:
        raise ValueError(f"p must be at most n, but p = {p} and n = {n}")
    return n, p


@dataclass(frozen=True)
class _Factors:
    """One block of reflectors, I − V T Vᵀ, and the block's elements of the diagonal D."""

    block: ReflectorBlock
    minus_T: np.ndarray
    signs: np.ndarray

    @property
    def rows(self) -> slice:
        """The frame's rows that the block's elements of D scale."""
        return slice(self.block.j, self.block.j + self.block.size)


class HaarReflectors:
    """A Haar-distributed n × p frame Q, held as a seed and applied without being formed.

    Q is the matrix that ``haar_orthogonal(n, p, seed=seed, dtype=dtype)`` draws, to rounding.
    Its reflectors are drawn again at each use, a few dozen at a time. Memory beyond the result is
    ``32·n`` elements or up to 32 MiB, for any p; time is O(n·p) per column.

    Parameters
    ----------
    n, p : int
        Rows, and columns from 1 to n (n by default).
    seed : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        As for `numpy.random.default_rng`.
    dtype : {"float64", "float32"}
        Dtype of the arithmetic and of the results.

    Raises
    ------
    TypeError, ValueError
        For sizes, seeds or dtypes outside these ranges.

    Notes
    -----
    Stewart (1980), as in `haar_orthogonal`. The first r columns depend on the first r
    reflectors alone, so frames of one n and seed are nested.

    Examples
    --------
    >>> import numpy as np, fastdln
    >>> Q = fastdln.HaarReflectors(1000, 3, seed=0)
    >>> bool(np.allclose(Q.apply_transposed(Q.apply(np.eye(3))), np.eye(3)))
    True
    """

    def __init__(
        self, n: int, p: int | None = None, *, seed: Seed = None, dtype: DTypeLike = "float64"
    ):
        self.n, self.p = frame_shape(n, p)
        self.dtype = arrays.float_dtype(dtype)
        self.key = seed_key(seed)
        self.stream = stream_id(Stream.HAAR)

    @classmethod
    def from_stream(
        cls, n: int, p: int, key: int, stream: int, dtype: DTypeLike = "float64"
    ) -> "HaarReflectors":
        """Return the frame that `haar_batch` draws from stream `stream` of a key."""
        frame = cls(n, p, seed=0, dtype=dtype)
        frame.key, frame.stream = key, stream
        return frame

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, p) of Q."""
        return self.n, self.p

    def __repr__(self) -> str:
        return f"HaarReflectors(n={self.n}, p={self.p}, dtype={self.dtype})"

    def __matmul__(self, X: ArrayLike) -> np.ndarray:
        return self.apply(X)

    def apply(self, X: ArrayLike) -> np.ndarray:
        """Return Q X.

        Parameters
        ----------
        X : array_like, shape (p, c) or (p,)
            Real numbers; converted to the frame's dtype.

        Returns
        -------
        ndarray, shape (n, c) or (n,)

        Raises
        ------
        TypeError, ValueError
            If X is not a real array of p rows.
        MemoryError
            If result and working memory do not fit; the message names the bytes.
        """
        x = self._operand(X, self.p)
        Q = self._buffer(x)
        Q[: self.p, : x[0].size] = x.reshape(self.p, x[0].size)
        self._multiply(Q, from_column=0)
        return _result(Q, self.n, x)

    def apply_transposed(self, X: ArrayLike) -> np.ndarray:
        """Return Qᵀ X, shape (p, c) or (p,), for X of shape (n, c) or (n,); errors as `apply`."""
        x = self._operand(X, self.n)
        Q = self._buffer(x)
        Q[: self.n, : x[0].size] = x.reshape(self.n, x[0].size)
        for factors in self._factors(range(-(-self.p // BLOCK))):
            _reflect(factors, Q, factors.block.j, self.n, transposed=True)
            Q[factors.rows] *= factors.signs[:, None]
        return _result(Q, self.p, x)

    def form(self, out: np.ndarray) -> None:
        """Write Q into `out`, an (n, p) array of the frame's dtype.

        Raises
        ------
        TypeError, ValueError
            If `out` has another dtype or shape.
        """
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError(
                f"out must be an array of dtype {self.dtype}, not {arrays.kind_or_dtype(out)}"
            )
        if out.shape != (self.n, self.p):
            raise ValueError(f"out must have shape {(self.n, self.p)}, not {out.shape}")
        Q = self._buffer(out)
        Q[np.arange(self.p), np.arange(self.p)] = 1.0
        self._multiply(Q, from_column=1)
        threads.spread(lambda a, b: np.copyto(out[a:b], Q[a:b, : self.p]), _chunks(0, self.n))

    def _multiply(self, Q: np.ndarray, from_column: int) -> None:
        """Multiply the first p rows of Q by the frame, in place; the other rows of Q are zero.

        With `from_column` 1 the first p rows are upper triangular, and each block skips the columns
        to its left.
        """
        last = (self.p - 1) // BLOCK
        filled = self.p
        for factors in self._factors(range(last, -1, -1)):
            j = factors.block.j
            Q[factors.rows] *= factors.signs[:, None]
            _reflect(factors, Q, j, filled, first=from_column * j)
            filled = self.n

    def _factors(self, order: range) -> Iterator[_Factors]:
        """Draw the blocks in the given order, within `_HELD_BYTES` at a time."""
        rows = int(padded(self.n))
        held = self._blocks_held(len(order))
        storage = [np.empty(rows * BLOCK, self.dtype) for _ in range(held)]
        for start in range(0, len(order), held):
            numbers = order[start : start + held]
            yield from self._draw(
                [self._empty(*pair) for pair in zip(numbers, storage, strict=False)]
            )

    def _blocks_held(self, blocks: int) -> int:
        """Return the number of blocks, at most `blocks`, that are held at a time."""
        each = int(padded(self.n)) * BLOCK * self.dtype.itemsize
        return max(1, min(_HELD_BYTES // each, blocks))

    def _empty(self, number: int, V: np.ndarray) -> _Factors:
        """Return undrawn factors of block `number`, with V in the given storage."""
        j = number * BLOCK
        count = min(BLOCK, self.p - j)
        rows = int(padded(self.n)) - j
        block = ReflectorBlock(V[: rows * BLOCK], 0, self.n, j, count)
        minus_T = np.empty(BLOCK * BLOCK, self.dtype)
        return _Factors(block, minus_T, np.empty(count, self.dtype))

    def _draw(self, drawn: list[_Factors]) -> list[_Factors]:
        """Draw the blocks; threads divide the chunks of rows of all blocks."""
        blocks = [factors.block for factors in drawn]
        work = [(i, *ab) for i, b in enumerate(blocks) for ab in _chunks(0, b.V.size // BLOCK)]
        owner = np.array([i for i, _, _ in work])
        squares = np.empty((len(work), BLOCK))
        threads.spread(
            lambda s, i, a, b: self._draw_rows(blocks[i], a, b, s),
            [(s, *item) for s, item in zip(squares, work, strict=True)],
        )
        sizes = np.empty((len(blocks), BLOCK))
        for i, factors in enumerate(drawn):
            total = squares[owner == i].sum(axis=0)
            kernels.finish_vectors(factors.block, total, sizes[i], factors.signs)
        grams = np.zeros((len(work), BLOCK * BLOCK), self.dtype)
        threads.spread(
            lambda S, i, a, b: kernels.add_products(blocks[i], a, b, S),
            [(S, *item) for S, item in zip(grams, work, strict=True)],
        )
        for i, factors in enumerate(drawn):
            S = grams[owner == i].sum(axis=0, dtype=self.dtype)
            scratch = np.empty(kernels.INVERT_WORK, self.dtype)
            kernels.invert(factors.block.size, S, sizes[i], factors.minus_T, scratch)
        return drawn

    def _draw_rows(self, block: ReflectorBlock, begin: int, end: int, squares: np.ndarray) -> None:
        scratch = np.empty(min(block.V.size, BLOCK * kernels.PACKED_ROWS), self.dtype)
        source = Source(np.uint64(self.key), np.uint64(self.stream))
        places = np.empty(BLOCK, np.intp)
        kernels.draw_rows(source, block, begin, end, squares, places, scratch)

    def _operand(self, given: ArrayLike, rows: int) -> np.ndarray:
        X = np.asarray(given)
        if X.dtype.kind not in "iufb":
            raise TypeError(f"X must hold real numbers, not {X.dtype}")
        if X.ndim not in (1, 2) or X.shape[0] != rows:
            raise ValueError(
                f"X must have shape ({rows}, c) or ({rows},) for a frame of {self.n} × {self.p},"
                f" not {X.shape}"
            )
        return X.astype(self.dtype, copy=False)

    def _buffer(self, X: np.ndarray) -> np.ndarray:
        """Return a zero buffer for X's columns, padded to whole tiles of rows and whole vectors."""
        width = lanes(self.dtype)
        rows = int(padded(self.n))
        q_row = -(-X[0].size // width) * width
        held = rows * BLOCK * self._blocks_held(-(-self.p // BLOCK))
        needed = (2 * rows * q_row + held) * self.dtype.itemsize
        if needed > memory.SMALL_BYTES:
            memory.require(
                needed,
                memory.available(),
                f"applying a Haar frame of {self.n} × {self.p} to {X[0].size} columns",
                "apply it to fewer columns at a time",
            )
        return np.zeros((rows, q_row), self.dtype)


def _reflect(
    factors: _Factors,
    Q: np.ndarray,
    begin: int,
    end: int,
    transposed: bool = False,
    first: int = 0,
) -> None:
    """Apply one block to columns of Q from `first` on; Q is zero outside rows begin ≤ i < end."""
    block = factors.block
    stride = Q.shape[1]
    panel = Panel(Q.reshape(-1), first, stride, (stride - first) // lanes(Q.dtype))
    chunks = _chunks(begin, end)
    parts = np.zeros((len(chunks), BLOCK * stride), Q.dtype)
    threads.spread(
        lambda part, a, b: kernels.gather(block, panel, a, b, part),
        [(part, a, b) for part, (a, b) in zip(parts, chunks, strict=True)],
    )
    Z = parts.sum(axis=0, dtype=Q.dtype)
    W = np.empty_like(Z)
    products = Panel(Z, 0, stride, panel.wide)
    kernels.times_minus_t(factors.minus_T, 0, block.size, transposed, products, W)
    threads.spread(lambda a, b: kernels.scatter(block, W, panel, a, b), _chunks(block.j, len(Q)))


def _result(Q: np.ndarray, rows: int, X: np.ndarray) -> np.ndarray:
    """Return the first `rows` rows of a buffer's columns, with the number of dimensions of X."""
    found = np.ascontiguousarray(Q[:rows, : X[0].size])
    return found.reshape((rows, *X.shape[1:]))


def _chunks(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the bounds of consecutive chunks of rows."""
    return [(a, min(a + CHUNK_ROWS, end)) for a in range(begin, end, CHUNK_ROWS)]
