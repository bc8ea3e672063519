"""Train networks on a device: one interface, a CPU backend and a GPU backend."""
