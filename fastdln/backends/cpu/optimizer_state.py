"""The optimiser state of one packed chain, and the optimiser's arguments for the kernels."""

import numpy as np

from fastdln.backends.cpu.packed_chain import PackedChain
from fastdln.kernels.cpu.adam import gradient_size
from fastdln.kernels.cpu.groups import AdamStep, GradientStep, MomentumStep
from fastdln.kernels.cpu.layout import aligned_zeros
from fastdln.optim.optimizers import BETA1, BETA2, EPSILON, LayerRates, Optimizer

Step = GradientStep | MomentumStep | AdamStep


class OptimizerState:
    """The arrays that an optimiser keeps between steps, laid out as the weights.

    Parameters
    ----------
    optimizer : Optimizer
    rates : LayerRates
        Step sizes and weight decay of the layers, input first.
    chain : PackedChain
    team : int
        Maximum size of the team.

    Attributes
    ----------
    arrays : list of ndarray
        Empty for plain gradient descent; else the velocity, or Adam's two running means.
    step : GradientStep, MomentumStep or AdamStep
        The optimiser's group of kernel arguments.
    """

    def __init__(self, optimizer: Optimizer, rates: LayerRates, chain: PackedChain, team: int):
        layout, self._chain = chain.layout, chain
        self.arrays = [
            aligned_zeros(layout.size, layout.dtype) for _ in range(optimizer.state_arrays)
        ]
        self.step = self._step(optimizer, rates, team)

    def _step(self, optimizer: Optimizer, rates: LayerRates, team: int) -> Step:
        layout = self._chain.layout
        order = slice(None, None, -1 if self._chain.mirrored else 1)
        scalar = layout.dtype.type
        step_sizes, row_scales, weight_decays = (
            np.ascontiguousarray(a[order], layout.dtype) for a in rates[:3]
        )
        if optimizer.adam:
            return AdamStep(
                mean=self.arrays[0],
                square=self.arrays[1],
                gradient=aligned_zeros(team * gradient_size(layout), layout.dtype),
                step_sizes=step_sizes,
                row_scales=row_scales,
                weight_decay=scalar(optimizer.weight_decay),
                beta1=scalar(BETA1),
                beta2=scalar(BETA2),
                epsilon=scalar(EPSILON),
            )
        if not optimizer.momentum:
            return GradientStep(step_sizes, scalar(rates.decay_factor))
        momentum = scalar(optimizer.momentum)
        return MomentumStep(self.arrays[0], step_sizes, weight_decays, momentum, optimizer.nesterov)

    @property
    def gradient_factor(self) -> float:
        """Factor of G in the first co-state: plain gradient descent's kernels take ``−η_1 G``."""
        plain = isinstance(self.step, GradientStep)
        return -float(self.step.step_sizes[0]) if plain else 1.0

    def load(self, saved: tuple[tuple[np.ndarray, ...], ...]) -> None:
        """Copy the arrays of a `Checkpoint` into this state."""
        for array, layers in zip(self.arrays, saved, strict=False):
            for i, layer in enumerate(layers):
                self._chain.part(array, i)[:] = layer

    def copies(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of every array's layers, input first, as in `Checkpoint`."""
        depth = self._chain.layout.depth
        return tuple(
            tuple(self._chain.part(array, i).copy() for i in range(depth)) for array in self.arrays
        )
