"""The smallest invariant subspaces of a network, found numerically.

Training stays inside subspaces S_i of the hidden spaces R^{m_i} that contain the columns of
``Ŵ_1 U`` and the rows of ``Ŵ_L`` and are closed under every hidden layer and its transpose,
``Ŵ_i S_{i-1} ⊆ S_i`` and ``Ŵ_iᵀ S_i ⊆ S_{i-1}``: every gradient maps S_{i-1} to S_i. Training the
layers projected on them is exact. For orthogonal layers the smallest such subspaces have dimension
d + d_y (Yaras et al. 2023); here they are computed for any layers, by adding the images of new
directions until the subspaces are closed.
"""

from collections.abc import Sequence

import numpy as np


class Irreducible(Exception):
    """The invariant subspaces are too large for a reduction to pay; the message says how large."""


def rank_tolerance(value: float | None, dtype: np.dtype, widths: Sequence[int]) -> float:
    """Return the tolerance given, or ``10 √m eps`` for the widest layer m.

    A direction counts as new where its part outside the subspace exceeds the tolerance times the
    norm of the layer that produced it: ten times the rounding of a product of length m.
    """
    if value is None:
        return 10 * float(np.sqrt(max(widths)) * np.finfo(dtype).eps)
    return value


def invariant_subspaces(
    layers: Sequence[np.ndarray], basis: np.ndarray, tolerance: float, most: float
) -> list[np.ndarray]:
    """Return orthonormal bases ``Q_1 … Q_{L-1}``, Q_i of shape (m_i, k_i), float64.

    Parameters
    ----------
    layers : sequence of ndarray
        Normalised layers, input first, at least two.
    basis : ndarray, shape (d_x, r)
        U, a basis of the inputs.
    tolerance : float
        See `rank_tolerance`.
    most : float
        Give up once all subspaces together exceed this part of all hidden dimensions.

    Raises
    ------
    Irreducible
        If the subspaces grow beyond `most`.
    """
    widths = [w.shape[0] for w in layers[:-1]]
    start = layers[0].astype(np.float64) @ basis
    if len(layers) > 2:
        _probe(layers[1], start[:, 0], tolerance, most)
    spaces = _Spaces(widths, tolerance)
    spaces.extend(0, start)
    spaces.extend(len(widths) - 1, layers[-1].T.astype(np.float64))
    while spaces.pending():
        spaces.require_at_most(most)
        for i in range(len(widths) - 1):
            spaces.extend(i + 1, layers[i + 1] @ spaces.take_unmapped_up(i))
        for i in range(len(widths) - 1, 0, -1):
            spaces.extend(i - 1, layers[i].T @ spaces.take_unmapped_down(i))
    spaces.require_at_most(most)
    return [Q if Q.shape[1] else np.eye(len(Q), 1) for Q in spaces.bases]


class _Spaces:
    """Growing subspaces, and the new directions not yet mapped to the neighbouring layers."""

    def __init__(self, widths: list[int], tolerance: float):
        self.bases = [np.zeros((m, 0)) for m in widths]
        self._up = [np.zeros((m, 0)) for m in widths]
        self._down = [np.zeros((m, 0)) for m in widths]
        self._tolerance = tolerance

    def extend(self, i: int, candidates: np.ndarray) -> None:
        """Add the part of the `candidates` that lies outside subspace i."""
        Q = self.bases[i]
        if not candidates.any() or Q.shape[1] == len(Q):
            return
        rest = candidates
        for _ in range(2):  # the second pass removes the rounding error of the first
            rest = rest - Q @ (Q.T @ rest)
        U, s, _ = np.linalg.svd(rest, full_matrices=False)
        count = int(np.sum(s > self._tolerance * np.linalg.norm(candidates, 2)))
        new = U[:, : min(count, len(Q) - Q.shape[1])]
        for lists in (self.bases, self._up, self._down):
            lists[i] = np.concatenate([lists[i], new], axis=1)

    def pending(self) -> bool:
        up, down = self._up[:-1], self._down[1:]
        return any(N.shape[1] for N in (*up, *down))

    def take_unmapped_up(self, i: int) -> np.ndarray:
        """Return and clear the directions of subspace i not yet mapped up, by the next layer."""
        taken, self._up[i] = self._up[i], self._up[i][:, :0]
        return taken

    def take_unmapped_down(self, i: int) -> np.ndarray:
        """Return and clear the directions of subspace i not yet mapped down, by a transpose."""
        taken, self._down[i] = self._down[i], self._down[i][:, :0]
        return taken

    def require_at_most(self, most: float) -> None:
        found = sum(Q.shape[1] for Q in self.bases)
        hidden = sum(len(Q) for Q in self.bases)
        if found > most * hidden:
            raise Irreducible(
                f"the smallest invariant subspaces have at least {found} of {hidden} hidden"
                f" dimensions at rank tolerance {self._tolerance:.1e}"
            )


def _probe(layer: np.ndarray, v: np.ndarray, tolerance: float, most: float) -> None:
    """Raise Irreducible early if the Krylov space of ``WᵀW`` from one vector of S_1 is too large.

    This space lies in S_1. For a Gaussian layer it is the whole space, which is found at the cost
    of one layer instead of all layers.
    """
    limit = int(most * len(v))
    Q = np.zeros((len(v), 0))
    while np.linalg.norm(v) > 0 and Q.shape[1] <= limit:
        size = np.linalg.norm(v)
        for _ in range(2):
            v = v - Q @ (Q.T @ v)
        if np.linalg.norm(v) <= tolerance * size:
            return
        q = v / np.linalg.norm(v)
        Q = np.column_stack([Q, q])
        v = layer.T @ (layer @ q)
    if Q.shape[1] > limit:
        raise Irreducible(
            f"the second layer alone mixes more than {limit} of {len(v)} dimensions"
            f" at rank tolerance {tolerance:.1e}"
        )
