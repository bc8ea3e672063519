"""Haar kernels: reflectors in blocks against reflectors one at a time, in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastdln.kernels.cpu import haar, haar_batched, reflectors
from fastdln.kernels.cpu.random import WORDS, Source
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import standard_normal

KEY = 123456789
BLOCK = int(reflectors.BLOCK)


def naive_normals(stream, n, p):
    """Return the p Gaussian vectors of a frame, of lengths n, n − 1, ..., consecutive."""
    x = standard_normal(KEY, stream, n * p - p * (p - 1) // 2)
    return np.split(x, np.cumsum([n - j for j in range(p - 1)]))


def naive_frame(stream, n, p):
    """Return the product of explicit reflections, last to first, and of the signs."""
    Q = np.eye(n, p)
    for j, x in reversed(list(enumerate(naive_normals(stream, n, p)))):
        sign = -1.0 if x[0] < 0 else 1.0
        v = x.copy()
        v[0] += sign * np.linalg.norm(x)
        H = np.eye(n - j) - 2 * np.outer(v, v) / (v @ v)
        Q[j:] = H @ Q[j:]
        Q[:, j] *= -sign
    return Q


def source(stream):
    return Source(np.uint64(KEY), np.uint64(stream))


def buffers(n, p, dtype, panels=1):
    """Return reflectors, scratch and group for `form_frames`, full of NaN that use would spread."""
    blocks = -(-p // BLOCK)
    group = panels * haar.PANEL_BYTES // np.dtype(dtype).itemsize
    drawn = haar.Reflectors(
        V=np.full(int(reflectors.block_start(n, blocks)), np.nan, dtype),
        minus_T=np.full(blocks * BLOCK**2, np.nan, dtype),
        signs=np.full(p, np.nan, dtype),
    )
    scratch = haar.Scratch(
        small=np.full(2 * BLOCK, np.nan),
        places=np.full(BLOCK, -1, np.intp),
        work=np.full(haar.work_size(n), np.nan, dtype),
        panels=np.full(int(padded(n)) * group, np.nan, dtype),
    )
    return blocks, group, drawn, scratch


def form_alone(stream, shape, dtype, special=False):
    _, n, p = shape
    out = np.empty(shape, dtype)
    blocks, group, drawn, scratch = buffers(n, p, dtype)
    chunk = haar.Chunk(0, blocks, 0, p, group)
    haar.form_frames(source(stream), special, chunk, drawn, scratch, out)
    return out


def form_batched(stream, shape, dtype, special=False):
    _, n, p = shape
    out = np.full(shape, np.nan, dtype)
    work = np.full(haar_batched.work_size(n, p, dtype), np.nan, dtype)
    words = np.empty(2 * int(WORDS), np.uint64)
    haar_batched.form_batch(source(stream), special, work, words, out)
    return out


FORMERS = pytest.mark.parametrize("form", [form_alone, form_batched])


def form_in_chunks(stream, n, p, dtype, panels):
    """Form one frame as `backends.cpu.haar.form_jointly` does: blocks, then groups of panels."""
    blocks, group, drawn, scratch = buffers(n, p, dtype, panels)
    out = np.empty((1, n, p), dtype)
    for block in range(blocks):
        chunk = haar.Chunk(block, block + 1, 0, 0, group)
        haar.form_frames(source(stream), False, chunk, drawn, scratch, out)
    for begin in range(0, p, group):
        chunk = haar.Chunk(0, 0, begin, min(begin + group, p), group)
        haar.form_frames(source(stream), False, chunk, drawn, scratch, out)
    return out[0]


SQUARE = [(n, n) for n in (1, 2, 7, 31, 32, 33, 64, 65, 101)]
TALL = [(2, 1), (3, 2), (33, 32), (35, 34), (66, 1), (97, 61), (129, 128), (200, 37), (257, 250)]
SHAPES = SQUARE + TALL


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
def test_the_split_into_chunks_changes_no_bit(n, p, panels, dtype):
    whole = form_alone(5, (1, n, p), dtype)[0]
    np.testing.assert_array_equal(whole, form_in_chunks(5, n, p, dtype, panels))


@pytest.mark.parametrize(("n", "p"), [(1, 1), (6, 5), (33, 33), (50, 17)])
def test_a_frame_has_the_same_bits_in_any_batch(n, p, dtype):
    width = lanes(dtype)
    frames = form_batched(0, (2 * width + 3, n, p), dtype)
    for first, count in ((0, 1), (1, width), (width - 1, 2), (3, width + 1), (2 * width, 3)):
        np.testing.assert_array_equal(
            form_batched(first, (count, n, p), dtype), frames[first : first + count]
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


def test_kernels_run_with_jit_switched_off():
    code = """
import numpy as np
from fastdln.backends.cpu import haar
for form in (haar.form_batched, haar.form_separately):
    for dtype in ("float64", "float32"):
        for n, p in ((1, 1), (5, 3), (6, 6)):
            out = np.empty((1, n, p), dtype)
            form(123456789, 9, False, out)
            print(*out.astype(float).ravel().tolist())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = iter(result.stdout.splitlines())
    for form in (form_batched, form_alone):
        for dtype in ("float64", "float32"):
            for n, p in ((1, 1), (5, 3), (6, 6)):
                frame = np.array(next(lines).split(), float).reshape(n, p)
                expected = form(9, (1, n, p), dtype)[0]
                np.testing.assert_allclose(frame, expected, atol=10 * np.finfo(dtype).eps)
