"""Haar sampling: the law, the matrices of a seed, refusals.

The tests of the law have fixed seeds; for a random seed each would fail a correct sampler with
probability below LEVEL per p-value it takes. Each is also given two samplers known to be
wrong, a QR factorisation without the sign fix (Mezzadri 2007, §5) and Stewart's reflectors
without the diagonal of signs (RandomMatrices.jl issue 65), and has to reject both.
"""

import numpy as np
import pytest
from scipy import stats

import fastdln
from fastdln.backends.cpu import haar as cpu_haar
from fastdln.backends.gpu import device as gpu_device
from fastdln.backends.gpu import haar as gpu_haar
from fastdln.utils import memory

LEVEL = 1e-4


N, COUNT = 8, 6000


def ours(count, n, seed, dtype="float64"):
    return fastdln.haar_orthogonal(n, size=count, seed=seed, dtype=dtype).astype(np.float64)


def ours_single(count, n, seed):
    return ours(count, n, seed, "float32")


def qr_without_signs(count, n, seed):
    x = np.random.default_rng(seed).standard_normal((count, n, n))
    return np.linalg.qr(x).Q


def stewart_without_signs(count, n, seed):
    generator = np.random.default_rng(seed)
    Q = np.broadcast_to(np.eye(n), (count, n, n)).copy()
    for j in reversed(range(n)):
        v = generator.standard_normal((count, n - j))
        v[:, 0] += np.where(v[:, 0] < 0, -1, 1) * np.linalg.norm(v, axis=1)
        v /= np.linalg.norm(v, axis=1)[:, None]
        Q[:, j:] -= 2 * v[:, :, None] * np.einsum("ci,cij->cj", v, Q[:, j:])[:, None]
    return Q


def entries(draw):
    """(q + 1)/2 ~ Beta((n − 1)/2, (n − 1)/2) for every entry q."""
    Q = draw(COUNT, N, 1)
    law = stats.beta((N - 1) / 2, (N - 1) / 2)
    places = ((0, 0), (0, N - 1), (N - 1, 0), (N - 1, N - 1), (3, 4), (4, 4))
    return [stats.kstest((Q[:, i, j] + 1) / 2, law.cdf).pvalue for i, j in places]


def invariance(draw, left):
    """Tr OQ and Tr Q have one law, for a fixed orthogonal O on either side."""
    O = stats.ortho_group.rvs(N, random_state=np.random.default_rng(5))
    Q, other = draw(COUNT, N, 2), draw(COUNT, N, 3)
    moved = O @ Q if left else Q @ O
    values = [(np.trace(m, axis1=1, axis2=2), m[:, 0, 0]) for m in (moved, other)]
    return [stats.ks_2samp(a, b).pvalue for a, b in zip(*values, strict=True)]


def determinants(draw):
    """Either sign has probability one half, in even and odd dimension."""
    positive = [int((np.linalg.det(draw(COUNT, n, 4)) > 0).sum()) for n in (2, 5, N)]
    return [stats.binomtest(k, COUNT).pvalue for k in positive]


def traces(draw):
    """Tr Qᵏ has mean 1{k even} and variance k (Diaconis & Shahshahani 1994; exact for n ≥ 2k)."""
    Q = power = draw(COUNT, 20, 5)
    pvalues = []
    for k in range(1, 5):
        t = np.trace(power, axis1=1, axis2=2) - (k % 2 == 0)
        z = t.mean() / np.sqrt(k / COUNT), (np.mean(t**2) / k - 1) / np.sqrt(2 / COUNT)
        pvalues += [2 * stats.norm.sf(abs(x)) for x in z]
        power = power @ Q
    return pvalues


def repulsion(draw):
    """The least gap of the eigenangles, and one angle, as of scipy's sampler."""
    values = []
    reference = stats.ortho_group.rvs(N, COUNT, random_state=np.random.default_rng(6))
    for Q in (draw(COUNT, N, 7), reference):
        angles = np.sort(np.angle(np.linalg.eigvals(Q)), axis=1)
        values.append((np.diff(angles, axis=1)[:, N // 2 :].min(axis=1), angles[:, N - 2]))
    return [stats.ks_2samp(a, b).pvalue for a, b in zip(*values, strict=True)]


def corners(draw):
    """The 2 × 2 corner C: det C = ±√(B₁B₂), Bᵢ Beta, and aᵀCb has an entry's law."""
    C = draw(COUNT, N, 8)[:, :2, :2]
    generator = np.random.default_rng(9)
    beta = [generator.beta(a, (N - 2) / 2, 10 * COUNT) for a in (1, 0.5)]
    reference = np.sqrt(beta[0] * beta[1]) * generator.choice([-1, 1], 10 * COUNT)
    law = stats.beta((N - 1) / 2, (N - 1) / 2)
    return [
        stats.ks_2samp(np.linalg.det(C), reference).pvalue,
        stats.kstest((C.sum(axis=(1, 2)) / 2 + 1) / 2, law.cdf).pvalue,
    ]


LAWS = {
    "entries": entries,
    "left invariance": lambda draw: invariance(draw, left=True),
    "right invariance": lambda draw: invariance(draw, left=False),
    "determinants": determinants,
    "traces": traces,
    "repulsion": repulsion,
    "corners": corners,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("draw", [ours, ours_single])
def test_the_law_is_haar(law, draw):
    assert min(law(draw)) > LEVEL


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("draw", [qr_without_signs, stewart_without_signs])
def test_wrong_samplers_are_rejected(law, draw):
    assert min(law(draw)) < 1e-8


def test_eigenangles_repel():
    # Independent angles come within a tenth of their mean distance about once in ten times,
    # repelling ones (density like s) once in a hundred: 6 standard errors to either side.
    angles = np.sort(np.angle(np.linalg.eigvals(ours(500, 40, 10))), axis=1)
    gaps = np.diff(angles, axis=1)[:, 20:].ravel() * 40 / (2 * np.pi)
    assert np.mean(gaps < 0.1) < 0.03


@pytest.mark.parametrize(("n", "p"), [(2, 1), (9, 3), (40, 35)])
def test_frames_are_uniform(n, p):
    Q = fastdln.haar_orthogonal(n, p, size=COUNT, seed=11)
    law = stats.beta((n - 1) / 2, (n - 1) / 2)
    for i, j in {(0, 0), (0, p - 1), (n - 1, 0), (n - 1, p - 1)}:
        assert stats.kstest((Q[:, i, j] + 1) / 2, law.cdf).pvalue > LEVEL


def test_special_matrices_are_uniform_on_so():
    # SO(2) is the circle; in SO(n) every entry has the law it has in O(n).
    Q = fastdln.haar_orthogonal(2, size=COUNT, seed=12, special=True)
    angle = np.arctan2(Q[:, 1, 0], Q[:, 0, 0]) / (2 * np.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > LEVEL
    Q = fastdln.haar_orthogonal(5, size=COUNT, seed=13, special=True)
    np.testing.assert_allclose(np.linalg.det(Q), 1)
    law = stats.beta(2, 2)
    for i, j in ((0, 0), (4, 4), (0, 4)):
        assert stats.kstest((Q[:, i, j] + 1) / 2, law.cdf).pvalue > LEVEL


def test_dimension_one_is_a_random_sign():
    Q = fastdln.haar_orthogonal(1, size=COUNT, seed=14)
    np.testing.assert_allclose(np.abs(Q), 1, rtol=1e-15)
    assert stats.binomtest(int((Q > 0).sum()), COUNT).pvalue > LEVEL
    np.testing.assert_allclose(fastdln.haar_orthogonal(1, size=9, special=True), 1, rtol=1e-15)


def test_batches_have_the_shape_asked_for():
    assert fastdln.haar_orthogonal(3).shape == (3, 3)
    assert fastdln.haar_orthogonal(3, 2, size=4).shape == (4, 3, 2)
    assert fastdln.haar_orthogonal(3, 2, size=(2, 5)).shape == (2, 5, 3, 2)
    assert fastdln.haar_orthogonal(3, size=(2, 0)).shape == (2, 0, 3, 3)
    assert fastdln.haar_orthogonal(3, size=()).shape == (3, 3)
    flat = fastdln.haar_orthogonal(3, size=10, seed=1)
    np.testing.assert_array_equal(
        fastdln.haar_orthogonal(3, size=(2, 5), seed=1).reshape(flat.shape), flat
    )
    assert flat.flags.c_contiguous


def test_values_are_pinned():
    # The matrix of a seed may never change. Processors without fused multiply-add round otherwise.
    Q = fastdln.haar_orthogonal(3, size=2, seed=2020)
    expected = [
        [-0.9856148556329115, 0.11594617775996445, 0.1229627594785104],
        [-0.11835562945376818, -0.9928932173697061, -0.01245005533463681],
        [-0.12064535354632434, 0.026824294288721212, -0.9923331879482792],
        [-0.3265270681778731, 0.8444529888310983, -0.4245930091291985],
        [0.944397727148375, 0.30984707908014203, -0.11003508777879628],
        [-0.03863944492543343, 0.4369141073938097, 0.8986729416512578],
    ]
    np.testing.assert_allclose(Q.reshape(6, 3), expected, rtol=1e-13)
    Q = fastdln.haar_orthogonal(40, 34, seed=7)
    expected = [-0.21390899625851909, 0.37055740128605924, 0.2442750978992455]
    np.testing.assert_allclose(Q[[0, 17, 39], [0, 32, 33]], expected, rtol=1e-12)


def test_no_seed_means_another_matrix_each_time():
    assert (fastdln.haar_orthogonal(4) != fastdln.haar_orthogonal(4)).any()
    generator = np.random.default_rng(1)
    draws = [fastdln.haar_orthogonal(4, seed=generator) for _ in range(2)]
    assert (draws[0] != draws[1]).any()


def test_out_is_filled_and_returned(dtype):
    out = np.full((2, 5, 3), np.nan, dtype)
    assert fastdln.haar_orthogonal(5, 3, size=2, seed=1, dtype=dtype, out=out) is out
    np.testing.assert_array_equal(out, fastdln.haar_orthogonal(5, 3, size=2, seed=1, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": -3}, ValueError, "n must be at least 1"),
        ({"n": 2.0}, TypeError, "n must be"),
        ({"n": True}, TypeError, "n must be"),
        ({"n": 3, "p": 0}, ValueError, "p must be at least 1"),
        ({"n": 3, "p": 4}, ValueError, "p must be at most n"),
        ({"n": 3, "size": -1}, ValueError, "size must be at least 0"),
        ({"n": 3, "size": (2, -1)}, ValueError, "size must be at least 0"),
        ({"n": 3, "size": 1.5}, TypeError, "size must be"),
        ({"n": 3, "size": (1.5,)}, TypeError, "size must be"),
        ({"n": 3, "dtype": "int32"}, TypeError, "dtype must be"),
        ({"n": 3, "dtype": "float16"}, TypeError, "dtype must be"),
        ({"n": 3, "dtype": "quadruple"}, TypeError, "dtype must be"),
        ({"n": 3, "p": 2, "special": True}, ValueError, "special needs square"),
        ({"n": 3, "seed": -1}, ValueError, "negative"),
        ({"n": 3, "seed": 0.5}, TypeError, "seed must be"),
        ({"n": 3, "device": "tpu"}, ValueError, "device"),
        ({"n": 3, "device": "tpu"}, ValueError, "device must be"),
        ({"n": 3, "out": np.empty((3, 4))}, ValueError, "shape"),
        ({"n": 3, "out": np.empty((3, 3), "f4")}, TypeError, "dtype"),
        ({"n": 3, "out": np.empty((3, 3)).T}, ValueError, "C-contiguous"),
        ({"n": 3, "out": [[0.0]]}, TypeError, "NumPy array"),
    ],
)
def test_bad_input_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        fastdln.haar_orthogonal(**arguments)


def test_batches_that_do_not_fit_are_refused_with_their_bytes(monkeypatch):
    with pytest.raises(MemoryError, match=r"Haar.*bytes.*available"):
        fastdln.haar_orthogonal(10**7)
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with pytest.raises(MemoryError, match="bytes"):
        fastdln.haar_orthogonal(3000)


@pytest.mark.parametrize("device", ["gpu", "cuda:1"])
def test_a_gpu_draws_the_frames_and_keeps_them(device, monkeypatch):
    def on_cpu(gpu, key, kind, first, count, n, p, dtype, special):
        assert gpu == device.replace("cuda", "gpu")
        return cpu_haar.haar_batch(key, kind, first, count, n, p, dtype, special)

    monkeypatch.setattr(gpu_device, "require_gpu", lambda name: name)
    monkeypatch.setattr(gpu_haar, "haar_batch", on_cpu)
    arguments = {"n": 5, "size": (2, 3), "seed": 1, "special": True, "dtype": "float32"}
    drawn = fastdln.haar_orthogonal(**arguments, device=device)
    np.testing.assert_array_equal(drawn, fastdln.haar_orthogonal(**arguments))
    with pytest.raises(ValueError, match="out must be None on 'gpu"):
        fastdln.haar_orthogonal(3, device=device, out=np.empty((3, 3)))


@pytest.mark.parametrize(("n", "size"), [(5, 40), (300, None)])
def test_the_bits_do_not_depend_on_the_number_of_threads(n, size, monkeypatch):
    monkeypatch.setenv("FASTDLN_NUM_THREADS", "3")
    found = [fastdln.haar_orthogonal(n, size=size, seed=3, threads=count) for count in (None, 1)]
    np.testing.assert_array_equal(*found)
