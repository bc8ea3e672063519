"""The origins of a reduced run's layers, drawn again when they are asked for, in any order.

Every hidden layer has a random stream of its own, and is drawn alone or with its neighbours; the
bases of the trained subspaces are carried from checkpoint to checkpoint (`carried_bases`).
"""

import functools
import math
import threading
from typing import Any

import numpy as np

from fastdln.backends.cpu.reflectors import HaarReflectors
from fastdln.initializers.layers import (
    BATCH_BYTES,
    Draw,
    equal_hidden_layers,
    first_layer,
)
from fastdln.reduction.carried_bases import CarriedBases, carried
from fastdln.reduction.origins import Form, Origin, ReducedOrigins
from fastdln.rng import Stream, stream_id

# Bytes of layers drawn ahead for requests one by one: they are kept until they are asked for.
AHEAD_BYTES = 1 << 24
# Hidden layers whose products `hidden_times` holds at a time.
HELD_PRODUCTS = 8


class DrawnOrigins(ReducedOrigins):
    """The origins of a drawn network with equal hidden widths, trained on the span of both ends.

    The subspaces are the columns of ``P_i = O_i Q``, ``O_i = Ŵ_i(0) ··· Ŵ_2(0)`` up to the gain,
    and hidden layers projected on them start as a multiple of the identity. Several threads may
    use one object; nothing is computed before the first request.

    Parameters
    ----------
    draw : Draw
    span : ndarray of float64, shape (m, r + d_y)
        The columns of ``Ŵ_1 U`` and the rows of ``Z = Ŵ_L O_{L-1}``, which Q spans.
    reduced : callable
        Maps a layer's index to V(0).
    basis : ndarray, shape (d_x, r)
        U.
    """

    def __init__(self, draw: Draw, span: np.ndarray, reduced: Form, basis: np.ndarray):
        self._parts = draw, span, reduced, basis
        self._draw, self._span, self._reduced, self.inputs = self._parts
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # A lock cannot be pickled, and everything else can be computed again.
        return DrawnOrigins, self._parts

    def __call__(self, index: int) -> Origin:
        """Return the origin of layer `index`."""
        with self._lock:
            return self._shared_reader(index)

    def reader(self) -> "_Reader":
        """Return a reader for a pass of its own, which may draw further ahead."""
        return self._reader(BATCH_BYTES)

    def projected(self, index: int) -> np.ndarray:
        """Return V(0) of layer `index`."""
        return self._reduced(index)

    def basis(self, boundary: int) -> np.ndarray:
        """Return Q_i of a hidden boundary."""
        # Q alone needs no product, of which a block has several.
        return self._bases.Q if boundary == 1 else self._reader(0).basis(boundary - 1)

    def first_rows(self) -> np.ndarray:
        """Return ``Q_1ᵀ Ŵ_1(0)``."""
        return first_layer_transposed_times(self._bases.Q, self._draw).T

    def first_times(self, X: np.ndarray | None) -> np.ndarray:
        """Return ``Ŵ_1(0) X``, or ``Ŵ_1(0)`` for None."""
        if X is None:
            return first_layer(self._draw._replace(dtype=np.dtype("float64")))
        return first_layer_times(X, self._draw)

    def hidden_times(self, X: np.ndarray, count: int) -> np.ndarray:
        """Return the product of X by the first `count` hidden layers."""
        for first in range(0, count, HELD_PRODUCTS):
            some = min(HELD_PRODUCTS, count - first)
            X = carried(self._draw, X, first, some)[-1]
        return self._draw.gain**count * X

    @functools.cached_property
    def _bases(self) -> CarriedBases:
        return CarriedBases(self._draw, np.linalg.qr(self._span)[0])

    @functools.cached_property
    def _shared_reader(self) -> "_Reader":
        return self._reader(AHEAD_BYTES)

    def _reader(self, ahead_bytes: int) -> "_Reader":
        return _Reader(self._draw, self._reduced, self.inputs, self._bases, ahead_bytes)


class _Reader:
    """Origins of layers that are mostly asked for in order, from either end.

    Of neighbours that are asked for one after the other, ever more are drawn at once, which takes
    less time than one by one. One block of bases is kept beside them.
    """

    def __init__(
        self, draw: Draw, reduced: Form, inputs: np.ndarray, bases: CarriedBases, ahead_bytes: int
    ):
        self._draw, self._reduced, self._inputs, self._bases = draw, reduced, inputs, bases
        m = draw.widths[1]
        self._most = max(1, ahead_bytes // (m * m * draw.dtype.itemsize))
        self._last, self._count = -1, 1
        self._drawn: tuple[int, np.ndarray] | None = None
        self._block: tuple[int, np.ndarray] | None = None

    def __call__(self, index: int) -> Origin:
        """Return the origin of layer `index`."""
        projected, last = self._reduced(index), self._draw.depth - 1
        if index == 0:
            return Origin(first_layer(self._draw), projected, self._bases.Q, self._inputs)
        lower = self.basis(index - 1)
        if index == last:
            # All of the last layer lies in the subspace.
            return Origin(projected @ lower.T, projected, None, lower)
        return Origin(self._hidden(index), projected, self.basis(index), lower)

    def basis(self, index: int) -> np.ndarray:
        """Return P_index."""
        step, block = self._bases.step, self._block
        if block is None or not 0 <= index - block[0] * step < len(block[1]):
            number = self._bases.block_of(index)
            block = self._block = number, self._bases.block(number)
        return block[1][index - block[0] * step]

    def _hidden(self, index: int) -> np.ndarray:
        """Return ``Ŵ(0)`` of hidden layer `index`."""
        step, self._last = index - self._last, index
        first, layers = self._drawn or (0, np.empty(0))
        if not first <= index < first + len(layers):
            self._count = min(2 * self._count, self._most) if abs(step) == 1 else 1
            first = index if step >= 0 else max(1, index - self._count + 1)
            stop = min(first + self._count, self._draw.depth - 1) if step >= 0 else index + 1
            layers = equal_hidden_layers(self._draw, first - 1, stop - first)
        asked_last = index == (first if step < 0 else first + len(layers) - 1)
        # Release layers as soon as the last of them has been asked for.
        self._drawn = None if asked_last else (first, layers)
        return np.asarray(layers[index - first])


def first_layer_times(X: np.ndarray, draw: Draw) -> np.ndarray:
    """Return ``Ŵ_1 X``, shape (m, c), float64, without forming ``Ŵ_1``, for X of d_x rows."""
    d_x, m = draw.widths[:2]
    if draw.init == "zero_asymmetric":
        return draw.gain * _resized(X, m)
    frame = _first_frame(draw)
    if m >= d_x:
        return draw.gain * frame.apply(X)
    return draw.gain * math.sqrt(d_x / m) * frame.apply_transposed(X)


def first_layer_transposed_times(Y: np.ndarray, draw: Draw) -> np.ndarray:
    """Return ``Ŵ_1ᵀ Y``, shape (d_x, c), float64, without forming ``Ŵ_1``, for Y of m rows."""
    d_x, m = draw.widths[:2]
    if draw.init == "zero_asymmetric":
        return draw.gain * _resized(Y, d_x)
    frame = _first_frame(draw)
    if m >= d_x:
        return draw.gain * frame.apply_transposed(Y)
    return draw.gain * math.sqrt(d_x / m) * frame.apply(Y)


def _first_frame(draw: Draw) -> HaarReflectors:
    sides = draw.widths[:2]
    stream = stream_id(Stream.FIRST_LAYER, 0)
    return HaarReflectors.from_stream(max(sides), min(sides), draw.key, stream)


def _resized(X: np.ndarray, rows: int) -> np.ndarray:
    """Return X with rows of zeros added or its last rows cut off."""
    out = np.zeros((rows, X.shape[1]))
    out[: min(len(X), rows)] = X[:rows]
    return out
