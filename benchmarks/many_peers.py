"""One step of many deep linear networks of one shape at once, as written in PyTorch."""

from collections.abc import Callable

import numpy as np

from . import common
from .chain_peers import RATE, D, Q


def torch_steps(count: int, case: str, dtype: str) -> Callable[[int], None]:
    """Return hand-written backpropagation of `count` networks, one product for a layer of all.

    A layer of all networks is one tensor of shape (count, rows, columns); updates are fused into
    products by ``baddbmm_``.
    """
    torch = common.peer("torch")
    width, depth = common.shape_of(case)
    rng = np.random.default_rng(0)
    widths = (D, *(width,) * (depth - 1), Q)
    layers = [
        torch.from_numpy(
            (rng.standard_normal((count, m, n), dtype=np.float32) / np.sqrt(n)).astype(dtype)
        )
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    S = torch.from_numpy(np.eye(D, dtype=dtype)).expand(count, D, D).contiguous()
    T = torch.from_numpy(rng.standard_normal((Q, D)).astype(dtype))

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                hidden = [S]
                for w in layers:
                    hidden.append(torch.bmm(w, hidden[-1]))
                G = hidden.pop() - T
                for w, h in zip(reversed(layers), reversed(hidden), strict=True):
                    below = torch.bmm(w.transpose(1, 2), G)
                    w.baddbmm_(G, h.transpose(1, 2), alpha=-RATE)
                    G = below

    return run
