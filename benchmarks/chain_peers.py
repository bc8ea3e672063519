"""One step of gradient descent on a deep linear network, as written in other libraries."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import common

# Inputs and outputs of the paper's problem after its reduction.
D, Q = 16, 10
RATE = 1e-6
PEERS = ["numpy", "torch", "autograd", "jax"]


def problem(case: str, dtype: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return layers, inputs S (d, d) and targets T (q, d) of a seeded network."""
    width, depth = common.shape_of(case)
    rng = np.random.default_rng(0)
    widths = (D, *(width,) * (depth - 1), Q)
    layers = [
        (rng.standard_normal((m, n), dtype=np.float32) / np.sqrt(n)).astype(dtype)
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    return layers, np.eye(D, dtype=dtype), rng.standard_normal((Q, D)).astype(dtype)


def activations(layers: list[Any], S: Any) -> list[Any]:
    """Return the inputs of every layer, and M S."""
    hidden = [S]
    for w in layers:
        hidden.append(w @ hidden[-1])
    return hidden


def numpy_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Return hand-written backpropagation in NumPy with in-place updates."""
    layers, S, T = problem(case, dtype)
    rate = layers[0].dtype.type(RATE)

    def run(steps: int) -> None:
        for _ in range(steps):
            hidden = activations(layers, S)
            G = hidden.pop() - T
            for w, h in zip(reversed(layers), reversed(hidden), strict=True):
                below = w.T @ G
                w -= rate * (G @ h.T)
                G = below

    return run


def torch_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Return hand-written backpropagation in PyTorch, updates fused into products by ``addmm_``."""
    torch = common.peer("torch")
    arrays, S, T = problem(case, dtype)
    layers, S, T = [torch.from_numpy(w) for w in arrays], torch.from_numpy(S), torch.from_numpy(T)

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                hidden = activations(layers, S)
                G = hidden.pop() - T
                for w, h in zip(reversed(layers), reversed(hidden), strict=True):
                    below = w.T @ G
                    w.addmm_(G, h.T, alpha=-RATE)
                    G = below

    return run


def autograd_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Return steps by PyTorch's autograd and ``torch.optim.SGD``."""
    torch = common.peer("torch")
    arrays, S, T = problem(case, dtype)
    layers = [torch.nn.Parameter(torch.from_numpy(w)) for w in arrays]
    S, T = torch.from_numpy(S), torch.from_numpy(T)
    optimizer = torch.optim.SGD(layers, lr=RATE)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            h = S
            for w in layers:
                h = w @ h
            (0.5 * ((h - T) ** 2).sum()).backward()
            optimizer.step()

    return run


def jax_steps(case: str, dtype: str) -> Callable[[int], None]:
    """Return steps by ``jax.jit`` over a scan of the hidden layers, with donated weights."""
    jax = common.peer("jax")
    jnp = jax.numpy
    arrays, S, T = problem(case, dtype)
    state = [jnp.asarray(arrays[0]), jnp.asarray(np.stack(arrays[1:-1])), jnp.asarray(arrays[-1])]

    def loss(weights: list[Any]) -> Any:
        first, hidden, last = weights
        h, _ = jax.lax.scan(lambda h, w: (w @ h, None), first @ S, hidden)
        return 0.5 * jnp.sum((last @ h - T) ** 2)

    def step(weights: list[Any]) -> list[Any]:
        slopes = jax.grad(loss)(weights)
        return [w - RATE * g for w, g in zip(weights, slopes, strict=True)]

    compiled = jax.jit(step, donate_argnums=0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state)
        state[0].block_until_ready()

    return run


MAKERS = {"numpy": numpy_steps, "torch": torch_steps, "autograd": autograd_steps, "jax": jax_steps}


def available() -> list[str]:
    """Return the peers that are installed."""
    found = []
    for name in PEERS:
        try:
            common.peer("torch" if name == "autograd" else name)
        except NotImplementedError:
            continue
        found.append(name)
    return found
