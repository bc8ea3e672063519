"""Haar frames formed from reflectors in blocks, one frame at a time, whole or in chunks."""

import haar_cases as cases
import numpy as np
import pytest
from haar_cases import source

from fastdln.kernels.cpu import haar, reflectors
from fastdln.kernels.cpu.tile_products import padded

BLOCK = int(reflectors.BLOCK)


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


@pytest.mark.parametrize(("n", "p"), cases.SHAPES)
def test_frames_are_products_of_their_reflections(n, p, dtype):
    cases.check_reflections(form_alone, n, p, dtype)


@pytest.mark.parametrize(("n", "p"), cases.SHAPES)
def test_columns_are_orthonormal(n, p, dtype):
    cases.check_orthonormal(form_alone, n, p, dtype)


def test_first_columns_need_the_first_reflectors_only(dtype):
    cases.check_first_columns(form_alone, dtype)


@pytest.mark.parametrize("n", [1, 2, 5, 33, 40])
def test_special_fixes_the_last_sign_only(n, dtype):
    cases.check_special(form_alone, n, dtype)


def test_the_kernel_runs_with_jit_switched_off():
    cases.check_without_jit("form_separately", form_alone)


@pytest.mark.parametrize(("n", "p"), [(1, 1), (33, 33), (130, 129), (300, 140)])
@pytest.mark.parametrize("panels", [1, 3])
def test_the_split_into_chunks_changes_no_bit(n, p, panels, dtype):
    whole = form_alone(5, (1, n, p), dtype)[0]
    np.testing.assert_array_equal(whole, form_in_chunks(5, n, p, dtype, panels))
