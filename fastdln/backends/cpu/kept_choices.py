"""Measured times of kernels and teams, kept on disk for later processes.

Which team trains a network fastest depends on the machine, and finding out costs several spans of
training: more than a short run takes altogether. So measured times are kept in a file beside the
compiled kernels, per machine, shape, dtype, kernel, optimiser and size of the largest team.

The file is a cache: one that is damaged, from another version or cannot be read counts as empty and
is replaced at the next write; where it cannot be written, times are kept for this process. Nothing
is kept where ``FASTDLN_KEEP_CHOICES`` is 0. Results never depend on it: the bits of a run do not
depend on the team.
"""

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import numba

from fastdln import __version__
from fastdln.kernels.cpu import two_pass
from fastdln.kernels.cpu.vector_code import lanes
from fastdln.utils import processor, threads

log = logging.getLogger("fastdln")

FILE_NAME = "fastdln-choices.json"
# Of the packages whose code the measured kernels are compiled from; and of the file's format.
VERSION = f"fastdln {__version__}, numba {numba.__version__}, 1"
# Entries of the file; the oldest are removed. An entry takes about 200 bytes.
MOST_ENTRIES = 500
# Least seconds between two writes of a process, which take up to 3 ms each: as long as a
# short run. The rest is written when the process ends.
WRITE_INTERVAL = 10.0
# Age in seconds at which `load` ignores a time: a machine's other work changes from day to day.
MOST_AGE = 7 * 24 * 3600.0
# Longest list of widths that stands in the file as it is; a digest replaces a longer one.
_LONGEST_WIDTHS = 60


class Case(NamedTuple):
    """What a measured time is of, besides the machine.

    Attributes
    ----------
    widths : tuple of int
        Of the network that is trained.
    dtype : str
    kernel : str
        Such as ``"two-pass"``.
    optimizer : str
        Kind of the optimiser, such as ``"gd"``, ``"momentum"`` or ``"adam"``.
    most : int
        Size of the largest team.
    """

    widths: tuple[int, ...]
    dtype: str
    kernel: str
    optimizer: str
    most: int

    @property
    def text(self) -> str:
        """The case as the key of an entry; equal widths in a row are counted."""
        runs = ((width, len(list(run))) for width, run in itertools.groupby(self.widths))
        widths = "-".join(str(width) + f"x{count}" * (count > 1) for width, count in runs)
        if len(widths) > _LONGEST_WIDTHS:
            widths = hashlib.sha256(widths.encode()).hexdigest()[:32]
        return f"{widths} {self.dtype} {self.kernel} {self.optimizer} {self.most}"


# What reading a damaged file raises: it is no UTF-8 or JSON, or other JSON than is written here.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
# The seconds a step of a candidate, and when they were measured, in seconds since 1970.
_Measured = tuple[float, float]
# The candidates of an entry, by name; and entries, by machine and case.
_Entry = dict[str, _Measured]
_Entries = dict[str, _Entry]


class KeptChoices:
    """A file of measured times, shared with other processes and threads.

    Processes that write at the same time do not wait for each other: each adds what it has measured
    to the entries that it finds, and of two that write within the same milliseconds one may lose
    its times until it writes again.

    Parameters
    ----------
    folder : Path or None
        Where the file lies; None keeps times for this process only.
    machine : str
        What the times depend on besides the case; times of other machines are kept apart.
    version : str
        A file of another version counts as empty.
    most_entries : int
        Entries of the file.
    interval : float
        Least seconds between two writes.
    clock : callable
        Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        folder: Path | None,
        machine: str,
        *,
        version: str = VERSION,
        most_entries: int = MOST_ENTRIES,
        interval: float = WRITE_INTERVAL,
        clock: Callable[[], float] = time.time,
    ):
        self._path = None if folder is None else folder / FILE_NAME
        self._machine, self._version, self._most = machine, version, most_entries
        self._interval, self._clock = interval, clock
        self._entries: _Entries | None = None  # None until the file is read
        self._unwritten: _Entries = {}
        self._last_write = -math.inf
        self._lock = threading.Lock()

    def load(self, case: Case, most_age: float = MOST_AGE) -> dict[str, float]:
        """Return the seconds a step of each candidate measured in the last `most_age` seconds."""
        now = self._clock()
        with self._lock:
            if self._entries is None:
                self._entries = self._read()
            found = self._entries.get(self._key(case), {})
            # Not of the future: the clock has been set back, and the age is unknown.
            return {
                name: seconds
                for name, (seconds, measured) in found.items()
                if -60 <= now - measured <= most_age
            }

    def save(self, case: Case, seconds: Mapping[str, float]) -> None:
        """Keep the seconds a step of candidates; others of the case stay. Never raises OSError."""
        now = self._clock()
        new = {name: (float(s), now) for name, s in seconds.items() if 0 < s < math.inf}
        if not new:
            return
        with self._lock:
            _add(self._unwritten, {self._key(case): new})
            if self._entries is not None:
                _add(self._entries, {self._key(case): new})
            due = abs(now - self._last_write) >= self._interval
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what has been measured since the last write."""
        with self._lock:
            if not self._unwritten:
                return
            self._last_write = self._clock()
            # Read again: other processes have written meanwhile.
            entries = self._read()
            _add(entries, self._unwritten)
            newest = sorted(entries, key=lambda key: _last_measured(entries[key]), reverse=True)
            self._entries = {key: entries[key] for key in newest[: self._most]}
            self._unwritten = {}
            self._write(self._entries)

    def _key(self, case: Case) -> str:
        return f"{self._machine}: {case.text}"

    def _read(self) -> _Entries:
        """Return the entries of the file, and those that this process could not write."""
        found: _Entries = {}
        if self._path is not None:
            try:
                content = json.loads(self._path.read_text(encoding="utf-8"))
                if content["version"] == self._version:
                    found = {str(key): _entry(entry) for key, entry in content["entries"].items()}
            except FileNotFoundError:
                pass
            except _DAMAGED as error:
                log.debug("kept choices: %s is ignored: %s", self._path, error)
                found = {}
        _add(found, self._entries or {})
        return found

    def _write(self, entries: _Entries) -> None:
        if self._path is None:
            return
        text = json.dumps({"version": self._version, "entries": entries})
        # Write to another file and rename it: other processes never see a partial file.
        temporary = self._path.with_name(f"{FILE_NAME}.{uuid.uuid4().hex}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError as error:
            log.debug("kept choices: %s cannot be written: %s", self._path, error)
            with contextlib.suppress(OSError):
                temporary.unlink()


def _entry(found: Any) -> _Entry:
    """Return an entry of the file; raise ValueError or TypeError if it is none."""
    entry = {str(name): (float(s), float(measured)) for name, (s, measured) in found.items()}
    if not all(0 < s < math.inf and math.isfinite(measured) for s, measured in entry.values()):
        raise ValueError(f"no times: {found}")
    return entry


def _add(entries: _Entries, others: _Entries) -> None:
    """Add the others; of two times of a candidate the later remains."""
    for key, other in others.items():
        entry = dict(entries.get(key, {}))
        for name, found in other.items():
            if name not in entry or entry[name][1] <= found[1]:
                entry[name] = found
        entries[key] = entry


def _last_measured(entry: _Entry) -> float:
    return max((measured for _, measured in entry.values()), default=-math.inf)


def load(case: Case, most_age: float = MOST_AGE) -> dict[str, float]:
    """Return the kept seconds a step of each candidate of this machine; empty if unknown.

    A candidate is a team and what it shares, such as ``"1"`` or ``"2:layers"``.
    """
    store = kept()
    return {} if store is None else store.load(case, most_age)


def save(case: Case, seconds: Mapping[str, float]) -> None:
    """Keep the measured seconds a step of candidates; called once, when a run ends."""
    store = kept()
    if store is not None:
        store.save(case, seconds)


@functools.cache
def kept() -> KeptChoices | None:
    """Return the kept choices of this process; None where nothing is kept.

    Raises
    ------
    ValueError
        If ``FASTDLN_KEEP_CHOICES`` is not 0 or 1.
    """
    wanted = os.environ.get("FASTDLN_KEEP_CHOICES", "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"FASTDLN_KEEP_CHOICES is {wanted!r}; it must be 0 or 1")
    if wanted == "0":
        return None
    return KeptChoices(cache_folder(), machine())


@atexit.register
def _flush() -> None:
    if kept.cache_info().currsize:
        store = kept()
        if store is not None:
            store.flush()


if hasattr(os, "register_at_fork"):  # in a child, a lock that another thread held stays locked
    os.register_at_fork(after_in_child=kept.cache_clear)


def cache_folder() -> Path | None:
    """Return the folder in which Numba keeps the compiled kernels; None where it keeps none."""
    # A kernel is a plain function where Numba is told not to compile.
    path = getattr(getattr(two_pass.suffix_products, "stats", None), "cache_path", None)
    return None if path is None else Path(path)


@functools.cache
def machine() -> str:
    """Return a name that differs between machines of different speed."""
    parts = (
        processor.name(),
        llvmlite.binding.get_host_cpu_name(),
        f"{os.cpu_count()} processors",
        f"{threads.processors()} available",
        f"{lanes('float32')} lanes",
    )
    return ", ".join(parts)
