"""Full-width weights of a trained network, formed only when they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from .initialization import first_layer, hidden_layers


class LiftedWeights(Sequence[np.ndarray]):
    """The layers of a network, each formed by ``form(i)`` at every access.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Shape of every layer.
    dtype : numpy.dtype
    form : callable
        From a layer's index to the layer.
    """

    def __init__(
        self,
        shapes: tuple[tuple[int, int], ...],
        dtype: np.dtype,
        form: Callable[[int], np.ndarray],
    ):
        self.shapes = shapes
        self.dtype = dtype
        self._form = form

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._form(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"layer {index} of a network of depth {len(self)}")
        return self._form(index % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._form(i) for i in range(len(self)))


def layer_shapes(widths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the shapes of the layers between boundaries of these widths."""
    return tuple(zip(widths[1:], widths[:-1], strict=True))


class DenseLift:
    """Layers as trained, but the first, which was trained on the inputs' row space only.

    With U a basis of the inputs, ``Ŵ_1(t) = Ŵ_1(0) + (V(t) − Ŵ_1(0) U) Uᵀ``, V = Ŵ_1 U being
    what was trained.
    """

    def __init__(
        self, first: np.ndarray, basis: np.ndarray, trained: Callable[[int], np.ndarray]
    ):
        self._first, self._basis, self._trained = first, basis, trained

    def __call__(self, index: int) -> np.ndarray:
        """Return layer `index`."""
        layer = self._trained(index)
        if index > 0:
            return layer
        moved = (layer - self._first @ self._basis) @ self._basis.T
        return np.asarray(self._first + moved, dtype=self._first.dtype)


class ReducedLift:
    """Full-width layers of a reduced run.

    With ``O_i = Ŵ_i(0) ··· Ŵ_2(0)``, ``P_i = O_i Q`` and ``V_i`` the reduced layers, hidden layers
    are ``Ŵ_i(t) = Ŵ_i(0) + P_i (V_i(t) − I) P_{i-1}ᵀ``, the first is
    ``Ŵ_1(0) + Q (V_1(t) − V_1(0)) Uᵀ`` and the last ``V_L(t) P_{L-1}ᵀ``.

    Layers asked for in order cost one product of their own size each; an earlier layer starts
    again from the first, for only one layer and its P are kept.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        init: str,
        key: int,
        dtype: np.dtype,
        Q: np.ndarray,
        first: np.ndarray,
        basis: np.ndarray,
        trained: Callable[[int], np.ndarray],
    ):
        self._draw = (widths, init, key, dtype)
        self._Q, self._first, self._basis, self._trained = Q, first, basis, trained
        self._restart()

    def __call__(self, index: int) -> np.ndarray:
        """Return layer `index`."""
        widths, _, key, dtype = self._draw
        if index == 0:
            moved = self._Q @ (self._trained(0) - self._first) @ self._basis.T
            return np.asarray(first_layer(widths, key, dtype) + moved, dtype=dtype)
        last = len(widths) - 2
        if index == last:
            self._go_to(index - 1)
            return np.asarray(self._trained(index) @ self._P.T, dtype=dtype)
        self._go_to(index)
        return self._hidden(index)

    def _hidden(self, index: int) -> np.ndarray:
        V = self._trained(index).astype(np.float64)
        moved = self._P @ (V - np.eye(len(V))) @ self._before.T
        return np.asarray(self._layer + moved, dtype=self._draw[3])

    def _restart(self) -> None:
        self._at = 0
        self._P = self._Q
        self._layers = hidden_layers(*self._draw)

    def _go_to(self, index: int) -> None:
        """Leave ``Ŵ_i(0)``, P_{i-1} and P_i for i = `index` (0-based; P_0 is Q)."""
        if index < self._at:
            self._restart()
        while self._at < index:
            self._layer = next(self._layers)
            self._before, self._P = self._P, self._layer @ self._P
            self._at += 1
