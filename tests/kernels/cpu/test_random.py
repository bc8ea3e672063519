"""Addressable normals: the generator against published vectors, the transform against libm."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from fastdln.kernels.cpu import random

MASK = 0xFFFFFFFF


def naive_philox(counter, key):
    """Philox4x32-10 in Python integers, word by word as the paper has it."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def naive_pair(key, stream, pair):
    """Box and Muller's two normals by libm."""
    words = (pair & MASK, pair >> 32, stream & MASK, stream >> 32)
    a, b, c, d = naive_philox(words, (key & MASK, key >> 32))
    u = ((a | b << 32) >> 12) / 2**52 + 2**-53
    word = c | d << 32
    angle = (word >> 62) + ((word >> 10 & (1 << 52) - 1) + 0.5) / 2**52 - 0.5
    r = math.sqrt(-2 * math.log(u))
    return r * math.cos(angle * math.pi / 2), r * math.sin(angle * math.pi / 2)


def draw(key, stream, first, count, dtype=np.float64):
    out = np.empty(count, dtype)
    random.fill_normals(np.uint64(key), np.uint64(stream), np.uint64(first), out)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    # kat_vectors of Random123, lines "philox4x32 10".
    assert tuple(random.philox(*map(np.uint64, counter + key))) == expected
    assert tuple(naive_philox(counter, key)) == expected


@pytest.mark.parametrize("key", [0, 1, 2**63 + 5, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 7 << 56 | 3, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 2**33 - 4, 2**64 - 64])
def test_normals_are_box_muller_of_philox(key, stream, first):
    expected = np.ravel([naive_pair(key, stream, first // 2 + i) for i in range(32)])
    # libm's log is relatively accurate and its sine has an argument rounded by 2^-53.
    np.testing.assert_allclose(draw(key, stream, first, 64), expected, rtol=1e-15, atol=2e-15)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 18, 19])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, 16, 17, 18, 35, 1001])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_offset_and_length_reads_the_same_stream(first, count, dtype):
    stream = draw(9, 4, 0, 1100).astype(dtype)
    np.testing.assert_array_equal(draw(9, 4, first, count, dtype), stream[first : first + count])


@pytest.mark.parametrize("key", [3, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 1, 2**33 - 3, 2**64 - 3000])
@pytest.mark.parametrize("count", [0, 1, 2, 17, 2998])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numpy_draws_the_bits_of_the_kernel(key, first, count, dtype):
    few = np.empty(count, dtype)
    random.fill_few_normals(np.uint64(key), np.uint64(6), np.uint64(first), few)
    assert few.tobytes() == draw(key, 6, first, count, dtype).tobytes()


def test_values_are_pinned():
    # The meaning of a seed: these may never change.
    expected = [
        "-0x1.e8059df30f73cp-3",
        "-0x1.f80c0ff64d14dp-1",
        "0x1.0db6dfde6eb9bp+0",
        "-0x1.01edc6d50e93fp+0",
    ]
    assert [x.hex() for x in draw(1, 2, 3, 4)] == expected


def test_extreme_words_stay_finite_and_reach_the_tails():
    words = [0, 1, 2**12 - 1, 2**12, 2**52, 2**63, 2**63 - 1, 2**64 - 1, 2**64 - 2**12]
    radii = np.array([random.radius(np.uint64(w)) for w in words])
    uniforms = [((w >> 12) + 0.5) / 2**52 for w in words]
    expected = [math.sqrt(-2 * math.log(u)) for u in uniforms]
    np.testing.assert_allclose(radii, expected, rtol=3e-16)
    assert radii.max() > 8.5
    assert radii.min() > 0
    for w in words:
        x, y = random.direction(np.uint64(w))
        assert x * x + y * y == pytest.approx(1, abs=1e-15)


def test_radius_and_direction_are_accurate_to_two_ulps():
    words = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    u = (words >> np.uint64(12)).astype(np.longdouble) / 2**52 + np.longdouble(2) ** -53
    r = np.array([random.radius(w) for w in words])
    exact = np.sqrt(-2 * np.log(u))
    assert np.max(np.abs(r - exact) / np.spacing(exact.astype(float))) < 2
    quadrant = (words >> np.uint64(62)).astype(np.longdouble)
    within = (words >> np.uint64(10) & np.uint64(2**52 - 1)).astype(np.longdouble)
    turns = quadrant - np.longdouble(0.5) + (within + np.longdouble(0.5)) / 2**52
    angle = turns * (np.longdouble(2) * np.arctan(np.longdouble(1)))
    xy = np.array([random.direction(w) for w in words])
    for got, exact in zip(xy.T, (np.cos(angle), np.sin(angle)), strict=True):
        # Relative to the value, but the reference's own angle is rounded at 2^-62.
        assert np.max(np.abs(got - exact) / (np.spacing(np.abs(got)) + 1e-18)) < 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_normals_are_standard_normal(dtype):
    # Each of the 7 checks has a false-alarm rate of 1e-4 for a random seed; the seed is fixed.
    x = draw(3, 1, 0, 1_000_000, dtype).astype(np.float64)
    level = 1e-4
    assert stats.kstest(x, "norm").pvalue > level
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        z = (np.mean(x**power) - mean) / math.sqrt(variance / x.size)
        assert abs(z) < stats.norm.isf(level / 2), power
    # Neither the two halves of a pair, in size too, nor neighbours are related.
    pairs = x.reshape(-1, 2)
    for a, b in ((pairs[:, 0] ** 2, pairs[:, 1] ** 2), (x[1:-1:2], x[2::2])):
        assert stats.pearsonr(a, b).pvalue > level


def test_streams_keys_and_positions_differ():
    draws = [draw(k, s, f, 4) for k in (0, 1, 1 << 32) for s in (0, 1, 1 << 32) for f in (0, 4)]
    assert len({d.tobytes() for d in draws}) == len(draws)


def test_compiled_and_interpreted_give_the_same_bits():
    code = (
        "import numpy as np; from fastdln.kernels.cpu import random as r; o = np.empty(21);"
        "r.fill_normals(np.uint64(5), np.uint64(2**64 - 1), np.uint64(7), o);"
        "print(o.tobytes().hex())"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == draw(5, 2**64 - 1, 7, 21).tobytes().hex()
