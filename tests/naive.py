"""Naive float64 references: loops over layers and steps, nothing fused, nothing reduced."""

import numpy as np


def end_to_end(weights):
    """Return the product of the layers, input first."""
    product = np.asarray(weights[0], dtype=np.float64)
    for w in weights[1:]:
        product = np.asarray(w, dtype=np.float64) @ product
    return product


def backpropagation(weights, G):
    """Return the gradient of every layer from ``G = ∂ℓ/∂M``, by the chain rule."""
    weights = [np.asarray(w, dtype=np.float64) for w in weights]
    below = [np.eye(weights[0].shape[1])]
    for w in weights[:-1]:
        below.append(w @ below[-1])
    above, gradients = np.asarray(G, dtype=np.float64), []
    for w, b in zip(weights[::-1], below[::-1], strict=True):
        gradients.append(above @ b.T)
        above = w.T @ above
    return gradients[::-1]


def train(weights, X, Y, learning_rate, steps):
    """Train the paper's weights ``W_i = √rows Ŵ_i`` on all samples; return losses and ``Ŵ``.

    The factor α is split evenly over the layers as 1/√rows, so that it does not underflow.
    """
    scales = [np.sqrt(w.shape[0]) for w in weights]
    W = [s * np.asarray(w, dtype=np.float64) for s, w in zip(scales, weights, strict=True)]
    losses = []
    for step in range(steps + 1):
        hat = [w / s for s, w in zip(scales, W, strict=True)]
        M = end_to_end(hat)
        residual = M @ X - Y
        losses.append(0.5 * np.sum(residual**2))
        if step < steps:
            gradients = backpropagation(hat, residual @ X.T)
            W = [w - learning_rate * g / s for w, g, s in zip(W, gradients, scales, strict=True)]
    return np.array(losses), [w / s for s, w in zip(scales, W, strict=True)]
