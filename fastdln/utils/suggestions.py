"""A suggestion for a misspelt argument of a public function."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fastdln.utils import validation

_P = ParamSpec("_P")
_R = TypeVar("_R")


def suggests_names(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function without ``**options`` to name the nearest argument for an unknown one."""
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in names:
                hint = validation.suggestion(name, names)
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {name!r}{hint}"
                )
        return function(*args, **kwargs)

    return checked
