"""Training one network: check, plan, start, descend, report."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import check, memory, theory
from .engine import Callback, Descent, Schedule
from .kernel_choice import KERNELS
from .lifting import LiftedWeights, layer_shapes, lift
from .network import Network
from .objective import Objective, on_inputs
from .plan import Plan, plan, plan_network
from .random import Stream, seed_key, standard_normal, stream_id
from .rules import Rule
from .start import Draw, Start, start_dense, start_drawn, start_restricted

log = logging.getLogger("fastdln")


@dataclass(frozen=True)
class TrainResult:
    """What a training run did.

    Attributes
    ----------
    loss : ndarray of float64, shape (steps_taken + 1,)
        Loss at every step; ``loss[0]`` is before any step. A diverged run ends with the value
        that is not finite.
    status : {"completed", "converged", "diverged"}
        ``"converged"``: the relative loss reached `tolerance` and the run stopped there.
        ``"diverged"``: the loss was no longer finite.
    steps_taken : int
    seconds : float
        Wall time of the whole call, drawing the network included.
    method : {"reduced", "dense"}
        Whether the exact reduction of the width was used.
    reason : str
        Why this method.
    device : str
    learning_rate : float
        The η that was used, for the paper's weights ``W_i``.
    network : Network
        The trained network. Full weights of a reduced run are formed when they are asked for.
    """

    loss: np.ndarray
    status: str
    steps_taken: int
    seconds: float
    method: str
    reason: str
    device: str
    learning_rate: float
    network: Network

    @property
    def relative_loss(self) -> np.ndarray:
        """``loss / loss[0]``, float64."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.loss / self.loss[0]

    def __repr__(self) -> str:
        return (
            f"TrainResult({self.status} after {self.steps_taken} steps,"
            f" relative loss {self.relative_loss[-1]:.3g}, {self.method},"
            f" {self.seconds:.3g} s on {self.device})"
        )


def train(
    problem: Objective,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str = "orthogonal",
    gain: float = 1.0,
    steps: int = 10_000,
    learning_rate: float | None = None,
    optimizer: str = "gd",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    seed: Any = 0,
    dtype: Any = None,
    device: str = "cpu",
    method: str = "auto",
    kernel: str = "auto",
    network: Network | None = None,
    rank_tolerance: float | None = None,
    tolerance: float | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Train a deep linear network by gradient descent.

    Parameters
    ----------
    problem : Regression, Logistic, MatrixCompletion, MatrixSensing or another objective
        The loss, a function of the end-to-end matrix; see `fastdln.Objective` for your own.
    width, depth, init, gain
        The network to draw, as in `fastdln.initialize`.
    steps : int
        Steps to take, 0 or more.
    learning_rate : float, optional
        The paper's η, for the paper's weights ``W_i``: layer i of the normalised weights moves
        with η / rows of layer i. None means the theorem's largest,
        ``d_y / (2 L ‖X‖₂²)`` (Hu, Xiao & Pennington 2020, Theorem 4.1).
    optimizer : {"gd", "adam"}
        Gradient descent, or Adam (Kingma & Ba 2015; β = 0.9, 0.999, ε = 1e-8), both on the
        paper's weights. Adam does not reduce: its steps are taken entry by entry.
    momentum : float
        μ in [0, 1): ``v := μ v + gradient``, ``W −= η v`` (Polyak).
    nesterov : bool
        Nesterov's form of momentum, ``W −= η (gradient + μ v)``.
    weight_decay : float
        λ ≥ 0: ``λ W_i`` is added to the gradient of ``W_i``. Losses leave the penalty out.
    batch_size : int, optional
        Samples per step, from 1 to n; None is full-batch. Batches are consecutive parts of a
        permutation of the samples that is drawn anew, from `seed`, when it is used up (a last
        part smaller than a batch is left out). The gradient is scaled to be unbiased; the loss
        is the full one at every step.
    seed : int or what `numpy.random.default_rng` accepts
        Decides the network and the minibatches.
    dtype : {"float64", "float32"}, optional
        None means the given network's, or float64. Losses are float64 always.
    device : {"cpu", "gpu", "gpu:N", "auto"}
        ``"gpu"`` needs an NVIDIA card and CuPy (``fastdln[cuda12]`` or ``[cuda13]``); ``"auto"``
        is the CPU until the card's kernels have been measured.
    method : {"auto", "reduced", "dense"}
        ``"reduced"`` trains a narrower network with exactly the same loss curve and raises where
        that is not exact; ``"dense"`` does not; ``"auto"`` reduces whenever it is exact. Dense
        and reduced runs agree to rounding, step by step; where the trajectory itself is
        unstable (narrow networks at the theorem's largest step), rounding differences grow
        along it as along any chaotic one.
    kernel : {"auto", "two-pass", "zigzag"}
        How weights are read and written; ``"auto"`` takes what a cost model expects to be
        fastest (`fastdln.kernel_choice`), the same for any number of threads. Equal to rounding.
    network : Network, optional
        Train this network instead of drawing one; it is left as it is. ``"auto"`` and
        ``"reduced"`` look for its invariant subspaces (`fastdln.closure`).
    rank_tolerance : float, optional
        For a given network: a direction counts as outside a subspace where its part outside
        exceeds this times the norm of the layer that led there, in (0, 1). None means
        ``10 √m eps``.
    tolerance : float, optional
        Relative loss at or below which training stops as ``"converged"``, in [0, 1). None means
        ``(10 eps)²`` of the dtype (1.4e-12 in float32, 4.9e-30 in float64): a residual of ten
        units of rounding.
    callback : callable, optional
        Called as ``callback(step, loss)`` a few times a second; may raise to stop.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        For arguments out of range, and for a network that does not fit the problem.
    MemoryError
        If the network does not fit in memory; names the bytes.
    """
    begun = time.perf_counter()
    check.one_of("kernel", kernel, KERNELS)
    rule = Rule(optimizer, momentum, nesterov, weight_decay)
    device = check.device(device)
    steps = check.non_negative_integer("steps", steps)
    gain = check.positive_number("gain", gain)
    key = seed_key(seed)
    if network is None:
        chosen = plan(
            problem, width=width, depth=depth, init=init, dtype=dtype or "float64",
            method=method, rule=rule,
        )  # fmt: skip
        bases: list[np.ndarray] = []
    else:
        if width is not None or depth is not None:
            raise ValueError("width and depth must be left out where a network is given")
        chosen, bases = plan_network(
            problem, network, dtype=dtype, method=method, rule=rule, tolerance=rank_tolerance
        )
    floor = relative_floor(tolerance, chosen.dtype)
    rate = learning_rate_or_default(problem, learning_rate, len(chosen.full_widths) - 1)
    schedule = minibatches(problem, batch_size, key)
    if device == "cpu":
        free, what = memory.available(), f"training {_described(chosen)}"
        memory.require(chosen.bytes, free, what, "reduce width or depth")
    log.info("%s: %s", chosen.method, chosen.reason)
    objective = on_inputs(problem, whole=not rule.equivariant)
    if network is None:
        draw = Draw(chosen.full_widths, init, key, chosen.dtype, gain)
        start = start_drawn(draw, chosen, objective.basis)
    elif bases:
        start = start_restricted(network, bases, objective.basis)
    else:
        start = start_dense(iter(network.weights), objective.basis)
    rows = np.array(chosen.full_widths[1:], dtype=np.float64)
    descent = _engine(device, kernel)(
        start.layers, chosen.widths, chosen.dtype, rows, rate, rule, objective,
        steps, floor, schedule,
    )  # fmt: skip
    descent.run(callback)
    return TrainResult(
        loss=descent.losses[: descent.step + 1].copy(),  # not a view of all steps allowed
        status=descent.status,
        steps_taken=descent.step,
        seconds=time.perf_counter() - begun,
        method=chosen.method,
        reason=chosen.reason,
        device=device,
        learning_rate=rate,
        network=_lifted(chosen, start, descent, rule, rate),
    )


def _engine(device: str, kernel: str) -> Callable[..., Any]:
    """Return what makes a descent on this device; both kinds have the same interface."""
    if device == "cpu":
        return functools.partial(Descent, kernel=kernel)
    if kernel != "auto":
        raise ValueError(f"kernel chooses among the CPU's; on {device!r} it must be 'auto'")
    from . import gpu, gpu_descent

    return functools.partial(gpu_descent.Descent, card=gpu.require_gpu(device))


def _described(chosen: Plan) -> str:
    hidden = chosen.full_widths[1:-1]
    return f"a network of depth {len(hidden) + 1} and width {max(hidden, default=0)}"


def _lifted(chosen: Plan, start: Start, descent: Any, rule: Rule, rate: float) -> Network:
    """Return the trained network at full width, keeping no more than its weights need."""
    widths, steps, chain = chosen.full_widths, descent.step, descent.chain
    form = lift(start.origins, chain.layer, lambda i: rule.complement(rate, widths[i + 1], steps))
    return Network.trusted(LiftedWeights(layer_shapes(widths), chosen.dtype, form))


def learning_rate_or_default(problem: Any, learning_rate: float | None, depth: int) -> float:
    """Return the η given, checked, or the theorem's largest."""
    if learning_rate is None:
        return theory.learning_rate(problem, depth)
    return check.positive_number("learning_rate", learning_rate)


def relative_floor(tolerance: float | None, dtype: np.dtype) -> float:
    """Return the relative loss at which a run of this dtype has converged."""
    if tolerance is None:
        return float((10 * np.finfo(dtype).eps) ** 2)
    tolerance = check.non_negative_number("tolerance", tolerance)
    if tolerance >= 1:
        raise ValueError(f"tolerance must be less than 1, not {tolerance}")
    return tolerance


def minibatches(problem: Any, batch_size: int | None, key: int) -> Schedule | None:
    """Return the seeded schedule of minibatches: from a step to the indices of its samples.

    The permutation of an epoch orders normals of a stream of its own, so that it is the same in
    every version and any step's batch can be found without those before it.
    """
    if batch_size is None:
        return None
    size = check.positive_integer("batch_size", batch_size)
    if not hasattr(problem, "batch_gradient"):
        raise TypeError(
            f"a {type(problem).__name__} has no batch_gradient, so batch_size must be left out"
        )
    if size > problem.n:
        raise ValueError(f"batch_size must be at most the {problem.n} samples, not {size}")
    per_epoch = problem.n // size

    def batch(step: int) -> np.ndarray:
        epoch, part = divmod(step, per_epoch)
        normals = standard_normal(key, stream_id(Stream.MINIBATCH, epoch), (problem.n,))
        return np.argsort(normals, kind="stable")[part * size : (part + 1) * size]

    return batch
