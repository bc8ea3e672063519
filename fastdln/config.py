"""The options of a training run: their defaults, types, allowed values and help, written once.

`train`, `train_many`, `sweep`, `resume`, the command line and the store of a sweep derive their
options from `TrainConfig`. To add an option, add a field here and read it where it acts.
"""

import dataclasses
import functools
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from fastdln.utils import validation

if TYPE_CHECKING:
    from fastdln.rng import Seed  # imports Numba, which the command line must not load

INITS = (
    "gaussian",
    "orthogonal",
    "identity",
    "balanced",
    "zero_asymmetric",
    "near_identity",
)
# The initialisations and the seeds of a sweep that names none.
SWEPT_INITS = ("gaussian", "orthogonal")
SWEPT_SEEDS = (0,)
OPTIMIZERS = ("gd", "adam")
METHODS = ("auto", "reduced", "dense")
KERNELS = ("auto", "two-pass", "zigzag")
DTYPES = ("float64", "float32")

# Maps an option's name and a given value to the value that is kept; raises if it is not allowed.
Check = Callable[[str, Any], Any]
# The key of a field's `Option` in its metadata.
_KEY = "fastdln"


class Option(NamedTuple):
    """The properties of an option besides its name, type and default.

    Attributes
    ----------
    help : str
        One line, for the command line.
    check : callable or None
        Returns the value to keep, or raises; not called for None where that is the default.
    choices : tuple of str
        The allowed values, where they are names.
    none_means : object
        The value that None stands for in a drawn network, if it is known beforehand.
    axis : bool
        Whether a sweep takes several values of it, one for each cell.
    recorded : {"always", "where given", "never"}
        Whether the store of a sweep keeps it. An option that is added later is ``"where given"``,
        so that older stores can still be continued.
    command_line : bool
        Whether commands get it automatically, from its type; False where a command parses a list.
    """

    help: str
    check: Check | None = None
    choices: tuple[str, ...] = ()
    none_means: Any = None
    axis: bool = False
    recorded: str = "where given"
    command_line: bool = True


def option(default: Any, help: str, **details: Any) -> Any:
    """Return a dataclass field with this default; for `details` see `Option`."""
    return dataclasses.field(default=default, metadata={_KEY: Option(help, **details)})


def choice(default: str | None, choices: tuple[str, ...], help: str, **details: Any) -> Any:
    """Return a field for an option that is one of the names `choices`."""

    def check(name: str, value: Any) -> str:
        return validation.one_of(name, value, choices)

    return option(default, help, check=check, choices=choices, **details)


def check_width(name: str, value: Any) -> int | tuple[int, ...]:
    """Return one width, or the width of every hidden layer."""
    if isinstance(value, str) or not (isinstance(value, Sequence) or _is_array(value)):
        return validation.positive_integer(name, value)
    return tuple(validation.positive_integer(f"{name}[{i}]", m) for i, m in enumerate(value))


def check_seed(name: str, value: Any) -> Any:
    """Return a seed: a number, a tuple of numbers, or an object of NumPy as it is.

    It may be a generator, from which the run itself draws (`fastdln.rng.seed_key`).
    """
    if isinstance(value, numbers.Number) or validation.is_bool(value) or isinstance(value, str):
        return validation.non_negative_integer(name, value)
    if isinstance(value, Sequence) or _is_array(value):
        return tuple(validation.non_negative_integer(f"every {name}", v) for v in value)
    return value


def _is_array(value: Any) -> bool:
    """Return whether a value is an array of one axis; NumPy need not be imported for that."""
    return len(getattr(value, "shape", ())) == 1


def check_momentum(name: str, value: Any) -> float:
    """Return a momentum, in [0, 1)."""
    momentum = validation.non_negative_number(name, value)
    if momentum >= 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, not {momentum}")
    return momentum


def check_switch(name: str, value: Any) -> bool:
    """Return True or False."""
    if not validation.is_bool(value):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def check_rank_tolerance(name: str, value: Any) -> float:
    """Return a relative tolerance, in (0, 1)."""
    tolerance = validation.positive_number(name, value)
    if tolerance >= 1:
        raise ValueError(f"{name} must be greater than 0 and less than 1, not {tolerance}")
    return tolerance


def check_tolerance(name: str, value: Any) -> float:
    """Return a relative loss, in [0, 1)."""
    tolerance = validation.non_negative_number(name, value)
    if tolerance >= 1:
        raise ValueError(f"{name} must be less than 1, not {tolerance}")
    return tolerance


def check_threads(name: str, value: Any) -> int:
    """Return a number of threads, from 1 to the processors that this process may use."""
    from fastdln.utils import threads  # with its pools, which --help does without

    return threads.checked(name, value)


def check_dtype(name: str, value: Any) -> str:
    """Return the name of a floating-point dtype."""
    from fastdln.utils.arrays import float_dtype  # with NumPy, which --help does without

    return str(float_dtype(value).name)


def check_device_name(name: str, value: Any) -> str:
    """Return ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"gpu:N"``; the GPU need not exist.

    ``"cuda"`` and ``"cuda:N"``, the names of other libraries, are accepted.
    """
    if isinstance(value, str):
        found = re.sub(r"^cuda(?=$|:)", "gpu", value)
        if found in ("auto", "cpu") or re.fullmatch(r"gpu(:\d+)?", found):
            return found
    known = ("cpu", "gpu", "cuda", "auto")
    near = validation.suggestion(value, known) if isinstance(value, str) else ""
    raise ValueError(f"{name} must be 'cpu', 'gpu', 'gpu:N' or 'auto', not {value!r}{near}")


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run, checked.

    ``dataclasses.replace(config, width=100)`` is the run with another width, and a subclass may add
    options. `fastdln.train` documents the options. Constraints that depend on the problem or on
    this machine (whether a batch is larger than the data, whether there is a GPU) are checked when
    the run is prepared, except that `threads` is at most the processors of this machine.

    Raises
    ------
    TypeError, ValueError
        For a value out of range, or options that contradict each other.
    """

    width: int | Sequence[int] | None = option(
        None,
        "One width, or one for each hidden layer",
        check=check_width,
        axis=True,
        command_line=False,
    )
    depth: int | None = option(
        None, "Number of layers", check=validation.positive_integer, axis=True
    )
    init: str | None = choice(None, INITS, "Initialisation", none_means="orthogonal", axis=True)
    gain: float | None = option(
        None,
        "Factor of every layer at the start",
        check=validation.positive_number,
        none_means=1.0,
        recorded="always",
    )
    steps: int = option(
        10_000, "Gradient steps", check=validation.non_negative_integer, recorded="always"
    )
    learning_rate: float | None = option(
        None,
        "The paper's step size; else the theorem's largest",
        check=validation.positive_number,
        recorded="always",
    )
    optimizer: str = choice("gd", OPTIMIZERS, "Optimiser", recorded="always")
    momentum: float = option(
        0.0, "At least 0, less than 1", check=check_momentum, recorded="always"
    )
    nesterov: bool = option(False, "Nesterov's momentum", check=check_switch, recorded="always")
    weight_decay: float = option(
        0.0, "At least 0", check=validation.non_negative_number, recorded="always"
    )
    batch_size: int | None = option(
        None,
        "Samples a step; else all of them",
        check=validation.positive_integer,
        recorded="always",
    )
    seed: "Seed" = option(0, "Seed of the network", check=check_seed, axis=True)
    dtype: Any = option(
        None,
        "Precision of the weights",
        check=check_dtype,
        choices=DTYPES,
        none_means="float64",
        recorded="always",
    )
    device: str = option(
        "cpu", "cpu, gpu, gpu:1 … or auto", check=check_device_name, recorded="always"
    )
    threads: int | None = option(
        None,
        "Most threads to use; else one for each processor",
        check=check_threads,
        recorded="never",
    )
    method: str = choice("auto", METHODS, "How the width is reduced", recorded="always")
    kernel: str = choice("auto", KERNELS, "How weights are read and written", recorded="always")
    rank_tolerance: float | None = option(
        None,
        "Tolerance of a given network's subspaces",
        check=check_rank_tolerance,
        recorded="never",
        command_line=False,
    )
    tolerance: float | None = option(
        None, "Relative loss at which training stops", check=check_tolerance
    )
    resumable: bool = option(
        False,
        "Keep the state of the optimiser",
        check=check_switch,
        recorded="never",
        command_line=False,
    )

    def __post_init__(self) -> None:
        # mypy compares the __hash__ of instances, not that of the class.
        for name, default, check in _checks(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if not (value is None and default is None):
                object.__setattr__(self, name, check(name, value))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum greater than 0, but momentum is 0")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(
                f"optimizer='adam' has its own momentum; momentum must be 0, not {self.momentum}"
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all options."""
        return tuple(cls.options())

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Self:
        """Return the options among a function's arguments, given by name."""
        return cls(**{name: arguments[name] for name in cls.names()})

    @classmethod
    def from_options(
        cls, function: str, options: dict[str, Any], arguments: Iterable[str] | None = None
    ) -> Self:
        """Return the options that a function was given as keywords.

        Parameters
        ----------
        function : str
            Its name.
        options : dict
        arguments : iterable of str, optional
            All names that may be suggested; None means those of the options.

        Raises
        ------
        TypeError
            For a name that is no option; suggests the nearest.
        """
        for name in options:
            if name not in cls.names():
                hint = validation.suggestion(name, cls.names() if arguments is None else arguments)
                raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
        return cls(**options)

    def value(self, name: str) -> Any:
        """Return an option's value, or the value that None stands for in a drawn network."""
        value = getattr(self, name)
        return self.options()[name].none_means if value is None else value

    @classmethod
    @functools.cache
    def options(cls) -> Mapping[str, Option]:
        """Return the properties of every option, by name."""
        return {field.name: details(field) for field in dataclasses.fields(cls)}

    def record(self) -> dict[str, Any]:
        """Return the options that decide the result of each cell of a sweep, as JSON values."""
        return {
            field.name: self.value(field.name)
            for field in dataclasses.fields(self)
            if _is_recorded(field, getattr(self, field.name))
        }


def details(field: "dataclasses.Field[Any]") -> Option:
    """Return the properties of a field besides its name, type and default."""
    found: Option = field.metadata[_KEY]
    return found


@functools.cache
def _checks(config: type[TrainConfig]) -> list[tuple[str, Any, Check]]:
    """Return the names of the options that are checked, their defaults and their checks."""
    known = ((field, details(field).check) for field in dataclasses.fields(config))
    return [(field.name, field.default, check) for field, check in known if check is not None]


def _is_recorded(field: "dataclasses.Field[Any]", value: Any) -> bool:
    known = details(field)
    if known.axis:
        return False
    return known.recorded == "always" or (
        known.recorded == "where given" and value != field.default
    )
