"""Losses as functions of the end-to-end matrix, and their reduction to the inputs' span."""
