"""How gradients move weights: gradient descent with momentum and weight decay, and Adam."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cpu.adam import slope_numbers, update_layers_with_adam
from fastdln.kernels.cpu.layout import Layout, aligned_zeros
from fastdln.kernels.cpu.momentum import update_layers_with_velocity
from fastdln.kernels.cpu.two_pass import scratch_numbers, update_layers
from fastdln.utils import validation

OPTIMIZERS = ("gd", "adam")
# Adam's constants, Kingma & Ba 2015, algorithm 1.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Rule:
    """An optimiser for the paper's weights ``W_i`` with its constants, checked.

    Attributes
    ----------
    optimizer : {"gd", "adam"}
    momentum : float
        μ in [0, 1); 0 is plain gradient descent.
    nesterov : bool
    weight_decay : float
        λ: λ W_i is added to the gradient of W_i.
    """

    optimizer: str = "gd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        validation.one_of("optimizer", self.optimizer, OPTIMIZERS)
        momentum = validation.non_negative_number("momentum", self.momentum)
        weight_decay = validation.non_negative_number("weight_decay", self.weight_decay)
        if momentum >= 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, not {momentum}")
        if not isinstance(self.nesterov, bool | np.bool_):
            raise TypeError(f"nesterov must be True or False, not {self.nesterov!r}")
        if self.nesterov and momentum == 0:
            raise ValueError("nesterov=True needs a momentum greater than 0, but momentum is 0")
        if self.optimizer == "adam" and momentum:
            raise ValueError(
                f"optimizer='adam' has its own momentum; momentum must be 0, not {momentum}"
            )
        # Kept as Python's own numbers, whatever was given: kernels and stores know no others.
        object.__setattr__(self, "momentum", momentum)
        object.__setattr__(self, "weight_decay", weight_decay)
        object.__setattr__(self, "nesterov", bool(self.nesterov))

    @property
    def adam(self) -> bool:
        """Whether this is Adam."""
        return self.optimizer == "adam"

    @property
    def equivariant(self) -> bool:
        """Whether rotating the weights rotates the steps, on which every reduction rests."""
        return not self.adam

    @property
    def states(self) -> int:
        """Arrays of the weights' size that the optimiser keeps."""
        return {"gd": int(self.momentum > 0), "adam": 2}[self.optimizer]

    def complement(self, learning_rate: float, steps: int) -> float:
        """Return the factor that `steps` steps leave of a part of a layer with no gradient.

        The part of a full-width layer outside the span of a reduced run: 1 but for weight decay.
        """
        if self.weight_decay == 0:
            return 1.0
        if self.momentum == 0:
            return float((1 - learning_rate * self.weight_decay) ** steps)
        c, v, mu = 1.0, 0.0, self.momentum
        for _ in range(steps):
            pull = self.weight_decay * c
            v = mu * v + pull
            c -= learning_rate * (pull + mu * v if self.nesterov else v)
        return c


class Rates(NamedTuple):
    """How far a rule moves every normalised layer.

    In normalised weights ``Ŵ = W/√rows`` the gradient is the normalised one over √rows, so that
    layer i moves with η/rows, weight decay λ acts as λ·rows on a velocity, and a step of plain
    gradient descent first leaves ``1 − η λ`` of every weight. Adam sees the paper's weights: its
    steps are η/√rows, and its decay is λ.

    Attributes
    ----------
    steps, scales, pulls : ndarray of float64, shape (depth,)
        Step sizes, √rows, and weight decay.
    decay : float
        What weight decay leaves in a step of plain gradient descent.
    """

    steps: np.ndarray
    scales: np.ndarray
    pulls: np.ndarray
    decay: float

    @classmethod
    def of(cls, rule: Rule, learning_rate: float, rows: np.ndarray) -> "Rates":
        """Return the rates of layers with so many rows."""
        decay = 1 - learning_rate * rule.weight_decay
        if rule.adam:
            steps, pulls = learning_rate / np.sqrt(rows), np.full(rows.shape, rule.weight_decay)
        else:
            steps, pulls = learning_rate / rows, rule.weight_decay * rows
        return cls(steps, np.sqrt(rows), pulls, decay)


class Moving:
    """A rule at work on one packed chain: its states, and the kernel arguments it stands for."""

    def __init__(self, rule: Rule, learning_rate: float, rows: np.ndarray, layout: Layout):
        number = layout.dtype.type
        self.rule = rule
        self.states = [aligned_zeros(layout.size, layout.dtype) for _ in range(rule.states)]
        self.adam = tuple(self.states) if rule.adam else ()
        self.velocity = self.states[0] if rule.momentum else np.empty(0, layout.dtype)
        rates = Rates.of(rule, learning_rate, rows)
        self.rates, self.scales, self.pulls = (a.astype(layout.dtype) for a in rates[:3])
        self.decay = number(rates.decay)
        self.momentum = number(rule.momentum)
        self._adam_constants = tuple(number(x) for x in (rule.weight_decay, BETA1, BETA2, EPSILON))

    @property
    def plain(self) -> bool:
        """Whether the co-state starts as ``−η_1 G`` rather than as G."""
        return not self.adam and self.velocity.size == 0

    def scratch(self, layout: Layout, team: int) -> tuple[np.ndarray, ...]:
        """Return the buffers that the kernels need for a team of this size."""
        sizes = [scratch_numbers(layout.dtype)]
        if self.adam:
            sizes.append(slope_numbers(layout))
        return tuple(aligned_zeros(team * size, layout.dtype) for size in sizes)

    def update(self, chain: tuple[Any, ...], step: int, member: tuple[Any, ...]) -> None:
        """Update every layer by step number `step` (from 1), as this member of the team."""
        if self.adam:
            update_layers_with_adam(
                *chain, *self.adam, self.rates, self.scales, *self._adam_constants, step, *member
            )
        elif self.plain:
            update_layers(*chain, self.rates, self.decay, *member)
        else:
            update_layers_with_velocity(
                *chain, self.velocity, self.rates, self.pulls, self.momentum, self.rule.nesterov,
                *member,
            )  # fmt: skip
