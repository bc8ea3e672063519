"""Time Haar sampling against SciPy, PyTorch and JAX, and against the machine's limits."""

import numpy as np

import fastdln
from fastdln.rng import standard_normal

from .common import matmul_flops, medians, normals_per_second, once, ours_over_fastest, peer

SIZES = [(4, 8), (100, 200), (1000, 4)]
DTYPES = ["float64", "float32"]


def scipy_sampler(n, count, dtype):
    if dtype != "float64":
        raise NotImplementedError("scipy samples in float64 only")
    stats, generator = peer("scipy.stats"), np.random.default_rng(0)
    return lambda: stats.ortho_group.rvs(n, size=count, random_state=generator)


def torch_initializer(n, count, dtype):
    torch = peer("torch")
    matrices = torch.empty(count, n, n, dtype=getattr(torch, dtype))
    return lambda: [torch.nn.init.orthogonal_(matrix) for matrix in matrices]


def torch_batched_qr(n, count, dtype):
    torch = peer("torch")

    def sample():
        Q, R = torch.linalg.qr(torch.randn(count, n, n, dtype=getattr(torch, dtype)))
        return Q * torch.diagonal(R, dim1=-2, dim2=-1).sign()[:, None, :]

    return sample


def jax_sampler(n, count, dtype):
    jax = peer("jax")
    key = jax.random.key(0)
    return lambda: jax.random.orthogonal(key, n, (count,), dtype=dtype).block_until_ready()


PEERS = {
    "scipy": scipy_sampler,
    "torch_initializer": torch_initializer,
    "torch_batched_qr": torch_batched_qr,
    "jax": jax_sampler,
}


def limit(n, count, dtype):
    """Return the seconds of the normals plus those of 4/3 n³ flops at the matrix-product rate."""
    each = n * (n + 1) / 2 / normals_per_second() + 4 / 3 * n**3 / matmul_flops(dtype)
    return count * each


class Haar:
    """Seconds to sample Haar-distributed matrices."""

    params = [SIZES, ["float32"]]
    param_names = ["(n, matrices)", "dtype"]
    rounds = 1
    repeat = (3, 10, 1.0)

    @once
    def setup(self, size, dtype):
        n, count = size
        self.sample = lambda: fastdln.haar_orthogonal(n, size=count, seed=1, dtype=dtype)
        self.sample()

    def time_sample(self, size, dtype):
        self.sample()


class Limit:
    """Ratio of the time to sample Haar-distributed matrices to that of their normals and flops."""

    params = [[(100, 200)], DTYPES]
    param_names = ["(n, matrices)", "dtype"]
    unit = "ratio"

    def track_time_over_limit(self, size, dtype):
        n, count = size
        sample = lambda: fastdln.haar_orthogonal(n, size=count, seed=1, dtype=dtype)
        return medians({"fastdln": sample})["fastdln"] / limit(n, count, dtype)


class Peers:
    """Ratio of fastdln's time to sample to a peer's."""

    params = [[(100, 200)], ["float64"], list(PEERS)]
    param_names = ["(n, matrices)", "dtype", "peer"]
    unit = "ratio"
    timeout = 300

    def setup(self, size, dtype, name):
        self.peer = PEERS[name](*size, dtype)

    def track_time_over_peer(self, size, dtype, name):
        n, count = size
        ours = lambda: fastdln.haar_orthogonal(n, size=count, seed=1, dtype=dtype)
        return ours_over_fastest("fastdln", medians({"fastdln": ours, name: self.peer}))


class TallFrames:
    """Seconds to sample frames: n × p matrices with orthonormal columns."""

    params = [[(1000, 4), (10_000, 100), (1_000_000, 26)], ["float32"]]
    param_names = ["(n, p)", "dtype"]
    rounds = 1
    repeat = (2, 5, 1.0)

    @once
    def setup(self, shape, dtype):
        self.sample = lambda: fastdln.haar_orthogonal(*shape, seed=1, dtype=dtype)
        self.sample()

    def time_frame(self, shape, dtype):
        self.sample()


class Reflectors:
    """Seconds to multiply by an orthogonal matrix kept as reflectors."""

    params = [[(100, 100), (2000, 2000), (1_000_000, 26)], ["float32"]]
    param_names = ["(n, p)", "dtype"]
    rounds = 1
    repeat = (2, 5, 1.0)
    timeout = 300

    @once
    def setup(self, shape, dtype):
        n, p = shape
        self.frame = fastdln.HaarReflectors(n, p, seed=1, dtype=dtype)
        self.X = np.ones((p, 16), dtype)
        self.frame.apply(self.X)

    def time_apply(self, shape, dtype):
        self.frame.apply(self.X)


class Normals:
    """Ratio of the time of fastdln's generator of normals to NumPy's."""

    params = [DTYPES]
    param_names = ["dtype"]
    unit = "ratio"

    def setup(self, dtype):
        self.out = np.empty(1 << 20, dtype)
        self.generator = np.random.default_rng(0)

    def track_time_over_numpy(self, dtype):
        out = self.out
        runs = {
            "fastdln": lambda: standard_normal(1, 2, out.shape, out.dtype, out),
            "numpy": lambda: self.generator.standard_normal(out=out, dtype=out.dtype),
        }
        return ours_over_fastest("fastdln", medians(runs))
