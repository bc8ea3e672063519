"""What ``device="gpu"`` means: cards, launches, and what takes the place of the CPU there."""
