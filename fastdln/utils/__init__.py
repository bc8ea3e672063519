"""Argument checks, threads and memory."""
