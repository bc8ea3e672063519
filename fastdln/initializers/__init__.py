"""Initial networks, and Haar-distributed orthogonal matrices."""
