"""Reductions over an A on a GPU, in the kernels of `kernels.cu`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cuda_device import TYPES, WARPS
from .cuda_targets import BY_ENTRY, CudaTarget

_COLUMNS = 1024  # columns of a tile, as in kernels.cu


class Operation(NamedTuple):
    """A reduction: its edge function in kernels.cu, and its outputs.

    `either_way` says that it is the same for A and Aᵀ. Then half of a symmetric A is enough.
    """

    edge: str
    outputs: int = 1
    scalars: int = 0
    aligned: bool = False
    either_way: bool = True


REDUCTIONS = {
    "rmatvec": Operation("Weighted", aligned=True, either_way=False),
    "squares": Operation("Squares"),
    "symmetric": Operation("Symmetric"),
    "nonzeros": Operation("Nonzeros"),
    "max_abs": Operation("Largest", outputs=2, either_way=False),
    "beginning": Operation("Beginning", scalars=3, aligned=True),
    "gradient": Operation("Gradient", outputs=2, scalars=1, aligned=True),
    "curvature": Operation("Curvature", aligned=True),
}


def sums(
    backend: Any,
    of: Operation,
    vectors: tuple[NDArray[Any], ...],
    target: CudaTarget | None,
    *,
    own: bool = False,
    whole: Any = None,
) -> NDArray[Any]:
    """The outputs as rows of k numbers, each with room for the scalars behind them.

    With `whole`, the backend of all of a sparse symmetric A, they are the sums of its rows without
    the diagonal.
    """
    backend.check_unchanged(target)
    gpu, k = backend.gpu, backend.pattern.k
    out = gpu.empty("sums over A", (of.outputs, k + of.scalars), np.float64)
    if k == 0:
        return np.zeros(out.shape)
    y_dtype = backend.dtype if target is None else np.dtype(target.values.dtype)
    types = f"{of.edge}, {TYPES[backend.dtype]}, {TYPES[y_dtype]}"
    given = [gpu.uploaded(each) for each in (vectors * 2)[:2]]
    aligned = (None, BY_ENTRY, 0) if target is None else (*target[:2], target.columns)
    halves = of.either_way and backend.is_symmetric(target)
    if whole is not None:
        parts = _of_sparse(whole, of, types, (*aligned, True, own, *given, 1.0), out, halves=True)
    elif backend.source.sparse:
        factor = 2.0 if halves else 1.0
        args = *aligned, False, own, *given, factor
        parts = _of_sparse(backend, of, types, args, out, halves=halves)
    else:
        args = *aligned, halves, own, *given
        parts = _of_dense(backend, of, types, args, out, halves=halves)
    if of.scalars:
        # whole rows have all scalars
        factor = 2.0 if halves and not backend.source.sparse else 1.0
        count = parts.size // of.scalars
        gpu.run("add_scalars", of.scalars, parts, count, of.scalars, factor, out[0, k:])
    found: NDArray[Any] = gpu.downloaded(out)
    return found


def _of_sparse(
    backend: Any, of: Operation, types: str, args: tuple[Any, ...], out: Any, *, halves: bool
) -> Any:
    """Write the outputs, and return partial sums of the scalars. `halves`: whole rows suffice."""
    gpu, source, k = backend.gpu, backend.source, backend.pattern.k
    parts = gpu.empty("sums over A", (-(-k // WARPS) * of.scalars,), np.float64)
    columns = (None, None, None) if halves else source.by_columns
    rows = source.values, source.indices, *backend.bounds_on_gpu, k, *columns
    gpu.run_rows(f"sparse_sums<{types}>", k, *rows, *args, k + of.scalars, out, parts)
    return parts


def _of_dense(
    backend: Any, of: Operation, types: str, args: tuple[Any, ...], out: Any, *, halves: bool
) -> Any:
    """`_of_sparse` for dense rows. `halves`: the upper triangle is enough."""
    gpu, k = backend.gpu, backend.pattern.k
    rows = backend.upper if halves else backend.bounds_on_gpu
    height = tile_rows(k)
    down, across = -(-k // height), -(-k // _COLUMNS)
    shapes = (across, of.outputs, k), (down, of.outputs, k), (down * across * of.scalars,)
    at_rows, at_columns, parts = (
        gpu.empty("partial sums over A", shape, np.float64) for shape in shapes
    )
    args = backend.source.values, *rows, k, height, *args, at_rows, at_columns, parts
    gpu.run(f"dense_sums<{types}>", down * across, *args)
    args = at_rows, across, at_columns, down, k, 2.0 if halves else 1.0, k + of.scalars, out
    gpu.run_rows(f"add_tiles<{of.edge}>", k, *args, threads=True)
    return parts


def tile_rows(k: int) -> int:
    """The rows of a tile of a dense A: a large A has enough tiles for all processors of a GPU."""
    return 64 if k < 4096 else 128 if k < 16384 else 256
