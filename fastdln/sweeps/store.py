"""A sweep on disk: a Zarr group with one chunk per cell, written so that kill -9 is harmless.

All metadata is there before the first cell. Each chunk is replaced atomically, and a cell's
``status`` is written after its other variables, so a cell is either done or pending.
"""

import functools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.sweeps.chunks import ChunkWriter, chunk_writer
from fastdln.sweeps.grid import COORDINATES, VARIABLES, Cell, Grid
from fastdln.sweeps.lock import DirectoryLock

if TYPE_CHECKING:
    import xarray as xr
    import zarr

KIND = "fastdln sweep"
# Marker file, present from before the first metadata is written until after the last: a store that
# still has it was interrupted during creation, holds no cell, and may be created anew.
CREATING = ".fastdln-creating"


class Store:
    """An open store, locked against other processes until `close`.

    A new one is created on disk by `create`, at the latest with the first cell or at the end: Zarr
    takes long to import, and training need not wait for it.

    Parameters
    ----------
    path : str or path-like
        A local directory: absent, empty, or a store of the same sweep.
    grid : Grid
        The sweep's axes.
    attributes : dict
        Everything that decides the results, as JSON values; compared with an existing store's.

    Raises
    ------
    TypeError
        If `path` is not a path.
    ValueError
        If `path` holds other files, or the store of a sweep with other arguments.
    BlockingIOError
        If another process has the store open.
    OSError
        If `path` cannot be written.
    """

    def __init__(self, path: Any, grid: Grid, attributes: Mapping[str, Any]):
        self.path = local_path(path)
        self.grid = grid
        self._attributes = attributes
        _prepare_directory(self.path)
        self._lock = _locked(self.path)
        try:
            self._new = _is_new(self.path)
            if not self._new:
                _compare(self.path, attributes)
        except BaseException:
            self._lock.release()
            raise

    def create(self) -> None:
        """Create a new store on disk; does nothing where it is there."""
        if self._new:
            _create(self.path, self.grid, self._attributes)
            self._new = False

    def values(self) -> dict[str, np.ndarray]:
        """Return every variable as an array; pending cells hold the fill values."""
        values = self.grid.empty()
        if not self._new:
            group: Any = _open_group(self.path)
            for name, array in values.items():
                array[...] = group[name][...]
        return values

    def write(self, cell: Cell, values: Mapping[str, Any]) -> None:
        """Write one cell; only when this returns does the cell count as done."""
        # The order of VARIABLES ends with the status.
        for name, write in self._writers.items():
            write(cell.index, values[name])

    def close(self) -> None:
        """Create a new store that has no cell, and release the lock."""
        try:
            self.create()
        finally:
            self._lock.release()

    @functools.cached_property
    def _writers(self) -> dict[str, ChunkWriter]:
        self.create()
        group: Any = _open_group(self.path)
        return {name: chunk_writer(group[name], self.path / name) for name in VARIABLES}


def read(path: Any) -> "xr.Dataset":
    """Read a sweep's store, finished or not, into memory.

    The same dataset as ``xarray.open_zarr(path).load()``, with plain NumPy strings.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If `path` is not the store of a sweep.
    """
    import xarray as xr

    path = local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no sweep at {path}")
    if not _is_sweep(path):
        raise ValueError(f"{path} is not the store of a fastdln sweep")
    dataset = xr.open_zarr(path, chunks=None).load()
    for name in ("init", *(k for k, (kind, _, _) in VARIABLES.items() if kind == "str")):
        # Zarr's own string dtype cannot be cast to NumPy's directly.
        plain = dataset[name].values.astype(object).astype(str)
        dataset[name] = dataset[name].copy(data=plain)
    return dataset


def recorded_device(path: Any) -> str | None:
    """Return the kind of device that a store's sweep was begun on; None where there is no store."""
    return None if path is None else _attributes(local_path(path)).get("device")


def local_path(path: Any) -> Path:
    """Return `path` as a Path; addresses of remote stores are refused."""
    if not isinstance(path, str | os.PathLike) or isinstance(path, bytes):
        raise TypeError(f"store must be the path of a directory, not {type(path).__name__}")
    if "://" in os.fspath(path) or not os.fspath(path):
        raise ValueError(f"store must be the path of a local directory, not {os.fspath(path)!r}")
    return Path(path)


def _prepare_directory(path: Path) -> None:
    """Create the directory, or check that it is empty or a sweep's store, and writable."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"store must be a directory, but {path} is a file")
    if path.is_dir() and not (_is_new(path) or _is_sweep(path)):
        raise ValueError(
            f"store must be absent, empty or the store of this sweep, but {path} holds other files"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"the store {path} cannot be created: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"the store {path} cannot be written: permission denied")


def _locked(path: Path) -> DirectoryLock:
    try:
        return DirectoryLock(path)
    except BlockingIOError:
        raise BlockingIOError(
            f"the store {path} is being written by another process; wait for it or stop it"
        ) from None


def _is_new(path: Path) -> bool:
    """Return whether the directory is empty, or its creation was interrupted."""
    names = {entry.name for entry in path.iterdir()} - {".lock"}
    return not names or CREATING in names


def _is_sweep(path: Path) -> bool:
    return _attributes(path).get("kind") == KIND


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the Zarr group at `path`, or nothing where there is none."""
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return dict(metadata["attributes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _create(path: Path, grid: Grid, attributes: Mapping[str, Any]) -> None:
    import zarr

    (path / CREATING).touch()
    _clear(path)
    group = zarr.create_group(path, attributes={"kind": KIND, **attributes}, zarr_format=3)
    for name, values in grid.coordinates().items():
        _create_coordinate(group, name, values)
    for name in VARIABLES:
        _create_variable(group, grid, name)
    _consolidate(path)
    (path / CREATING).unlink()


def _consolidate(path: Path) -> None:
    """Copy the arrays' metadata into the group's; else xarray warns that opening is slow.

    The file is the one of ``zarr.consolidate_metadata``, whose three warnings cannot be silenced
    reliably while other threads run: `warnings.catch_warnings` acts on the whole process.
    """
    group = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    arrays = {
        name: json.loads((path / name / "zarr.json").read_text(encoding="utf-8"))
        for name in sorted([*COORDINATES, *VARIABLES])
    }
    group["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": arrays,
    }
    group["node_type"] = group.pop("node_type")  # Zarr writes it last
    (path / "zarr.json").write_text(json.dumps(group, indent=2), encoding="utf-8")


def _clear(path: Path) -> None:
    """Remove the files of an interrupted creation, and nothing else."""
    (path / "zarr.json").unlink(missing_ok=True)
    for name in (*COORDINATES, *VARIABLES):
        if (path / name).is_dir():
            shutil.rmtree(path / name)


def _create_coordinate(group: "zarr.Group", name: str, values: np.ndarray) -> None:
    array: Any = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=str if values.dtype.kind == "U" else values.dtype,
        dimension_names=(name,),
        attributes=dict(COORDINATES[name]),
    )
    array[...] = values.astype(object) if values.dtype.kind == "U" else values


def _create_variable(group: "zarr.Group", grid: Grid, name: str) -> None:
    kind, fill, attributes = VARIABLES[name]
    dimensions, shape = grid.layout(name)
    group.create_array(
        name,
        shape=shape,
        chunks=(1, 1, 1, 1, *shape[4:]),
        dtype=str if kind == "str" else kind,
        fill_value=fill,
        dimension_names=dimensions,
        attributes=dict(attributes),
    )


def _open_group(path: Path) -> "zarr.Group":
    import zarr

    return zarr.open_group(path, mode="r+")


def _compare(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raise ValueError if the store's attributes are not these."""
    stored = _attributes(path)
    given = json.loads(json.dumps({"kind": KIND, **attributes}))
    names = [*given, *(k for k in stored if k not in given)]
    differences = [
        _difference(name, stored.get(name), given.get(name))
        for name in names
        if stored.get(name) != given.get(name)
    ]
    if differences:
        raise ValueError(
            f"the store {path} holds another sweep: {'; '.join(differences)};"
            " give the same arguments to continue it, or another store"
        )


def _difference(name: str, stored: Any, given: Any) -> str:
    """Describe how two values differ; of lists, name only the elements that differ."""
    if isinstance(stored, list) and isinstance(given, list) and set(stored) != set(given):
        only = {
            "there": [v for v in stored if v not in given],
            "here": [v for v in given if v not in stored],
        }
        parts = [f"{_few(values)} only {where}" for where, values in only.items() if values]
        return f"{name} has {' and '.join(parts)}"
    return f"{name} is {stored!r} there and {given!r} here"


def _few(values: list[Any], most: int = 6) -> str:
    text = ", ".join(map(repr, values[:most]))
    return text if len(values) <= most else f"{text} and {len(values) - most} more"
