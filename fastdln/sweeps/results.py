"""Results of a sweep: in memory and, with a store, on disk as well."""

from pathlib import Path
from typing import Any

from fastdln.sweeps.grid import Cell, Grid


class ResultsInMemory:
    """Results of a sweep in memory only.

    Attributes
    ----------
    values : dict of str to ndarray
        Every variable of the dataset; pending cells hold the fill values.
    attributes : dict
        Attributes of the dataset.
    advice : str
        Says how to continue an interrupted sweep.
    """

    def __init__(self, grid: Grid, attributes: dict[str, Any]):
        self.values = grid.empty()
        self.attributes = {"kind": "fastdln sweep", **attributes}
        self.advice = "no store was given, so nothing is kept; with store=PATH it could go on"

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        """Write the values of a cell."""
        for name, array in self.values.items():
            array[cell.index] = values[name]

    def pending(self, cell: Cell) -> bool:
        """Return whether a cell is still to be trained."""
        return str(self.values["status"][cell.index]) == "pending"

    def create(self) -> None:
        """Create the store on disk where it is new; does nothing in memory."""

    def close(self) -> None:
        """Release the store; does nothing in memory."""


class ResultsOnDisk(ResultsInMemory):
    """Results in memory and, written as each cell finishes, in a store."""

    def __init__(self, grid: Grid, attributes: dict[str, Any], store: Any):
        from fastdln.sweeps.store import Store

        super().__init__(grid, attributes)
        self._store = Store(store, grid, attributes)
        self.values = self._store.values()
        self.advice = f"run the same sweep again to continue from {Path(store)}"

    def create(self) -> None:
        """Create the store on disk where it is new."""
        self._store.create()

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        """Write the values of a cell, to disk first."""
        self._store.write(cell, values)
        super().write(cell, values)

    def close(self) -> None:
        """Release the store's lock, so that other processes can write to it."""
        self._store.close()


def open_results(grid: Grid, attributes: dict[str, Any], store: Any) -> ResultsInMemory:
    """Return the results of a sweep, those of an existing store or new ones.

    Parameters
    ----------
    grid : Grid
    attributes : dict
        Everything that decides the results, as JSON values.
    store : path or None
        Directory of the store; None keeps results in memory only.
    """
    if store is None:
        return ResultsInMemory(grid, attributes)
    return ResultsOnDisk(grid, attributes, store)
