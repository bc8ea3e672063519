"""CPU kernels, compiled by Numba and free of the GIL."""
