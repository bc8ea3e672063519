"""Argument checks, where tests of the functions that use them do not cover every case."""

import numpy as np
import pytest

from fastdln.utils import validation


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "3", None])
def test_only_integers_count(value):
    with pytest.raises(TypeError, match="n must be a whole number of at least 1"):
        validation.positive_integer("n", value)


def test_numpy_integers_are_integers():
    assert validation.positive_integer("n", np.int64(3)) == 3
    assert type(validation.positive_integer("n", np.uint8(3))) is int


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match="x must be"):
        validation.positive_number("x", value)


NAMES = ("width", "depth", "init", "steps", "learning_rate", "batch_size", "seed", "optimizer")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("LR", "learning_rate"),
        ("learning_rat", "learning_rate"),
        ("learningRate", "learning_rate"),
        ("initialisation", "init"),
        ("inits", "init"),
        ("n_layers", "depth"),
        ("epochs", "steps"),
        ("batch", "batch_size"),
        ("random_state", "seed"),
        ("optimiser", "optimizer"),
    ],
)
def test_near_misses_get_a_suggestion(given, meant):
    assert validation.suggestion(given, NAMES) == f" (did you mean {meant!r}?)"


def test_a_plural_is_suggested_where_that_is_the_name():
    assert validation.suggestion("layers", ("widths", "depths")) == " (did you mean 'depths'?)"


def test_other_names_get_no_suggestion():
    assert validation.suggestion("colour", NAMES) == ""


@pytest.mark.parametrize(("given", "meant"), [("sgd", "gd"), ("Adam", "adam"), ("gdd", "gd")])
def test_values_get_a_suggestion(given, meant):
    with pytest.raises(ValueError, match=rf"not '{given}' \(did you mean '{meant}'\?\)$"):
        validation.one_of("optimizer", given, ("gd", "adam"))


@pytest.mark.parametrize("given", ["lbfgs", 3, None])
def test_other_values_get_no_suggestion(given):
    with pytest.raises(ValueError, match=r"optimizer must be one of 'gd', 'adam', not [^()]*$"):
        validation.one_of("optimizer", given, ("gd", "adam"))
