"""The shape of the package: which module may import which, which names are public, and what a docstring must say."""

import ast
import inspect
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
    io,
    testing,
)

PACKAGE = Path(sparsejac.__file__).parent

# What each module may import from the package: arrows run one way. A type-checking import is none.
ARROWS = {
    "_machine": set(),
    "_kernels": set(),
    "_progress": set(),
    "_completeness": set(),
    "_files": set(),
    "_matrix_market": set(),
    "_npy": set(),
    "_npz": {"_npy"},
    "_forks": set(),
    "_checks": {"_machine"},
    "_pattern": {"_checks", "_forks", "_kernels"},
    "_matrix": {"_checks", "_kernels", "_pattern"},
    "_linear": {"_checks"},
    "_stored": {"_checks", "_linear", "_pattern"},
    "_rows": {"_pattern", "_kernels"},
    "_sources": {
        "_checks",
        "_completeness",
        "_kernels",
        "_npy",
        "_pattern",
        "_pixels",
        "_rows",
        "_stored",
    },
    "_pixels": {"_checks", "_completeness", "_pattern", "_rows", "_sources"},
    "_streamed": {"_checks", "_pattern", "_progress", "_rows", "_sources"},
    "_beside": {"_checks", "_kernels", "_matrix", "_pattern", "_rows", "_sources", "_streamed"},
    "_kspace": {"_checks", "_linear", "_pattern", "_rows"},
    "_operator": {"_checks", "_kspace", "_linear", "_pattern", "_rows"},
    "_builder": {
        "_checks",
        "_kspace",
        "_linear",
        "_machine",
        "_matrix",
        "_operator",
        "_pattern",
        "_rows",
        "_sources",
        "_streamed",
    },
    "_optimize": {
        "_beside",
        "_builder",
        "_checks",
        "_kspace",
        "_matrix",
        "_operator",
        "_pattern",
        "_rows",
        "_sources",
    },
    "_steihaug": {"_kernels"},
    "_lanczos": set(),
    "_range": set(),
    "_fit": {
        "_checks",
        "_kernels",
        "_kspace",
        "_lanczos",
        "_optimize",
        "_pattern",
        "_progress",
        "_range",
        "_steihaug",
    },
    "_rowsums": {
        "_checks",
        "_linear",
        "_machine",
        "_matrix",
        "_pattern",
        "_rows",
        "_sources",
        "_streamed",
    },
    "_support": {"_rowsums"},
    "_scaling": {
        "_checks",
        "_forks",
        "_kernels",
        "_machine",
        "_progress",
        "_rowsums",
        "_steihaug",
        "_support",
    },
    "_columns": {"_checks", "_files", "_pixels", "_sources"},
    "cool": {"_checks", "_columns", "_pixels", "_progress", "_rowsums", "_scaling", "__version__"},
    "testing": {"_builder", "_checks"},
    "io": {"_checks", "_files", "_matrix_market", "_npy", "_npz", "_stored"},
    "cli": {
        "_builder",
        "_checks",
        "_columns",
        "_fit",
        "_machine",
        "_pixels",
        "_progress",
        "_scaling",
        "_stored",
        "__version__",
        "cool",
        "io",
        "testing",
    },
    "__init__": {"_builder", "_fit", "_kspace", "_operator", "_optimize", "_rowsums", "_scaling"},
    "__main__": {"cli"},
}


def imports_of(path):
    """Names that a module imports from the package itself, except for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in skipped:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    assert set(imports_of(path)) <= ARROWS[path.stem]


def test_only_the_kernels_import_numba():
    users = [
        path.stem
        for path in PACKAGE.glob("*.py")
        if re.search(r"^\s*(import|from) numba", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == ["_kernels"]


def test_public_names():
    assert sparsejac.__all__ == [
        "HessianOperator", "JacobianBuilder", "JacobianOperator", "LeastSquares", "NormalOperator", "RowSums", "RowSumsOperator",
        "fit", "jacobian", "symmetric_scaling",
    ]  # fmt: skip
    assert (PACKAGE / "py.typed").is_file()


def public_functions():
    yield from [getattr(sparsejac, name) for name in sparsejac.__all__]
    for module in (testing, io, cool):
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
    """numpydoc: the parameters are those of the signature, with their defaults; results, errors, memory and an example are there."""
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
    if documented not in (
        JacobianBuilder,
        LeastSquares,
        RowSums,
        testing.assert_adjoint,
        io.write_csr,
        io.write_csr_blocks,
        io.write_vector,
        cool.write_weights,
    ):
        assert "Returns" in bodies or "Yields" in bodies
    if documented.__name__ not in ("column_norms", "diagonal", "nonzeros"):
        assert "Raises" in bodies


def test_every_error_message_is_matched_by_a_test():
    """Each `raise` of the package has words that occur, literally, in what a test expects."""
    tests = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")
    )
    tests = tests.replace("\\", "")
    missing = []
    for path in sorted(PACKAGE.glob("*.py")):
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
