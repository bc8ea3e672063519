"""fastdln.chain: its outputs, its arguments, and its refusals."""

import naive
import numpy as np
import pytest
from chain_cases import close, layers_of

from fastdln import chain


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
