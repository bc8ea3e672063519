"""The interface of a backend: a `Trainer` takes the steps of a `Workload`.

Each backend has a `Trainer` for a single network (`backends.cpu.trainer`, `backends.gpu.trainer`)
and a function `train_batch` for many networks (`backends.cpu.batch`, `backends.gpu.batch`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from fastdln.objectives.base import ReducedObjective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import START, Checkpoint
from fastdln.optim.minibatches import Minibatches
from fastdln.optim.optimizers import LayerRates, Optimizer

from .view import TrainingView

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # in typing from Python 3.13 on


class DeferredLayer(Protocol):
    """A layer to be drawn directly into its destination, without a second copy in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (rows, columns)."""
        ...

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Return rows begin ≤ i < end."""
        ...

    def write_to(self, out: np.ndarray) -> None:
        """Fill `out`, an array of this shape with any strides."""
        ...


class NormalLayer(DeferredLayer, Protocol):
    """A deferred layer of independent normals: element i, row by row, is ``scale·normal i``."""

    @property
    def key(self) -> int:
        """Key of the normals, as for `fastdln.rng.standard_normal`."""
        ...

    @property
    def stream(self) -> int:
        """Stream of the normals."""
        ...

    @property
    def scale(self) -> float:
        """Standard deviation, which is rounded to the layer's dtype, as the normals are."""
        ...


# A layer to train: an array on the host (for the GPU backend also on the device), or one to draw.
Layer = np.ndarray | DeferredLayer


def write_layer(layer: Layer, out: np.ndarray) -> None:
    """Write a layer into the array `out`, in which it is trained."""
    if _is_deferred(layer):
        layer.write_to(out)
    else:
        out[:] = layer


def formed(layer: Layer) -> np.ndarray:
    """Return a layer as an array."""
    return layer.rows(0, layer.shape[0]) if _is_deferred(layer) else layer


def is_normal(layer: Layer) -> "TypeIs[NormalLayer]":
    """Return whether a layer consists of independent normals that are not drawn yet."""
    return hasattr(layer, "stream")


def _is_deferred(layer: Layer) -> "TypeIs[DeferredLayer]":
    return hasattr(layer, "write_to")


def is_plain_regression(
    objective: ReducedObjective, optimizer: Optimizer, minibatches: bool
) -> bool:
    """Return whether this is full-batch gradient descent without momentum on a regression."""
    plain = not (optimizer.adam or optimizer.momentum or minibatches)
    return isinstance(objective, ReducedRegression) and plain


@dataclass(frozen=True)
class Workload:
    """One network as a backend trains it, after reduction, with every choice made.

    Attributes
    ----------
    widths : tuple of int
        ``(d, m_1, …, m_{L-1}, d_y)`` of the trained network.
    rows : ndarray of float64, shape (depth,)
        Rows of every layer of the full-width network, which determine the layer's step size.
    dtype : numpy.dtype
    optimizer : Optimizer
    learning_rate : float
        The paper's η.
    objective : ReducedObjective
    steps : int
        Maximum number of steps.
    tolerance : float
        Relative loss at or below which the run has converged.
    draw : callable
        Returns the layers to train, input first; called once, when memory for them is available.
    schedule : Minibatches or None
        The minibatch of each step, counted from this workload's first; None is full-batch.
    kernel : {"auto", "two-pass", "zigzag"}
    checkpoint : Checkpoint
        The state from which the run starts.
    """

    widths: tuple[int, ...]
    rows: np.ndarray
    dtype: np.dtype
    optimizer: Optimizer
    learning_rate: float
    objective: ReducedObjective
    steps: int
    tolerance: float
    draw: Callable[[], Iterable[Layer]]
    schedule: Minibatches | None = None
    kernel: str = "auto"
    checkpoint: Checkpoint = START

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths) - 1

    @property
    def plain(self) -> bool:
        """Whether this is full-batch gradient descent without momentum on a regression."""
        return is_plain_regression(self.objective, self.optimizer, self.schedule is not None)

    @property
    def rates(self) -> LayerRates:
        """Step size and weight decay of every layer, input first."""
        return LayerRates.of(self.optimizer, self.learning_rate, self.rows)


class Trainer(Protocol):
    """One network in training on one device; a context manager that frees threads and buffers."""

    @property
    def losses(self) -> np.ndarray:
        """Losses, float64; valid up to `step`."""
        ...

    @property
    def step(self) -> int:
        """The last step whose loss is known; -1 before the first `advance`."""
        ...

    @property
    def status(self) -> str:
        """``"completed"``, ``"converged"`` or ``"diverged"``."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the loss has converged or diverged."""
        ...

    def advance(self, goal: int) -> None:
        """Take steps to number `goal`, or fewer: for about 0.2 s, or until the run is finished.

        ``advance(0)`` evaluates the loss before any step.
        """
        ...

    def optimizer_state(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of the optimiser's arrays, as in `Checkpoint`."""
        ...

    def view(self) -> TrainingView:
        """Return a read-only view of the network at this step, valid until the next `advance`."""
        ...

    def trained_layers(self) -> Callable[[int], np.ndarray]:
        """End the training; return a function from an index to that trained layer."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """The result of workload number `index` of a batch.

    Attributes
    ----------
    index : int
    losses : ndarray of float64, shape (steps_taken + 1,)
    status : {"completed", "converged", "diverged"}
    layer : callable
        Maps an index to that trained layer as a NumPy array; valid until the next outcome.
    optimizer_state : callable
        Returns the optimiser's arrays, as in `Checkpoint`; valid until the next outcome.
    """

    index: int
    losses: np.ndarray
    status: str
    layer: Callable[[int], np.ndarray]
    optimizer_state: Callable[[], tuple[tuple[np.ndarray, ...], ...]]


# The current step and loss of each workload of a batch in training, by the workload's index.
Progress = dict[int, tuple[int, float]]
