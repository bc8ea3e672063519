"""What a training run did."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln.network import Network


@dataclass(frozen=True, eq=False)  # two runs are equal where they are one
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
        Wall time, drawing the network included; of networks side by side, from one's drawing to
        its end.
    method : {"reduced", "dense"}
        Whether the exact reduction of the width was used.
    reason : str
        Why this method.
    device : str
    learning_rate : float
        The η that was used, for the paper's weights ``W_i``.
    network : Network
        The trained network, its weights for reading only. Full weights of a reduced run are formed
        when they are asked for.

    state : object or None
        What `fastdln.resume` goes on from; None unless the run was `resumable`.
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
    state: Any = None

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
