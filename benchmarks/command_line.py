"""Time commands of the program ``fastdln``, its start included."""

import subprocess
import sys
import tempfile
import time

# Name of each benchmark → arguments of the program.
COMMANDS = {
    "--help": "--help",
    "info": "info",
    "train": "train --width 20 --depth 4 --steps 100",
    "sweep": "sweep run.zarr --widths 10,20 --depths 2,4 --steps 50 --dtype float32 --quiet",
}


def seconds(arguments):
    """Return the seconds of a command in a new process and an empty directory."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "fastdln", *arguments.split()]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        taken = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return taken


class Command:
    """Seconds of a command with compiled kernels in the cache, the least of two."""

    params = [list(COMMANDS)]
    param_names = ["command"]
    unit = "s"
    timeout = 300

    def setup(self, name):
        seconds(COMMANDS[name])  # fills the cache

    def track_command(self, name):
        return min(seconds(COMMANDS[name]) for _ in range(2))
