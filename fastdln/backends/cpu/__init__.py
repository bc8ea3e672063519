"""Training, Haar sampling and chain products on the CPU: ``device="cpu"``."""
