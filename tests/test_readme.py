"""The README's examples run, and its first shell block is the newcomer's two commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_python_examples_run(tmp_path):
    examples = blocks("python")
    assert len(examples) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(examples), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert run.returncode == 0, run.stderr


def test_the_two_commands_stand_alone():
    first, second = blocks("(?:sh|bash|shell)")[0].strip().splitlines()
    assert "fastdln figure1 --preset quick" in first
    assert second.endswith("pytest")


def test_pictures_exist():
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
