"""Training one network: check, plan, start, descend, report."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import check, memory, theory
from .engine import Callback, Descent
from .network import Network
from .plan import plan, plan_network
from .random import seed_key
from .regression import Regression
from .start import start_drawn, start_given

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
        Whether the exact reduction of the width was used; `reason` says why.
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
    problem: Regression,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str = "orthogonal",
    steps: int = 10_000,
    learning_rate: float | None = None,
    seed: Any = 0,
    dtype: Any = None,
    device: str = "cpu",
    method: str = "auto",
    network: Network | None = None,
    tolerance: float | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Train a deep linear network by full-batch gradient descent.

    Parameters
    ----------
    problem : Regression
        The loss, a function of the end-to-end matrix.
    width, depth, init, seed
        The network to draw, as in `fastdln.initialize`.
    steps : int
        Steps to take, 0 or more.
    learning_rate : float, optional
        The paper's η, for the paper's weights ``W_i``: layer i of the normalised weights moves
        with η / rows of layer i. None means the theorem's largest,
        ``d_y / (2 L ‖X‖₂²)`` (Hu, Xiao & Pennington 2020, Theorem 4.1).
    dtype : {"float64", "float32"}, optional
        None means the given network's, or float64. Losses are float64 always.
    device : {"cpu", "auto"}
    method : {"auto", "reduced", "dense"}
        ``"reduced"`` trains a narrower network with exactly the same loss curve and raises where
        that is not exact; ``"dense"`` does not; ``"auto"`` reduces whenever it is exact. Dense
        and reduced runs agree to rounding, step by step; where the trajectory itself is
        unstable (narrow networks at the theorem's largest step), rounding differences grow
        along it as along any chaotic one.
    network : Network, optional
        Train this network instead of drawing one; it is left as it is.
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
    if not isinstance(problem, Regression):
        raise TypeError(f"problem must be a Regression, not {type(problem).__name__}")
    device = check.device(device)
    steps = check.non_negative_integer("steps", steps)
    if network is None:
        chosen = plan(
            problem, width=width, depth=depth, init=init, dtype=dtype or "float64", method=method
        )
        key = seed_key(seed)
    else:
        if width is not None or depth is not None:
            raise ValueError("width and depth must be left out where a network is given")
        chosen = plan_network(problem, network, dtype=dtype, method=method)
    memory.require(
        chosen.bytes, memory.available(), f"training {chosen.full_widths}", "reduce width or depth"
    )
    rate = learning_rate_or_default(problem, learning_rate, len(chosen.full_widths) - 1)
    log.info("%s: %s", chosen.method, chosen.reason)
    start = (
        start_drawn(problem, chosen, init, key) if network is None else start_given(problem, network)
    )
    descent = Descent(
        start.layers, chosen.widths, chosen.dtype, rate / np.array(chosen.full_widths[1:]),
        problem.reduced, steps, relative_floor(tolerance, chosen.dtype),
    )  # fmt: skip
    descent.run(callback)
    return TrainResult(
        loss=descent.losses[: descent.step + 1],
        status=descent.status,
        steps_taken=descent.step,
        seconds=time.perf_counter() - begun,
        method=chosen.method,
        reason=chosen.reason,
        device=device,
        learning_rate=rate,
        network=start.network(chosen, descent),
    )


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
