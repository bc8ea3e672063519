"""The lock on a store's directory: one holder at a time, released by its death."""

import subprocess
import sys

import pytest

from fastdln.sweeps.lock import DirectoryLock


def test_one_lock_at_a_time_and_again_after_its_release(tmp_path):
    lock = DirectoryLock(tmp_path)
    with pytest.raises(BlockingIOError):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()


def test_directories_are_locked_independently(tmp_path):
    locks = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        locks.append(DirectoryLock(tmp_path / name))
    for lock in locks:
        lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="a file inside is locked there")
def test_a_lock_leaves_nothing_behind(tmp_path):
    DirectoryLock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_locked(tmp_path):
    with pytest.raises(FileNotFoundError):
        DirectoryLock(tmp_path / "nothing")


def test_the_lock_holds_between_processes_and_dies_with_them(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from fastdln.sweeps.lock import DirectoryLock;"
        "lock = DirectoryLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError):
            DirectoryLock(tmp_path)
        process.kill()
    DirectoryLock(tmp_path).release()
