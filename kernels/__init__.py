"""The numerical kernels of fastdln: arrays in, arrays out; no files, no printing, no policy."""
