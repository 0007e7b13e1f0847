"""How much memory a pass over a streamed A takes, and how large its blocks may be.

With w workers, ``w + 1`` threads hold a block each, and the source makes `extra` more while it
reads one. For blocks of e entries, of which each takes b bytes of A and c bytes of what is aligned
with it, a pass takes

    ``2 MiB + 48 · 8 (k + 1) + e (b (w + 1 + extra) + c (w + 1))``   bytes,

where 48 k-vectors are what the largest solver, the pattern and the partial sums hold together. A
block has at least `Source.min_block_entries` entries: the longest row of a sparse A, or as many
rows of a dense A as are read and added together.
"""

from __future__ import annotations

from .. import _validation
from .._matrix.entries import kernel_dtype
from .._matrix.source import Source

BLOCK = 2**23  # bytes of a block: with more, the time between two blocks does not show
_DEFAULT = 2**28  # bytes of all blocks if the caller gives no budget
_VECTORS = 48  # k-vectors: see above
_OTHER = 2**21  # bytes of threads, and of what they leave with malloc


def block_entries(source: Source, workers: int, memory: int | None, aligned: int = 0) -> int:
    """How many entries a block may have. Each takes `aligned` bytes more, on all threads together.

    Raises
    ------
    ValueError
        If `memory` does not suffice for the smallest blocks.
    MemoryError
        If `memory` is None, and the machine has too little memory.
    """
    k, own = source.k, source.entry_bytes(kernel_dtype(source.dtype))
    each = own * (workers + 1 + source.extra) + aligned
    kept = _OTHER + _VECTORS * 8 * (k + 1)
    rows, longest = source.granule, source.min_block_entries
    if memory is None:
        what = f"k-vectors for this A of {k} rows, and for each thread {rows} of them,"
        hint = "take a smaller A, or one whose chunks have fewer rows"
        _validation.fits(what, kept + longest * each, hint)
        available = max(_DEFAULT, kept, longest * each)
    elif memory < kept + longest * each:
        needed, chunked = kept + longest * each, source.chunked
        raise _validation.small_memory(memory, needed, k, kept=kept, rows=rows, chunked=chunked)
    else:
        available = memory - kept
    return max(min(available // each, max(BLOCK // own, longest)), 1)
