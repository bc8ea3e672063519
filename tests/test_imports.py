"""The import contract: imports run downwards and in no circle; optional packages are imported late.

Imports inside functions count as much as those at the top of a file; only those under
``if TYPE_CHECKING:`` do not, for they never run.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Bottom to top, left to right: a package or module may import itself and those before it.
LAYERS = (
    "kernels",
    "utils",
    "rng network config",
    "objectives",
    "theory optim",
    "result",
    "backends",
    "initializers",
    "reduction",
    "training",
    "sweeps",
    "chain plot info figures",
    "command_options cli __main__",
)
ORDER = " ".join(LAYERS).split()
# Twins, which share code only through the modules above them in their folder.
INDEPENDENT = ("fastdln.backends.cpu", "fastdln.backends.gpu")
# Never imported at the top of a file: not everybody has them.
OPTIONAL = {"cupy", "cupy_backends", "torch", "jax", "distributed", "dask", "cuda"}
# Not imported by ``import fastdln``: they take seconds.
HEAVY = {"numba", "scipy", "zarr", "xarray", "matplotlib", *OPTIONAL}


class Import(NamedTuple):
    target: str
    line: int
    at_import_time: bool


def modules() -> dict[str, Path]:
    """Return the files of fastdln and of its kernels by the name each is imported under."""
    files = {}
    for folder, package in ((ROOT / "fastdln", "fastdln"), (ROOT / "kernels", "fastdln.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_statements(node: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the import statements that can run, and whether each runs only in a call."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, deferred
        elif is_type_checking(child):
            for branch in child.orelse:
                yield from import_statements(ast.Module([branch], []), deferred)
        else:
            in_call = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from import_statements(child, deferred or in_call)


def targets(statement: ast.AST, module: str, is_package: bool) -> list[str]:
    """Return what a statement imports, as absolute names of modules where fastdln has them."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert isinstance(statement, ast.ImportFrom)
    source = statement.module or ""
    if statement.level:
        parts = module.split(".")
        package = parts[: len(parts) - statement.level + is_package]
        source = ".".join([*package, source]).rstrip(".")
    names = [f"{source}.{alias.name}" for alias in statement.names]
    return [
        name if name in MODULES or name == "fastdln.__version__" or source == "fastdln" else source
        for name in names
    ]


def imports_of(module: str) -> list[Import]:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        Import(target, statement.lineno, not deferred)
        for statement, deferred in import_statements(tree)
        for target in targets(statement, module, path.name == "__init__.py")
    ]


IMPORTS = {module: imports_of(module) for module in MODULES}


def layer(module: str) -> int:
    package = module.split(".")[1]
    return ORDER.index(package) if package in ORDER else len(ORDER)


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def check_no(forbidden: Callable[[str, Import], bool]) -> None:
    """Fail with the place of every import that is forbidden."""
    places = [
        f"{MODULES[module].relative_to(ROOT)}:{statement.line} imports {statement.target}"
        for module, imports in IMPORTS.items()
        for statement in imports
        if forbidden(module, statement)
    ]
    assert not places, "\n".join(dict.fromkeys(places))


def test_every_package_has_a_layer():
    present = {module.split(".")[1] for module in MODULES if module != "fastdln"}
    assert present - set(ORDER) == set(), "write them into LAYERS above"


def test_imports_run_downwards():
    def upward(module: str, found: Import) -> bool:
        if not is_inside(found.target, "fastdln") or found.target == "fastdln.__version__":
            return False
        # fastdln/__init__.py is for users: it forwards to every layer. A target that is no module
        # is a name taken from there.
        if "fastdln" in (module, found.target) or found.target not in MODULES:
            return True
        return layer(found.target) > layer(module)

    check_no(upward)


def test_no_import_is_circular():
    """Not even one inside a function: a cycle that is deferred is a cycle."""
    graph = {
        module: {found.target for found in imports if found.target in MODULES} - {module}
        for module, imports in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_twins_are_independent():
    one, other = INDEPENDENT

    def crosses(module: str, found: Import) -> bool:
        inside = is_inside(module, one) and is_inside(found.target, other)
        return inside or (is_inside(module, other) and is_inside(found.target, one))

    check_no(crosses)


def test_optional_packages_are_imported_where_they_are_used():
    def early(module: str, found: Import) -> bool:
        return found.at_import_time and found.target.split(".")[0] in OPTIONAL

    check_no(early)


def test_importing_fastdln_is_light():
    script = "import json, sys, fastdln; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert HEAVY.isdisjoint(json.loads(run.stdout))
