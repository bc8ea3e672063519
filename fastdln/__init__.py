"""fastdln: fast training of deep linear networks.

Public names are imported on first use: ``import fastdln`` loads neither Numba nor SciPy, Zarr,
xarray or Matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name → module that defines it; repeated below for type checkers.
_HOMES = {
    "Regression": "objectives.regression",
    "paper_regression": "objectives.regression",
    "Logistic": "objectives.logistic",
    "MatrixCompletion": "objectives.sensing",
    "MatrixSensing": "objectives.sensing",
    "Objective": "objectives.base",
    "Network": "network",
    "initialize": "initializers.layers",
    "TrainConfig": "config",
    "train": "training.train",
    "resume": "training.resume",
    "train_many": "training.many",
    "TrainResult": "result",
    "haar_orthogonal": "initializers.haar",
    "HaarReflectors": "backends.cpu.reflectors",
    "sweep": "sweeps.sweep",
}
_MODULES = ("chain", "theory", "plot")

__all__ = [*_HOMES, *_MODULES, "__version__"]

if TYPE_CHECKING:
    # ``import name as name`` makes a name public for type checkers.
    from fastdln import chain as chain
    from fastdln import plot as plot
    from fastdln import theory as theory
    from fastdln.backends.cpu.reflectors import HaarReflectors as HaarReflectors
    from fastdln.config import TrainConfig as TrainConfig
    from fastdln.initializers.haar import haar_orthogonal as haar_orthogonal
    from fastdln.initializers.layers import initialize as initialize
    from fastdln.network import Network as Network
    from fastdln.objectives.base import Objective as Objective
    from fastdln.objectives.logistic import Logistic as Logistic
    from fastdln.objectives.regression import Regression as Regression
    from fastdln.objectives.regression import paper_regression as paper_regression
    from fastdln.objectives.sensing import MatrixCompletion as MatrixCompletion
    from fastdln.objectives.sensing import MatrixSensing as MatrixSensing
    from fastdln.result import TrainResult as TrainResult
    from fastdln.sweeps.sweep import sweep as sweep
    from fastdln.training.many import train_many as train_many
    from fastdln.training.resume import resume as resume
    from fastdln.training.train import train as train
else:
    # Hidden from type checkers, which would otherwise accept every misspelt name of the package.
    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"fastdln.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'fastdln' has no attribute {name!r}")
        value = getattr(import_module(f"fastdln.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
