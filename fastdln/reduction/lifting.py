"""Full-width weights of a trained network, formed on access."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from fastdln.reduction.origins import Form, Origin, Origins, ReducedOrigins
from fastdln.reduction.products import NarrowProducts


class LiftedWeights(Sequence[np.ndarray]):
    """The layers of a network, each formed by ``form(i)`` at every access.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Shape of every layer.
    dtype : numpy.dtype
    form : callable
        Maps a layer's index to the layer.
    reader : callable, optional
        Returns another `form` for one pass over several layers in order, in either direction.
    products : NarrowProducts, optional
        Products of the layers, where there is a shorter way to them than through the layers.
    """

    def __init__(
        self,
        shapes: tuple[tuple[int, int], ...],
        dtype: np.dtype,
        form: Form,
        reader: Callable[[], Form] | None = None,
        products: NarrowProducts | None = None,
    ):
        self.shapes = shapes
        self.dtype = dtype
        self.products = products
        self._form, self._reader = form, reader

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self._pass(range(*index.indices(len(self)))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"layer {index} of a network of depth {len(self)}")
        return self._form(index % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._pass(range(len(self)))

    def __reversed__(self) -> Iterator[np.ndarray]:
        return self._pass(range(len(self) - 1, -1, -1))

    def _pass(self, indices: range) -> Iterator[np.ndarray]:
        form = self._form if self._reader is None else self._reader()
        return map(form, indices)


def layer_shapes(widths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the shapes of the layers between boundaries of these widths."""
    return tuple(zip(widths[1:], widths[:-1], strict=True))


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
        return self._formed(index, self.origins(index))

    def reader(self) -> Form:
        """Return the same function for one pass over layers in order, in either direction."""
        origin = self.origins.reader()
        return lambda index: self._formed(index, origin(index))

    def weights(self, widths: tuple[int, ...], dtype: np.dtype) -> LiftedWeights:
        """Return the layers of a network of these widths, d_x and d_y among them."""
        products = None
        if isinstance(self.origins, ReducedOrigins):
            depth = len(widths) - 1
            products = NarrowProducts(self.origins, self.trained, depth, self._factor)
        return LiftedWeights(layer_shapes(widths), dtype, self, self.reader, products)

    def _formed(self, index: int, origin: Origin | None) -> np.ndarray:
        trained = self.trained(index)
        layer = trained.view() if origin is None else self._lifted(trained, origin)
        layer.flags.writeable = False
        return layer

    def _lifted(self, trained: np.ndarray, origin: Origin) -> np.ndarray:
        c = self._factor()
        moved = trained - c * origin.projected
        if origin.upper is not None:
            moved = origin.upper @ moved
        if origin.lower is not None:
            moved = moved @ origin.lower.T
        moved += origin.full if c == 1 else c * origin.full
        return moved.astype(trained.dtype, copy=False)

    def _factor(self) -> float:
        return self._c

    @functools.cached_property
    def _c(self) -> float:
        return self.complement_factor()
