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


class Descent:
    """Gradient descent on the paper's weights, with momentum and weight decay."""

    def __init__(self, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.velocity = {}

    def step(self, index, w, g, learning_rate, _):
        g = g + self.weight_decay * w
        v = self.momentum * self.velocity.get(index, 0.0) + g
        self.velocity[index] = v
        return w - learning_rate * (g + self.momentum * v if self.nesterov else v)


class Adam:
    """Adam on the paper's weights, Kingma & Ba 2015, algorithm 1."""

    def __init__(self, weight_decay=0.0):
        self.weight_decay = weight_decay
        self.mean, self.square = {}, {}

    def step(self, index, w, g, learning_rate, t):
        g = g + self.weight_decay * w
        m = self.mean[index] = 0.9 * self.mean.get(index, 0.0) + 0.1 * g
        v = self.square[index] = 0.999 * self.square.get(index, 0.0) + 0.001 * g**2
        return w - learning_rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def train_objective(weights, objective, learning_rate, steps, optimizer=None, batch=None):
    """Train the paper's weights ``W_i = √rows Ŵ_i`` on an objective; return losses and ``Ŵ``.

    The factor α is split evenly over the layers as 1/√rows, so that it does not underflow.
    """
    optimizer = optimizer or Descent()
    scales = [np.sqrt(w.shape[0]) for w in weights]
    W = [s * np.asarray(w, dtype=np.float64) for s, w in zip(scales, weights, strict=True)]
    losses = []
    for step in range(steps + 1):
        hat = [w / s for s, w in zip(scales, W, strict=True)]
        M = end_to_end(hat)
        losses.append(objective.loss(M))
        if step < steps:
            G = objective.gradient(M) if batch is None else batch(M, step)
            gradients = backpropagation(hat, G)
            W = [
                optimizer.step(i, w, g / s, learning_rate, step + 1)
                for i, (w, g, s) in enumerate(zip(W, gradients, scales, strict=True))
            ]
    return np.array(losses), [w / s for s, w in zip(scales, W, strict=True)]


class SquaredLoss:
    """``½‖M X − Y‖²`` on all samples, nothing reduced."""

    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def loss(self, M):
        return 0.5 * np.sum((M @ self.X - self.Y) ** 2)

    def gradient(self, M):
        return (M @ self.X - self.Y) @ self.X.T


def train(weights, X, Y, learning_rate, steps, optimizer=None):
    """Train on a regression; return losses and ``Ŵ``."""
    return train_objective(weights, SquaredLoss(X, Y), learning_rate, steps, optimizer)
