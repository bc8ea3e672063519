"""Products of neighbouring layers of a reduced network, from the narrow network that was trained.

With boundaries and subspaces as in `origins`, and c the factor by which weight decay has scaled the
parts of the layers outside their subspaces, ``Ŵ_i(t) = c Ŵ_i(0) + Q_i [V_i(t) − c V_i(0)]
Q_{i-1}ᵀ``.

A product that ends at the output lies in the subspaces, because ``Ŵ_L(t) = V_L(t) Q_{L-1}ᵀ`` does:
``B_i = V_L ··· V_{i+1} Q_iᵀ`` for i ≥ 1, and

    M = B_1 Ŵ_1(t) = V_L ··· V_2 E,   E = Q_1ᵀ Ŵ_1(t) = c Q_1ᵀ Ŵ_1(0) + [V_1(t) − c V_1(0)] Uᵀ.

A product that starts at the input has a second part, which training does not touch:
``A_i = Q_i V_i ··· V_2 E + c^i Ŵ_i(0) ··· Ŵ_2(0) (I − Q_1 Q_1ᵀ) Ŵ_1(0)``. It vanishes on the span
of the data, because ``Ŵ_1(0) U`` lies in Q_1.
"""

import functools
from collections.abc import Callable

import numpy as np

from fastdln.reduction.origins import Form, ReducedOrigins


class NarrowProducts:
    """Products of a reduced network's layers, in float64; see `fastdln.Network`.

    Parameters
    ----------
    origins : ReducedOrigins
    trained : callable
        Maps a layer's index to V(t).
    depth : int
        Number of layers L ≥ 2.
    complement_factor : callable
        Returns c.
    """

    def __init__(
        self,
        origins: ReducedOrigins,
        trained: Form,
        depth: int,
        complement_factor: Callable[[], float],
    ):
        self._origins, self._trained, self._depth = origins, trained, depth
        self._factor = complement_factor

    def end_to_end(self) -> np.ndarray:
        """Return M, shape (d_y, d_x)."""
        return self._narrow_suffix(1) @ self._first_rows()

    def suffix(self, boundary: int) -> np.ndarray:
        """Return ``B_i = Ŵ_L ··· Ŵ_{i+1}`` for i = `boundary` ≥ 1, shape (d_y, m_i)."""
        return self._narrow_suffix(boundary) @ self._origins.basis(boundary).T

    def prefix(self, boundary: int, X: np.ndarray | None) -> np.ndarray:
        """Return ``A_i X``, shape (m_i, n), or A_i for None, for i = `boundary`, 1 ≤ i < L."""
        c, Q = self._factor(), self._origins.basis(boundary)
        narrow = self._first_rows() if X is None else self._first_rows() @ X
        for index in range(1, boundary):
            narrow = self._trained(index) @ narrow
        product = Q @ narrow
        if X is not None and self._in_span(X):
            return product
        outside = self._origins.first_times(X)
        Q_1 = self._origins.basis(1)
        outside = outside - Q_1 @ (Q_1.T @ outside)
        return product + c**boundary * self._origins.hidden_times(outside, boundary - 1)

    def _narrow_suffix(self, boundary: int) -> np.ndarray:
        """Return ``V_L ··· V_{i+1}``, shape (d_y, k_i)."""
        product = self._trained(self._depth - 1).astype(np.float64)
        for index in range(self._depth - 2, boundary - 1, -1):
            product = product @ self._trained(index)
        return product

    def _first_rows(self) -> np.ndarray:
        """Return E, shape (k_1, d_x)."""
        c, U = self._factor(), self._origins.inputs
        moved = self._trained(0) - c * self._origins.projected(0)
        return c * self._initial_first_rows + moved @ U.T

    @functools.cached_property
    def _initial_first_rows(self) -> np.ndarray:
        return self._origins.first_rows()

    def _in_span(self, X: np.ndarray) -> bool:
        """Return whether X lies in the span of the data up to the rounding of its projection."""
        U = self._origins.inputs
        outside = np.linalg.norm(X - U @ (U.T @ X), axis=0)
        tolerance = 10 * np.sqrt(len(X)) * np.finfo(np.float64).eps
        return bool(np.all(outside <= tolerance * np.linalg.norm(X, axis=0)))
