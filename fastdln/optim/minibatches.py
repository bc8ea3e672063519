"""The seeded schedule of minibatches: the samples of each step."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from fastdln.objectives.base import Objective
from fastdln.rng import Stream, standard_normal, stream_id


@dataclass(frozen=True)
class Minibatches:
    """The samples of every step: consecutive parts of a permutation drawn for each epoch.

    An epoch's permutation sorts the normals of the epoch's own stream, so that it is the same in
    every version, and the batch of any step can be computed without the earlier ones.

    Attributes
    ----------
    n, size : int
        Number of samples, and samples of a step.
    key : int
        The seed's key.
    first_step : int
        Steps of the run before step 0 of this schedule.
    """

    n: int
    size: int
    key: int
    first_step: int = 0

    def __call__(self, step: int) -> np.ndarray:
        """Return the indices of a step's samples, shape (size,)."""
        epoch, part = divmod(self.first_step + step, self.n // self.size)
        return _permutation(self.n, self.key, epoch)[part * self.size : (part + 1) * self.size]

    def after(self, steps: int) -> "Minibatches":
        """Return the schedule that begins `steps` steps later."""
        return dataclasses.replace(self, first_step=self.first_step + steps)


@functools.lru_cache(maxsize=64)  # networks trained in a batch request their epochs in turn
def _permutation(n: int, key: int, epoch: int) -> np.ndarray:
    normals = standard_normal(key, stream_id(Stream.MINIBATCH, epoch), (n,))
    return np.argsort(normals, kind="stable")


def minibatches(problem: Objective, batch_size: int | None, key: int) -> Minibatches | None:
    """Return the seeded schedule of minibatches, None for the full batch.

    Raises
    ------
    TypeError, ValueError
        If the problem has no minibatches, or fewer samples.
    """
    if batch_size is None:
        return None
    for name in ("batch_gradient", "n"):
        if not hasattr(problem, name):
            raise TypeError(
                f"a {type(problem).__name__} has no {name}, so batch_size must be left out"
            )
    n: int = getattr(problem, "n")  # noqa: B009 - an optional member of an objective
    if batch_size > n:
        raise ValueError(f"batch_size must be at most the {n} samples, not {batch_size}")
    return Minibatches(n, batch_size, key)
