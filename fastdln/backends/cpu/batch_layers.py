"""The layers of a batch's networks: written into their lanes, and read from them."""

import functools
from collections.abc import Callable, Iterable

import numpy as np

from fastdln.backends.interface import Layer, NormalLayer, is_normal, write_layer
from fastdln.kernels.cpu.batched import BatchedChain
from fastdln.kernels.cpu.batched_drawing import draw_lanes
from fastdln.kernels.cpu.layout import COLUMNS, OFFSET, ROWS


class LaneLayers:
    """The layers of all lanes, input first, in the orientation in which a network is given.

    Parameters
    ----------
    chain : BatchedChain
    mirrored : bool
        Whether chains are stored transposed and in reverse order.
    """

    def __init__(self, chain: BatchedChain, mirrored: bool):
        self._chain, self._mirrored = chain, mirrored
        table = chain.layers[:, [OFFSET, ROWS, COLUMNS]]
        self._table: list[list[int]] = (table[::-1] if mirrored else table).tolist()
        self._normals: list[tuple[NormalLayer, list[int]]] = []

    def write(self, lane: int, layers: Iterable[Layer]) -> None:
        """Write a network into a lane; layers of independent normals only by `draw`."""
        for (offset, rows, columns), layer in zip(self._table, layers, strict=True):
            if not is_normal(layer):
                write_layer(layer, self._view(self._chain.weights, lane, offset, rows, columns))
            elif self._mirrored:
                self._normals.append((layer, [offset, columns, rows, 1, columns, lane]))
            else:
                self._normals.append((layer, [offset, rows, columns, columns, 1, lane]))

    def draw(self) -> None:
        """Draw the layers of independent normals of all networks written since the last call."""
        if not self._normals:
            return
        layers, places = zip(*self._normals, strict=True)
        dtype = self._chain.weights.dtype
        draw_lanes(
            self._chain.weights,
            self._chain.lanes,
            np.array([(layer.key, layer.stream) for layer in layers], np.uint64),
            np.array(places, np.int64),
            np.array([layer.scale for layer in layers], dtype),
            np.empty(max(rows * columns for _, rows, columns in self._table), dtype),
        )
        self._normals.clear()

    def read(self, lane: int, array: np.ndarray) -> Callable[[int], np.ndarray]:
        """Return a function from an index to that layer of a copy of one lane of `array`.

        `array` is laid out as the weights.
        """
        own = array.reshape(-1, self._chain.lanes)[:, lane].copy()
        return functools.partial(_layer, own, self._table, self._mirrored)

    def load(self, lane: int, array: np.ndarray, layers: Iterable[np.ndarray]) -> None:
        """Write `layers` into one lane of `array`, which is laid out as the weights."""
        for place, layer in zip(self._table, layers, strict=True):
            self._view(array, lane, *place)[:] = layer

    def _view(
        self, array: np.ndarray, lane: int, offset: int, rows: int, columns: int
    ) -> np.ndarray:
        n = self._chain.lanes
        stored = array[offset * n : (offset + rows * columns) * n].reshape(rows, columns, n)
        return stored[:, :, lane].T if self._mirrored else stored[:, :, lane]


def _layer(own: np.ndarray, table: list[list[int]], mirrored: bool, index: int) -> np.ndarray:
    offset, rows, columns = table[index]
    stored = own[offset : offset + rows * columns].reshape(rows, columns)
    return stored.T if mirrored else stored
