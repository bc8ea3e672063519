"""How much memory is free, and refusing work that needs more."""

from pathlib import Path

import psutil


def available() -> int:
    """Return how many bytes this process may still allocate without swapping.

    The machine's available memory, or what is left of the control group's limit (containers,
    batch systems) where that is less.
    """
    return min([psutil.virtual_memory().available, *_left_of_control_group()])


def _left_of_control_group(root: str = "/sys/fs/cgroup") -> list[int]:
    """Return the bytes left under a version-2 control group limit, if there is one."""
    try:
        limit = Path(root, "memory.max").read_text().strip()
        used = int(Path(root, "memory.current").read_text())
        return [] if limit == "max" else [max(int(limit) - used, 0)]
    except (OSError, ValueError):
        return []


def require(needed: int, free: int, what: str, advice: str) -> None:
    """Raise MemoryError unless `needed` bytes fit in `free` bytes."""
    if needed > free:
        raise MemoryError(
            f"{what} needs {needed:,} bytes ({readable(needed)}) of memory, but"
            f" {free:,} bytes ({readable(free)}) are available; {advice}"
        )


def readable(count: float) -> str:
    """Return a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
