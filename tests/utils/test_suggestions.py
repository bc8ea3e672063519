"""Misspelt arguments of a function get a suggestion."""

import inspect

import pytest

from fastdln.utils.suggestions import suggests_names


@suggests_names
def scaled(value, *, factor=2, offset=0):
    """Return a scaled value."""
    return factor * value + offset


def test_right_arguments_are_passed_on():
    assert scaled(3) == 6
    assert scaled(value=3, factor=5, offset=1) == 16


def test_a_near_miss_gets_the_nearest_name():
    message = r"^scaled\(\) got an unexpected keyword argument 'facto' \(did you mean 'factor'\?\)$"
    with pytest.raises(TypeError, match=message):
        scaled(3, facto=5)


def test_a_name_that_is_near_to_none_gets_no_suggestion():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'xyz'$"):
        scaled(3, xyz=5)


def test_other_mistakes_are_the_functions_own():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'value'"):
        scaled(factor=5)


def test_the_function_keeps_its_name_docstring_and_signature():
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Return a scaled value.")
    assert list(inspect.signature(scaled).parameters) == ["value", "factor", "offset"]
