"""Where a training run starts: the layers it trains, and how full weights come back."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdln.initializers.layers import (
    GaussianLayer,
    balanced_factors,
    draw_layers,
    first_layer,
    gaussian_layer,
    last_layer,
)
from fastdln.kernels.cpu.project_inputs import restrict
from fastdln.network import Network
from fastdln.reduction.lifting import DrawnOrigins, Form, Origin, Origins
from fastdln.reduction.plan import Plan
from fastdln.rng import Stream, stream_id


class Start(NamedTuple):
    """The layers to train, input first, and where each of them comes from.

    A layer is an array, or a `GaussianLayer` that is not drawn yet: see `put` and `whole`.
    """

    layers: Iterable[Any]
    origins: Origins


def put(layer: Any, place: np.ndarray) -> None:
    """Write a layer of a start to the array where it is trained."""
    if isinstance(layer, GaussianLayer):
        layer.write_to(place)
    else:
        place[:] = layer


def whole(layer: Any) -> Any:
    """Return a layer of a start as an array."""
    return layer.rows(0, layer.shape[0]) if isinstance(layer, GaussianLayer) else layer


class Draw(NamedTuple):
    """What decides a drawn network."""

    widths: tuple[int, ...]
    init: str
    key: int
    dtype: np.dtype
    gain: float


def start_dense(layers: Iterator[Any], basis: np.ndarray) -> Start:
    """Start from full-width layers, the first in the coordinates of the inputs.

    With U the `basis`, ``Ŵ_1 U`` is all of the first layer that training moves.
    """
    first = next(layers)
    restricted = restrict(first, basis)

    def trained_layers() -> Iterator[Any]:
        yield restricted
        yield from layers

    return Start(trained_layers(), functools.partial(_dense_origin, first, restricted, basis))


def _dense_origin(
    first: np.ndarray, restricted: np.ndarray, basis: np.ndarray, index: int
) -> Origin | None:
    return Origin(first, restricted, None, basis) if index == 0 else None


def start_drawn(draw: Draw, plan: Plan, basis: np.ndarray) -> Start:
    """Start from a drawn network; a reduced one is never formed at full width."""
    if plan.method == "dense":
        drawn = _drawn_in_place(draw) if draw.init == "gaussian" else draw_layers(*draw)
        return start_dense(drawn, basis)
    return _start_balanced(draw, basis) if draw.init == "balanced" else _start_carried(draw, basis)


def _drawn_in_place(draw: Draw) -> Iterator[Any]:
    """Yield Gaussian layers, all but the first not drawn yet."""
    yield first_layer(*draw)
    for i in range(1, len(draw.widths) - 1):
        yield gaussian_layer(draw.widths, i, draw.key, draw.dtype, draw.gain)


def _start_carried(draw: Draw, basis: np.ndarray) -> Start:
    """Draw only what decides the trajectory: ``Ŵ_1 U`` and ``Z = Ŵ_L O_{L-1}``.

    In the basis O_i of layer i every hidden layer starts as a multiple of the identity, and
    training stays in the span of the columns of ``Ŵ_1 U`` and the rows of Z. With Q an orthonormal
    basis of that span, ``QᵀŴ_1U, I, …, I, ZQ`` trains as the full network does (Yaras et al. 2023,
    for both ends). Nothing of size m × m is formed; time O(m d_x r), memory O((m + d_x) k).
    """
    V = _first_layer_on(basis, draw)
    Z = last_layer(draw.widths, draw.init, draw.key, np.dtype("float64"), draw.gain)
    span = np.concatenate([V, Z.T], axis=1)
    R = np.asarray(np.linalg.qr(span, mode="r"))
    first, last = R[:, : V.shape[1]], R[:, V.shape[1] :].T
    hidden, final = draw.gain * np.eye(len(R)), len(draw.widths) - 2

    restricted = functools.partial(_carried_layer, first, hidden, last, final)
    return Start(
        (restricted(i) for i in range(final + 1)), _CarriedOrigins(draw, span, restricted, basis)
    )


def _carried_layer(
    first: np.ndarray, hidden: np.ndarray, last: np.ndarray, final: int, index: int
) -> np.ndarray:
    if index == 0:
        return first
    return last if index == final else hidden


class _CarriedOrigins:
    """Origins of `_start_carried`, prepared when the first of them is asked for."""

    def __init__(self, draw: Draw, span: np.ndarray, restricted: Form, basis: np.ndarray):
        self._parts = draw, span, restricted, basis
        self._ready: Origins | None = None

    def __call__(self, index: int) -> Origin | None:
        if self._ready is None:
            draw, span, restricted, basis = self._parts
            self._ready = DrawnOrigins(draw, np.linalg.qr(span)[0], restricted, basis)
        return self._ready(index)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is ready is in the middle of drawing layers, and can be made again.
        return _CarriedOrigins, self._parts


def _first_layer_on(basis: np.ndarray, draw: Draw) -> np.ndarray:
    """Return ``Ŵ_1 U``, shape (m, r), float64, without forming ``Ŵ_1``."""
    from fastdln.backends.cpu.haar import HaarReflectors

    d_x, m = draw.widths[:2]
    if draw.init == "zero_asymmetric":
        V = np.zeros((m, basis.shape[1]))
        V[: min(m, d_x)] = draw.gain * basis[: min(m, d_x)]
        return V
    frame = HaarReflectors.from_stream(
        max(m, d_x), min(m, d_x), draw.key, stream_id(Stream.FIRST_LAYER, 0)
    )
    if m >= d_x:
        return draw.gain * frame.apply(basis)
    return draw.gain * np.sqrt(d_x / m) * frame.apply_transposed(basis)


def _start_balanced(draw: Draw, basis: np.ndarray) -> Start:
    """Start in the leading min(d_x, d_y) coordinates, outside of which all layers are zero."""
    U, s, Vt = balanced_factors(draw.widths, draw.key, draw.gain)
    final = len(draw.widths) - 2

    restricted = functools.partial(
        _carried_layer, s[:, None] * (Vt @ basis), np.diag(s), U * s, final
    )
    return Start(
        (restricted(i) for i in range(final + 1)),
        functools.partial(_balanced_origin, draw, s, restricted, basis),
    )


def _balanced_origin(
    draw: Draw, s: np.ndarray, restricted: Form, basis: np.ndarray, index: int
) -> Origin:
    final = len(draw.widths) - 2
    if index == 0:
        full = first_layer(*draw)
    elif index == final:
        full = last_layer(*draw)
    else:
        shape = draw.widths[index + 1], draw.widths[index]
        full = np.zeros(shape, draw.dtype)
        np.fill_diagonal(full[: s.size, : s.size], s)
    upper = None if index == final else np.eye(draw.widths[index + 1], s.size)
    lower = basis if index == 0 else np.eye(draw.widths[index], s.size)
    return Origin(full, restricted(index), upper, lower)


def start_restricted(network: Network, bases: Sequence[np.ndarray], basis: np.ndarray) -> Start:
    """Start from a given network restricted to invariant subspaces with these bases."""
    lower, upper = [basis, *bases], [*bases, None]

    sides = network, lower, upper
    return Start(
        (_restricted_layer(*sides, i) for i in range(network.depth)),
        functools.partial(_restricted_origin, *sides),
    )


def _restricted_layer(
    network: Network, lower: Sequence[Any], upper: Sequence[Any], index: int
) -> np.ndarray:
    layer = network.weights[index].astype(np.float64) @ lower[index]
    Q = upper[index]
    return np.asarray(layer if Q is None else Q.T @ layer)


def _restricted_origin(
    network: Network, lower: Sequence[Any], upper: Sequence[Any], index: int
) -> Origin:
    layer = _restricted_layer(network, lower, upper, index)
    return Origin(network.weights[index], layer, upper[index], lower[index])
