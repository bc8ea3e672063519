"""Training steps and sampling by PyTorch, JAX and CuPy, the peers of `benchmarks.gpu`."""

import os

import numpy as np

# JAX would reserve three quarters of the GPU's memory at its first use.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Inputs and outputs of all networks.
D, Q = 16, 10


def problem(d=D, q=Q):
    """Return a regression from d inputs to q outputs."""
    import fastdln

    rng = np.random.default_rng(0)
    return fastdln.Regression(rng.standard_normal((d, d)), rng.standard_normal((q, d))).reduced


def host_layers(networks, width, depth, d=D, q=Q):
    """Return the peers' layers, each of shape (networks, rows, columns); hidden layers repeat."""
    rng = np.random.default_rng(0)
    shapes = [(width, d), (width, width), (q, width)]
    first, hidden, last = (
        (rng.standard_normal((networks, *s), np.float32) / s[0] ** 0.5).astype(np.float32)
        for s in shapes
    )
    return [first, *[hidden] * (depth - 2), last]


def two_pass(weights, matmul, transpose, subtract, s, target):
    """Take one two-pass step on stacks of networks, by a peer's operations."""
    above, product = [], weights[-1]
    for w in weights[-2::-1]:
        above.append(product)
        product = matmul(product, w)
    C = (product * s - target) * s
    for w in weights[:-1]:
        B = above.pop()
        following = matmul(C, transpose(w))
        subtract(w, B, C)
        C = following
    subtract(weights[-1], None, C)


def torch_steps(networks, width, depth):
    """Return PyTorch's steps, eager and captured in a CUDA graph."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    weights = [torch.tensor(w, device="cuda") for w in host_layers(networks, width, depth)]
    p = problem()
    s, target = (torch.tensor(a, device="cuda", dtype=torch.float32) for a in (p.scale, p.target))

    def subtract(w, B, C):
        if B is None:
            w.add_(C, alpha=-1e-12)
        else:
            w.baddbmm_(B.mT, C, alpha=-1e-12)

    def step():
        two_pass(weights, torch.matmul, lambda w: w.mT, subtract, s, target)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return {
        "torch eager": lambda: (step(), torch.cuda.synchronize()),
        "torch CUDA graph": lambda: (graph.replay(), torch.cuda.synchronize()),
    }


def cupy_steps(networks, width, depth):
    """Return plain CuPy's step."""
    import cupy

    weights = [cupy.asarray(w) for w in host_layers(networks, width, depth)]
    p = problem()
    s, target = (cupy.asarray(a, dtype=np.float32) for a in (p.scale, p.target))

    def subtract(w, B, C):
        w -= np.float32(1e-12) * (C if B is None else cupy.matmul(B.transpose(0, 2, 1), C))

    def step():
        two_pass(weights, cupy.matmul, lambda w: w.transpose(0, 2, 1), subtract, s, target)
        cupy.cuda.get_current_stream().synchronize()

    return {"CuPy": step}


def jax_steps(networks, width, depth):
    """Return JAX's step: jitted, with a scan over the hidden layers."""
    import jax
    import jax.numpy as jnp

    if jax.devices()[0].platform != "gpu":
        raise RuntimeError("JAX is installed without a GPU")
    host = host_layers(networks, width, depth)
    p = problem()
    s, target = jnp.asarray(p.scale, jnp.float32), jnp.asarray(p.target, jnp.float32)
    high = jax.lax.Precision.HIGHEST

    def product(a, b):
        return jnp.matmul(a, b, precision=high)

    def step(first, hidden, last):
        def down(B, w):
            return product(B, w), B

        top, above = jax.lax.scan(down, last, hidden, reverse=True)
        G = (product(top, first) * s - target) * s

        def up(C, pair):
            w, B = pair
            return product(C, w.mT), w - 1e-12 * product(B.mT, C)

        C, moved = jax.lax.scan(up, product(G, first.mT), (hidden, above))
        return first - 1e-12 * product(top.mT, G), moved, last - 1e-12 * C

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    state = [jnp.asarray(host[0]), jnp.stack([jnp.asarray(host[1])] * (depth - 2)), None]
    state[2] = jnp.asarray(host[-1])

    def run():
        state[:] = compiled(*state)
        jax.block_until_ready(state)

    return {"JAX jit + scan": run}


def haar_peers(n, count):
    """Return each peer's sampling of `count` matrices by QR; CuPy and PyTorch correct no signs."""
    found = {}
    try:
        import cupy

        def by_cupy():
            cupy.linalg.qr(cupy.random.standard_normal((count, n, n), np.float32))
            cupy.cuda.get_current_stream().synchronize()

        found["cupy.linalg.qr"] = by_cupy
    except ImportError:
        pass
    try:
        import torch

        def by_torch():
            torch.linalg.qr(torch.randn(count, n, n, device="cuda"))
            torch.cuda.synchronize()

        found["torch.linalg.qr"] = by_torch
    except ImportError:
        pass
    try:
        import jax

        def by_jax():
            if jax.devices()[0].platform != "gpu":
                raise RuntimeError("JAX is installed without a GPU")
            jax.block_until_ready(jax.random.orthogonal(jax.random.key(0), n, (count,)))

        found["jax.random.orthogonal"] = by_jax
    except ImportError:
        pass
    return found
