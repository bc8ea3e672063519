"""CUDA kernels in C++, compiled by NVRTC when first used, and their launchers.

Importing this package needs neither CuPy nor a card. Arrays and the module `xp` that makes them
(CuPy; NumPy where tests run the kernels on a processor) come from the caller.
"""
