"""Compare the results of two revisions of fastdln bit for bit.

``python benchmarks/compare_revisions.py run OUT.json`` trains the configurations below with the
fastdln of the current environment and writes a digest of every result; ``… compare A.json B.json``
lists the differing configurations and exits with 1 if there are any. Run it once in a checkout of
each revision, with the same versions of NumPy and Numba on the same machine:

    git worktree add ../before REVISION && (cd ../before && python3 -m venv .venv \
        && .venv/bin/python -m pip install -e '.[all]')
    ../before/.venv/bin/python benchmarks/compare_revisions.py run before.json
    python benchmarks/compare_revisions.py run after.json
    python benchmarks/compare_revisions.py compare before.json after.json

The configurations cover both dtypes, every kernel, optimiser and initialisation, `train_many`,
sweeps, `resume`, sampling and the chain functions on the CPU, and training on the GPU through the
thread shim of the tests, which needs g++ and no GPU.
"""

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastdln

STEPS = 40
SMALL: dict[str, Any] = {"width": 20, "depth": 5, "steps": STEPS}
GAUSSIAN: dict[str, Any] = SMALL | {"init": "gaussian", "learning_rate": 2e-5}


def digest(*arrays: Any) -> str:
    """Return a digest of the bits, shapes and dtypes of arrays."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def of_run(run: fastdln.TrainResult) -> str:
    """Return a digest of a run's results: losses, status and trained weights."""
    return f"{run.status} {run.steps_taken} {digest(run.loss, *run.network.weights)}"


def problems() -> dict[str, Any]:
    """Return one problem of each kind."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((7, 30))
    entries = rng.permutation(35)[:20]
    return {
        "tall": fastdln.Regression(X[:2], rng.standard_normal((5, 30))),
        "logistic": fastdln.Logistic(X, rng.integers(0, 3, 30)),
        "completion": fastdln.MatrixCompletion(
            (5, 7), entries // 7, entries % 7, rng.standard_normal(20)
        ),
        "sensing": fastdln.MatrixSensing(rng.standard_normal((12, 3, 4)), rng.standard_normal(12)),
    }


def training() -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the configurations of single runs on the CPU with their names."""
    paper, others = fastdln.paper_regression(), problems()
    options: dict[str, dict[str, Any]] = {
        "gaussian": GAUSSIAN,
        "two-pass from memory": GAUSSIAN
        | {"width": 900, "depth": 6, "steps": 3, "kernel": "two-pass"},
        "zigzag": GAUSSIAN | {"width": 37, "kernel": "zigzag"},
        "zigzag, weight decay": GAUSSIAN | {"kernel": "zigzag", "weight_decay": 0.1},
        "wide": GAUSSIAN | {"width": 150, "depth": 4},
        "momentum": GAUSSIAN | {"momentum": 0.9},
        "nesterov": GAUSSIAN | {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
        "adam": GAUSSIAN | {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
        "minibatches": GAUSSIAN | {"batch_size": 5, "seed": 4},
        "weight decay": GAUSSIAN | {"weight_decay": 0.2, "gain": 0.9},
        "diverging": GAUSSIAN | {"learning_rate": 1.0},
        "orthogonal": SMALL | {"init": "orthogonal"},
        "orthogonal, dense": SMALL | {"init": "orthogonal", "method": "dense"},
        "orthogonal, momentum": SMALL | {"momentum": 0.9, "learning_rate": 1e-5},
        "list of widths": {"width": [30, 4, 17], "init": "gaussian", "steps": STEPS},
        "depth 1": {"depth": 1, "steps": STEPS},
        **{
            init: SMALL | {"init": init}
            for init in ("identity", "balanced", "zero_asymmetric", "near_identity")
        },
    }
    for dtype in ("float32", "float64"):
        for name, given in options.items():
            yield (
                f"{name} {dtype}",
                lambda given=given, dtype=dtype: of_run(fastdln.train(paper, dtype=dtype, **given)),
            )
        for name, problem in others.items():
            yield (
                f"{name} {dtype}",
                lambda problem=problem, dtype=dtype: of_run(
                    fastdln.train(
                        problem,
                        width=12,
                        depth=3,
                        init="gaussian",
                        steps=STEPS,
                        dtype=dtype,
                        learning_rate=1e-3,
                    )
                ),
            )


def together() -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the configurations of `train_many`, sweeps, resumed runs and given networks."""
    paper = fastdln.paper_regression()
    network = fastdln.initialize(1024, 10, width=18, depth=4, init="identity", seed=5)
    for dtype in ("float32", "float64"):

        def many(dtype: str = dtype, **given: Any) -> str:
            runs = fastdln.train_many(
                paper,
                seeds=range(19),
                init="gaussian",
                depth=4,
                steps=STEPS,
                dtype=dtype,
                learning_rates=1e-5,
                **given,
            )
            return " ".join(of_run(run) for run in runs)

        def resumed(dtype: str = dtype, **given: Any) -> str:
            options = GAUSSIAN | {"dtype": dtype, "resumable": True} | given
            return of_run(fastdln.resume(fastdln.train(paper, **options), steps=15))

        def swept(dtype: str = dtype, **given: Any) -> str:
            found = fastdln.sweep(
                paper,
                widths=(8, 30),
                depths=(1, 4),
                seeds=(0, 1),
                steps=STEPS,
                progress=False,
                dtype=dtype,
                **given,
            )
            names = ("loss", "initial_loss", "learning_rate", "steps_taken", "method", "status")
            return digest(*(found[name].values for name in names))

        yield f"many, batched {dtype}", lambda many=many: many(width=9)
        yield f"many, one by one {dtype}", lambda many=many: many(width=60)
        yield f"resumed {dtype}", resumed
        yield f"resumed, adam {dtype}", lambda r=resumed: r(optimizer="adam", learning_rate=1e-3)
        yield f"resumed, minibatches {dtype}", lambda r=resumed: r(batch_size=3, momentum=0.5)
        yield f"sweep {dtype}", swept
        yield (
            f"given network {dtype}",
            lambda dtype=dtype: of_run(
                fastdln.train(paper, network=network, steps=STEPS, dtype=dtype)
            ),
        )
    yield "store", _stored


def _stored() -> str:
    """Return a digest of a store's files without its times."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "run.zarr")
        fastdln.sweep(
            fastdln.paper_regression(),
            widths=(8,),
            depths=(2, 3),
            steps=5,
            store=store,
            progress=False,
            momentum=0.5,
        )
        files = {
            str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(store.rglob("*"))
            if path.is_file() and not str(path.relative_to(store)).startswith("seconds/c")
        }
        return json.dumps(files)


def building_blocks() -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the configurations of sampling and of the chain functions."""
    rng = np.random.default_rng(8)
    for dtype in ("float32", "float64"):
        layers = [
            rng.standard_normal((m, n)).astype(dtype)
            for n, m in [(9, 21), (21, 5), (5, 34), (34, 4)]
        ]
        X, G = (rng.standard_normal(shape).astype(dtype) for shape in [(9, 6), (4, 9)])
        yield (
            f"chain {dtype}",
            lambda layers=layers, X=X, G=G: digest(
                fastdln.chain.end_to_end(layers),
                *fastdln.chain.forward(layers, X),
                *fastdln.chain.gradients(layers, G),
            ),
        )
        for n, p, size in [(7, 7, 20), (130, 130, 3), (600, 40, 2), (9000, 3, 1)]:
            yield (
                f"haar {n} {p} {dtype}",
                lambda n=n, p=p, size=size, dtype=dtype: digest(
                    fastdln.haar_orthogonal(n, p, size=size, seed=1, dtype=dtype)
                ),
            )


def on_shim() -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield configurations with ``device="gpu"``, run on the CPU through the tests' thread shim."""
    small = fastdln.Regression(*(np.random.default_rng(2).standard_normal((n, 12)) for n in (4, 3)))
    options: dict[str, dict[str, Any]] = {
        "gpu": {},
        "gpu, two-pass": {"kernel": "two-pass"},
        "gpu, momentum": {"momentum": 0.5, "weight_decay": 0.01},
        "gpu, adam": {"optimizer": "adam", "learning_rate": 1e-3},
        "gpu, minibatches": {"batch_size": 4},
        "gpu, orthogonal": {"init": "orthogonal", "method": "dense"},
        "gpu, group of blocks": {"width": 70, "depth": 3, "steps": 3},
    }
    base: dict[str, Any] = {"width": 9, "depth": 4, "init": "gaussian", "steps": 12}
    for dtype in ("float32", "float64"):
        for name, given in options.items():
            chosen = {"learning_rate": 1e-3, "dtype": dtype, "device": "gpu"} | base | given
            yield f"{name} {dtype}", lambda chosen=chosen: of_run(fastdln.train(small, **chosen))
        yield (
            f"gpu, many {dtype}",
            lambda dtype=dtype: " ".join(
                of_run(run)
                for run in fastdln.train_many(
                    small, seeds=range(3), learning_rates=1e-3, dtype=dtype, device="gpu", **base
                )
            ),
        )
        yield (
            f"gpu, resumed {dtype}",
            lambda dtype=dtype: of_run(
                fastdln.resume(
                    fastdln.train(
                        small,
                        learning_rate=1e-3,
                        dtype=dtype,
                        device="gpu",
                        resumable=True,
                        momentum=0.5,
                        **base,
                    ),
                    steps=7,
                )
            ),
        )


def install_shim(tests: Path) -> None:
    """Make ``device="gpu"`` run on the thread shim in this checkout's `tests`."""
    sys.path[:0] = [str(tests), str(tests / "kernels" / "cuda_shim")]
    sys.path[:0] = [str(tests / "kernels" / "cuda" / "shim")]
    try:
        shim = importlib.import_module("shim_device")
    except ModuleNotFoundError:  # older revisions have no separate module for the shim
        _install_first_shim()
    else:
        shim.install()


def _install_first_shim() -> None:
    cases, check, launch, two_pass = (
        importlib.import_module(name)
        for name in (
            "cuda_cases",
            "fastdln.check",
            "fastdln.gpu.launch",
            "fastdln.kernels.cuda.two_pass",
        )
    )
    vars(check)["device"] = check.device_name
    vars(launch)["launcher_on"] = lambda device, dtype: cases.ShimLauncher(dtype)
    two_pass.TwoPass.__init__.__defaults__ = (0.0, 32, 0, None)


def run(out: Path) -> None:
    """Write the digest of every configuration."""
    found = {}
    cases = [training, together, building_blocks]
    if "--no-gpu" not in sys.argv:
        install_shim(Path(fastdln.__file__).resolve().parents[1] / "tests")
        cases.append(on_shim)
    for group in cases:
        for name, case in group():
            found[name] = case()
            print(".", end="", flush=True)
    out.write_text(json.dumps(found, indent=1))
    print(f"\n{len(found)} configurations of fastdln in {Path(fastdln.__file__).parent}")


def compare(first: Path, second: Path) -> int:
    """Print the configurations that differ; return 1 if there are any."""
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    different = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    for name in different:
        print(f"different: {name}")
    print(f"{len(a)} and {len(b)} configurations compared: {len(different)} differences")
    return 1 if different else 0


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]))
    else:
        raise SystemExit(compare(*map(Path, sys.argv[2:4])))
