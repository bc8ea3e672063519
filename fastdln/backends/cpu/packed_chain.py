"""A network packed for the CPU kernels."""

import functools
from collections.abc import Iterable

import numpy as np

from fastdln.backends.interface import Layer, write_layer
from fastdln.kernels.cpu.groups import Network
from fastdln.kernels.cpu.layout import STRIDE, Layout, aligned_zeros, make_layout
from fastdln.kernels.cpu.tiles import lanes
from fastdln.objectives.regression import ReducedRegression


@functools.lru_cache(maxsize=256)  # networks of one shape in a sweep or batch share a layout
def chain_layout(widths: tuple[int, ...], dtype: np.dtype) -> Layout:
    """Return the layout in which a network of these `widths` is trained, mirrored where d < d_y."""
    return make_layout(widths[::-1] if widths[0] < widths[-1] else widths, dtype)


class PackedChain:
    """The layers of a network, packed for the kernels, and their suffix products.

    A chain with fewer inputs than outputs is stored mirrored (transposed and in reverse order), so
    that its products have as few rows as possible.

    Parameters
    ----------
    layers : iterable of Layer
        Normalised layers, input first; taken one by one and copied.
    widths : tuple of int
        Columns of the first layer, then rows of every layer.
    dtype : numpy.dtype

    Attributes
    ----------
    mirrored : bool
    layout : Layout
    weights, products : ndarray, flat
        As laid out by `layout`.
    """

    def __init__(self, layers: Iterable[Layer], widths: tuple[int, ...], dtype: np.dtype):
        self.mirrored = widths[0] < widths[-1]
        self.layout = chain_layout(widths, dtype)
        self.weights = aligned_zeros(self.layout.size, dtype)
        for i, layer in enumerate(layers):
            write_layer(layer, self.layer(i))
        self.products = aligned_zeros(self.layout.product_size, dtype)

    @property
    def network(self) -> Network:
        """The network's group of kernel arguments."""
        layout = self.layout
        lane = lanes(layout.dtype)
        return Network(self.weights, self.products, layout.layers, layout.q, layout.q_padded, lane)

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index`, input first, as a view of the packed weights."""
        return self.part(self.weights, index)

    def part(self, packed: np.ndarray, index: int) -> np.ndarray:
        """Return a view of layer `index` in an array that is laid out as the weights."""
        if self.mirrored:
            return self.layout.view(packed, self.layout.depth - 1 - index).T
        return self.layout.view(packed, index)

    def release(self) -> None:
        """Free all buffers but the weights: every result of a sweep keeps its weights."""
        self.products = np.empty(0, self.layout.dtype)

    def end_to_end(self) -> np.ndarray:
        """Return M in float64, as formed by the latest pass 1."""
        M = self._first_rows(self.products)[:, : self.layout.widths[0]].astype(np.float64)
        return M.T if self.mirrored else M

    def put_gradient(self, G: np.ndarray, factor: float, C: np.ndarray) -> None:
        """Write ``factor·G`` to the co-state buffer C, the input of pass 2."""
        rows = self._first_rows(C)
        rows[:] = 0
        rows[:, : self.layout.widths[0]] = factor * (G.T if self.mirrored else G)

    def _first_rows(self, buffer: np.ndarray) -> np.ndarray:
        # M is the suffix product that includes the first layer, and is stored first.
        stride = int(self.layout.layers[0, STRIDE])
        return buffer[: self.layout.q * stride].reshape(self.layout.q, stride)


def oriented_regression(
    objective: ReducedRegression, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return S and T of a regression for the kernels, transposed for a mirrored chain.

    Copies: Numba would compile a second specialisation for read-only arrays.
    """
    scale = np.broadcast_to(objective.scale, objective.target.shape)
    S, T = (a.T if mirrored else a for a in (scale, objective.target))
    return np.array(S, order="C"), np.array(T, order="C")
