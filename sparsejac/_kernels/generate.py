"""Makes the kernel of an operation: its edge function in two walks, over dense and sparse rows.

Seen as a graph, A has an edge for each entry a = A_ij. An *edge function* computes what an
operation needs of one entry. The names of its parameters say what it reads:

``a``
    The entry.
``y``, or ``w``
    A number for each entry of A, or for each row of J. A kernel is given them as an array, and how
    many of them precede it.
``xi, xj, vi, vj``
    The elements at i and at j of the vectors x and v.
anything else
    An argument of the kernel that is the same for all entries.

The edge function of a map returns a number. That of a reduction returns three tuples: what the
entry contributes to the outputs at i, to the outputs at j, and to the scalars. Where it returns one
number t, the operation is a product: it contributes ``t x_j`` at i and ``t x_i`` at j for each x.

A kernel is one flat function for dense rows and one for sparse rows. They are made from the syntax
trees of the walks (see `walks`). The alternative is walks that Numba compiles for each type of
record, with tuples of vectors. They run as fast, but take one and a half times as long to compile:
Numba types and lowers each function that loads, stores or adds such a tuple on its own.

With NUMBA_DISABLE_JIT=1 the same functions run in Python. Their lines are those of the walks.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, call-arg, index"

import ast
import copy
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .compile import _map, _map_part, _sum, _sum_part
from .walks import map_dense, map_sparse, reduce_dense, reduce_sparse


class Monoid(NamedTuple):
    """How numbers of one output are combined, if not by addition. The identity is 0."""

    two: Callable[..., Any]  # of two numbers, for the kernel
    parts: np.ufunc  # of partial results


class Operation(NamedTuple):
    """A map or a reduction: what the walks must know of it.

    Attributes
    ----------
    edge : callable
    at_i, at_j : tuple of int
        The outputs to which an entry contributes at i, and at j.
    scalars : int
        The number of scalars.
    monoids : tuple of Monoid or None
        One for each output. None is the sum.
    products : int
        For how many vectors the edge function returns t, or 0.
    own : bool
        The kernel has an argument `own` that says whether entries on the diagonal count twice.
    rows : {1, 4}
        The number of dense rows that are taken at a time.
    past_caches : bool
        The stores of a map over dense rows go past the caches.
    by_rows : bool
        Entries contribute at i alone. Twice that is the sum over a symmetric A.
    """

    edge: Callable[..., Any]
    at_i: tuple[int, ...] = (0,)
    at_j: tuple[int, ...] = (0,)
    scalars: int = 0
    monoids: tuple[Monoid | None, ...] = (None,) * 4
    products: int = 0
    own: bool = False
    rows: int = 4
    past_caches: bool = False
    by_rows: bool = False


def map_kernel(name, op, dense=map_dense, sparse=map_sparse):
    """The kernel of a map. It is strict: bits must not depend on the block of an entry."""
    edge = _map_part(op.edge)
    return _map(*(_function(name, op, walk, edge) for walk in (dense, sparse)))


def sum_kernel(name, op, dense=reduce_dense, sparse=reduce_sparse, room=()):
    """The kernel of a reduction. It lets LLVM keep several partial sums.

    `room` names arguments in which the walk works.
    """
    edge = _sum_part(op.edge)
    kernel = _sum(*(_function(name, op, walk, edge, room) for walk in (dense, sparse)))
    if any(op.monoids):
        kernel.combine = functools.partial(_combine, op.monoids)
    return kernel


def _combine(monoids, total, part):
    for monoid, into, numbers in zip(monoids, total, part, strict=False):
        (monoid.parts if monoid else np.add)(into, numbers, out=into)


def sum_walk(op, walk):
    """A walk of a reduction as a function that a kernel calls."""
    return _sum_part(_function(op.edge.__name__, op, walk, _sum_part(op.edge)))


def _function(name, op, walk, edge, room=()):
    """The function of Python that a walk is with this edge function."""
    parameters = list(inspect.signature(op.edge).parameters)
    at_nodes = [each for each in parameters if each[1:] in ("i", "j")]
    extras = [each for each in parameters if each not in ("a", "y", "w", *at_nodes)]
    aligned = "y" in parameters or "w" in parameters
    vectors = op.products or len(at_nodes) // 2
    some = range(vectors)
    at_i, at_j = (some, some) if op.products else (op.at_i, op.at_j)
    given_j = at_j  # what the edge function returns, used or not
    if op.by_rows:
        at_j = ()
    constants = {
        "ALIGNED": aligned,
        "BY_ENTRY": "y" in parameters,
        "FOUR": op.rows == 4,
        "OWN": op.own,
        "PAST_CACHES": op.past_caches,
        "VECTORS": some,
        "INPUTS": vectors,
        "INTERLEAVED": vectors > 1,
        "OUTPUTS": sorted({*at_i, *at_j}),
        "AT_I": at_i,
        "AT_J": at_j,
        "GIVEN_J": given_j,
        "SCALARS": range(op.scalars),
        "ROWS": range(4),
    }
    arguments = [
        *inspect.signature(walk).parameters,
        *(("aligned", "aligned_base") if aligned else ()),
        *(f"x_{v}" for v in some),
        *extras,
        *(("own",) if op.own else ()),
        *room,
        "out",
    ]
    names = {each.two.__name__: each.two for each in op.monoids if each} | {"EDGE": edge}
    return written_out(name, op, walk, arguments, constants, names)


def written_out(name, op, walk, arguments, constants, names):
    """The function of Python that a walk is with these arguments and constants.

    `names` are the functions that it calls, besides those of the module of the walk.
    """
    walks: Any = sys.modules[walk.__module__]
    kernel = copy.deepcopy(_trees(walks)[walk.__name__])
    kernel.name = f"{name}_{walk.__name__.partition('_')[2]}"
    kernel.args.args = [ast.arg(each) for each in arguments]
    parameters = list(inspect.signature(op.edge).parameters)
    kernel.body = _Expand(constants, op, parameters, arguments).block(kernel.body)
    code = compile(ast.fix_missing_locations(ast.Module([kernel], [])), walks.__file__, "exec")
    known = vars(walks) | {"__name__": op.edge.__module__} | names
    exec(code, known)  # noqa: S102  # the code is this package's own
    function: Any = known[kernel.name]
    function.__doc__ = op.edge.__doc__
    return function


@functools.cache
def _trees(walks):
    """The syntax trees of the walks in a module, by their names."""
    return {
        each.name: each
        for each in ast.parse(inspect.getsource(walks)).body
        if isinstance(each, ast.FunctionDef)
    }


class _Expand(ast.NodeTransformer):
    """Writes out, for one operation, what a walk leaves open: see `walks`."""

    def __init__(self, constants, op, parameters, arguments):
        self._constants, self._op, self._parameters = constants, op, parameters
        self._arguments = arguments

    def block(self, statements):
        """Several statements, of which one may become none or many."""
        found = []
        for each in statements:
            made = self.visit(each)
            found += made if isinstance(made, list) else [made]
        return found

    def _with(self, name, value, statements):
        outer, self._constants = self._constants, self._constants | {name: value}
        found = self.block(copy.deepcopy(statements))
        self._constants = outer
        return found

    def visit_Expr(self, node):
        return [] if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_For(self, node):
        if isinstance(node.iter, ast.Name) and node.iter.id in self._constants:
            return [
                made
                for value in self._constants[node.iter.id]
                for made in self._with(node.target.id, value, node.body)
            ]
        node.target, node.iter = self.visit(node.target), self.visit(node.iter)
        node.body = self.block(node.body)
        return node

    def visit_If(self, node):
        if isinstance(node.test, ast.Name) and node.test.id in self._constants:
            return self.block(node.body if self._constants[node.test.id] else node.orelse)
        node.test = self.visit(node.test)
        node.body, node.orelse = self.block(node.body), self.block(node.orelse)
        return node

    def visit_IfExp(self, node):
        if isinstance(node.test, ast.Name) and node.test.id in self._constants:
            return self.visit(node.body if self._constants[node.test.id] else node.orelse)
        return self.generic_visit(node)

    def visit_Name(self, node):
        value = self._constants.get(node.id)
        return ast.copy_location(ast.Constant(value), node) if isinstance(value, int) else node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        both = node.left, node.right  # a sum of two constants is one: INPUTS + o
        if isinstance(node.op, ast.Add) and all(isinstance(each, ast.Constant) for each in both):
            return ast.copy_location(ast.Constant(node.left.value + node.right.value), node)
        return node

    def visit_Subscript(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant):
            name = "_".join((node.value.id, str(node.slice.value)))
            return ast.copy_location(ast.Name(name, node.ctx), node)
        return node

    def visit_Call(self, node):
        name = getattr(node.func, "id", "")
        if name == "EDGE":
            return ast.copy_location(self._call(*node.args), node)
        self.generic_visit(node)
        if name in ("FEW", "MANY"):
            node.args = [ast.Name(each, ast.Load()) for each in self._arguments]
        if name == "COMBINE":
            output, *both = node.args
            monoid = self._op.monoids[output.value]
            if monoid is None:
                return ast.copy_location(ast.BinOp(both[0], ast.Add(), both[1]), node)
            node.func, node.args = ast.Name(monoid.two.__name__, ast.Load()), both
        return node

    def _call(self, a, number, at_i, at_j):
        """``EDGE(a, y, at_i, at_j)`` as a call with what the edge function reads."""
        given, nodes = {"a": a, "y": number, "w": number}, []
        for name in self._parameters:
            if name[1:] in ("i", "j"):
                nodes.append(name)
                node, v = (at_i if name[1] == "i" else at_j), (len(nodes) - 1) // 2
                given[name] = ast.Subscript(copy.deepcopy(node), ast.Constant(v), ast.Load())
        arguments = [given.get(name, ast.Name(name, ast.Load())) for name in self._parameters]
        return ast.Call(ast.Name("EDGE", ast.Load()), [self.visit(each) for each in arguments], [])

    def visit_Assign(self, node):
        """``to_i, to_j, more = EDGE(…)``: a variable for each number that an entry contributes."""
        call, target = node.value, node.targets[0]
        edge = isinstance(call, ast.Call) and getattr(call.func, "id", "") == "EDGE"
        if not edge or not isinstance(target, ast.Tuple):
            return self.generic_visit(node)
        names = [self.visit(each).id for each in target.elts]
        if self._op.products:
            at_i, at_j = (ast.unparse(self.visit(copy.deepcopy(each))) for each in call.args[2:])
            made = [f"t = {ast.unparse(self.visit(call))}"]
            for v in self._constants["VECTORS"]:
                made += [f"{names[0]}_{v}, {names[1]}_{v} = t * {at_j}_{v}, t * {at_i}_{v}"]
        else:
            outputs = (self._constants[each] for each in ("AT_I", "GIVEN_J", "SCALARS"))
            targets = [
                "(" + "".join(f"{name}_{o}, " for o in some) + ")" if some else name
                for name, some in zip(names, outputs, strict=True)
            ]
            made = [f"{', '.join(targets)} = {ast.unparse(self.visit(call))}"]
        tree = ast.parse("; ".join(made))
        return ast.increment_lineno(tree, node.lineno - 1).body
