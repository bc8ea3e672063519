"""Full-width weights of a trained network, formed on access."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

import numpy as np

from fastdln.initializers.layers import Draw, first_layer, hidden_layers

# Maps a layer's index to the layer.
Form = Callable[[int], np.ndarray]


class LiftedWeights(Sequence[np.ndarray]):
    """The layers of a network, each formed by ``form(i)`` at every access.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Shape of every layer.
    dtype : numpy.dtype
    form : callable
        Maps a layer's index to the layer.
    """

    def __init__(self, shapes: tuple[tuple[int, int], ...], dtype: np.dtype, form: Form):
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


class Origin(NamedTuple):
    """Initial value of a layer: at full width, and projected on the subspaces of its training.

    ``projected = upperᵀ full lower``; None for `upper` or `lower` stands for the whole space.
    """

    full: np.ndarray
    projected: np.ndarray
    upper: np.ndarray | None
    lower: np.ndarray | None


class Origins(Protocol):
    """The origin of every layer of a run."""

    def __call__(self, index: int) -> Origin | None:
        """Return the origin of layer `index`, or None if it was trained at full width."""
        ...


@dataclass(frozen=True)
class Lift:
    """Forms layer i at full width from the trained one.

    ``Ŵ_i(t) = c Ŵ_i(0) + Q_i [V_i(t) − c V_i(0)] Q_{i-1}ᵀ``, V_i being the trained layer and c the
    factor by which weight decay has scaled the part of the layer without a gradient.

    Attributes
    ----------
    origins : Origins
    trained : callable
        Maps a layer's index to V_i(t).
    complement_factor : callable
        Returns c; with momentum, by a loop over all steps.
    """

    origins: Origins
    trained: Form
    complement_factor: Callable[[], float]

    def __call__(self, index: int) -> np.ndarray:
        """Return layer `index`, for reading only: it may be a view of the trained layer."""
        layer = self._formed(index)
        layer.flags.writeable = False
        return layer

    def _formed(self, index: int) -> np.ndarray:
        layer, origin = self.trained(index), self.origins(index)
        if origin is None:
            return layer.view()
        c = self.complement_factor()
        moved = layer - c * origin.projected
        if origin.upper is not None:
            moved = origin.upper @ moved
        if origin.lower is not None:
            moved = moved @ origin.lower.T
        return np.asarray(c * origin.full + moved, dtype=layer.dtype)


class DrawnOrigins:
    """The origins of a reduced run's layers, drawn again layer by layer.

    With ``O_i = Ŵ_i(0) ··· Ŵ_2(0)`` the subspaces are the columns of ``P_i = O_i Q``, and hidden
    layers projected on them start as a multiple of the identity. Layers requested in order cost
    one product of their own size each. Only one layer and its P are kept: a request for an earlier
    layer starts again from the first.
    """

    def __init__(self, draw: Draw, Q: np.ndarray, reduced: Form, basis: np.ndarray):
        self._draw, self._Q, self._reduced, self._basis = draw, Q, reduced, basis
        self._restart()

    def __call__(self, index: int) -> Origin:
        """Return the origin of layer `index`."""
        projected = self._reduced(index)
        if index == 0:
            return Origin(first_layer(self._draw), projected, self._Q, self._basis)
        last = self._draw.depth - 1
        self._go_to(min(index, last - 1))
        if index == last:
            # All of the last layer lies in the subspace.
            return Origin(projected @ self._P.T, projected, None, self._P)
        return Origin(self._layer, projected, self._P, self._before)

    def _restart(self) -> None:
        self._at = 0
        self._P = self._Q
        self._layers = hidden_layers(self._draw)

    def _go_to(self, index: int) -> None:
        """Compute and keep ``Ŵ_i(0)``, P_{i-1} and P_i for i = `index` (0-based; P_0 is Q)."""
        if index < self._at:
            self._restart()
        while self._at < index:
            self._layer = next(self._layers)
            self._before, self._P = self._P, (self._layer / self._draw.gain) @ self._P
            self._at += 1
