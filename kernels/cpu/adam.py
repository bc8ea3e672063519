"""Pass 2 with Adam (Kingma & Ba 2015)."""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.gemm import ONE, OVERWRITE, ZERO
from fastdln.kernels.cpu.groups import AdamStep, Member, Network, Operand, Workspace
from fastdln.kernels.cpu.jit import inlined, kernel, part
from fastdln.kernels.cpu.layout import OFFSET, STRIDE, Layout
from fastdln.kernels.cpu.row_updates import update_by_rows
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import add_gradient


def gradient_size(layout: Layout) -> int:
    """Return the elements that each team member needs for the gradient of a row block."""
    return max(lanes(layout.dtype), 4) * layout.widest


class _Step(NamedTuple):
    """An `AdamStep` with one member's part of `gradient`, 1 − β and 1 − βᵗ."""

    adam: AdamStep
    gradient: np.ndarray
    new1: np.floating
    new2: np.floating
    first: np.floating
    second: np.floating


@kernel
def update_layers_with_adam(
    network: Network, workspace: Workspace, step: AdamStep, number: int, member: Member
) -> None:
    """Update every layer by Adam and form the co-states.

    Parameters
    ----------
    network : Network
    workspace : Workspace
        C holds G itself on entry, not scaled by a step size.
    step : AdamStep
    number : int
        Number of this step, from 1.
    member : Member
    """
    each = step.gradient.size // member.team
    gradient = step.gradient[member.rank * each : (member.rank + 1) * each]
    # Not a literal 1, which would make all arithmetic float64 and therefore slower.
    kind, beta1, beta2 = network.weights.dtype.type, step.beta1, step.beta2
    new1, new2 = kind(1) - beta1, kind(1) - beta2
    first, second = kind(1 - beta1**number), kind(1 - beta2**number)
    adam = _Step(step, gradient, new1, new2, first, second)
    update_by_rows(_update_block, _update_row, network, workspace, adam, member)


@part
def _update_block(
    network: Network, C: Operand, step: _Step, layer: int, row: int, rows: int
) -> None:
    stride = network.layers[layer, STRIDE]
    size = rows * stride
    gradient = step.gradient[:size]
    out = Operand(gradient, ZERO, stride, ONE)
    add_gradient(network, C, out, layer, row, rows, OVERWRITE)
    w = network.layers[layer, OFFSET] + row * stride
    _update_row(network.weights, gradient, step, layer, w, ZERO, size)


@inlined
def _update_row(
    weights: np.ndarray, gradient: np.ndarray, step: _Step, layer: int, w: int, g: int, size: int
) -> None:
    """Take one step element by element; padding has gradient 0 and stays 0."""
    adam = step.adam
    rate, scale = adam.step_sizes[layer], adam.row_scales[layer]
    decay, beta1, beta2 = adam.weight_decay, adam.beta1, adam.beta2
    rows, gradients = weights[w : w + size], gradient[g : g + size]
    means, squares = adam.mean[w : w + size], adam.square[w : w + size]
    for j in range(rows.size):
        slope = gradients[j] / scale + decay * scale * rows[j]
        m = beta1 * means[j] + step.new1 * slope
        v = beta2 * squares[j] + step.new2 * slope * slope
        means[j], squares[j] = m, v
        rows[j] -= rate * (m / step.first) / (np.sqrt(v / step.second) + adam.epsilon)
