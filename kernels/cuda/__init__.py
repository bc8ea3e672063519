"""CUDA kernels in C++, compiled by NVRTC at first use, and their launchers.

Importing this package needs neither CuPy nor a GPU. Arrays and the module `xp` that creates them
(CuPy; NumPy where tests run the kernels on the CPU) come from the caller.
"""
