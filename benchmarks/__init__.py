"""Benchmarks for asv: one file per capability, with peers timed in the same process."""
