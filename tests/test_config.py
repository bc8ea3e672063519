"""`TrainConfig` is where options are written: everything that has options derives from it."""

import dataclasses
import inspect
import typing

import pytest
import typer
from typer.testing import CliRunner

import fastdln
from fastdln.command_options import with_run_options
from fastdln.config import TrainConfig, details, option
from fastdln.rng import Seed
from fastdln.sweeps.axes import shared_config
from fastdln.utils import validation

# Arguments of `train` that are no options: they have no text and no value in a store.
NO_OPTIONS = {"problem", "network", "callback"}


def arguments(function):
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in NO_OPTIONS
    }


def test_train_has_the_options_their_defaults_and_types():
    found, hints = arguments(fastdln.train), typing.get_type_hints(fastdln.train)
    expected = typing.get_type_hints(TrainConfig, localns={"Seed": Seed})
    assert list(found) == [*TrainConfig.names()]
    for field in dataclasses.fields(TrainConfig):
        assert found[field.name].default == field.default, field.name
        if field.name != "dtype":  # NumPy's type for all that names a dtype, kept as its name
            assert hints[field.name] == expected[field.name], field.name


def test_the_docstring_of_train_names_every_option_and_choice():
    text = inspect.getdoc(fastdln.train)
    parameters = text.partition("Parameters\n")[2].partition("Returns\n")[0]
    heads = [line for line in parameters.splitlines() if line and not line.startswith(" ")]
    named = {name.strip() for line in heads for name in line.partition(" : ")[0].split(",")}
    assert set(TrainConfig.names()) | NO_OPTIONS <= named
    for name, known in TrainConfig.options().items():
        line = next(line for line in heads if name in line.partition(" : ")[0].split(", "))
        if "{" in line:
            for choice in known.choices:
                assert f'"{choice}"' in line, name


def test_sweep_shares_the_defaults():
    found = inspect.signature(fastdln.sweep).parameters
    for field in dataclasses.fields(TrainConfig):
        if field.name in found and field.name != "device":  # left to the machine in a sweep
            assert found[field.name].default == field.default, field.name


@dataclasses.dataclass(frozen=True)
class WithNoise(TrainConfig):
    """One more option, declared in one place."""

    noise: float = option(0.0, "Noise of each step", check=validation.non_negative_number)


def test_an_option_of_a_subclass_is_checked_recorded_and_on_the_command_line():
    assert WithNoise(width=3).record() == TrainConfig().record()
    config = dataclasses.replace(WithNoise(noise=1), width=5)
    assert config.record() == TrainConfig().record() | {"noise": 1.0}
    with pytest.raises(ValueError, match="noise must be a finite number of at least 0"):
        WithNoise(noise=-1)
    with pytest.raises(TypeError, match=r"f\(\) got .* 'noize' \(did you mean 'noise'\?\)"):
        WithNoise.from_options("f", {"noize": 1})
    seen = {}

    def command(options: dict) -> None:
        seen.update(options)

    app = typer.Typer()
    app.command()(with_run_options(config=WithNoise)(command))
    assert CliRunner().invoke(app, ["--noise", "0.5"]).exit_code == 0
    assert seen["noise"] == 0.5
    assert seen.keys() == {f.name for f in dataclasses.fields(WithNoise) if details(f).command_line}


def test_replacing_an_option_checks_it():
    config = TrainConfig(width=[4, 5], dtype="float32", device="cuda:1", learning_rate=1)
    assert (config.width, config.device, config.learning_rate) == ((4, 5), "gpu:1", 1.0)
    assert dataclasses.replace(config, width=7).width == 7
    with pytest.raises(ValueError, match=r"width\[1\] must be at least 1, not 0"):
        dataclasses.replace(config, width=[3, 0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": 0.1}, TypeError, r"'lr' \(did you mean 'learning_rate'\?\)"),
        ({"initialisation": "gaussian"}, TypeError, r"\(did you mean 'init'\?\)"),
        ({"inits": ["gaussian"]}, TypeError, r"\(did you mean 'init'\?\)"),
        ({"optimizer": "sgd"}, ValueError, r"not 'sgd' \(did you mean 'gd'\?\)"),
        ({"init": "orthogonall"}, ValueError, r"\(did you mean 'orthogonal'\?\)"),
        ({"stpes": 3}, TypeError, r"\(did you mean 'steps'\?\)"),
    ],
)
def test_near_misses_get_a_suggestion(options, error, words):
    with pytest.raises(error, match=words):
        fastdln.train(fastdln.paper_regression(), **({"width": 4, "depth": 2} | options))
    if options.keys() & {"inits"}:
        return
    with pytest.raises(error, match=words.replace("'init'", "'inits?'")):
        shared_config(options)
    with pytest.raises(error, match=words):
        fastdln.train_many(fastdln.paper_regression(), seeds=[0], width=4, depth=2, **options)


def test_resume_suggests_names_too():
    with pytest.raises(TypeError, match=r"\(did you mean 'steps'\?\)"):
        fastdln.resume(None, step=3)
