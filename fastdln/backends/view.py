"""A read-only view of a network in training, for diagnostics."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from fastdln.objectives.base import ReducedObjective


class TrainingView:
    """A network at one step of its training; reads the trainer's buffers without copying.

    With the trained layers ``W_1 … W_L`` (reduced in a reduced run), suffix products
    ``B_i = W_L ··· W_{i+1}`` and prefix products ``A_i = W_i ··· W_1``, the gradient of layer i is
    ``B_iᵀ G A_{i-1}ᵀ``, G = ∂ℓ/∂M. Products are formed in float64 at first access.

    Parameters
    ----------
    step : int
    loss : float
    depth : int
        Number of layers L.
    layer : callable
        Maps an index, 0 for the input's layer, to that layer.
    objective : ReducedObjective
    """

    def __init__(
        self,
        step: int,
        loss: float,
        depth: int,
        layer: Callable[[int], np.ndarray],
        objective: ReducedObjective,
    ):
        self.step, self.loss, self.depth = step, loss, depth
        self._layer, self._objective = layer, objective

    @cached_property
    def layers(self) -> tuple[np.ndarray, ...]:
        """The layers, input first, as read-only arrays."""
        return tuple(_read_only(self._layer(i)) for i in range(self.depth))

    @cached_property
    def suffix_products(self) -> tuple[np.ndarray, ...]:
        """``B_0 … B_L``, float64; B_i has shape (d_y, m_i), B_0 is M and B_L the identity."""
        products = [np.eye(self.layers[-1].shape[0])]
        for layer in reversed(self.layers):
            products.append(products[-1] @ layer.astype(np.float64))
        return tuple(map(_read_only, reversed(products)))

    @cached_property
    def prefix_products(self) -> tuple[np.ndarray, ...]:
        """``A_0 … A_L``, float64; A_i has shape (m_i, d), A_0 is the identity and A_L is M."""
        products = [np.eye(self.layers[0].shape[1])]
        for layer in self.layers:
            products.append(layer.astype(np.float64) @ products[-1])
        return tuple(map(_read_only, products))

    @property
    def end_to_end(self) -> np.ndarray:
        """M, shape (d_y, d), float64."""
        return self.suffix_products[0]

    @cached_property
    def gradient(self) -> np.ndarray:
        """``G = ∂ℓ/∂M`` of the full batch, shape (d_y, d), float64."""
        return _read_only(self._objective.evaluate(self.end_to_end)[1])

    def layer_gradient(self, index: int) -> np.ndarray:
        """Return the gradient of layer `index`, 0 for the input's layer, in its shape."""
        return self.suffix_products[index + 1].T @ self.gradient @ self.prefix_products[index].T


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
