"""Declarations shared by CUDA kernels and the host: parameters, table columns, shared memory.

`text` renders them in C++, to precede each file of kernels, so that neither side can change without
the other. Every kernel has one parameter: a struct, passed by value.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import numpy as np

# Types of fields of a parameter struct: the Python type and the C type. Arrays become addresses.
Int32 = Annotated[int, "int"]
Int64 = Annotated[int, "i64"]
UInt64 = Annotated[int, "u64"]
Real = Annotated[float, "real"]
Array = Annotated[Any, "real*"]
ArrayIn = Annotated[Any, "const real*"]
Doubles = Annotated[Any, "double*"]
DoublesIn = Annotated[Any, "const double*"]
Int64s = Annotated[Any, "i64*"]
Int64sIn = Annotated[Any, "const i64*"]
Int32sIn = Annotated[Any, "const int*"]
Counters = Annotated[Any, "u32*"]


class LayerColumn(IntEnum):
    """Columns of the table of layers; see `Packing.layers`."""

    OFFSET = 0
    SHAPE = 1
    ROWS = 2
    COLUMNS = 3
    STRIDE = 4
    SLOT_BELOW = 5
    SLOT_ABOVE = 6
    UNLIKE_BELOW = 7
    UNLIKE_ABOVE = 8
    PADDING = 9  # pads a row to whole vectors of 16 bytes


class NetworkColumn(IntEnum):
    """Columns of the table of networks, int64: indices into the other arrays, and the goal."""

    LAYERS = 0
    DEPTH = 1
    LOSSES = 2
    GOAL = 3
    PROBLEM = 4
    STATE = 5
    BATCHES = 6
    FIRST_BATCH = 7


class NetworkConstant(IntEnum):
    """Columns of the table of each network's constants, float64."""

    CONSTANT = 0
    TOLERANCE = 1
    DECAY = 2
    MOMENTUM = 3
    FIRST_LOSS = 4  # the tolerance is relative to it; NaN means the network's own first loss


class TwoPassState(IntEnum):
    """Elements of the state of a two-pass run, int64."""

    STEP = 0
    ACTIVE = 1


class TwoPassConstant(IntEnum):
    """Elements of the constants of a two-pass run, float64."""

    DECAY = 0
    MOMENTUM = 1
    FIRST_CORRECTION = 2  # Adam's 1 − β₁^t and 1 − β₂^t of the next step
    SECOND_CORRECTION = 3
    TOLERANCE = 4
    CONSTANT = 5
    FIRST_LOSS = 6  # as in `NetworkConstant`


class UpdateRule(IntEnum):
    """Update rule of a two-pass step; the value is the number of state arrays of the rule."""

    PLAIN = 0
    MOMENTUM = 1
    ADAM = 2


# Number of partial sums of the loss, independent of the block's size; samples per chunk of a
# minibatch.
LOSS_PARTS, MINIBATCH_CHUNK = 32, 8
# Two-pass kernels: columns of a block's product (whole sectors of memory, and few enough to give
# the device enough blocks); rows of a block's update; bytes of the rows of a product that a thread
# sums at once (limited by its registers).
COLUMNS_AT_ONCE, ROWS_AT_ONCE, CHUNK_BYTES = 8, 4, 64
# Adam's constants, Kingma & Ba 2015, algorithm 1.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class SharedLayout(NamedTuple):
    """Offsets in bytes of the arrays in a block's shared memory, and their total size.

    Attributes
    ----------
    products, next_products : int
        The products of time t (or its co-states) and of t+1, which a block multiplies by a layer.
    partial, next_partial : int
        Each thread's partial sums of the outputs.
    known : int
        Products that the last pass stored for this block's outputs; unused in a group of blocks.
    factors : int
        Factors of the weights' steps, for each output.
    gradient : int
        G = ∂ℓ/∂M.
    ring : int
        The weight rings of all threads.
    loss_parts : int
        Partial sums of the loss, and the elapsed time, float64.
    size : int
        Total size.
    """

    products: Int32
    next_products: Int32
    partial: Int32
    next_partial: Int32
    known: Int32
    factors: Int32
    gradient: Int32
    ring: Int32
    loss_parts: Int32
    size: Int32


class Parameters:
    """A kernel's only parameter; each subclass is a dataclass with the fields of a C struct.

    Arrays are CuPy arrays (NumPy arrays where kernels run on the CPU); None is a null address.
    """

    @property
    def struct(self) -> Any:
        """The class that declares the struct; the C struct has the same name."""
        return type(self)

    def arrays(self) -> list[Any]:
        """Return the arrays among the fields."""
        values = (getattr(self, name) for name in pointers(self.struct))
        return [value for value in values if value is not None]

    def packed(self, dtype: Any) -> np.ndarray:
        """Return the bytes of the struct, shape (), for kernels of an element type.

        The result is cached: packing takes longer than a launch.
        """
        kept = self.__dict__.get("_packed")
        if kept is None:
            values = {name: getattr(self, name) for name in c_types(self.struct)}
            values |= {name: _address(values[name]) for name in pointers(self.struct)}
            kept = np.array(tuple(values.values()), layout(self.struct, np.dtype(dtype)))
            self.__dict__["_packed"] = kept
        return kept


def _address(array: Any) -> int:
    if array is None:
        return 0
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


@dataclass(frozen=True, eq=False)
class TrainNetworks(Parameters):
    """Parameters of ``train_networks``; `fastdln.kernels.cuda.zigzag.Batch` owns the arrays."""

    networks: Int64sIn
    constants: DoublesIn
    layers: Int64sIn
    weights: Array
    velocity: Array
    step_sizes: ArrayIn
    weight_decays: ArrayIn
    slots: Array
    end_to_end: Array
    gradients: ArrayIn
    scale: DoublesIn
    target: DoublesIn
    samples: DoublesIn
    batches: Int32sIn
    losses: Doubles
    steps: Int64s
    exchange: Array
    barriers: Counters
    sample_count: Int64
    nanoseconds: Int64
    batch_size: Int32
    group: Int32
    parts: Int32
    barrier_stride: Int32
    widest: Int32
    stages: Int32
    nesterov: Int32
    external: Int32
    shared: Annotated[SharedLayout, "SharedLayout"]


@dataclass(frozen=True, eq=False)
class MultiplyLayer(Parameters):
    """Parameters of ``multiply_layer``: below = above · W, all row-major with these strides."""

    state: Int64sIn
    W: ArrayIn
    above: ArrayIn
    below: Array
    stride: Int64
    above_stride: Int64
    below_stride: Int64
    q: Int32
    rows: Int32
    columns: Int32


@dataclass(frozen=True, eq=False)
class CopyRows(Parameters):
    """Parameters of ``copy_rows``."""

    state: Int64sIn
    source: ArrayIn
    target: Array
    source_stride: Int64
    target_stride: Int64
    rows: Int32
    columns: Int32


@dataclass(frozen=True, eq=False)
class UpdateLayer(Parameters):
    """Parameters of ``update_layer``; B and `next_C` are null for the last layer."""

    state: Int64sIn
    W: Array
    B: ArrayIn
    C: ArrayIn
    next_C: Array
    first_state: Array
    second_state: Array
    step_sizes: ArrayIn
    weight_decays: ArrayIn
    row_scales: ArrayIn
    constants: DoublesIn
    stride: Int64
    B_stride: Int64
    C_stride: Int64
    next_stride: Int64
    layer: Int32
    rule: Int32
    nesterov: Int32
    q: Int32
    rows: Int32
    columns: Int32


@dataclass(frozen=True, eq=False)
class EvaluateRegression(Parameters):
    """Parameters of ``evaluate_regression``; `limit` is the last step."""

    state: Int64s
    M: ArrayIn
    C: Array
    scale: DoublesIn
    target: DoublesIn
    constants: Doubles
    losses: Doubles
    stride: Int64
    limit: Int64
    q: Int32
    columns: Int32


@dataclass(frozen=True, eq=False)
class FillNormals(Parameters):
    """Parameters of ``fill_normals``."""

    out: Array
    key: UInt64
    stream: UInt64
    first: UInt64
    rows: Int64
    length: Int64
    stride: Int64
    stream_step: Int64
    step: Int64
    scale: Real


@dataclass(frozen=True, eq=False)
class DrawReflectors(Parameters):
    """Parameters of ``draw_reflectors``."""

    V: Array
    sizes: Doubles
    signs: Array
    key: UInt64
    stream: UInt64
    n: Int64
    p: Int64


@dataclass(frozen=True, eq=False)
class InvertFactors(Parameters):
    """Parameters of ``invert_factors``."""

    S: ArrayIn
    sizes: DoublesIn
    T: Array
    p: Int64
    first: Int64
    count: Int32


class _File(NamedTuple):
    """The declarations that precede one file of kernels."""

    parameters: tuple[type, ...]
    columns: tuple[type[IntEnum], ...] = ()
    sizes: tuple[str, ...] = ()


_FILES = {
    "zigzag": _File(
        (SharedLayout, TrainNetworks),
        (LayerColumn, NetworkColumn, NetworkConstant),
        ("LOSS_PARTS", "MINIBATCH_CHUNK"),
    ),
    "two_pass": _File(
        (MultiplyLayer, CopyRows, UpdateLayer, EvaluateRegression),
        (TwoPassState, TwoPassConstant, UpdateRule),
        ("COLUMNS_AT_ONCE", "ROWS_AT_ONCE", "CHUNK_BYTES", "BETA_1", "BETA_2", "EPSILON"),
    ),
    "random": _File((FillNormals,)),
    "haar": _File((DrawReflectors, InvertFactors)),
}

_SIMPLE = {"int": "i4", "i64": "i8", "u64": "u8"}


@cache
def c_types(struct: type) -> dict[str, str]:
    """Return the C type of every field of a struct, in order."""
    hints = get_type_hints(struct, include_extras=True)
    return {name: get_args(hint)[1] for name, hint in hints.items()}


@cache
def pointers(struct: type) -> tuple[str, ...]:
    """Return the names of the fields that are addresses."""
    return tuple(name for name, c_type in c_types(struct).items() if c_type.endswith("*"))


@cache
def layout(struct: type, dtype: np.dtype) -> np.dtype:
    """Return the NumPy dtype of a struct, aligned as in C++, for kernels of an element type."""

    def field(c_type: str) -> Any:
        if c_type == SharedLayout.__name__:
            return layout(SharedLayout, dtype)
        return "u8" if c_type.endswith("*") else dtype if c_type == "real" else _SIMPLE[c_type]

    return np.dtype([(name, field(c)) for name, c in c_types(struct).items()], align=True)


@cache
def text(name: str) -> str:
    """Return the declarations of a file of kernels in C++."""
    parts = ["// Generated: see kernels/cuda/declarations.py."]
    file = _FILES[name]
    for size in file.sizes:
        value = globals()[size]
        c_type = "int" if isinstance(value, int) else "double"
        parts.append(f"constexpr {c_type} {size} = {value};")
    for columns in file.columns:
        members = ", ".join(f"{c.name} = {c.value}" for c in columns)
        parts.append(f"struct {columns.__name__} {{\n    enum {{ {members}, COUNT }};\n}};")
    for struct in file.parameters:
        members = "".join(f"    {c} {field};\n" for field, c in c_types(struct).items())
        parts.append(f"struct {struct.__name__} {{\n{members}}};")
        single, double = (layout(struct, np.dtype(f"f{size}")).itemsize for size in (4, 8))
        expected = single if single == double else f"(sizeof(real) == 4 ? {single} : {double})"
        parts.append(
            f'static_assert(sizeof({struct.__name__}) == {expected}, "not as NumPy lays it out");'
        )
    return "\n".join(parts) + "\n"
