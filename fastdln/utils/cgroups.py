"""The CPU quota of this process's Linux control groups, as containers and job schedulers set it."""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def processors(process: Path = Path("/proc/self")) -> int | None:
    """Return how many processors the quota pays for, rounded up; None where there is no quota.

    That is the least of this process's group and all groups above it that can be seen from here, in
    version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``, ``cpu.cfs_period_us``) of control groups.

    Parameters
    ----------
    process : Path
        Folder of the process, with its files ``cgroup`` and ``mountinfo``.
    """
    quotas = [quota for folder in _folders(process) for quota in _quotas(folder)]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _folders(process: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups that may hold a quota, and of those above them."""
    groups = {
        kind: path
        for _, controllers, path in _fields(process / "cgroup", ":", 3)
        for kind in [_kind(controllers)]
        if kind is not None
    }
    for fields in _fields(process / "mountinfo", " ", None):
        # id, parent, device, root, mount point, options…, "-", type, source, options
        if len(fields) < 10 or "-" not in fields[6:-3]:
            continue
        root, mount = PurePosixPath(fields[3]), Path(fields[4])
        kind = "" if fields[-3] == "cgroup2" else _kind(fields[-1])
        if not fields[-3].startswith("cgroup") or kind not in groups:
            continue
        group = PurePosixPath(groups[kind])
        # Where the mount shows another part of the tree, as in a container, only its top is known.
        inside = group.relative_to(root).parts if group.is_relative_to(root) else ()
        for count in range(len(inside) + 1):
            yield mount.joinpath(*inside[:count])


def _kind(controllers: str) -> str | None:
    """Return "" for version 2, "cpu" for version 1's controller of processors, or None."""
    if not controllers:
        return ""
    return "cpu" if "cpu" in controllers.split(",") else None


def _fields(path: Path, separator: str, count: int | None) -> Iterator[list[str]]:
    """Yield the fields of every line, `count` of them; of no line where there is no such file."""
    for line in _text(path).splitlines():
        fields = line.split(separator, -1 if count is None else count - 1)
        if count is None or len(fields) == count:
            yield fields


def _quotas(folder: Path) -> Iterator[float]:
    """Yield the processors that the quotas of one group pay for."""
    pairs = (
        _text(folder / "cpu.max").split(),
        [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")],
    )
    for quota, period, *_ in (pair for pair in pairs if len(pair) == 2):
        # "max" and "-1" stand for no quota.
        if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
