"""The public names are exactly those that are documented."""

import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import sparsejac
from sparsejac import (
    JacobianBuilder,
    LeastSquares,
    RowSums,
    fit,
    row_column_scaling,
    symmetric_scaling,
)

MODULES = [
    sparsejac,
    *(
        importlib.import_module(f"sparsejac.{module.name}")
        for module in pkgutil.iter_modules(sparsejac.__path__)
        if not module.name.startswith("_")
        and (module.name != "distributed" or importlib.util.find_spec("distributed"))
    ),
]
LISTED = {name for module in MODULES for name in getattr(module, "__all__", ())}
A, x = np.ones((3, 3)), np.ones(3)
OF_SCIPY = set(vars(aslinearoperator(A)))  # SciPy 1.18 sets `ndim` in each operator, say
PATH = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])  # it has no scaling
OBJECTS = {
    "builder": lambda: JacobianBuilder(A),
    "rank": lambda: JacobianBuilder(A, rank=2),
    "J": lambda: JacobianBuilder(A).operator(x),
    "J of rank 2": lambda: JacobianBuilder(A, rank=2).operator(np.ones((3, 2))),
    "normal": lambda: JacobianBuilder(A).operator(x).normal(),
    "hessian": lambda: JacobianBuilder(A).hessian(np.ones(9)),
    "problem": lambda: LeastSquares(A, A),
    "Hessian of a problem": lambda: LeastSquares(A, A).hess(x),
    "robust problem": lambda: LeastSquares(A, A, loss="huber"),
    "row sums": lambda: RowSums(A),
    "J of row sums": lambda: RowSums(A).operator(x),
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_names_of_a_module_are_in_its_list(module):
    """A name without an underscore is for users, and is listed where they look for it."""
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert defined <= LISTED
    for name in getattr(module, "__all__", ()):
        assert inspect.getdoc(getattr(module, name))


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_attributes_are_documented(make):
    """Each has a docstring, or a line in that of its class. What is documented is there."""
    thing = make()
    kind = type(thing)
    attributes = inspect.getdoc(kind).partition("Attributes\n---")[2].split("\n\n")[0]
    listed = {
        name
        for line in re.findall(r"^([\w, ]+) : ", attributes, re.MULTILINE)
        for name in line.split(", ")
    }
    undocumented = OF_SCIPY - listed if isinstance(thing, LinearOperator) else set()
    for name in (name for name in set(dir(thing)) - undocumented if not name.startswith("_")):
        owner = next((base for base in kind.__mro__ if name in vars(base)), kind)
        if owner.__module__.startswith("scipy."):
            continue
        assert name in listed or inspect.getdoc(vars(owner).get(name)), name
    for name in listed:
        assert hasattr(thing, name)


RESULTS = {
    "fit": (fit, lambda: fit(A, A)),
    "fit of rank 2": (fit, lambda: fit(A, A, rank=2)),
    "fit within bounds": (fit, lambda: fit(A, A, bounds=(0, 2))),
    "robust fit": (fit, lambda: fit(A, A, loss="huber")),
    "symmetric scaling": (symmetric_scaling, lambda: symmetric_scaling(A)),
    "no scaling": (symmetric_scaling, lambda: symmetric_scaling(PATH)),
    "scaling": (row_column_scaling, lambda: row_column_scaling(A)),
}


@pytest.mark.parametrize(
    ("function", "call"),
    [
        pytest.param(*of, id=name, marks=[pytest.mark.slow] * (name == "robust fit"))
        for name, of in RESULTS.items()
    ],
)
def test_fields_of_a_result_are_documented(function, call):
    result = call()
    assert isinstance(result, OptimizeResult)
    text = inspect.getdoc(function)
    for name in result:
        assert re.search(rf"\b{name}\b", text.partition("Returns")[2]), name
