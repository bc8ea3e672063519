"""Haar frames formed in batches, one in every SIMD lane."""

import haar_cases as cases
import numpy as np
import pytest

from fastdln.kernels.cpu import haar_batched
from fastdln.kernels.cpu.random import WORDS
from fastdln.kernels.cpu.tiles import lanes


def form_batched(stream, shape, dtype, special=False):
    _, n, p = shape
    out = np.full(shape, np.nan, dtype)
    work = np.full(haar_batched.work_size(n, p, dtype), np.nan, dtype)
    words = np.empty(2 * int(WORDS), np.uint64)
    haar_batched.form_batch(cases.source(stream), special, work, words, out)
    return out


@pytest.mark.parametrize(("n", "p"), cases.SHAPES)
def test_frames_are_products_of_their_reflections(n, p, dtype):
    cases.check_reflections(form_batched, n, p, dtype)


@pytest.mark.parametrize(("n", "p"), cases.SHAPES)
def test_columns_are_orthonormal(n, p, dtype):
    cases.check_orthonormal(form_batched, n, p, dtype)


def test_first_columns_need_the_first_reflectors_only(dtype):
    cases.check_first_columns(form_batched, dtype)


@pytest.mark.parametrize("n", [1, 2, 5, 33, 40])
def test_special_fixes_the_last_sign_only(n, dtype):
    cases.check_special(form_batched, n, dtype)


def test_the_kernel_runs_with_jit_switched_off():
    cases.check_without_jit("form_batched", form_batched)


@pytest.mark.parametrize(("n", "p"), [(1, 1), (6, 5), (33, 33), (50, 17)])
def test_a_frame_has_the_same_bits_in_any_batch(n, p, dtype):
    width = lanes(dtype)
    frames = form_batched(0, (2 * width + 3, n, p), dtype)
    for first, count in ((0, 1), (1, width), (width - 1, 2), (3, width + 1), (2 * width, 3)):
        np.testing.assert_array_equal(
            form_batched(first, (count, n, p), dtype), frames[first : first + count]
        )
