"""Time Haar sampling against SciPy, PyTorch and JAX, and against the machine's limits."""

import numpy as np

import fastdln
from fastdln.rng import standard_normal

from .common import matmul_flops, medians, normals_per_second, ours_over_fastest, peer

SIZES = [(4, 8), (32, 700), (100, 200), (256, 32), (1000, 4)]
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


def available_peers(n, count, dtype):
    """Return the installed peers that sample in this dtype."""
    found = {}
    for name, build in PEERS.items():
        try:
            found[name] = build(n, count, dtype)
        except NotImplementedError:
            continue
    return found


def limit(n, count, dtype):
    """Return the seconds of the normals plus those of 4/3 n³ flops at the matrix-product rate."""
    each = n * (n + 1) / 2 / normals_per_second() + 4 / 3 * n**3 / matmul_flops(dtype)
    return count * each


class Haar:
    params = [SIZES, DTYPES]
    param_names = ["(n, matrices)", "dtype"]

    def setup(self, size, dtype):
        n, count = size
        self.sample = lambda: fastdln.haar_orthogonal(n, size=count, seed=1, dtype=dtype)
        self.sample()

    def time_fastdln(self, size, dtype):
        self.sample()

    def track_time_over_fastest_peer(self, size, dtype):
        peers = available_peers(*size, dtype)
        if not peers:
            raise NotImplementedError("no peer is installed")
        return ours_over_fastest("fastdln", medians({"fastdln": self.sample, **peers}))

    def track_time_over_limit(self, size, dtype):
        return medians({"fastdln": self.sample}, 9)["fastdln"] / limit(*size, dtype)


class Peers:
    params = [SIZES, DTYPES, list(PEERS)]
    param_names = ["(n, matrices)", "dtype", "peer"]

    def setup(self, size, dtype, name):
        self.sample = PEERS[name](*size, dtype)
        self.sample()

    def time_sample(self, size, dtype, name):
        self.sample()


class TallFrames:
    params = [[(1000, 4), (10_000, 1000), (1_000_000, 26)], DTYPES]
    param_names = ["(n, p)", "dtype"]

    def setup(self, shape, dtype):
        self.sample = lambda: fastdln.haar_orthogonal(*shape, seed=1, dtype=dtype)
        self.sample()

    def time_frame(self, shape, dtype):
        self.sample()


class Reflectors:
    params = [[(100, 100), (10_000, 10_000), (1_000_000, 1024)], DTYPES]
    param_names = ["(n, p)", "dtype"]
    timeout = 300

    def setup(self, shape, dtype):
        n, p = shape
        self.frame = fastdln.HaarReflectors(n, p, seed=1, dtype=dtype)
        self.X = np.ones((p, 16), dtype)

    def time_apply(self, shape, dtype):
        self.frame.apply(self.X)

    def peakmem_apply(self, shape, dtype):
        self.frame.apply(self.X)


class Normals:
    params = [DTYPES]
    param_names = ["dtype"]

    def setup(self, dtype):
        self.out = np.empty(1 << 20, dtype)
        self.generator = np.random.default_rng(0)
        self.fill()

    def fill(self):
        standard_normal(1, 2, self.out.shape, self.out.dtype, self.out)

    def time_fill(self, dtype):
        self.fill()

    def track_time_over_numpy(self, dtype):
        numpy_fill = lambda: self.generator.standard_normal(out=self.out, dtype=self.out.dtype)
        return ours_over_fastest("fastdln", medians({"fastdln": self.fill, "numpy": numpy_fill}))
