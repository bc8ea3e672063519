"""Lock for one writer per store; the operating system releases it when the process dies."""

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class DirectoryLock:
    """An exclusive lock on a directory, held until `release` or the death of the process.

    On POSIX the directory itself is locked (``flock``), so nothing is left behind. Windows
    cannot lock directories; there a file ``.lock`` inside it is locked.

    Raises
    ------
    BlockingIOError
        If another process holds the lock.
    """

    def __init__(self, directory: Path):
        self._handle = _open(directory)
        try:
            _lock(self._handle)
        except OSError:
            os.close(self._handle)
            raise

    def release(self) -> None:
        """Release the lock."""
        os.close(self._handle)


if sys.platform == "win32":

    def _open(directory: Path) -> int:
        return os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)

    def _lock(handle: int) -> None:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None

else:

    def _open(directory: Path) -> int:
        return os.open(directory, os.O_RDONLY)

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
