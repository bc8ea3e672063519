"""Benchmarks for asv: one file per capability, peers beside us in the same process."""
