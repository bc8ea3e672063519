"""The options of a run on the command line: names, defaults, choices and what a command gets."""

import dataclasses

import pytest
import typer
from typer.testing import CliRunner

from fastdln.command_options import DEFAULTS, SuggestingCommand, with_run_options
from fastdln.config import TrainConfig, details


def invoke(command, *given, **decorated):
    app = typer.Typer()
    app.command()(with_run_options(**decorated)(command))
    return CliRunner().invoke(app, [*given], env={"COLUMNS": "200", "NO_COLOR": "1"})


def options_of(*given, **decorated):
    """Return the options that a command receives for these arguments."""
    seen = {}

    def command(options: dict) -> None:
        seen.update(options)

    result = invoke(command, *given, **decorated)
    assert result.exit_code == 0, result.output
    return seen


def on_the_command_line():
    return [f for f in dataclasses.fields(TrainConfig) if details(f).command_line]


def test_the_defaults_are_those_of_a_run_but_for_a_short_list():
    found = options_of()
    assert list(found) == [field.name for field in on_the_command_line()]
    for field in on_the_command_line():
        expected = DEFAULTS.get(field.name, field.default)
        assert found[field.name] == (details(field).none_means if expected is None else expected)


def test_underscores_are_dashes_and_values_have_their_types():
    found = options_of("--weight-decay", "0.5", "--steps", "7", "--nesterov", "--dtype", "float32")
    assert (found["weight_decay"], found["steps"]) == (0.5, 7)
    assert (found["nesterov"], found["dtype"]) == (True, "float32")


def test_a_value_of_another_type_is_refused():
    result = invoke(lambda options: None, "--steps", "many")
    assert result.exit_code == 2
    assert "--steps" in result.output


def test_a_command_may_leave_out_the_axes_of_a_sweep():
    axes = {f.name for f in on_the_command_line() if details(f).axis}
    assert "seed" in axes
    assert options_of(axes=False).keys() == {f.name for f in on_the_command_line()} - axes
    assert invoke(lambda options: None, "--seed", "7", axes=False).exit_code == 2


@pytest.mark.parametrize(
    ("given", "meant"), [("--stpes", "--steps"), ("--weight_decay", "--weight-decay")]
)
def test_an_unknown_option_gets_a_suggestion(given, meant):
    app = typer.Typer()
    app.command(cls=SuggestingCommand)(with_run_options()(lambda options: None))
    result = CliRunner().invoke(app, [given, "7"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert meant in result.output


def test_a_command_keeps_parameters_of_its_own():
    seen = {}

    def command(options: dict, name: str, times: int = 2) -> None:
        seen.update(name=name, times=times, steps=options["steps"])

    assert invoke(command, "Q", "--times", "3", "--steps", "5").exit_code == 0
    assert seen == {"name": "Q", "times": 3, "steps": 5}


@pytest.mark.parametrize("field", on_the_command_line(), ids=lambda field: field.name)
def test_the_help_names_every_option_and_its_choices(field):
    text = " ".join(invoke(lambda options: None, "--help").output.replace("│", " ").split())
    known = details(field)
    assert f"--{field.name.replace('_', '-')}" in text
    if known.choices:
        assert f"{', '.join(known.choices[:-1])} or {known.choices[-1]}" in text
