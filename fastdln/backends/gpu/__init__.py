"""Training, sampling and chain products on an NVIDIA GPU: ``device="gpu"``."""
