"""The initial value of every layer of a run, at full width and projected on its subspaces.

Boundary i of a network, 0 ≤ i ≤ L, is the space between layers i and i + 1: the inputs at 0, the
outputs at L. Training happens in a subspace of each, with orthonormal basis Q_i: Q_0 = U spans the
inputs of the data, and Q_L is the whole space. A layer that starts as ``Ŵ_i(0)`` is trained as
``V_i``, which starts as ``V_i(0) = Q_iᵀ Ŵ_i(0) Q_{i-1}``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastdln.initializers.layers import Draw, balanced_factors, first_layer, last_layer
from fastdln.network import Network

# Maps a layer's index to the layer.
Form = Callable[[int], np.ndarray]


class Origin(NamedTuple):
    """Initial value of a layer: at full width, and projected on the subspaces of its training.

    ``projected = upperᵀ full lower``; None for `upper` or `lower` stands for the whole space.
    """

    full: np.ndarray
    projected: np.ndarray
    upper: np.ndarray | None
    lower: np.ndarray | None


class Origins(ABC):
    """The origin of every layer of a run; layers are counted from 0."""

    @abstractmethod
    def __call__(self, index: int) -> Origin | None:
        """Return the origin of layer `index`, or None if it was trained at full width."""

    def reader(self) -> Callable[[int], Origin | None]:
        """Return the same function for a pass of its own, in which layers are mostly in order."""
        return self


class ReducedOrigins(Origins):
    """Origins of a run that was trained exactly in invariant subspaces of its hidden spaces.

    Invariance is ``Ŵ_i(0) Q_{i-1} = Q_i V_i(0)`` for all layers, and ``Q_iᵀ Ŵ_i(0) = V_i(0)
    Q_{i-1}ᵀ`` for all but the first, whose subspace U holds the data and not all inputs.

    Attributes
    ----------
    inputs : ndarray, shape (d_x, r)
        U.
    """

    inputs: np.ndarray

    @abstractmethod
    def projected(self, index: int) -> np.ndarray:
        """Return V(0) of layer `index`."""

    @abstractmethod
    def basis(self, boundary: int) -> np.ndarray:
        """Return Q_i of a hidden boundary, 1 ≤ i < L, shape (m_i, k_i)."""

    @abstractmethod
    def first_rows(self) -> np.ndarray:
        """Return ``Q_1ᵀ Ŵ_1(0)``, shape (k_1, d_x)."""

    @abstractmethod
    def first_times(self, X: np.ndarray | None) -> np.ndarray:
        """Return ``Ŵ_1(0) X``, float64, or ``Ŵ_1(0)`` for None."""

    @abstractmethod
    def hidden_times(self, X: np.ndarray, count: int) -> np.ndarray:
        """Return ``Ŵ_{count+1}(0) ··· Ŵ_2(0) X``, the product by the first hidden layers."""


class NoOrigins(Origins):
    """Of layers trained at full width, or of a run whose full-width layers are not wanted."""

    def __call__(self, index: int) -> None:
        """Return None."""


class DenseOrigins(Origins):
    """Of layers trained at full width, except for the first, which is trained on the inputs' span.

    Parameters
    ----------
    first, projected : ndarray, shapes (m, d_x) and (m, r)
        ``Ŵ_1(0)`` and ``Ŵ_1(0) U``.
    basis : ndarray, shape (d_x, r)
        U.
    """

    def __init__(self, first: np.ndarray, projected: np.ndarray, basis: np.ndarray):
        self._first = Origin(first, projected, None, basis)

    def __call__(self, index: int) -> Origin | None:
        """Return the origin of layer `index`."""
        return self._first if index == 0 else None


class SubspaceOrigins(ReducedOrigins):
    """Of a given network, projected on invariant subspaces of its layers.

    Parameters
    ----------
    network : Network
    bases : sequence of ndarray, shapes (m_i, k_i)
        Q_1 … Q_{L-1}.
    basis : ndarray, shape (d_x, r)
        U.
    """

    def __init__(self, network: Network, bases: Sequence[np.ndarray], basis: np.ndarray):
        self.inputs = basis
        self._network = network
        self._lower: Sequence[np.ndarray] = [basis, *bases]
        self._upper: Sequence[np.ndarray | None] = [*bases, None]

    def __call__(self, index: int) -> Origin:
        """Return the origin of layer `index`."""
        layer = self._network.weights[index]
        return Origin(layer, self.projected(index), self._upper[index], self._lower[index])

    def projected(self, index: int) -> np.ndarray:
        """Return V(0) of layer `index`."""
        layer = self._network.weights[index].astype(np.float64) @ self._lower[index]
        Q = self._upper[index]
        return np.asarray(layer if Q is None else Q.T @ layer)

    def basis(self, boundary: int) -> np.ndarray:
        """Return Q_i of a hidden boundary."""
        return self._lower[boundary]

    def first_rows(self) -> np.ndarray:
        """Return ``Q_1ᵀ Ŵ_1(0)``."""
        return np.asarray(self.basis(1).T @ self._network.weights[0])

    def first_times(self, X: np.ndarray | None) -> np.ndarray:
        """Return ``Ŵ_1(0) X``, or ``Ŵ_1(0)`` for None."""
        first = self._network.weights[0].astype(np.float64)
        return first if X is None else first @ X

    def hidden_times(self, X: np.ndarray, count: int) -> np.ndarray:
        """Return the product of X by the first `count` hidden layers."""
        for index in range(1, count + 1):
            X = self._network.weights[index] @ X
        return X


class BalancedOrigins(ReducedOrigins):
    """Of balanced initialisation, whose layers are zero outside their leading coordinates.

    Parameters
    ----------
    draw : Draw
    reduced : callable
        Maps a layer's index to V(0).
    basis : ndarray, shape (d_x, r)
        U.
    """

    def __init__(self, draw: Draw, reduced: Form, basis: np.ndarray):
        self.inputs = basis
        self._draw, self._reduced = draw, reduced

    def __call__(self, index: int) -> Origin:
        """Return the origin of layer `index`."""
        final = self._draw.depth - 1
        if index == 0:
            full = first_layer(self._draw)
        elif index == final:
            full = last_layer(self._draw)
        else:
            block = self._reduced(index)
            full = np.zeros(self._draw.shape(index), self._draw.dtype)
            full[: len(block), : len(block)] = block
        upper = None if index == final else self.basis(index + 1)
        lower = self.inputs if index == 0 else self.basis(index)
        return Origin(full, self.projected(index), upper, lower)

    def projected(self, index: int) -> np.ndarray:
        """Return V(0) of layer `index`."""
        return self._reduced(index)

    def basis(self, boundary: int) -> np.ndarray:
        """Return Q_i of a hidden boundary."""
        return np.eye(self._draw.widths[boundary], len(self._reduced(0)))

    def first_rows(self) -> np.ndarray:
        """Return ``Q_1ᵀ Ŵ_1(0)``."""
        _, s, Vt = balanced_factors(self._draw)
        return s[:, None] * Vt

    def first_times(self, X: np.ndarray | None) -> np.ndarray:
        """Return ``Ŵ_1(0) X``, or ``Ŵ_1(0)`` for None."""
        rows = self.first_rows()
        rows = rows if X is None else rows @ X
        out = np.zeros((self._draw.widths[1], rows.shape[1]))
        out[: len(rows)] = rows
        return out

    def hidden_times(self, X: np.ndarray, count: int) -> np.ndarray:
        """Return the product of X by the first `count` hidden layers."""
        _, s, _ = balanced_factors(self._draw)
        out = np.zeros((self._draw.widths[count + 1], X.shape[1]))
        out[: s.size] = s[:, None] ** count * X[: s.size]
        return out
