"""Where the tests of CUDA kernels find the shim that runs them on the CPU."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "cuda_shim"))
