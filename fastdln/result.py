"""The result of a training run."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln.network import RUN_ARRAYS, Network, write_archive


@dataclass(frozen=True, eq=False)  # by identity: arrays have no single truth value
class TrainResult:
    """The result of a training run.

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
        Wall time, including the drawing of the network, without `compile_seconds`; for batched
        networks, from the drawing of this one to its end. Of a resumed run, that of all its parts.
    method : {"reduced", "dense"}
        Whether the exact reduction of the width was used.
    reason : str
        Reason for the method, and for the device where fastdln chose it.
    device : str
    learning_rate : float
        The η that was used, for the paper's weights ``W_i``.
    network : Network
        The trained network, with read-only weights. Full weights of a reduced run are formed when
        they are accessed.
    state : object or None
        Used by `fastdln.resume`; None unless the run was `resumable`.
    compile_seconds : float
        Wall time in which the run waited for kernels to be compiled, or loaded from the disk: some
        seconds in the first run on a machine, less in the first of a process, then 0. Of a resumed
        run, that of all its parts.
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
    compile_seconds: float = 0.0

    @property
    def relative_loss(self) -> np.ndarray:
        """``loss / loss[0]``, float64; 0 where the loss is 0 from the start."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.loss == 0, 0.0, self.loss / self.loss[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained network and the losses to an ``.npz`` archive.

        `fastdln.Network.load` reads the network, and `numpy.load` the arrays ``loss``,
        ``learning_rate``, ``status`` and ``seconds`` beside the layers ``0``, ``1``, ….

        Parameters
        ----------
        path : path-like
            Written whole or not at all: an existing file stays until the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        details = {name: np.asarray(getattr(self, name)) for name in RUN_ARRAYS}
        write_archive(path, self.network.weights, details)

    def __repr__(self) -> str:
        return (
            f"TrainResult({self.status} after {self.steps_taken} steps,"
            f" relative loss {self.relative_loss[-1]:.3g}, {self.method},"
            f" {self.seconds:.3g} s on {self.device})"
        )
