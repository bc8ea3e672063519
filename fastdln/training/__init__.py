"""Training runs: one network, many networks, and the continuation of a run."""
