"""The compiled kernels: every loop over the entries of A, for dense and CSR rows alike.

A kernel is a plain function of a block of rows of A and a few vectors. It never checks, allocates
nothing unless a comment says so, and does not know where its rows came from. It releases the GIL,
so that threads can run it on disjoint ranges of rows.

All of them walk the rows ``i0 <= i < i1`` in the same way, and start with the same arguments:

``data, indices, base``
    The entries of a block of rows, and their columns. Entry number p of A is ``data[p - base]``.
    For dense rows `indices` is None and p = i k + j. Numba compiles one version for each.
``lo, hi``
    Row i visits the entries ``lo[i] <= p < hi[i]``: all of its row, or its part in one triangle.
``first``
    ``first[i]`` is the number of entries that the rows before i visit. Row i's rows of J start
    there.
``grid``
    The number of columns of a sparse A, if J has a row for each place (`rows="all"`), so that entry
    (i, j) is row i times that, plus j. Otherwise -1: J has one row for each visited entry. It is
    None for dense rows.

What makes the loops fast is easy to lose. Over dense rows they move A, W or the output at the speed
of the memory bus: the inner ones count from 0 over slices, so Numba sees that no index is negative,
drops the wrap-around test, and LLVM vectorises. Sums take four rows at a time, so that a k-vector
goes through the cache once where it went four times. Over sparse rows the time is that of cache
misses at random columns. What one entry needs of the k-vectors is interleaved in an array of shape
(k, 2), one cache line of float64, and asked for `_AHEAD` entries before it is used.

Maps are compiled without `fastmath`, so the bits of an entry do not depend on the block in which it
is computed.

A map or a reduction over the entries is an edge function and a record, `Operation`, from which
`generate` makes a kernel. The other kernels are written by hand.

Importing Numba takes longer than importing everything else. So the modules of this package are
imported when the first kernel is asked for.
"""

import functools
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from .._system.signals import suppress
from .._system.threads import undisturbed

# Columns of dense rows that are treated together for several columns of variables. What they need
# stays in the cache. A kernel works in 17 numbers for each.
TILE = 512
FEW = (1, 2, 4)  # the numbers of columns for which reductions over sparse rows are compiled
_MODULES = (
    "maps",
    "assembly",
    "reductions",
    "residuals",
    "structure",
    "vectors",
    "rank",
    "rank_maps",
    "robust",
    "any_size",
)
# called with the name of each kernel that is going to be compiled
listeners: list[Callable[[str], object]] = []
import_lock = (
    threading.RLock()
)  # a fork takes it: a child cannot go on with another thread's import


@functools.cache
def compiled_kernel(name: str) -> Callable[..., Any]:
    """The kernel of this name, which is compiled when it is first called.

    If Ctrl-C ended an import halfway, Numba's tables would be filled in part, and no kernel could
    be compiled in this process any more.
    """
    return undisturbed(_imported, name)


def _imported(name: str) -> Callable[..., Any]:
    with import_lock:
        _fill_tables()
        for module in _MODULES:
            kernel: Callable[..., Any] | None = getattr(
                import_module(f"{__package__}.{module}"), name, None
            )
            if kernel is not None:
                return kernel
    raise AttributeError(f"there is no kernel {name!r}")


@functools.cache
def _fill_tables() -> None:
    """Let Numba fill its tables, which it would do at its first compilation."""
    with suppress(Exception):  # the import of the kernels raises it again
        compiler_lock = import_module("numba.core.compiler_lock")
        target = import_module("numba.core.registry").cpu_target
        with compiler_lock.global_compiler_lock:
            target.typing_context.refresh()
            target.target_context.refresh()


@functools.cache
def maps_go_past_caches() -> bool:
    """Whether maps are faster if they store past the caches, on this processor.

    That was so on a Zen 3 of AMD, and not on a Xeon of Intel with AVX-512. The benchmark of J v
    compares the two kinds of stores.
    """
    from llvmlite import binding

    name: str = binding.get_host_cpu_name()
    return name.startswith("znver")


def combine(name: str, total: NDArray[Any], part: NDArray[Any]) -> None:
    """Combine a partial result of this reduction into the total, by the monoid of each output."""
    vars(compiled_kernel(name))["combine"](total, part)


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    return compiled_kernel(name)
