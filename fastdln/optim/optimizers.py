"""The constants of an optimiser, and the resulting rates of every layer."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastdln.config import TrainConfig

# Adam's constants, Kingma & Ba 2015, algorithm 1.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Optimizer:
    """An optimiser of the paper's weights ``W_i``; `fastdln.config.TrainConfig` checks its values.

    Attributes
    ----------
    name : {"gd", "adam"}
    momentum : float
        μ in [0, 1); 0 is plain gradient descent.
    nesterov : bool
    weight_decay : float
        λ: λ W_i is added to the gradient of W_i.
    """

    name: str = "gd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig) -> "Optimizer":
        """Return the optimiser that the options of a run select."""
        return cls(config.optimizer, config.momentum, config.nesterov, config.weight_decay)

    @property
    def adam(self) -> bool:
        """Whether this is Adam."""
        return self.name == "adam"

    @property
    def equivariant(self) -> bool:
        """Whether rotating the weights rotates the updates, as every reduction requires."""
        return not self.adam

    @property
    def state_arrays(self) -> int:
        """Number of arrays of the weights' size that the optimiser keeps."""
        return 2 if self.adam else int(self.momentum > 0)

    def complement_factor(self, learning_rate: float, steps: int) -> float:
        """Return the factor by which `steps` steps scale the part of a layer without a gradient.

        In a reduced run this is the part of a full-width layer outside the trained subspace. The
        factor is 1 without weight decay.
        """
        if self.weight_decay == 0:
            return 1.0
        if self.momentum == 0:
            return float((1 - learning_rate * self.weight_decay) ** steps)
        c, v, mu = 1.0, 0.0, self.momentum
        for _ in range(steps):
            decay = self.weight_decay * c
            v = mu * v + decay
            c -= learning_rate * (decay + mu * v if self.nesterov else v)
        return c


class LayerRates(NamedTuple):
    """Step sizes and weight decays of an optimiser for every normalised layer.

    In normalised weights ``Ŵ = W/√rows`` the gradient is that of the paper's weights times √rows,
    so that layer i moves with η/rows, weight decay λ acts on a velocity as λ·rows, and a step of
    plain gradient descent first multiplies every weight by ``1 − η λ``. Adam acts on the paper's
    weights: its step size is η/√rows and its weight decay λ.

    Attributes
    ----------
    step_sizes, row_scales, weight_decays : ndarray of float64, shape (depth,)
        Step sizes, √rows, and weight decay.
    decay_factor : float
        ``1 − η λ``.
    """

    step_sizes: np.ndarray
    row_scales: np.ndarray
    weight_decays: np.ndarray
    decay_factor: float

    @classmethod
    def of(cls, optimizer: Optimizer, learning_rate: float, rows: np.ndarray) -> "LayerRates":
        """Return the rates of layers with these numbers of `rows`, shape (depth,)."""
        weight_decay = optimizer.weight_decay
        if optimizer.adam:
            step_sizes = learning_rate / np.sqrt(rows)
            weight_decays = np.full(rows.shape, weight_decay)
        else:
            step_sizes, weight_decays = learning_rate / rows, weight_decay * rows
        return cls(step_sizes, np.sqrt(rows), weight_decays, 1 - learning_rate * weight_decay)
