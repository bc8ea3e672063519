"""Normals and Haar frames on a GPU are those of the CPU."""

import gpu_cases as cases
import numpy as np
import pytest

import fastdln
from fastdln import rng as random
from fastdln.backends.cpu import haar as cpu_haar
from fastdln.backends.gpu.device import require_gpu
from fastdln.backends.gpu.haar import drawing_bytes, haar_batch, standard_normal


def test_drawing_takes_a_frame_or_the_first_layer():
    assert drawing_bytes((5, 60, 60, 3), np.dtype("f8")) > 3 * 8 * 60 * 60
    assert drawing_bytes((500, 2, 3), np.dtype("f4")) == 4 * 500 * 2


@cases.needs_gpu
def test_normals_have_the_bits_of_the_cpu(dtype):
    for first, shape in ((0, (1000, 37)), (5, (7,)), (2**40 + 1, (100_001,))):
        ours = standard_normal(require_gpu(), 12345, 678, shape, dtype, first)
        expected = random.standard_normal(12345, 678, shape, dtype, first=first)
        np.testing.assert_array_equal(ours.get(), expected)


@cases.needs_gpu
@pytest.mark.parametrize(("n", "p"), [(1, 1), (5, 3), (64, 64), (129, 65), (1000, 1000)])
def test_frames_are_those_of_the_cpu(n, p, dtype):
    ours = haar_batch(require_gpu(), 3, 7, 1, 3, n, p, dtype).get()
    expected = cpu_haar.haar_batch(3, 7, 1, 3, n, p, dtype)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(ours, expected, rtol=0, atol=60 * eps * np.sqrt(n))
    gram = ours.transpose(0, 2, 1) @ ours
    assert np.abs(gram - np.eye(p)).max() < 20 * eps * np.sqrt(n)


@cases.needs_gpu
def test_haar_orthogonal_on_a_gpu_is_that_of_the_cpu(dtype):
    for size, special in ((None, False), (5, True)):
        ours, theirs = (
            fastdln.haar_orthogonal(
                65, size=size, special=special, seed=3, dtype=dtype, device=device
            )
            for device in ("gpu", "cpu")
        )
        ours = ours if isinstance(ours, np.ndarray) else ours.get()
        atol = 60 * np.finfo(dtype).eps * np.sqrt(65)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
