"""The name of this machine's processor."""

import platform
import subprocess
import sys
from pathlib import Path

UNKNOWN = "unknown"


def name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name as its manufacturer gives it, or ``"unknown"``."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return sysctl("machdep.cpu.brand_string") or platform.processor() or UNKNOWN


def sysctl(key: str) -> str | None:
    """Return a property of a macOS system; None elsewhere, and where it has no value."""
    if sys.platform != "darwin":
        return None
    done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
