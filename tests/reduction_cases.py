"""The optimisers and problems that the tests of reductions and of optimisers share."""

import fastdln
from fastdln import theory

STEPS = 40
# Rounding along a stable trajectory, while the relative loss is above 1e-12.
SAME = {"rtol": 1e-9, "atol": 0}

OPTIMIZERS = {
    "plain": {},
    "decay": {"weight_decay": 0.03},
    "Polyak": {"momentum": 0.7},
    "Nesterov": {"momentum": 0.6, "nesterov": True},
    "Polyak and decay": {"momentum": 0.5, "weight_decay": 0.02},
    "Nesterov and decay": {"momentum": 0.5, "nesterov": True, "weight_decay": 0.02},
}


def make_problem(d_x, d_y, n, rng):
    return fastdln.Regression(rng.standard_normal((d_x, n)), rng.standard_normal((d_y, n)))


def stable(problem, depth):
    return 0.1 * theory.learning_rate(problem, depth)
