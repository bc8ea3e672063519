"""Check an installed fastdln, wheel or sdist: what is installed, and that it trains."""

import importlib.util

import fastdln
import fastdln.kernels.cpu.two_pass

assert importlib.util.find_spec("kernels") is None, "something is installed under the name kernels"
assert "site-packages" in fastdln.__file__, f"not the installed package: {fastdln.__file__}"
result = fastdln.train(fastdln.paper_regression(), width=32, depth=4, steps=50)
assert result.relative_loss[-1] < 0.1, result
print("installed: trained", result)
