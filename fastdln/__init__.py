"""fastdln: fast training of deep linear networks.

Public names are imported when they are first used, so that ``import fastdln`` stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name → the module it lives in; an empty name stands for the module itself.
_HOMES = {
    "Regression": "objectives.regression",
    "paper_regression": "objectives.regression",
    "Logistic": "objectives.logistic",
    "MatrixCompletion": "objectives.sensing",
    "MatrixSensing": "objectives.sensing",
    "Objective": "objectives.base",
    "Network": "network",
    "initialize": "initializers.layers",
    "train": "training.run",
    "resume": "training.run",
    "train_many": "training.many",
    "TrainResult": "result",
    "haar_orthogonal": "initializers.haar",
    "HaarReflectors": "backends.cpu.reflectors",
    "sweep": "sweeps.sweep",
}
_MODULES = ("chain", "theory", "plot")

__all__ = [*_HOMES, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"fastdln.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'fastdln' has no attribute {name!r}")
    value = getattr(import_module(f"fastdln.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
