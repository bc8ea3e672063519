"""No CPU kernel, and no part of one, takes more than eight arguments."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest

from fastdln.kernels import cpu

MOST_ARGUMENTS = 8
MODULES = [module.name for module in pkgutil.iter_modules(cpu.__path__)]


def functions(module) -> Iterator[tuple[str, Callable]]:
    """Yield the functions that a module defines, compiled or not, and what intrinsics stand for."""
    for name, value in vars(module).items():
        # A Numba dispatcher and an intrinsic keep the Python function that they compile.
        function = getattr(value, "py_func", getattr(value, "_defn", value))
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            yield name, function


@pytest.mark.parametrize("name", MODULES)
def test_kernels_take_few_arguments(name):
    module = importlib.import_module(f"{cpu.__name__}.{name}")
    counts = {}
    for found, function in functions(module):
        parameters = inspect.signature(function).parameters
        # The first argument of an intrinsic is Numba's.
        counts[found] = len(parameters) - ("typing_context" in parameters)
    assert not {found: count for found, count in counts.items() if count > MOST_ARGUMENTS}


def test_all_compiled_functions_are_looked_at():
    from fastdln.kernels.cpu import two_pass

    names = {name for name, _ in functions(two_pass)}
    assert {"suffix_products", "add_gradient", "partition_rows", "new_workspace"} <= names
