"""fastdln.chain against naive products, on arrays the kernels were not made for."""

import naive
import numpy as np
import pytest

from fastdln import chain

# One layer, two, width 1, d above and below d_y, fewer columns than a vector, just over one, more
# rows than a visit and no multiple of four, q above the width.
SHAPES = [
    (4, 7), (7, 4), (5, 1, 3), (3, 17, 5), (5, 17, 3), (16, 67, 131, 10), (10, 131, 67, 16),
    (1, 33, 1),    (3, 2, 11, 6), (70, 20, 33, 65), (40, 150, 16, 39),
]  # fmt: skip
RTOL = {"float32": 2e-5, "float64": 5e-14}


def layers_of(widths, dtype, rng):
    pairs = zip(widths, widths[1:], strict=False)
    return [(rng.standard_normal((m, n)) / np.sqrt(n)).astype(dtype) for n, m in pairs]


def close(got, expected, dtype):
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=RTOL[dtype] * (1 + abs(expected).max()))


@pytest.mark.parametrize("order", ["plain", "rows of a larger array", "transposed", "read-only"])
@pytest.mark.parametrize("team_work", [chain.TEAM_WORK, 1])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_products_and_gradients(widths, team_work, order, dtype, rng, monkeypatch):
    monkeypatch.setattr(chain, "TEAM_WORK", team_work)
    weights = layers_of(widths, dtype, rng)
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    if order == "rows of a larger array":
        weights = [np.pad(w, ((0, 1), (0, 3)), constant_values=9)[:-1, :-3] for w in weights]
    elif order == "transposed":
        weights = [np.asfortranarray(w) for w in weights]
    elif order == "read-only":
        for w in weights:
            w.flags.writeable = False
    close(chain.end_to_end(weights), naive.end_to_end(weights), dtype)
    expected = naive.backpropagation(weights, G)
    for got, g in zip(chain.gradients(weights, G), expected, strict=True):
        close(got, g, dtype)


def test_out_is_written_and_returned(dtype, rng):
    weights = layers_of((5, 17, 9, 3), dtype, rng)
    G = np.ones((3, 5), dtype)
    outs = [np.full_like(w, np.nan) for w in weights]
    M = np.full((3, 5), np.nan, dtype)
    assert chain.end_to_end(weights, out=M) is M
    assert all(a is b for a, b in zip(chain.gradients(weights, G, out=outs), outs, strict=True))
    close(M, naive.end_to_end(weights), dtype)
    for got, g in zip(outs, naive.backpropagation(weights, G), strict=True):
        close(got, g, dtype)


def test_layers_that_are_formed_when_asked_for_are_formed_once(rng):
    given, formed = layers_of((5, 17, 9, 3), "float64", rng), []

    def layers():
        for i, w in enumerate(given):
            formed.append(i)
            yield w

    close(chain.end_to_end(layers()), naive.end_to_end(given), "float64")
    assert formed == [0, 1, 2]


def test_forward_returns_every_activation(dtype, rng):
    weights = layers_of((5, 17, 9, 3), dtype, rng)
    X = rng.standard_normal((5, 4)).astype(dtype)
    outs = [np.empty((m, 4), dtype) for m in (17, 9, 3)]
    for results in (chain.forward(weights, X), chain.forward(weights, X, out=outs)):
        for i, got in enumerate(results):
            close(got, naive.end_to_end(weights[: i + 1]) @ X, dtype)


def test_gradients_agree_with_finite_differences(rng):
    weights, G = layers_of((3, 6, 4, 2), "float64", rng), np.ones((2, 3))
    for layer, gradient in enumerate(chain.gradients(weights, G)):
        for index in np.ndindex(gradient.shape):
            moved = [w.copy() for w in weights]
            moved[layer][index] += 0.5
            change = np.sum(chain.end_to_end(moved) - chain.end_to_end(weights))
            assert gradient[index] == pytest.approx(2 * change, abs=1e-12)


def test_nothing_is_written_outside_the_outputs(rng):
    weights = layers_of((5, 17, 9, 3), "float32", rng)
    room = np.full(400, 7, np.float32)
    outs = [room[10:95].reshape(17, 5), room[100:253].reshape(9, 17), room[260:287].reshape(3, 9)]
    chain.gradients(weights, np.ones((3, 5), np.float32), out=outs)
    rest = np.concatenate([room[:10], room[95:100], room[253:260], room[287:]])
    assert (rest == 7).all()


def test_a_deep_chain_is_one_call(rng):
    weights = [np.eye(3)] * 20_000
    G = rng.standard_normal((3, 3))
    np.testing.assert_array_equal(chain.end_to_end(weights), np.eye(3))
    np.testing.assert_array_equal(chain.gradients(weights, G)[777], G)


W = [np.ones((4, 3)), np.ones((2, 4))]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: chain.end_to_end([]), ValueError, "at least one layer"),
        (lambda: chain.end_to_end([[[1.0]]]), TypeError, "layer 1 must be a NumPy array, not list"),
        (lambda: chain.end_to_end([np.ones((0, 3))]), ValueError, r"not of shape \(0, 3\)"),
        (lambda: chain.end_to_end([np.ones(3)]), ValueError, r"not of shape \(3,\)"),
        (lambda: chain.end_to_end([np.ones((3, 3), int)]), TypeError, "float32"),
        (lambda: chain.end_to_end([W[0], W[1].astype("f4")]), TypeError, "layer 2 is float32"),
        (lambda: chain.end_to_end(W[::-1]), ValueError, r"layer 2 of shape \(4, 3\)"),
        (lambda: chain.end_to_end(W, out=np.ones((3, 2))), ValueError, r"of shape \(2, 3\)"),
        (lambda: chain.end_to_end(W, out=np.ones((2, 3), "f4")), TypeError, "float64"),
        (lambda: chain.end_to_end(W, out=W[0][:2]), ValueError, "overlaps"),
        (lambda: chain.gradients(W, np.ones((3, 2))), ValueError, r"2 rows|of shape \(2, 3\)"),
        (lambda: chain.gradients(W, np.ones((2, 4))), ValueError, r"of shape \(2, 3\)"),
        (lambda: chain.gradients(W, np.ones((2, 3), "f4")), TypeError, "float32"),
        (lambda: chain.gradients(W, np.ones((2, 3)), out=W), ValueError, "overlaps"),
        (lambda: chain.gradients(W, np.ones((2, 3)), out=W[:1]), ValueError, "must hold 2 arrays"),
        (lambda: chain.forward(W, np.ones((4, 2))), ValueError, "3 rows"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
