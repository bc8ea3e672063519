"""Where a sweep keeps what it has: in memory, and on disk where there is a store."""

from pathlib import Path
from typing import Any

from fastdln.sweeps.grid import Cell, Grid


class Memory:
    """Results in memory only."""

    def __init__(self, grid: Grid, attributes: dict[str, Any]):
        self.values = grid.empty()
        self.attributes = {"kind": "fastdln sweep", **attributes}
        self.advice = "no store was given, so nothing is kept; with store=PATH it could go on"

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        """Keep the values of a cell."""
        for name, array in self.values.items():
            array[cell.index] = values[name]

    def pending(self, cell: Cell) -> bool:
        """Return whether a cell is still to be trained."""
        return str(self.values["status"][cell.index]) == "pending"

    def close(self) -> None:
        """Let go of what is held open."""


class Disk(Memory):
    """Results in memory and, as each cell finishes, in a store."""

    def __init__(self, grid: Grid, attributes: dict[str, Any], store: Any):
        from fastdln.sweeps.store import Store

        super().__init__(grid, attributes)
        self._store = Store(store, grid, attributes)
        self.values = self._store.values()
        self.advice = f"run the same sweep again to continue from {Path(store)}"

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        """Keep the values of a cell, on disk first."""
        self._store.write(cell, values)
        super().write(cell, values)

    def close(self) -> None:
        """Let other processes write to the store."""
        self._store.close()


def keeper(grid: Grid, attributes: dict[str, Any], store: Any) -> Memory:
    """Return what keeps results: in a store, or in memory only where that is None."""
    return Memory(grid, attributes) if store is None else Disk(grid, attributes, store)
