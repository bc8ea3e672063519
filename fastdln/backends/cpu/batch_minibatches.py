"""Losses and minibatch gradients of a batch's networks, by NumPy's products of stacked matrices.

A network that is trained alone evaluates its objective in Python at every step. Here a few NumPy
calls evaluate all networks that share an objective, with the same bits: each matrix of a stack goes
through the same BLAS call, in the same memory order, as it does alone.
"""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.batched import BatchedChain
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.minibatches import Minibatches

# Steps whose samples are looked up at a time.
STEPS = 64


class Sampled(NamedTuple):
    """The objective and the minibatches of the network in one lane."""

    objective: ReducedRegression
    schedule: Minibatches


class MinibatchGradients:
    """Evaluates all networks of a batch, each on its own objective and minibatches.

    Parameters
    ----------
    chain : BatchedChain
    mirrored : bool
        Whether chains are stored transposed and in reverse order.
    """

    def __init__(self, chain: BatchedChain, mirrored: bool):
        self._chain, self._mirrored = chain, mirrored
        self._groups: list[_Group] = []

    def set_lanes(self, sampled: dict[int, Sampled]) -> None:
        """Set the networks to evaluate, by lane."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for lane, (objective, schedule) in sampled.items():
            key = id(objective), schedule.n, schedule.size
            groups.setdefault(key, []).append(lane)
        self._groups = [_Group(lanes, sampled) for lanes in groups.values()]

    def put_losses(self, losses: np.ndarray) -> None:
        """Write the loss of every network, shape (lanes,); nan where M has overflowed."""
        M = self._chain.end_to_end()
        for group in self._groups:
            stacked = np.ascontiguousarray(M[:, :, group.lanes].transpose(2, 0, 1), np.float64)
            # In memory as M of a network alone, which is transposed where it is mirrored.
            group.M = stacked.transpose(0, 2, 1) if self._mirrored else stacked
            losses[group.lanes] = group.losses()

    def put_gradients(self, steps: np.ndarray, factors: np.ndarray) -> None:
        """Write the minibatch gradients at the M of `put_losses`, times factors, for pass 2.

        Parameters
        ----------
        steps : ndarray of int, shape (lanes,)
            The step of each network, which decides its minibatch.
        factors : ndarray of float64, shape (lanes,)
        """
        C = self._chain.gradient()
        for group in self._groups:
            G = group.gradients(steps[group.lanes])
            G *= factors[group.lanes, None, None]
            C[:, :, group.lanes] = G.transpose((2, 1, 0) if self._mirrored else (1, 2, 0))


class _Group:
    """Networks with one objective and minibatches of one size."""

    def __init__(self, lanes: list[int], sampled: dict[int, Sampled]):
        self.lanes = np.array(lanes)
        self._objective = sampled[lanes[0]].objective
        self._schedules = [sampled[lane].schedule for lane in lanes]
        self._samples = [np.ascontiguousarray(data.T) for data in self._objective.samples]
        self._residual = self.M = np.empty((len(lanes), *self._objective.target.shape))
        self._indices, self._first = np.empty((0, 0, 0), np.int64), 0  # of steps from first on

    def losses(self) -> np.ndarray:
        """Return the losses of M, shape (networks, d_y, d); nan where M is not finite."""
        objective, residual, M = self._objective, self._residual, self.M
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(M, objective.scale, out=residual)
            np.subtract(residual, objective.target, out=residual)
            sums = np.sum((residual**2).reshape(len(residual), -1), axis=1)
            losses: np.ndarray = objective.constant + 0.5 * sums
        if not np.isfinite(losses).all():
            losses[~np.isfinite(M).all(axis=(1, 2))] = np.nan
        return losses

    def gradients(self, steps: np.ndarray) -> np.ndarray:
        """Return the minibatch gradients of M, shape (networks, d_y, d)."""
        M, samples = self.M, self._samples_of(steps)
        X, Y = (data[samples].transpose(0, 2, 1) for data in self._samples)
        factor = len(self._samples[0]) / samples.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            G: np.ndarray = (M @ X - Y) @ X.transpose(0, 2, 1) * factor
        return G

    def _samples_of(self, steps: np.ndarray) -> np.ndarray:
        """Return the samples of these steps, shape (networks, size): usually the next ones."""
        number = int(steps[0]) - self._first
        if not 0 <= number < len(self._indices):
            pairs = zip(self._schedules, steps.tolist(), strict=True)
            each = [schedule.several(step, STEPS) for schedule, step in pairs]
            self._indices, self._first, number = np.stack(each, axis=1), int(steps[0]), 0
        return self._indices[number]
