"""The numerical kernels of fastdln, functions of arrays: no files, no printing, no policy."""
