"""The command `compile`: it compiles the kernels before somebody waits for them."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from .._kernels import compiled_kernel, maps_go_past_caches
from .._matrix.indices import frozen
from .._operators.rank_assembly import assembly_of
from ..builder import JacobianBuilder
from ..fitting import fit
from ..least_squares import LeastSquares
from ..row_sums import RowSums
from ..scaling import symmetric_scaling
from .common import ExitCode, say

ACCEPTED_DTYPES = (
    "float64", "float32", "complex128", "complex64", "bool", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
_K = 5  # rows of the matrices on which the kernels run once


def compile_kernels(arguments: argparse.Namespace) -> int:
    """Compile the kernels ahead of their first use, for an image of a container or a cluster."""
    stats = getattr(vars(compiled_kernel("value"))["compiled"], "stats", None)
    if stats is None:
        raise ValueError("nothing is compiled while NUMBA_DISABLE_JIT is set: unset it")
    folder = stats.cache_path
    if not folder or not os.access(folder, os.W_OK):
        raise OSError(
            "no folder for compiled kernels can be written: name one in NUMBA_CACHE_DIR, now and "
            "wherever sparsejac runs"
        )
    from .._kernels.compile import announcement

    for dtype in dict.fromkeys(arguments.dtype or ["float64"]):
        say(f"compiling the kernels for {dtype}, which takes about a minute")
        before, start = announcement.compiled, time.perf_counter()
        for A, Y in _forms(np.dtype(dtype)):
            _use(A, Y)
            for rank in dict.fromkeys(arguments.rank):
                _use_columns(A, Y, rank)
        count, seconds = announcement.compiled - before, time.perf_counter() - start
        say(f"{dtype}: {count} were missing, {seconds:.0f} s")
    say(f"They are kept in {folder}, for this kind of processor.")
    return ExitCode.DONE


def _forms(dtype: np.dtype[Any]) -> Iterator[tuple[Any, Any]]:
    """A symmetric A and a Y, in each form that has kernels of its own: dense, sparse, streamed."""
    A = np.ones((_K, _K), dtype)
    A[0, 1] = A[1, 0] = A[2, 3] = A[3, 2] = 0
    Y = A.copy()
    Y[0, 2] = Y[2, 0] = 0
    yield A, Y
    yield np.asfortranarray(A), np.asfortranarray(Y)
    yield scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y)
    yield lambda start, stop: A[start:stop], lambda start, stop: Y[start:stop]


def _use(A: Any, Y: Any) -> None:
    """Run each operation on these matrices."""
    for rows in ("all", "stored", "upper"):
        builder = JacobianBuilder(A, rows=rows)
        real = builder.dtype.kind != "c"
        for dtype in {builder.dtype, np.result_type(builder.dtype, np.float64)}:
            _use_builder(builder, np.ones(_K, dtype))
        if real:
            _use_problem(LeastSquares(A, Y, rows=rows), np.ones(_K))
            fit(A, Y, rows=rows)
    if real:
        row_sums = RowSums(A)
        row_sums.nonzeros()
        row_sums.operator(np.ones(_K)) @ np.ones(_K)
        symmetric_scaling(A, support="check")


def _use_columns(A: Any, Y: Any, rank: int) -> None:
    """Run each operation with so many columns of variables. The bilinear form has its kernels."""
    for rows in ("all", "stored"):
        builder = JacobianBuilder(A, rows=rows, rank=rank)
        for dtype in {builder.dtype, np.result_type(builder.dtype, np.float64)}:
            X = np.ones((_K, rank), dtype)
            builder.value(X)
            builder.max_abs(X)
            builder.tocsr(X)
            jacobian, w = builder.operator(X), np.ones(builder.shape[0], dtype)
            jacobian @ X.ravel(), jacobian.T @ w, jacobian.H @ w, jacobian.column_norms()
            normal = jacobian.normal()
            normal @ X.ravel(), normal.block_diagonal()
    if builder.dtype.kind != "c":
        for several in (rank, rank + 2):  # a fit multiplies two vectors more at a time
            _use_problem(LeastSquares(A, Y, rank=several), np.ones(_K * several), columns=1)
        fit(A, Y, rank=rank, max_iter=2)


def _use_builder(builder: JacobianBuilder, x: Any) -> None:
    builder.value(x)
    builder.max_abs(x)
    builder.row_pairs()
    builder.slice(x, 0)
    builder.tocsr(x)
    assembly = assembly_of(builder._rows, 1)
    assembly.caches = 0  # as if J were larger than the caches
    assembly.matrix(frozen(x))
    rows = builder._rows
    if maps_go_past_caches() and x.dtype.kind == "f" and not rows.pattern.interleaved:
        out = np.empty(builder.shape[0], x.dtype)
        rows.map("value_past_caches", None, 0, frozen(x), out)
        rows.map("matvec_past_caches", *rows.pair(frozen(x), frozen(x)), out)
    jacobian = builder.operator(x)
    some, w = np.ones((_K, 2), x.dtype), np.ones(builder.shape[0], x.dtype)
    jacobian @ x, jacobian @ some, jacobian.T @ w, jacobian.T @ np.ones((w.size, 2), x.dtype)
    jacobian.H @ w, jacobian.column_norms()
    operators = [jacobian.normal()]
    if x.dtype.kind != "c":
        operators.append(builder.hessian(w))
    for operator in operators:
        operator @ x, operator @ some, operator.diagonal()


def _use_problem(problem: LeastSquares, x: Any, columns: int = 2) -> None:
    problem.fun(x)
    problem.value_and_grad(x)
    for operator in (problem.normal(x), problem.hess(x)):
        operator @ x, operator @ np.ones((x.size, columns)), operator.diagonal()
