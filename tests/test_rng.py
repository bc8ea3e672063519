"""Seeds, streams and parallel fills."""

import numpy as np
import pytest

from fastdln import rng
from fastdln.rng import Stream
from fastdln.utils import threads


@pytest.mark.parametrize("seed", [0, 5, 2**80, [1, 2], (3,), np.int32(5), np.array([1, 2])])
def test_a_seed_is_hashed_as_numpy_does(seed):
    expected = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    assert rng.seed_key(seed) == rng.seed_key(seed) == expected


def test_keys_are_pinned():
    assert rng.seed_key(0) == 15793235383387715774
    assert rng.seed_key([1, 2]) == int(np.random.SeedSequence([1, 2]).generate_state(1, "u8")[0])
    assert rng.seed_key(np.random.PCG64(7)) == 2506002550151187043
    assert rng.seed_key(np.random.RandomState(7)) == 4193665733827817647


def test_no_seed_means_a_fresh_key():
    assert rng.seed_key() != rng.seed_key(None)


def test_a_seed_sequence_keeps_its_key_and_children_have_their_own():
    sequence = np.random.SeedSequence(3)
    assert rng.seed_key(sequence) == rng.seed_key(3)
    a, b = sequence.spawn(2)
    assert len({rng.seed_key(s) for s in (sequence, a, b)}) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.default_rng(1),
        lambda: np.random.PCG64(1),
        lambda: np.random.MT19937(1),
        lambda: np.random.RandomState(1),
    ],
)
def test_a_generator_moves_on(make):
    generator = make()
    first, second = rng.seed_key(generator), rng.seed_key(generator)
    assert first != second
    assert first == rng.seed_key(make())


@pytest.mark.parametrize("seed", [-1, [1, -2], np.int64(-5)])
def test_negative_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="negative"):
        rng.seed_key(seed)


@pytest.mark.parametrize("seed", [1.5, True, "0x1", b"1", [1.0], [True], {1}, object()])
def test_other_seeds_are_refused(seed):
    with pytest.raises(TypeError, match="seed must be"):
        rng.seed_key(seed)


def test_stream_ids_are_distinct():
    ids = {rng.stream_id(k, i) for k in Stream for i in (0, 1, 2**56 - 1)}
    assert len(ids) == 3 * len(Stream)
    assert rng.stream_id(255, 2**56 - 1) == 2**64 - 1


@pytest.mark.parametrize(("kind", "index"), [(-1, 0), (256, 0), (1, -1), (1, 2**56)])
def test_stream_ids_out_of_range_are_refused(kind, index):
    with pytest.raises(ValueError, match="must be from 0"):
        rng.stream_id(kind, index)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(), 0, 7, (3, 5), (2 * rng.CHUNK + 11,)])
def test_any_number_of_threads_gives_the_same_numbers(dtype, shape):
    draws = []
    for count in (1, 2, 5):
        with threads.limited(count):
            draws.append(rng.standard_normal(11, 12, shape, dtype, first=3))
    assert draws[0].dtype == dtype
    assert draws[0].shape == np.empty(shape).shape
    for other in draws[1:]:
        np.testing.assert_array_equal(draws[0], other)


def test_out_is_filled_and_returned():
    out = np.empty((3, 4), np.float32)
    assert rng.standard_normal(1, 2, (3, 4), "float32", out) is out
    np.testing.assert_array_equal(out, rng.standard_normal(1, 2, (3, 4), "float32"))


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        ([0.0] * 6, TypeError, "NumPy array"),
        (np.empty((2, 3), "f4"), TypeError, "dtype"),
        (np.empty((3, 2)), ValueError, "shape"),
        (np.empty((3, 2)).T, ValueError, "C-contiguous"),
        (np.broadcast_to(np.float64(0), (2, 3)), ValueError, "C-contiguous"),
    ],
)
def test_an_unfit_out_is_refused(out, error, match):
    with pytest.raises(error, match=match):
        rng.standard_normal(0, 0, (2, 3), "float64", out)


@pytest.mark.parametrize("dtype", ["float16", "int64", "complex128", ">f8"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype must be"):
        rng.standard_normal(0, 0, 3, dtype)
