"""Haar sampling: the law, one seed one matrix, the implicit form, bad input.

The tests of the law have fixed seeds; for a random seed each would fail a right sampler with
probability below LEVEL per p-value it takes. Each is also given two samplers known to be
wrong, a QR factorisation without the sign fix (Mezzadri 2007, §5) and Stewart's reflectors
without the diagonal of signs (RandomMatrices.jl issue 65), and has to reject both.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import fastdln
from fastdln import rng as random
from fastdln.backends.cpu import haar
from fastdln.backends.cpu.haar import haar_batch
from fastdln.rng import Stream
from fastdln.utils import memory
from fastdln.utils import threads as parallel

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
def test_wrong_samplers_are_found_out(law, draw):
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


# Side by side, batched, split over blocks and panels, and tall: one way of forming each.
SHAPES = [((400,), 33, 33), ((40,), 130, 130), ((3,), 600, 600), ((), 700, 650), ((2,), 40_000, 5)]


@pytest.mark.parametrize(("size", "n", "p"), SHAPES)
def test_threads_change_no_bit(size, n, p, dtype):
    draws = []
    for count in (1, 3):
        with parallel.limited(count):
            draws.append(fastdln.haar_orthogonal(n, p, size=size, seed=1, dtype=dtype))
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(("size", "n", "p"), SHAPES)
def test_columns_are_orthonormal(size, n, p, dtype):
    for Q in fastdln.haar_orthogonal(n, p, size=size, seed=2, dtype=dtype).reshape(-1, n, p):
        gram = Q.astype(np.float64).T @ Q
        assert np.abs(gram - np.eye(p)).max() <= 20 * np.finfo(dtype).eps * n**0.5


@pytest.mark.parametrize(("n", "p"), [(5, 5), (40, 7), (150, 120), (600, 600), (20_000, 3)])
def test_a_matrix_depends_on_its_number_alone(n, p, dtype):
    key = random.seed_key(3)
    batch = haar_batch(key, Stream.HIDDEN_LAYER, 4, 5, n, p, dtype)
    np.testing.assert_array_equal(
        haar_batch(key, Stream.HIDDEN_LAYER, 6, 2, n, p, dtype), batch[2:4]
    )
    assert len({Q.tobytes() for Q in batch}) == 5


@pytest.mark.parametrize("workers", [1, 3])
def test_shared_pieces_are_done_once_and_errors_raised(workers):
    done = []
    haar._share(lambda pieces: done.extend(pieces), list(range(100)), workers)
    assert sorted(done) == list(range(100))
    haar._share(lambda pieces: done.extend(pieces), [], workers)

    def fail(pieces):
        for piece in pieces:
            if piece == 5:
                raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        haar._share(fail, list(range(10)), workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_draws_the_same():
    code = """
import os, fastdln
from fastdln import parallel
draw = lambda: fastdln.haar_orthogonal(20, size=3000, seed=1).tobytes()
with parallel.limited(3):
    first = draw()
    child = os.fork()
    if child == 0:
        os._exit(draw() != first)
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


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
    # What a seed means may never change. Processors without fused multiply-add round otherwise.
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


def test_what_does_not_fit_is_refused_with_its_bytes(monkeypatch):
    with pytest.raises(MemoryError, match=r"Haar.*bytes.*available"):
        fastdln.haar_orthogonal(10**7)
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with pytest.raises(MemoryError, match="bytes"):
        fastdln.haar_orthogonal(3000)
    with pytest.raises(MemoryError, match="bytes"):
        fastdln.HaarReflectors(10**6, 2, seed=0).apply(np.ones(2))


REFLECTED = [(1, 1), (2, 1), (33, 33), (70, 65), (300, 300), (2051, 40), (16_400, 35), (40_000, 3)]


@pytest.mark.parametrize(("n", "p"), REFLECTED)
def test_reflectors_are_the_matrix(n, p, dtype, rng):
    Q = fastdln.haar_orthogonal(n, p, seed=5, dtype=dtype)
    implicit = fastdln.HaarReflectors(n, p, seed=5, dtype=dtype)
    assert implicit.shape == Q.shape
    tolerance = 20 * np.finfo(dtype).eps * n**0.5
    np.testing.assert_allclose(implicit.apply(np.eye(p)), Q, atol=tolerance, rtol=0)
    X = rng.standard_normal((n, 5)) / n**0.5
    expected = Q.T.astype(float) @ X
    np.testing.assert_allclose(implicit.apply_transposed(X), expected, atol=tolerance, rtol=0)
    x = implicit @ expected[:, 2]
    assert x.shape == (n,)
    assert x.dtype == dtype
    np.testing.assert_allclose(x, Q.astype(float) @ expected[:, 2], atol=tolerance, rtol=0)


def test_reflectors_of_a_stream_are_its_matrix(dtype):
    Q = haar_batch(11, Stream.HIDDEN_LAYER, 3, 1, 50, 20, dtype)[0]
    stream = random.stream_id(Stream.HIDDEN_LAYER, 3)
    implicit = fastdln.HaarReflectors.from_stream(50, 20, 11, stream, dtype)
    np.testing.assert_allclose(implicit.apply(np.eye(20)), Q, atol=20 * np.finfo(dtype).eps)


def test_threads_change_no_bit_of_an_implicit_product(dtype, rng):
    X = rng.standard_normal((40, 3))
    implicit = fastdln.HaarReflectors(40_000, 40, seed=5, dtype=dtype)
    results = []
    for count in (1, 3):
        with parallel.limited(count):
            Y = implicit.apply(X)
            results.append((Y, implicit.apply_transposed(Y)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][1], X, atol=2000 * np.finfo(dtype).eps)


def test_implicit_products_keep_what_they_are_given():
    implicit = fastdln.HaarReflectors(6, 4, seed=1)
    X = np.ones((4, 2), np.int64)
    X.flags.writeable = False
    assert implicit.apply(X).shape == (6, 2)
    assert implicit.apply(X.T[:, :4].T).shape == (6, 2)
    assert implicit.apply(np.empty((4, 0))).shape == (6, 0)
    assert implicit.apply_transposed(np.empty((6, 0))).shape == (4, 0)
    assert "n=6, p=4" in repr(implicit)
    assert np.isnan(implicit.apply(np.array([1, np.nan, 0, 0]))).all()


@pytest.mark.parametrize(
    ("X", "error"),
    [
        (np.ones((3, 2)), ValueError),
        (np.ones((4, 2, 2)), ValueError),
        (1.0, ValueError),
        (np.ones((4, 2), complex), TypeError),
        (["a"] * 4, TypeError),
    ],
)
def test_unfit_operands_are_refused(X, error):
    with pytest.raises(error, match="X must"):
        fastdln.HaarReflectors(6, 4, seed=1).apply(X)


@pytest.mark.parametrize(("n", "p"), [(0, None), (3, 4), (3, 0), (2.5, None)])
def test_unfit_frames_are_refused(n, p):
    with pytest.raises((TypeError, ValueError), match="must be"):
        fastdln.HaarReflectors(n, p)
