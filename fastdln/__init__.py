"""fastdln: fast training of deep linear networks."""
