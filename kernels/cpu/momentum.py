"""Pass 2 with momentum: Polyak's and Nesterov's, with weight decay in the gradient.

With gradient g of a layer, ``v := μ v + g + λ w`` and then ``w −= η v`` (Polyak) or
``w −= η (g + λ w + μ v)`` (Nesterov), in the form of Sutskever et al. 2013 that PyTorch uses.
"""

import numpy as np

from fastdln.kernels.cpu.gemm import ACCUMULATE, ONE
from fastdln.kernels.cpu.groups import Member, MomentumStep, Network, Operand, Workspace
from fastdln.kernels.cpu.jit import inlined, kernel, part
from fastdln.kernels.cpu.layout import OFFSET, STRIDE
from fastdln.kernels.cpu.row_updates import update_by_rows
from fastdln.kernels.cpu.two_pass import add_gradient


@kernel
def update_layers_with_momentum(
    network: Network, workspace: Workspace, step: MomentumStep, member: Member
) -> None:
    """Update every layer by momentum and form the co-states.

    Parameters
    ----------
    network : Network
    workspace : Workspace
        C holds G itself on entry, not scaled by a step size.
    step : MomentumStep
    member : Member
    """
    update_by_rows(_update_block, _update_row, network, workspace, step, member)


@part
def _update_block(
    network: Network, C: Operand, step: MomentumStep, layer: int, row: int, rows: int
) -> None:
    stride = network.layers[layer, STRIDE]
    w = network.layers[layer, OFFSET] + row * stride
    weights, velocity = (
        network.weights[w : w + rows * stride],
        step.velocity[w : w + rows * stride],
    )
    _decay(weights, velocity, step, layer)
    out = Operand(step.velocity, w, stride, ONE)
    add_gradient(network, C, out, layer, row, rows, ACCUMULATE)
    _move(weights, velocity, step, layer)


@part
def _update_row(
    weights: np.ndarray,
    gradient: np.ndarray,
    step: MomentumStep,
    layer: int,
    w: int,
    g: int,
    size: int,
) -> None:
    row, velocity = weights[w : w + size], step.velocity[w : w + size]
    _decay(row, velocity, step, layer)
    # A loop, not an array expression, which would take seconds to compile.
    for j in range(velocity.size):
        velocity[j] += gradient[g + j]
    _move(row, velocity, step, layer)


@inlined
def _decay(weights: np.ndarray, velocity: np.ndarray, step: MomentumStep, layer: int) -> None:
    """``v := μ v + λ w``; for Nesterov first ``w += η μ v`` with the old velocity."""
    rate, weight_decay = step.step_sizes[layer], step.weight_decays[layer]
    for j in range(weights.size):
        v, w = velocity[j], weights[j]
        velocity[j] = step.momentum * v + weight_decay * w
        if step.nesterov:
            weights[j] = w + rate * step.momentum * v


@inlined
def _move(weights: np.ndarray, velocity: np.ndarray, step: MomentumStep, layer: int) -> None:
    """``w −= η v``, or Nesterov's ``w −= η (1 + μ) v``."""
    rate = step.step_sizes[layer]
    one = weights.dtype.type(1)  # a literal 1 would make the factor float64
    factor = rate * (one + step.momentum) if step.nesterov else rate
    for j in range(weights.size):
        weights[j] -= factor * velocity[j]
