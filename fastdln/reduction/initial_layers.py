"""Initial layers of a training run, and the origins from which full-width weights are formed."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastdln.backends.interface import Layer
from fastdln.initializers.layers import (
    Draw,
    balanced_factors,
    draw_layers,
    first_layer,
    gaussian_layer,
    last_layer,
)
from fastdln.kernels.cpu.project_inputs import project_inputs
from fastdln.network import Network
from fastdln.reduction.drawn_origins import DrawnOrigins, first_layer_times
from fastdln.reduction.origins import BalancedOrigins, DenseOrigins, Origins, SubspaceOrigins
from fastdln.reduction.plan import Plan

if TYPE_CHECKING:
    from fastdln.backends.gpu.launcher import Launcher


class InitialLayers(NamedTuple):
    """The layers to train, input first, and the full-width origin of each."""

    layers: Iterable[Layer]
    origins: Origins


def drawn(
    draw: Draw, plan: Plan, basis: np.ndarray, launcher: "Launcher | None" = None
) -> InitialLayers:
    """Start from a drawn network; a reduced one is never formed at full width.

    Parameters
    ----------
    draw : Draw
    plan : Plan
    basis : ndarray, shape (d_x, rank)
        Orthonormal basis U of the inputs' span.
    launcher : Launcher, optional
        Launcher of the GPU that trains the network and is the current device while the layers are
        taken. Hidden layers are then drawn on that GPU where this is faster.
    """
    if plan.method == "dense":
        return dense(_drawn_layers(draw, launcher), basis)
    return _balanced(draw, basis) if draw.init == "balanced" else _in_joint_span(draw, basis)


def dense(layers: Iterator[Layer], basis: np.ndarray) -> InitialLayers:
    """Start from full-width layers, the first in the coordinates of the inputs.

    Training changes the first layer only through ``Ŵ_1 U``, U being the `basis`.
    """
    first = np.asarray(next(layers))
    projected = project_inputs(first, basis)

    def trained_layers() -> Iterator[Layer]:
        yield projected
        yield from layers

    return InitialLayers(trained_layers(), DenseOrigins(first, projected, basis))


def in_subspaces(network: Network, bases: Sequence[np.ndarray], basis: np.ndarray) -> InitialLayers:
    """Start from a given network projected on invariant subspaces with these `bases`."""
    origins = SubspaceOrigins(network, bases, basis)
    return InitialLayers((origins.projected(i) for i in range(network.depth)), origins)


def _drawn_layers(draw: Draw, launcher: "Launcher | None") -> Iterator[Layer]:
    """Return all layers of a draw; a GPU draws Gaussian and equal orthogonal hidden layers."""
    hidden = draw.widths[1:-1]
    if launcher is not None and len(hidden) > 1:
        from fastdln.initializers import on_gpu  # needs CuPy

        if draw.init == "gaussian":
            return on_gpu.gaussian_layers(launcher, draw)
        if draw.init == "orthogonal" and len(set(hidden)) == 1:
            return on_gpu.orthogonal_layers(launcher, draw)
    return _deferred_layers(draw) if draw.init == "gaussian" else draw_layers(draw)


def _deferred_layers(draw: Draw) -> Iterator[Layer]:
    """Yield Gaussian layers; all but the first are drawn later, directly into their destination."""
    yield first_layer(draw)
    for i in range(1, draw.depth):
        yield gaussian_layer(draw, i)


def _in_joint_span(draw: Draw, basis: np.ndarray) -> InitialLayers:
    """Draw only ``Ŵ_1 U`` and ``Z = Ŵ_L O_{L-1}``, which determine the trajectory.

    In the basis O_i of layer i every hidden layer starts as a multiple of the identity, and
    training stays in the span of the columns of ``Ŵ_1 U`` and the rows of Z. With Q an orthonormal
    basis of that span, ``QᵀŴ_1U, I, …, I, ZQ`` trains as the full network does (Yaras et al. 2023,
    applied at both ends). Nothing of size m × m is formed; time O(m d_x r), memory O((m + d_x) k).
    """
    V = first_layer_times(basis, draw)
    Z = last_layer(draw._replace(dtype=np.dtype("float64")))
    span = np.concatenate([V, Z.T], axis=1)
    R = np.asarray(np.linalg.qr(span, mode="r"))
    first, last = R[:, : V.shape[1]], R[:, V.shape[1] :].T
    hidden, final = draw.gain * np.eye(len(R)), draw.depth - 1

    reduced = functools.partial(_reduced_layer, first, hidden, last, final)
    origins = DrawnOrigins(draw, span, reduced, basis)
    return InitialLayers((reduced(i) for i in range(draw.depth)), origins)


def _reduced_layer(
    first: np.ndarray, hidden: np.ndarray, last: np.ndarray, final: int, index: int
) -> np.ndarray:
    if index == 0:
        return first
    return last if index == final else hidden


def _balanced(draw: Draw, basis: np.ndarray) -> InitialLayers:
    """Start in the leading min(d_x, d_y) coordinates; all layers are zero outside of them."""
    U, s, Vt = balanced_factors(draw)
    first = s[:, None] * (Vt @ basis)
    reduced = functools.partial(_reduced_layer, first, np.diag(s), U * s, draw.depth - 1)
    origins = BalancedOrigins(draw, reduced, basis)
    return InitialLayers((reduced(i) for i in range(draw.depth)), origins)
