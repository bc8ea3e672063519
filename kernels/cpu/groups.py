"""Named groups of arguments for all kernels that train one network.

A kernel takes a few of these groups, and never more than eight arguments. Numba passes a named
tuple as its members, one by one, so that groups add no cost inside kernels; a call from Python
takes about 0.5 µs per group to determine the types. Members are arrays or NumPy scalars: Numba
would compile another specialisation for a tuple that holds a literal.
"""

from typing import NamedTuple

import numpy as np


class Network(NamedTuple):
    """A packed network and its suffix products, as laid out by `layout.Layout`.

    Attributes
    ----------
    weights, products : ndarray, flat
    layers : ndarray of int64, shape (depth, 6)
        `Layout.layers`.
    q, q_padded : int
        Rows of M, and rows of every product in memory.
    lane : int
        Elements of a vector register: its SIMD lanes.
    """

    weights: np.ndarray
    products: np.ndarray
    layers: np.ndarray
    q: int
    q_padded: int
    lane: int


class Workspace(NamedTuple):
    """The co-state buffers and the scratch memory of pass 2.

    Attributes
    ----------
    C, D : ndarray, flat, q_padded × widest
        C passes the (scaled) gradient of M from pass 1 to pass 2; pass 2 overwrites C and D.
    scratch : ndarray
        `two_pass.scratch_size` elements per team member.
    """

    C: np.ndarray
    D: np.ndarray
    scratch: np.ndarray


class GradientStep(NamedTuple):
    """Plain gradient descent, with weight decay.

    Attributes
    ----------
    step_sizes : ndarray of the weights' dtype, shape (depth,)
        Step size η_l of every normalised layer.
    decay : float, of the weights' dtype
        Factor of the weights before each update: ``1 − η λ``, 1 without weight decay.
    """

    step_sizes: np.ndarray
    decay: np.floating


class MomentumStep(NamedTuple):
    """Polyak's or Nesterov's momentum, with weight decay in the gradient; see `momentum`.

    Attributes
    ----------
    velocity : ndarray
        Laid out as the weights.
    step_sizes, weight_decays : ndarray of the weights' dtype, shape (depth,)
        Step size η_l and weight decay λ_l of every normalised layer.
    momentum : float, of the weights' dtype
        μ in [0, 1).
    nesterov : bool
    """

    velocity: np.ndarray
    step_sizes: np.ndarray
    weight_decays: np.ndarray
    momentum: np.floating
    nesterov: bool


class AdamStep(NamedTuple):
    """Adam on the paper's weights; see `adam`.

    Attributes
    ----------
    mean, square : ndarray
        Running means of the gradient and of its square, laid out as the weights.
    gradient : ndarray
        `adam.gradient_size` elements per team member.
    step_sizes, row_scales : ndarray of the weights' dtype, shape (depth,)
        Step size of the normalised layer, η/√rows, and √rows: Adam sees the paper's weights, whose
        gradient is the normalised one divided by √rows.
    weight_decay, beta1, beta2, epsilon : float, of the weights' dtype
        Weight decay λ and Adam's constants.
    """

    mean: np.ndarray
    square: np.ndarray
    gradient: np.ndarray
    step_sizes: np.ndarray
    row_scales: np.ndarray
    weight_decay: np.floating
    beta1: np.floating
    beta2: np.floating
    epsilon: np.floating


class Regression(NamedTuple):
    """A reduced regression, transposed where the chain is mirrored, and its losses.

    Attributes
    ----------
    scale, target : ndarray of float64, shape (q, n)
        S and T of the loss ``½‖M∘S − T‖²``: the reduced inputs (along M's input axis) and targets.
    constant : float
        The part of the loss outside the span of the inputs.
    losses : ndarray of float64
        Output: the loss of every step taken.
    """

    scale: np.ndarray
    target: np.ndarray
    constant: float
    losses: np.ndarray


class Span(NamedTuple):
    """The steps of one kernel call.

    Attributes
    ----------
    start : int
        The last step whose loss is known; −1 evaluates the loss before any step.
    goal : int
        The step to advance to.
    last : int
        The step at which the run ends.
    floor : float
        Steps end early at a loss that is at most this, or not finite.
    """

    start: int
    goal: int
    last: int
    floor: float


class Member(NamedTuple):
    """One thread of a team that shares a network.

    Attributes
    ----------
    rank : int
        From 0 to team − 1.
    team : int
        Number of threads.
    barrier : ndarray
        The barrier, from `team.new_barrier`, that all members share.
    """

    rank: int
    team: int
    barrier: np.ndarray


class Operand(NamedTuple):
    """A matrix in a flat array: element (i, j) is ``data[start + i·row + j·column]``."""

    data: np.ndarray
    start: int
    row: int
    column: int


class Extent(NamedTuple):
    """Size of a product: rows, terms per sum, vectors ``begin ≤ v < end`` of `lane` elements."""

    rows: int
    terms: int
    begin: int
    end: int
    lane: int


class Block(NamedTuple):
    """Rows ``first ≤ a < first + rows``, columns or vectors ``begin ≤ v < end`` of a product."""

    first: int
    rows: int
    begin: int
    end: int


class Costates(NamedTuple):
    """The co-state below a layer, `rows` rows of C from c0, and the next one, in D from d0."""

    C: np.ndarray
    c0: int
    D: np.ndarray
    d0: int
    rows: int


class Prefetch(NamedTuple):
    """Prefetch data `distance` elements after every tile of Y, from strip number `strip` on."""

    distance: int
    strip: int
