"""Products and gradients of a chain of NumPy layers, read in place by the strided kernels.

Arguments have been validated by `fastdln.chain`. Plain NumPy replaces the kernels for layers whose
rows are not contiguous, and where JIT is switched off.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from fastdln.kernels.cpu import strided
from fastdln.kernels.cpu.groups import Member, Operand
from fastdln.kernels.cpu.layout import aligned_zeros, pad_rows
from fastdln.kernels.cpu.strided import StridedArrays, StridedChain
from fastdln.kernels.cpu.team import new_barrier
from fastdln.kernels.cpu.tiles import lanes
from fastdln.utils import threads

# Multiply-adds of a call below which starting threads (some 100 µs) costs more than it saves.
TEAM_WORK = 20_000_000


def end_to_end(
    layers: Sequence[np.ndarray], out: np.ndarray, *, team_work: int = TEAM_WORK
) -> None:
    """Write the end-to-end matrix ``M = W_L ··· W_1``.

    Parameters
    ----------
    layers : sequence of ndarray, shapes (m_i, m_{i-1})
        Input first, all of one dtype.
    out : ndarray, shape (d_y, d)
    team_work : int
        Multiply-adds per thread.
    """
    if len(layers) == 1:
        out[:] = layers[0]
    elif not _readable_by_kernels(layers):
        _numpy_end_to_end(layers, out)
    elif out.shape[0] <= out.shape[1]:
        chain = _Chain(layers, out.shape[0], team_work)
        out[:] = chain.slot(chain.suffix_products(0), 0, out.shape[1])
    else:
        chain = _Chain(layers, out.shape[1], team_work)
        depth = len(layers)
        out[:] = chain.slot(chain.prefix_products(depth), depth, len(out)).T


def forward(layers: Sequence[np.ndarray], X: np.ndarray, outs: Sequence[np.ndarray]) -> None:
    """Write all activations ``[W_1 X, W_2 W_1 X, …, M X]`` for X of shape (d, n)."""
    for w, out in zip(layers, outs, strict=True):
        # BLAS is fastest here: with many samples this is a full matrix product.
        np.matmul(w, X, out=out)
        X = out


def gradients(
    layers: Sequence[np.ndarray],
    G: np.ndarray,
    outs: Sequence[np.ndarray],
    *,
    team_work: int = TEAM_WORK,
) -> None:
    """Write the gradient of every layer from ``G = ∂ℓ/∂M``, shape (d_y, d).

    Parameters as for `end_to_end`; `outs` are C-contiguous and of the layers' shapes.
    """
    if len(layers) == 1:
        outs[0][:] = G
    elif not _readable_by_kernels(layers):
        _numpy_gradients(layers, G, outs)
    elif G.shape[0] <= G.shape[1]:
        _gradients_up(_Chain(layers, G.shape[0], team_work), G, outs)
    else:
        _gradients_down(_Chain(layers, G.shape[1], team_work), G, outs)


class _Chain:
    """The layers of a chain and the layout of their products, q rows each, for the kernels.

    The width of product slot l is the number of columns of layer l (0-based); that of slot L is the
    number of rows of the last layer.
    """

    def __init__(self, layers: Sequence[np.ndarray], q: int, team_work: int):
        self.dtype, self.depth = layers[0].dtype, len(layers)
        self._layers, self._lane, self._q = layers, lanes(self.dtype), q
        self._q_padded = pad_rows(q)
        self._base, places = _located(layers)
        widths = np.array([w.shape[1] for w in layers] + [layers[-1].shape[0]])
        padded = -(-widths // self._lane) * self._lane
        self._table = np.zeros((self.depth + 1, 6), dtype=np.int64)
        self._table[:-1, :4] = places
        self._table[:, strided.PRODUCT] = self._q_padded * (np.cumsum(padded) - padded)
        self._table[:, strided.WIDTH] = padded
        work = 2 * q * sum(w.size for w in layers)
        self._team = max(1, min(threads.available(), work // team_work))

    def part(self, begin: int, end: int) -> StridedChain:
        """Return layers begin ≤ l < end."""
        table = self._table[begin:end]
        return StridedChain(self._base, table, self._q, self._q_padded, self._lane)

    def new_products(self) -> np.ndarray:
        """Return zeros for the products in all slots."""
        return aligned_zeros(self._q_padded * int(self._table[:, strided.WIDTH].sum()), self.dtype)

    def new_costate(self) -> np.ndarray:
        """Return zeros for one product as wide as any slot."""
        return aligned_zeros(self._q_padded * int(self._table[:, strided.WIDTH].max()), self.dtype)

    def operand(self, products: np.ndarray, slot: int) -> Operand:
        """Return the product in a slot as an `Operand`."""
        start, width = (int(self._table[slot, c]) for c in (strided.PRODUCT, strided.WIDTH))
        return Operand(products, start, width, 1)

    def slot(self, products: np.ndarray, slot: int, columns: int) -> np.ndarray:
        """Return the product in a slot as a (q, columns) view."""
        _, start, width, _ = self.operand(products, slot)
        return products[start : start + self._q * width].reshape(self._q, width)[:, :columns]

    def suffix_products(self, to: int) -> np.ndarray:
        """Return the suffix products: the last layer itself, in its slot, down to slot `to`."""
        products, last = self.new_products(), self.depth - 1
        W = self._layers[last]
        self.slot(products, last, W.shape[1])[:] = W
        self.run(strided.products_down, self.part(to, last), self.operand(products, last), products)
        return products

    def prefix_products(self, to: int) -> np.ndarray:
        """Return the transposed prefix products: the first layer, in slot 1, up to slot `to`."""
        products, W = self.new_products(), self._layers[0]
        self.slot(products, 1, len(W))[:] = W.T
        self.run(strided.products_up, self.part(1, to + 1), self.operand(products, 1), products)
        return products

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        """Call `kernel` with these arguments, on one thread per `team_work` multiply-adds."""
        if self._team == 1:
            return kernel(*arguments, Member(0, 1, new_barrier()))

        def work(rank: int, team: int, barrier: np.ndarray) -> Any:
            return kernel(*arguments, Member(rank, team, barrier))

        with ThreadPoolExecutor(self._team) as pool:
            return threads.run_team(pool, self._team, work, new_barrier())


def _gradients_up(chain: _Chain, G: np.ndarray, outs: Sequence[np.ndarray]) -> None:
    """Form the gradients from suffix products, for G with no more rows (q) than columns."""
    products, C, D = chain.suffix_products(1), chain.new_costate(), chain.new_costate()
    chain.slot(C, 0, G.shape[1])[:] = G
    targets = StridedArrays(*_located(outs))
    swapped = chain.run(strided.gradients_up, chain.part(0, chain.depth), C, D, products, targets)
    width, q = chain.operand(products, chain.depth - 1).row, len(G)
    last = (C, D)[swapped][: q * width].reshape(q, width)
    outs[-1][:] = last[:, : outs[-1].shape[1]]


def _gradients_down(chain: _Chain, G: np.ndarray, outs: Sequence[np.ndarray]) -> None:
    """Form the gradients from prefix products, for G with fewer columns (q) than rows."""
    depth = chain.depth
    prefixes, products = chain.prefix_products(depth - 1), chain.new_products()
    chain.slot(products, depth, len(G))[:] = G.T
    base, places = _located(outs)
    chain.run(
        strided.gradients_down,
        chain.part(1, depth),
        chain.operand(products, depth),
        prefixes,
        products,
        StridedArrays(base, places[1:]),
    )
    outs[0][:] = chain.slot(products, 1, len(outs[0])).T


def _located(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest array, flat, and (offset from it, rows, columns, row stride) of each."""
    lowest = min(arrays, key=lambda a: a.ctypes.data)
    start, size = lowest.ctypes.data, lowest.itemsize
    places = [
        (
            (a.ctypes.data - start) // size,
            *a.shape,
            a.strides[0] // size if len(a) > 1 else a.shape[1],
        )
        for a in arrays
    ]
    # ctypes memory, not a NumPy view: it spans from one array to the next, and read-only layers do
    # not make Numba compile a second specialisation (kernels only read them).
    nbytes = max(
        a.ctypes.data - start + a.strides[0] * (len(a) - 1) + a.shape[1] * size for a in arrays
    )
    flat = np.frombuffer((ctypes.c_char * nbytes).from_address(start), dtype=lowest.dtype)
    return flat, np.array(places, dtype=np.int64)


def _readable_by_kernels(layers: Sequence[np.ndarray]) -> bool:
    """Return whether rows are contiguous and all offsets are whole elements."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return False  # plain Python cannot read outside an array
    size, start = layers[0].itemsize, layers[0].ctypes.data
    return all(
        w.flags.aligned
        and (w.strides[1] == size or w.shape[1] == 1)
        and (w.strides[0] >= w.shape[1] * size or len(w) == 1)
        and w.strides[0] % size == 0
        and (w.ctypes.data - start) % size == 0
        for w in layers
    )


def _numpy_end_to_end(layers: Sequence[np.ndarray], out: np.ndarray) -> None:
    if out.shape[0] <= out.shape[1]:
        product = layers[-1]
        for w in layers[-2::-1]:
            product = product @ w
    else:
        product = layers[0]
        for w in layers[1:]:
            product = w @ product
    out[:] = product


def _numpy_gradients(
    layers: Sequence[np.ndarray], G: np.ndarray, outs: Sequence[np.ndarray]
) -> None:
    if G.shape[0] <= G.shape[1]:
        suffixes = [layers[-1]]
        for w in layers[-2:0:-1]:
            suffixes.append(suffixes[-1] @ w)
        for w, out, B in zip(layers, outs, suffixes[::-1], strict=False):
            np.matmul(B.T, G, out=out)
            G = G @ w.T
        outs[-1][:] = G
    else:
        prefixes = [layers[0]]
        for w in layers[1:-1]:
            prefixes.append(w @ prefixes[-1])
        for w, out, A in zip(layers[:0:-1], outs[:0:-1], prefixes[::-1], strict=True):
            np.matmul(G, A.T, out=out)
            G = w.T @ G
        outs[0][:] = G
