"""A Haar frame kept as its reflectors: applied to blocks of vectors, never formed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln import check, memory, parallel
from fastdln.kernels.cpu import reflectors as kernels
from fastdln.random import Seed, Stream, seed_key, stream_id

BLOCK = int(kernels.BLOCK)
# Rows of one piece of work. Sums over rows are cut here whatever the number of threads, so the
# bits do not depend on it.
PIECE_ROWS = 16384
# Bytes of reflectors held at a time: as many blocks as fit are drawn together, at least one.
_HELD_BYTES = 1 << 25


def frame_shape(n: Any, p: Any) -> tuple[int, int]:
    """Return (n, p) as ints with 1 ≤ p ≤ n; p is n when None."""
    n = check.positive_integer("n", n)
    p = n if p is None else check.positive_integer("p", p)
    if p > n:
        raise ValueError(f"p must be at most n, but p = {p} and n = {n}")
    return n, p


@dataclass(frozen=True)
class _Block:
    """Reflectors j, ..., j + count − 1: I − V T Vᵀ, and their part of the diagonal D."""

    j: int
    count: int
    V: np.ndarray
    minus_T: np.ndarray
    signs: np.ndarray


class HaarReflectors:
    """A Haar-distributed n × p frame Q, held as a seed and applied without being formed.

    Q is the matrix that ``haar_orthogonal(n, p, seed=seed, dtype=dtype)`` draws, to rounding.
    Its reflectors are drawn again at each use, a few dozen at a time: memory is that of the
    result and of ``32·n`` numbers or 32 MiB more, whatever p is, and time is O(n·p) per column.

    Parameters
    ----------
    n, p : int
        Rows, and columns from 1 to n (n by default).
    seed : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        As for `numpy.random.default_rng`.
    dtype : {"float64", "float32"}
        Of the arithmetic and of the results.

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

    def __init__(self, n: int, p: int | None = None, *, seed: Seed = None, dtype: Any = "float64"):
        self.n, self.p = frame_shape(n, p)
        self.dtype = check.float_dtype(dtype)
        self.key = seed_key(seed)
        self.stream = stream_id(Stream.HAAR)

    @classmethod
    def from_stream(
        cls, n: int, p: int, key: int, stream: int, dtype: Any = "float64"
    ) -> "HaarReflectors":
        """Return the frame that `haar_batch` draws from one stream of a key."""
        frame = cls(n, p, seed=0, dtype=dtype)
        frame.key, frame.stream = key, stream
        return frame

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, p) of Q."""
        return self.n, self.p

    def __repr__(self) -> str:
        return f"HaarReflectors(n={self.n}, p={self.p}, dtype={self.dtype})"

    def __matmul__(self, X: Any) -> np.ndarray:
        return self.apply(X)

    def apply(self, X: Any) -> np.ndarray:
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
            If result and working memory do not fit; the bytes are named.
        """
        X = self._operand(X, self.p)
        Q = self._buffer(X)
        Q[: self.p, : X[0].size] = X.reshape(self.p, X[0].size)
        self._multiply(Q, from_column=0)
        return _result(Q, self.n, X)

    def apply_transposed(self, X: Any) -> np.ndarray:
        """Return Qᵀ X for X of shape (n, c) or (n,), as `apply` otherwise: (p, c) or (p,)."""
        X = self._operand(X, self.n)
        Q = self._buffer(X)
        Q[: self.n, : X[0].size] = X.reshape(self.n, X[0].size)
        for block in self._blocks(range(-(-self.p // BLOCK))):
            self._reflect(block, Q, block.j, self.n, transposed=True)
            Q[block.j : block.j + block.count] *= block.signs[:, None]
        return _result(Q, self.p, X)

    def form(self, out: np.ndarray) -> None:
        """Write Q into `out`, an (n, p) array of the frame's dtype.

        Raises
        ------
        TypeError, ValueError
            If `out` has another dtype or shape.
        """
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError(
                f"out must be an array of dtype {self.dtype}, not {check.kind_or_dtype(out)}"
            )
        if out.shape != (self.n, self.p):
            raise ValueError(f"out must have shape {(self.n, self.p)}, not {out.shape}")
        Q = self._buffer(out)
        Q[np.arange(self.p), np.arange(self.p)] = 1.0
        self._multiply(Q, from_column=1)
        parallel.spread(lambda a, b: np.copyto(out[a:b], Q[a:b, : self.p]), _pieces(0, self.n))

    def _multiply(self, Q: np.ndarray, from_column: int) -> None:
        """Multiply by Q, in place, what its first p rows hold; other rows are zero.

        With `from_column` 1 what they hold is upper triangular, and columns to the left of a
        block are left alone.
        """
        last = (self.p - 1) // BLOCK
        filled = self.p
        for block in self._blocks(range(last, -1, -1)):
            Q[block.j : block.j + block.count] *= block.signs[:, None]
            self._reflect(block, Q, block.j, filled, first=from_column * block.j)
            filled = self.n

    def _reflect(
        self,
        block: _Block,
        Q: np.ndarray,
        begin: int,
        end: int,
        transposed: bool = False,
        first: int = 0,
    ) -> None:
        """Apply one block to the columns of Q from `first` on, zero outside begin ≤ i < end."""
        j, count, V = block.j, block.count, block.V
        q_row = Q.shape[1]
        wide = (q_row - first) // kernels.lanes(Q.dtype)
        flat = Q.reshape(-1)
        pieces = _pieces(begin, end)
        parts = np.zeros((len(pieces), BLOCK * q_row), Q.dtype)
        parallel.spread(
            lambda part, a, b: kernels.gather(
                V, 0, j, count, flat, first, q_row, wide, a, b, part, q_row
            ),
            [(part, a, b) for part, (a, b) in zip(parts, pieces, strict=True)],
        )
        Z = parts.sum(axis=0, dtype=Q.dtype)
        W = np.empty_like(Z)
        kernels.times_minus_t(block.minus_T, 0, count, transposed, Z, q_row, wide, W)
        parallel.spread(
            lambda a, b: kernels.scatter(V, 0, j, count, W, q_row, wide, flat, first, q_row, a, b),
            _pieces(j, len(Q)),
        )

    def _blocks(self, order: range) -> Iterator[_Block]:
        """Draw the blocks in the given order, as many together as `_HELD_BYTES` allows."""
        rows = int(kernels.padded(self.n))
        together = max(1, _HELD_BYTES // (rows * BLOCK * self.dtype.itemsize))
        storage = [np.empty(rows * BLOCK, self.dtype) for _ in range(min(together, len(order)))]
        for start in range(0, len(order), together):
            yield from self._draw([int(b) for b in order[start : start + together]], storage)

    def _draw(self, numbers: list[int], storage: list[np.ndarray]) -> list[_Block]:
        """Draw blocks of the given numbers, all their pieces of rows shared by the threads."""
        blocks = [self._empty(*pair) for pair in zip(numbers, storage, strict=False)]
        work = [(i, *ab) for i, b in enumerate(blocks) for ab in _pieces(0, b.V.size // BLOCK)]
        owner = np.array([i for i, _, _ in work])
        squares = np.empty((len(work), BLOCK))
        parallel.spread(
            lambda s, i, a, b: self._draw_rows(blocks[i], a, b, s),
            [(s, *item) for s, item in zip(squares, work, strict=True)],
        )
        sizes = np.empty((len(blocks), BLOCK))
        for i, block in enumerate(blocks):
            total = squares[owner == i].sum(axis=0)
            kernels.finish_vectors(block.count, block.V, 0, total, sizes[i], block.signs)
        grams = np.zeros((len(work), BLOCK * BLOCK), self.dtype)
        parallel.spread(
            lambda S, i, a, b: kernels.add_products(
                blocks[i].V, 0, a, b, int(kernels.padded(blocks[i].count)), S
            ),
            [(S, *item) for S, item in zip(grams, work, strict=True)],
        )
        for i, block in enumerate(blocks):
            S = grams[owner == i].sum(axis=0, dtype=self.dtype)
            kernels.invert(
                block.count, S, sizes[i], block.minus_T, np.empty(kernels.INVERT_WORK, self.dtype)
            )
        return blocks

    def _empty(self, number: int, V: np.ndarray) -> _Block:
        j = number * BLOCK
        count = min(BLOCK, self.p - j)
        rows = int(kernels.padded(self.n)) - j
        minus_T = np.empty(BLOCK * BLOCK, self.dtype)
        return _Block(j, count, V[: rows * BLOCK], minus_T, np.empty(count, self.dtype))

    def _draw_rows(self, block: _Block, begin: int, end: int, squares: np.ndarray) -> None:
        scratch = np.empty(min(block.V.size, BLOCK * kernels.PACKED_ROWS), self.dtype)
        key, stream = np.uint64(self.key), np.uint64(self.stream)
        kernels.draw_rows(
            key, stream, self.n, block.j, block.count, begin, end, block.V, 0, squares,
            np.empty(BLOCK, np.intp), scratch,
        )  # fmt: skip

    def _operand(self, X: Any, rows: int) -> np.ndarray:
        X = np.asarray(X)
        if X.dtype.kind not in "iufb":
            raise TypeError(f"X must hold real numbers, not {X.dtype}")
        if X.ndim not in (1, 2) or X.shape[0] != rows:
            raise ValueError(
                f"X must have shape ({rows}, c) or ({rows},) for a frame of {self.n} × {self.p},"
                f" not {X.shape}"
            )
        return X.astype(self.dtype, copy=False)

    def _buffer(self, X: np.ndarray) -> np.ndarray:
        """Return zeros for X's columns: whole tiles of rows, whole vectors of columns."""
        lanes = kernels.lanes(self.dtype)
        rows = int(kernels.padded(self.n))
        q_row = -(-X[0].size // lanes) * lanes
        held = max(rows * BLOCK * self.dtype.itemsize, _HELD_BYTES)
        memory.require(
            2 * rows * q_row * self.dtype.itemsize + held,
            memory.available(),
            f"applying a Haar frame of {self.n} × {self.p} to {X[0].size} columns",
            "apply it to fewer columns at a time",
        )
        return np.zeros((rows, q_row), self.dtype)


def _result(Q: np.ndarray, rows: int, X: np.ndarray) -> np.ndarray:
    """Return the part of a buffer that X's columns became, as many dimensions as X has."""
    found = np.ascontiguousarray(Q[:rows, : X[0].size])
    return found.reshape((rows, *X.shape[1:]))


def _pieces(begin: int, end: int) -> list[tuple[int, int]]:
    return [(a, min(a + PIECE_ROWS, end)) for a in range(begin, end, PIECE_ROWS)]
