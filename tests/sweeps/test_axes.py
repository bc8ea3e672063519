"""The arguments of a sweep: the values of each axis, and the options that all cells share."""

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run, same

import fastdln
from fastdln.config import SWEPT_INITS, SWEPT_SEEDS
from fastdln.sweeps import axes
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Grid


def test_an_axis_may_have_its_singular_name_and_one_value():
    plural = run(widths=[8], depths=[4], inits=["orthogonal"], seeds=[3])
    given = {"steps": 50, "progress": False}
    problem = sweep_cases.problem()
    singular = fastdln.sweep(problem, width=8, depth=4, init="orthogonal", seed=3, **given)
    assert same(plural, singular)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"widths": []}, ValueError, "widths must have at least one value"),
        ({"widths": [3, 0]}, ValueError, "every one of widths must be at least 1, not 0"),
        ({"widths": [3, -1]}, ValueError, "at least 1, not -1"),
        ({"widths": [3, 3]}, ValueError, "widths must be distinct, but 3 is given more than once"),
        ({"widths": [3.5]}, TypeError, "whole number"),
        ({"widths": 3.5}, TypeError, "widths must be a list, not 3.5"),
        ({"widths": [3], "width": 4}, TypeError, "got both width and widths"),
        ({"widths": None}, TypeError, "needs widths"),
        ({"init": "orthogonall"}, ValueError, "did you mean 'orthogonal'"),
        ({"widths": "33"}, TypeError, "widths must be a list"),
        ({"widths": [2**70]}, ValueError, r"less than 2\*\*63"),
        ({"depths": [0]}, ValueError, "every one of depths must be at least 1"),
        ({"inits": ["xavier"]}, ValueError, "'gaussian'.*not 'xavier'"),
        ({"inits": ["gaussian"] * 2}, ValueError, "inits must be distinct"),
        ({"seeds": [-1]}, ValueError, "every one of seeds must be at least 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, words, monkeypatch):
    monkeypatch.setattr(CellRuns, "train", None)
    with pytest.raises(kind, match=words):
        run(**change)


def test_the_grid_has_the_values_of_every_axis_in_their_order():
    given = {"init": "gaussian", "width": np.array([8, 3]), "depth": range(1, 4), "seed": 5}
    found = axes.grid(given, (0, 9))
    assert found == Grid(("gaussian",), (8, 3), (1, 2, 3), (5,), (0, 9))
    assert all(type(value) is int for value in (*found.width, *found.depth, *found.seed))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"momentum": 2}, "momentum must be"),
        ({"speed": 3}, r"options must be among gain, .* not 'speed'"),
        ({"gain": -1}, "gain"),
    ],
    ids=str,
)
def test_shared_options_are_checked(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fastdln.sweep(fastdln.paper_regression(), [8], [3], steps=1, **option)


def test_values_come_from_either_name_and_the_defaults_stand_for_none():
    given, options = {"width": [3], "depth": None, "init": None, "seed": None}, {"gain": 2.0}
    found = axes.split(given, options | {"depth": 4})
    assert found == {"width": [3], "depth": 4, "init": SWEPT_INITS, "seed": SWEPT_SEEDS}
    left = {"depth": 4, "gain": 2.0}
    axes.split(given, left)
    assert left == options


@pytest.mark.parametrize(
    ("name", "suggested"), [("width_s", "widths"), ("stpes", "steps"), ("momentun", "momentum")]
)
def test_unknown_names_get_a_suggestion_among_arguments_and_options(name, suggested):
    with pytest.raises(TypeError, match=rf"not '{name}' \(did you mean '{suggested}'\?\)"):
        axes.check_names({name: 1}, ("widths", "depths", "steps"))
    axes.check_names({"momentum": 0.5, "width": 3}, ())
