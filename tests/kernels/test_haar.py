"""Haar kernels: reflectors in blocks against reflectors one at a time, in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastdln import rng as random
from fastdln.kernels.cpu import haar, reflectors
from fastdln.kernels.cpu import haar_batched as abreast
from fastdln.kernels.cpu.random import ACROSS
from fastdln.kernels.cpu.tiles import lanes

KEY = 123456789


def naive_normals(stream, n, p):
    """The p Gaussian vectors of a frame, lengths n, n − 1, ..., one after the other."""
    x = random.standard_normal(KEY, stream, n * p - p * (p - 1) // 2)
    return np.split(x, np.cumsum([n - j for j in range(p - 1)]))


def naive_frame(stream, n, p):
    """The product of explicit reflections, last to first, and of the signs."""
    Q = np.eye(n, p)
    for j, x in reversed(list(enumerate(naive_normals(stream, n, p)))):
        sign = -1.0 if x[0] < 0 else 1.0
        v = x.copy()
        v[0] += sign * np.linalg.norm(x)
        H = np.eye(n - j) - 2 * np.outer(v, v) / (v @ v)
        Q[j:] = H @ Q[j:]
        Q[:, j] *= -sign
    return Q


def buffers(n, p, dtype, panels=1):
    """What `form_frames` needs, full of numbers that would be seen if they were used."""
    blocks, block = -(-p // int(reflectors.BLOCK)), int(reflectors.BLOCK)
    group = panels * haar.PANEL_BYTES // np.dtype(dtype).itemsize
    sizes = (
        int(reflectors.block_start(n, blocks)), blocks * block**2, p, 2 * block, block,
        haar.work_size(n), int(reflectors.padded(n)) * group,
    )  # fmt: skip
    kinds = dtype, dtype, dtype, float, np.intp, dtype, dtype
    filled = [
        np.full(s, -1 if k is np.intp else np.nan, k) for s, k in zip(sizes, kinds, strict=True)
    ]
    return blocks, group, filled


def form_matrices(stream, shape, dtype, special=False):
    _, n, p = shape
    out = np.empty(shape, dtype)
    blocks, group, filled = buffers(n, p, dtype)
    key, first = np.uint64(KEY), np.uint64(stream)
    haar.form_frames(key, first, special, 0, blocks, 0, p, group, *filled, out)
    return out


def form_abreast(stream, shape, dtype, special=False):
    count, n, p = shape
    out = np.full(count * n * p, np.nan, dtype)
    work = np.full(abreast.work_size(n, p, dtype), np.nan, dtype)
    words = np.empty(2 * int(ACROSS), np.uint64)
    key, first = np.uint64(KEY), np.uint64(stream)
    abreast.form_abreast(key, first, n, p, count, special, work, words, out)
    return out.reshape(shape)


FORMERS = pytest.mark.parametrize("form", [form_matrices, form_abreast])


def form_by_pieces(stream, n, p, dtype, panels):
    """What `fastdln.backends.cpu.haar` does with one large matrix: blocks, then groups of panels."""
    blocks, group, filled = buffers(n, p, dtype, panels)
    key, first, out = np.uint64(KEY), np.uint64(stream), np.empty((1, n, p), dtype)
    for block in range(blocks):
        haar.form_frames(key, first, False, block, block + 1, 0, 0, group, *filled, out)
    for begin in range(0, p, group):
        end = min(begin + group, p)
        haar.form_frames(key, first, False, 0, 0, begin, end, group, *filled, out)
    return out[0]


SHAPES = [
    (1, 1), (2, 1), (2, 2), (3, 2), (7, 7), (31, 31), (32, 32), (33, 33), (33, 32), (35, 34),
    (64, 64), (65, 65), (66, 1), (97, 61), (101, 101), (129, 128), (200, 37), (257, 250),
]  # fmt: skip


@FORMERS
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_frames_are_products_of_their_reflections(form, n, p, dtype):
    frames = form(7, (2, n, p), dtype)
    # Both are within a few roundings per reflector of the exact product.
    for frame, stream in zip(frames, (7, 8), strict=True):
        np.testing.assert_allclose(
            frame, naive_frame(stream, n, p), rtol=0, atol=8 * np.finfo(dtype).eps * n**0.5
        )


@FORMERS
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_columns_are_orthonormal(form, n, p, dtype):
    frame = form(3, (1, n, p), dtype)[0].astype(np.float64)
    bound = 20 * np.finfo(dtype).eps * n**0.5
    assert np.abs(frame.T @ frame - np.eye(p)).max() <= bound


@pytest.mark.parametrize(("n", "p"), [(1, 1), (33, 33), (130, 129), (300, 140)])
@pytest.mark.parametrize("panels", [1, 3])
def test_the_split_into_pieces_changes_no_bit(n, p, panels, dtype):
    whole = form_matrices(5, (1, n, p), dtype)[0]
    np.testing.assert_array_equal(whole, form_by_pieces(5, n, p, dtype, panels))


@pytest.mark.parametrize(("n", "p"), [(1, 1), (6, 5), (33, 33), (50, 17)])
def test_a_frame_has_the_same_bits_in_any_company(n, p, dtype):
    width = lanes(dtype)
    frames = form_abreast(0, (2 * width + 3, n, p), dtype)
    for first, count in ((0, 1), (1, width), (width - 1, 2), (3, width + 1), (2 * width, 3)):
        np.testing.assert_array_equal(
            form_abreast(first, (count, n, p), dtype), frames[first : first + count]
        )


@FORMERS
def test_first_columns_need_the_first_reflectors_only(form, dtype):
    whole = form(1, (1, 90, 90), dtype)[0]
    for p in (1, 31, 32, 33, 64, 89):
        np.testing.assert_array_equal(form(1, (1, 90, p), dtype)[0], whole[:, :p])


@FORMERS
@pytest.mark.parametrize("n", [1, 2, 5, 33, 40])
def test_special_fixes_the_last_sign_only(form, n, dtype):
    special = form(2, (20, n, n), dtype, special=True)
    free = form(2, (20, n, n), dtype)
    np.testing.assert_array_equal(special[:, :, :-1], free[:, :, :-1])
    np.testing.assert_array_equal(np.abs(special), np.abs(free))
    np.testing.assert_allclose(np.linalg.det(special.astype(float)), 1, atol=1e-4)
    assert {1, -1} == set(np.round(np.linalg.det(free.astype(float))))


@pytest.mark.parametrize(("n", "count"), [(50, 32), (2047, 32), (2049, 5), (4100, 32)])
def test_rows_drawn_in_chunks_are_the_rows_drawn_at_once(n, count, dtype):
    j, block = 32, int(reflectors.BLOCK)
    rows = int(reflectors.padded(n)) - j
    count = min(count, n - j)
    expected = np.zeros((rows, block), dtype)
    for a in range(count):
        first = int(reflectors.first_normal(n, j + a))
        expected[a : n - j, a] = random.standard_normal(KEY, 4, n - j - a, dtype, first=first)
    V = np.full(rows * block, np.nan, dtype)
    squares = np.empty((2, block))
    scratch = np.empty(block * reflectors.PACKED_ROWS, dtype)
    middle = rows // 8 * 4
    for part, (a, b) in zip(squares, ((0, middle), (middle, rows)), strict=True):
        reflectors.draw_rows(
            np.uint64(KEY), np.uint64(4), n, j, count, a, b, V, 0, part,
            np.empty(block, np.intp), scratch,
        )  # fmt: skip
    np.testing.assert_array_equal(V.reshape(rows, block), expected)
    exact = (expected.astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(squares.sum(axis=0), exact, rtol=1e-13)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 31, 32])
def test_minus_t_is_the_inverse(count, dtype, rng):
    block = int(reflectors.BLOCK)
    V = rng.standard_normal((100, block)).astype(dtype)
    V[:, count:] = 0
    S = np.zeros(block * block, dtype)
    reflectors.add_products(V.ravel(), 0, 32, 100, int(reflectors.padded(count)), S)
    gram = V[32:].astype(float).T @ V[32:].astype(float)
    sizes = np.diag(gram) / 2
    T = np.full(block * block, np.nan, dtype)
    reflectors.invert(count, S, sizes, T, np.full(reflectors.INVERT_WORK, np.nan, dtype))
    inverse = np.triu(gram, 1)[:count, :count] + np.diag(sizes[:count])
    T = T.reshape(block, block)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(-T[:count, :count] @ inverse, np.eye(count), atol=tolerance)
    assert not T[count:].any()
    assert not T[:, count:].any()


def test_kernels_run_with_jit_switched_off():
    code = """
import fastdln
from fastdln import haar
for rows in (100, 0):  # side by side, and in blocks
    haar._ABREAST_ROWS = rows
    for dtype in ("float64", "float32"):
        for n, p in ((1, 1), (5, 3), (6, 6)):
            print(*haar.haar_batch(123456789, 0, 9, 1, n, p, dtype).astype(float).ravel().tolist())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = iter(result.stdout.splitlines())
    for form in (form_abreast, form_matrices):
        for dtype in ("float64", "float32"):
            for n, p in ((1, 1), (5, 3), (6, 6)):
                frame = np.array(next(lines).split(), float).reshape(n, p)
                expected = form(9, (1, n, p), dtype)[0]
                np.testing.assert_allclose(frame, expected, atol=10 * np.finfo(dtype).eps)
