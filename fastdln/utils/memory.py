"""Free memory, and the check that work fits in it."""

from pathlib import Path

# Bytes up to which callers need not query the free memory: a query takes 30 µs.
SMALL_BYTES = 1 << 21


def available() -> int:
    """Return how many bytes this process may still allocate without swapping.

    The machine's available memory, or the unused part of the control group's limit (containers,
    batch systems) where that is less.
    """
    return min([_machine_bytes("available"), *_left_of_control_group()])


def installed() -> int:
    """Return the machine's memory in bytes."""
    return _machine_bytes("total")


def _machine_bytes(name: str) -> int:
    try:
        import psutil
    except ImportError:  # fastdln may be installed without dependencies, offline
        return _meminfo_bytes({"available": "MemAvailable", "total": "MemTotal"}[name])
    return int(getattr(psutil.virtual_memory(), name))


def _meminfo_bytes(name: str) -> int:
    """Return the bytes of a /proc/meminfo entry, which psutil reads as well."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/meminfo has no {name}; install psutil")


def _left_of_control_group(root: str = "/sys/fs/cgroup") -> list[int]:
    """Return the bytes left under a version-2 control group limit, if there is one."""
    try:
        limit = Path(root, "memory.max").read_text(encoding="utf-8").strip()
        used = int(Path(root, "memory.current").read_text(encoding="utf-8"))
        return [] if limit == "max" else [max(int(limit) - used, 0)]
    except (OSError, ValueError):
        return []


def require(needed: int, free: int, purpose: str, advice: str) -> None:
    """Raise MemoryError unless `needed` bytes fit in `free` bytes.

    The message is ``"<purpose> needs … bytes … are available; <advice>"``.
    """
    if needed > free:
        raise MemoryError(
            f"{purpose} needs {needed:,} bytes ({readable(needed)}) of memory, but"
            f" {free:,} bytes ({readable(free)}) are available; {advice}"
        )


def readable(count: float) -> str:
    """Return a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
