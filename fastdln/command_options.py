"""Command-line options of a training run, derived from `fastdln.config`."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fastdln.config import Option, TrainConfig, details
from fastdln.utils import validation

# Defaults of the command line that differ from `TrainConfig`'s.
DEFAULTS = {"device": "auto"}


class SuggestingCommand(TyperCommand):
    """A command that suggests the option meant by an unknown one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raises Click's error for an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Click's NoSuchOption, which Typer brings from different places.
            if not hasattr(error, "possibilities"):
                raise
            flags = {
                flag.removeprefix("--").replace("-", "_"): flag
                for parameter in self.params
                for flag in parameter.opts
                if flag.startswith("--")
            }
            given = str(vars(error)["option_name"]).lstrip("-").replace("-", "_")
            meant = validation.nearest(given, flags)
            if meant is not None:
                error.possibilities = [flags[meant]]
            raise


def with_run_options(
    *, axes: bool = True, config: type[TrainConfig] = TrainConfig
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: add every option of a run.

    The command receives their values in its parameter `options`, a dict by name.

    Parameters
    ----------
    axes : bool
        Whether the command has the options of which a sweep takes several values.
    config : type
        `TrainConfig`, or a subclass with more options.
    """
    fields = [
        field
        for field in dataclasses.fields(config)
        if details(field).command_line and (axes or not details(field).axis)
    ]
    types = typing.get_type_hints(config, localns={"Seed": int})
    added = [_parameter(field, types[field.name]) for field in fields]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            options = {field.name: given.pop(field.name) for field in fields}
            command(**given, options=options)

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "options"
        ]
        # Typer reads the signature; the annotations of `command` lack the added options.
        vars(run)["__signature__"] = inspect.Signature([*parameters, *added])
        run.__annotations__ = {}
        return run

    return decorate


def _parameter(field: "dataclasses.Field[Any]", hint: Any) -> inspect.Parameter:
    """Return a command's parameter for a field of the configuration."""
    known = details(field)
    flag = f"--{field.name.replace('_', '-')}"
    default = DEFAULTS.get(field.name, field.default)
    declared = typer.Option(flag, help=_help(known))
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=known.none_means if default is None else default,
        annotation=Annotated[str if known.choices else hint, declared],
    )


def _help(known: Option) -> str:
    if not known.choices:
        return known.help
    *others, last = known.choices
    return f"{known.help}: {', '.join(others)} or {last}"
