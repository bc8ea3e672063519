"""Optimisers, minibatches and the bookkeeping of the training loop."""
