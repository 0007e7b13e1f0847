"""The shape of the package: which module may import which, which names are public, and what a
docstring must say.
"""

import ast
import importlib.util
import inspect
import pickle
import re
from pathlib import Path

import pytest

import sparsejac
from sparsejac import (
    HessianOperator,
    JacobianBuilder,
    JacobianOperator,
    LeastSquares,
    NormalOperator,
    RowSums,
    RowSumsOperator,
    cool,
    fit,
    io,
    plot,
    symmetric_scaling,
    testing,
)
from sparsejac._solvers.status import FitStatus, ScalingStatus

PACKAGE = Path(sparsejac.__file__).parent

# A package may import only itself and those on lines above its own.
CHAIN = [
    ["_system"],
    ["_validation"],
    ["_kernels"],
    ["_matrix"],
    ["_backends"],
    ["_operators"],
    ["_solvers"],
    [
        *("builder", "least_squares", "row_sums", "fitting", "rectangular", "scaling"),
        *("cool", "distributed", "io", "plot", "testing", "_identities"),
    ],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(CHAIN) for name in names}
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module):
    """Modules of the package that a module imports, anywhere in it, also for the type checker."""
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.ImportFrom) and node.level):
            continue
        base = folder[: len(folder) - node.level + 1] + (node.module or "").split(".")
        base = [part for part in base if part]
        for alias in node.names:
            names = [".".join([*base, alias.name]), ".".join(base)]
            files = [name + end for name in names for end in ("", ".__init__")]
            yield next((file for file in files if file in MODULES), "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """Each import is of the same package, or of one to its left in the chain."""
    own = module.split(".")[0]
    for found in imports_of(module):
        package = found.split(".")[0]
        both_public = LEVEL[package] == LEVEL[own] == LEVEL["builder"]
        assert package == own or both_public or LEVEL[package] < LEVEL[own], found


def test_no_modules_import_each_other():
    """Following imports never leads back to a module."""
    done, under_way = set(), []

    def follow(module):
        assert module not in under_way, [*under_way, module]
        if module not in done:
            under_way.append(module)
            for found in sorted(set(imports_of(module)) - {module}):
                follow(found)
            done.add(under_way.pop())

    for module in MODULES:
        follow(module)


def test_only_the_kernels_import_numba():
    users = {
        module.split(".")[0]
        for module, path in MODULES.items()
        if re.search(r"^\s*(import|from) numba", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert users == {"_kernels"}


def test_one_module_imports_dask():
    users = {
        module
        for module, path in MODULES.items()
        if re.search(
            r"^\s*(import|from) (dask|distributed)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert users == {"distributed"}


def test_public_names():
    assert sparsejac.__all__ == [
        "HessianOperator", "JacobianBuilder", "JacobianOperator", "LeastSquares",
        "NormalOperator", "RowSums", "RowSumsOperator", "fit", "jacobian", "row_column_scaling",
        "symmetric_scaling",
    ]  # fmt: skip
    assert (PACKAGE / "py.typed").is_file()


def public_functions():
    yield from [getattr(sparsejac, name) for name in sparsejac.__all__]
    modules = [testing, io, cool, plot]
    if importlib.util.find_spec("distributed"):  # Dask is an extra
        modules.append(importlib.import_module("sparsejac.distributed"))
    for module in modules:
        yield from (getattr(module, name) for name in module.__all__)
    members = {  # each once: operators inherit some
        member: None
        for owner in (
            JacobianBuilder,
            JacobianOperator,
            LeastSquares,
            NormalOperator,
            HessianOperator,
            RowSums,
            RowSumsOperator,
        )
        for name, member in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_") and member.__module__.startswith("sparsejac")
    }
    yield from members


@pytest.mark.parametrize(
    "documented", list(public_functions()), ids=lambda function: function.__qualname__
)
def test_docstrings(documented):
    """numpydoc: the parameters are those of the signature, with their defaults; results, errors,
    memory and an example are there.
    """
    text = inspect.getdoc(documented)
    sections = re.split(r"\n\n?([A-Z][a-z]+)\n-{4,}\n", text)
    bodies = dict(zip(sections[1::2], sections[2::2], strict=True))
    if documented in (
        JacobianOperator,
        NormalOperator,
        HessianOperator,
        RowSumsOperator,
        testing.Check,
    ):  # nobody calls these
        assert "Attributes" in bodies
        return
    parameters = [p for p in inspect.signature(documented).parameters.values() if p.name != "self"]
    described = re.findall(r"^(\w+) : (.*)$", bodies.get("Parameters", ""), re.MULTILINE)
    assert [name for name, _ in described] == [p.name for p in parameters]
    for p, (_, kind) in zip(parameters, described, strict=True):
        if p.default is inspect.Parameter.empty:
            assert "optional" not in kind
            assert "default" not in kind
        elif p.default is None:
            assert "optional" in kind or p.name == "rows"
        else:
            assert f"default {p.default!r}".replace("'", '"') in kind
    inherited = documented.__name__ in (
        "matvec",
        "rmatvec",
        "matmat",
        "rmatmat",
        "dot",
    )  # the class says it for all of them
    if not inherited:
        assert ">>> " in bodies["Examples"]
        assert "**Memory.**" in bodies.get("Notes", "") or documented.__name__ in (
            "csr_nbytes",
            "tocsr",
        )
    if documented.__name__ != "write_blocks" and documented not in (
        JacobianBuilder,
        LeastSquares,
        RowSums,
        testing.assert_adjoint,
        io.write_csr,
        io.write_csr_blocks,
        io.write_vector,
        cool.export_weights,
        cool.write_weights,
    ):
        assert "Returns" in bodies or "Yields" in bodies
    if documented.__name__ not in ("column_norms", "diagonal", "block_diagonal", "nonzeros"):
        assert "Raises" in bodies


def test_every_error_message_is_matched_by_a_test():
    """Each `raise` of the package has words that occur, literally, in what a test expects."""
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for names in ("test_*.py", "bad_*.py")
        for path in Path(__file__).parent.glob(names)
    )
    tests = tests.replace("\\", "")
    missing = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id.endswith("Error")
            ):
                continue
            texts = [
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            words = [
                piece.strip()
                for text in texts
                for piece in re.split(r"[:;,(]", text)
                if len(piece.strip()) >= 6
            ]
            if words and not any(word in tests for word in words):
                missing.append(f"{path.name}:{node.lineno} {words[0]}")
    assert not missing


@pytest.mark.parametrize(
    ("solver", "statuses"), [(fit, FitStatus), (symmetric_scaling, ScalingStatus)]
)
def test_documented_statuses(solver, statuses):
    """The docstring lists the numbers and the names of the enum, and each member has a message."""
    listed = re.findall(r"^\s*\* (\d+), ([A-Z_]+): ", inspect.getdoc(solver), re.MULTILINE)
    assert listed == [(str(member.value), member.name) for member in statuses]
    assert len({member.template for member in statuses}) == len(statuses)
    for member in statuses:
        assert pickle.loads(pickle.dumps(member)) is member
        assert member == member.value
        assert str(member) == str(member.value)
