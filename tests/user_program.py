"""A user's program with three mistakes, for `test_typing`; it is checked and never run."""

import numpy as np

import fastdln

problem = fastdln.paper_regression(seed=0)
run = fastdln.train(problem, width=100, depth=5, init="orthogonal", steps=20)
last: float = float(run.relative_loss[-1])
first_layer: np.ndarray = run.network.weights[0]
run = fastdln.resume(run, steps=10)
status: str = run.status

fastdln.train(problem, steps="many")  # mistake: wrong type of an argument
print(run.relative_los)  # mistake: misspelt attribute
fastdln.train(problem, learning_rat=0.1)  # mistake: misspelt argument

runs = fastdln.train_many(problem, seeds=range(3), width=16, depth=4, learning_rates=1e-4)
print([each.steps_taken for each in runs])

data = fastdln.Regression(X=np.eye(3), Y=np.ones((2, 3)))
given = fastdln.initialize(3, 2, width=[8, 8], init="gaussian", seed=1)
print(fastdln.train(data, network=given, momentum=0.9).seconds, given.end_to_end())
print(fastdln.chain.gradients(given.weights, G=np.ones((2, 3)))[0].shape)

ds = fastdln.sweep(problem, widths=[20, 60], depths=[2, 20], seeds=(0, 1), steps=300)
fastdln.plot.heatmaps(ds).savefig("heatmaps.png")
eta: float = fastdln.theory.learning_rate(problem, depth=10)
Q: np.ndarray = fastdln.haar_orthogonal(100, size=50, seed=0)
