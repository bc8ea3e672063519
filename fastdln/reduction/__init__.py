"""Exact reduction of the width: plan, invariant subspaces, initial layers, lifting."""
