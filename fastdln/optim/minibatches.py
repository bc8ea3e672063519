"""The seeded schedule of minibatches: the samples of each step."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from fastdln.kernels.cpu.batched_drawing import fill_streams
from fastdln.objectives.base import Objective
from fastdln.rng import Stream, stream_id

# Samples of the epochs that are permuted at a time: one call an epoch takes longer than its sorting
# where there are few samples.
BLOCK_SAMPLES = 1 << 11


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

    def several(self, step: int, count: int) -> np.ndarray:
        """Return the indices of the samples of `count` steps from `step` on, (count, size)."""
        parts = self.n // self.size
        epoch, part = divmod(self.first_step + step, parts)
        epochs = range(epoch, epoch + (part + count - 1) // parts + 1)
        orders = np.stack([_permutation(self.n, self.key, e) for e in epochs])
        return orders[:, : parts * self.size].reshape(-1, self.size)[part : part + count]

    def after(self, steps: int) -> "Minibatches":
        """Return the schedule that begins `steps` steps later."""
        return dataclasses.replace(self, first_step=self.first_step + steps)


def _permutation(n: int, key: int, epoch: int) -> np.ndarray:
    size = max(1, BLOCK_SAMPLES // n)
    return _permutations(n, key, epoch // size, size)[epoch % size]


@functools.lru_cache(maxsize=128)  # networks trained in batches request their epochs in turn
def _permutations(n: int, key: int, block: int, size: int) -> np.ndarray:
    """Return the permutations of `size` epochs from number ``block·size`` on."""
    normals = np.empty((size, n))
    fill_streams(np.uint64(key), np.uint64(stream_id(Stream.MINIBATCH, block * size)), normals)
    return np.argsort(normals, axis=1, kind="stable")


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
