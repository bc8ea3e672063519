"""Sweeps over a grid of networks: cells, batches, executors, store."""
