"""Where a training run starts: the layers it trains, and how full weights come back."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .engine import Descent
from .initialization import draw_layers, last_layer
from .lifting import DenseLift, LiftedWeights, ReducedLift, layer_shapes
from .network import Network
from .plan import Plan
from .random import Stream, stream_id

Form = Callable[[int], np.ndarray]


class Start(NamedTuple):
    """The layers to train, input first, and what turns trained layers into full weights."""

    layers: Iterable[np.ndarray]
    lift: Callable[[Form], Form]

    def network(self, plan: Plan, descent: Descent) -> Network:
        """Return the trained network at full width."""
        form = self.lift(descent.layer)
        return Network.trusted(LiftedWeights(layer_shapes(plan.full_widths), plan.dtype, form))


def start_given(problem: Any, network: Network) -> Start:
    """Start from a given network, its first layer in the coordinates of the inputs."""
    return _dense_start(problem, iter(network.weights))


def start_drawn(problem: Any, plan: Plan, init: str, key: int) -> Start:
    """Start from a network drawn for `key`; a reduced one is never formed at full width."""
    if plan.method == "dense":
        return _dense_start(problem, draw_layers(plan.full_widths, init, key, plan.dtype))
    return _reduced_start(problem, plan, init, key)


def _dense_start(problem: Any, layers: Iterator[np.ndarray]) -> Start:
    basis = problem.reduced.basis
    first = next(layers)

    def trained_layers() -> Iterator[np.ndarray]:
        yield first @ basis
        yield from layers

    return Start(trained_layers(), lambda trained: DenseLift(first, basis, trained))


def _reduced_start(problem: Any, plan: Plan, init: str, key: int) -> Start:
    """Draw only what decides the trajectory: ``Ŵ_1 U`` and ``Z = Ŵ_L O_{L-1}``.

    In the basis O_i of layer i every hidden layer starts as the identity, and training stays in
    the span of the columns of ``Ŵ_1 U`` and the rows of Z. With Q an orthonormal basis of that
    span, ``QᵀŴ_1U, I, …, I, ZQ`` trains as the full network does (Yaras et al. 2023, extended
    to both ends). Time O(m d_x r), memory O((m + d_x) k); nothing of size m × m.
    """
    widths, basis = plan.full_widths, problem.reduced.basis
    V = first_layer_on(basis, widths, key)
    Z = last_layer(widths, key, np.dtype("float64"))
    span = np.concatenate([V, Z.T], axis=1)
    R = np.linalg.qr(span, mode="r")
    first, last = R[:, : V.shape[1]], R[:, V.shape[1] :].T
    k = len(R)

    def trained_layers() -> Iterator[np.ndarray]:
        yield first
        for _ in range(len(widths) - 3):
            yield np.eye(k)
        yield last

    def lift(trained: Form) -> Form:
        Q = np.linalg.qr(span)[0]
        return ReducedLift(widths, init, key, plan.dtype, Q, first, basis, trained)

    return Start(trained_layers(), lift)


def first_layer_on(basis: np.ndarray, widths: tuple[int, ...], key: int) -> np.ndarray:
    """Return ``Ŵ_1 U`` of orthogonal initialisation, shape (m, r), without forming ``Ŵ_1``."""
    from .haar import HaarReflectors

    d_x, m = widths[:2]
    stream = stream_id(Stream.FIRST_LAYER, 0)
    frame = HaarReflectors.from_stream(max(m, d_x), min(m, d_x), key, stream)
    if m >= d_x:
        return frame.apply(basis)
    return math.sqrt(d_x / m) * frame.apply_transposed(basis)
