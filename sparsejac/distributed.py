"""An A whose rows are on the workers of a Dask cluster, for a matrix that no machine holds.

This is the only module that imports Dask. `rows` makes what every function of the package takes as
an A or a Y.
"""

from __future__ import annotations

import itertools
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._backends import cluster_parts as on_worker
from ._backends.cluster import ClusterBackend
from ._backends.cluster_files import Block, of_path, of_rows
from ._backends.cluster_parts import RowsPart, View
from ._backends.cluster_source import ClusterSource
from ._backends.failures import BackendTimeoutError, LostPartsError, WorkersDiedError
from ._operators.assembly import canonical
from ._operators.rank_assembly import assembly_of
from ._system.outputs import check_output_folder, complete_or_absent_folder, naming
from .builder import JacobianBuilder

try:
    import dask
    import dask.array
    import dask.sizeof
    import distributed
    from distributed.client import FutureCancelledError, FuturesCancelledError
except ImportError as error:
    raise ImportError(
        "sparsejac.distributed needs Dask: install the extra, sparsejac-hadamard[dask]"
    ) from error

__all__ = ["csr_blocks", "rows", "write_blocks"]

_INLINE = 2**26  # a vector of more bytes is scattered: the scheduler would copy it with the task
_SHARE = 0.6  # of a worker's memory that its part may take: products need room for k-vectors
_ATTEMPTS = 3  # how often a vector is scattered
_logger = logging.getLogger("sparsejac")


class _DaskTransport:
    """Carries parts, vectors and results by a Dask client."""

    def __init__(self, client: Any, timeout: float) -> None:
        self._client, self._timeout = client, timeout
        self._held: list[Any] = []

    @property
    def workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    @property
    def threads(self) -> int:
        return min((each["nthreads"] for each in self.workers.values()), default=1)

    def put(self, part: Any) -> Any:
        # The result of a task is made again if its worker dies. What is scattered is lost then.
        if dask.sizeof.sizeof(part) > _INLINE:
            return self._scattered(part)
        with _quiet():
            return self._client.submit(_itself, part, pure=False)

    send = put

    def call(self, function: Callable[..., Any], part: Any, *args: Any) -> Any:
        with _quiet():
            return self._client.submit(function, part, *args, pure=False)

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        # The client sends messages every 10 ms. To release the last results just before the next
        # tasks are submitted would delay these.
        self._held = [*handles]
        try:
            # Without `wait`, Dask logs errors of tasks that `gather` leaves behind.
            distributed.wait(handles, timeout=self._timeout)
            return list(self._waited(self._client.gather, list(handles), direct=True))
        except TimeoutError:
            self._client.cancel(handles, force=True)
            raise self._late() from None
        except (FutureCancelledError, FuturesCancelledError) as error:
            raise LostPartsError(
                "a part of the matrix was lost with its worker: blocks that were scattered cannot "
                "be made again; pass paths, Dask arrays or delayed blocks, which can"
            ) from error
        except distributed.KilledWorker as error:
            raise WorkersDiedError(
                f"workers died one after the other ({error}): most likely a part does not fit into "
                "the memory limit of a worker; take more workers, or give them more memory"
            ) from error

    def _scattered(self, value: Any) -> Any:
        for _ in range(_ATTEMPTS):
            # The worker that was chosen may be dead, which the scheduler does not know yet.
            with suppress(distributed.comm.CommClosedError):
                return self._waited(self._client.scatter, value, hash=False, direct=True)
        raise LostPartsError("a vector was not sent, as workers died one after the other")

    def _waited(self, method: Callable[..., Any], *args: Any, **how: Any) -> Any:
        """Call a method of the client. Its own time limits do not bound all that it waits for."""

        async def called() -> Any:
            return await method(*args, asynchronous=True, **how)

        try:
            return self._client.sync(called, callback_timeout=self._timeout)
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> BackendTimeoutError:
        return BackendTimeoutError(
            f"the workers did not answer within timeout={self._timeout:g} seconds: a worker that "
            "is stopped counts as alive for as long as the setting "
            "distributed.scheduler.worker-ttl says; restart it, or pass more time to "
            "sparsejac.distributed.rows"
        )

    def has(self, handles: Sequence[Any]) -> bool:
        return all(each.status not in ("cancelled", "error") for each in handles)

    # --- arrays

    def is_array(self, value: object) -> bool:
        return isinstance(value, dask.array.Array)

    def array(self, blocks: Sequence[Any], lengths: Sequence[int], like: NDArray[Any]) -> Any:
        some = [(block, n) for block, n in zip(blocks, lengths, strict=True) if n]
        some = some or [(self.put(like), 0)]
        # Aliases of blocks, as `from_delayed` and `concatenate` make them, may clash in the
        # scheduler. So the array is made as `persist` makes it.
        name = f"sparsejac-{uuid.uuid4().hex}"
        chunks = tuple(n for _, n in some), *((n,) for n in like.shape[1:])
        zeros = (0,) * (like.ndim - 1)
        graph = {(name, i, *zeros): block for i, (block, _) in enumerate(some)}
        return dask.array.Array(graph, name, chunks, meta=like)

    def blocks(self, array: Any, lengths: Sequence[int]) -> list[Any]:
        some = tuple(length for length in lengths if length) or (0,)
        whole = array.rechunk({0: some} | ({1: -1} if array.ndim == 2 else {}))
        futures = iter(self._client.compute(list(whole.to_delayed().ravel())))
        empty = np.empty((0, *array.shape[1:]), array.dtype)
        return [next(futures) if length else empty for length in lengths]


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask warns of every vector that travels with a task."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        yield


def _itself(x: Any) -> Any:
    return x


# --- the blocks of a matrix


def rows(A: Any, *, client: Any = None, timeout: float = 120.0) -> ClusterSource:
    """Load a matrix to the workers of a Dask cluster, each of them some of its rows.

    The result is an A, or a Y, for every function of this package. The rows stay on the workers,
    k-vectors travel, and the solvers run in this process. This is for a matrix that one machine
    cannot hold. One machine that can hold it is faster.

    Parameters
    ----------
    A : dask.array.Array, list, str or path
        A square matrix, in one of these forms:

        * a Dask array, dense or of SciPy's CSR blocks, whose chunks hold whole rows;
        * a list of futures or delayed objects. Each is a block of consecutive rows: an array or a
          sparse matrix with k columns;
        * the path of a ``.npy`` in C order, of a folder that `sparsejac.io.write_csr_blocks` wrote,
          or of a Zarr array. Each worker reads its own rows, so all workers must see the path;
        * a pattern such as ``"part-*.npz"`` of files of `scipy.sparse.save_npz`. In the order of
          their names, they are blocks of consecutive rows.
    client : distributed.Client, optional
        Default: the client that was made last.
    timeout : float, default 120.0
        The seconds that an operation may wait for the workers.

    Returns
    -------
    A : object
        What the functions of this package take as an A or a Y.

    Raises
    ------
    ValueError
        If A is not square, if its blocks do not hold whole rows, or if there is no client.
    TypeError
        If A is none of the above.
    MemoryError
        If the rows of a worker would take more than 60 % of its memory limit. It is raised before
        they are loaded, if the sizes are known by then.

    Notes
    -----
    **Memory.** A worker holds its rows, and k + 1 row pointers if A is sparse. While it joins the
    blocks that it was given, it holds them twice. An operation takes a few k-vectors on each
    worker, as it does for an A in memory. This process holds k-vectors only, and
    keeps copies of the last two that it sent. Only if `symmetric_scaling` has to examine the
    support of A, and there is room for it, its positive entries come here.

    **Scattered blocks.** Pass ``hash=False`` to `client.scatter`. Otherwise Dask may confuse equal
    blocks with those that it is about to forget.

    **The default client.** ``.compute()`` of a result uses the client that was made last. If that
    is another one than `client`, use ``client.compute(result)``.

    **Lost workers.** If a worker dies, Dask loads its rows again from paths, Dask arrays and
    delayed blocks. Blocks that were scattered are lost, which is a RuntimeError. A TimeoutError
    says that workers did not answer within `timeout`. If either ends `fit` or `symmetric_scaling`,
    the last x is saved in a file, which the message names.

    Examples
    --------
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sparsejac import RowSums, distributed
    >>> with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    ...     A = distributed.rows(client.scatter([np.ones((2, 3)), np.ones((1, 3))], hash=False))
    ...     RowSums(A).value([1.0, 2.0, 3.0])
    array([ 6., 12., 18.])
    """
    timeout = _validation.nonnegative("timeout", timeout)
    if timeout == 0:
        raise ValueError("timeout must be a positive number of seconds, got 0")
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError:
            raise ValueError(
                "there is no Dask client: make one, client = dask.distributed.Client(address), or "
                "pass client="
            ) from None
    if not isinstance(client, distributed.Client):
        raise TypeError(
            f"client must be a dask.distributed.Client, got {_validation.type_name(client)}: pass "
            "Client(cluster)"
        )
    if client.status != "running":
        raise ValueError(f"client must be connected to its cluster, but it is {client.status}")
    transport = _DaskTransport(client, timeout)
    addresses = sorted(transport.workers)
    if not addresses:
        raise ValueError("the Dask cluster of client has no workers: start some")
    blocks, k = _blocks_of(A, client, transport, len(addresses))
    if sum(block.rows for block in blocks) != k:
        count = sum(block.rows for block in blocks)
        raise ValueError(f"A must be a square matrix, got blocks of {count} rows with {k} columns")
    groups = _groups([block.nbytes for block in blocks], len(addresses))
    held = [sum(block.nbytes for block in blocks[g0:g1]) for g0, g1 in groups]
    _check_memory(max(held), transport)
    given = client.compute([block.given for block in blocks])
    parts, placed, i0 = [], [], 0
    for number, (g0, g1) in enumerate(groups):
        # Parts of A and Y go to the same workers, unless one of them is gone.
        where = {"workers": addresses[number], "allow_other_workers": True, "pure": False}
        for g in range(g0, g1):
            if blocks[g].load is not None:
                given[g] = client.submit(blocks[g].load, *blocks[g].args, **where)
                placed.append(given[g])
        parts.append(client.submit(on_worker.loaded_part, given[g0:g1], i0, k, **where))
        i0 += sum(block.rows for block in blocks[g0:g1])
    placed += parts
    source = ClusterSource(transport, parts, ClusterBackend)
    # Once the workers of a task are gone, a new worker does not take it, allowed or not.
    free = {future.key: None for future in placed}
    client.sync(client.scheduler.set_restrictions, worker=free, callback_timeout=timeout)
    return source


def _groups(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Split blocks into at most so many groups of consecutive ones with about equal sizes."""
    ends = np.cumsum([0, *(max(size, 1) for size in sizes)])
    marks = ends[-1] * np.arange(1, most) / most
    inner = np.abs(ends[:, np.newaxis] - marks).argmin(axis=0) if most > 1 else []
    bounds = sorted({0, len(sizes), *map(int, inner)})
    return list(itertools.pairwise(bounds))


def _check_memory(nbytes: int, transport: _DaskTransport) -> None:
    """Refuse parts that leave a worker too little of its memory."""
    limits = [each["memory_limit"] for each in transport.workers.values() if each["memory_limit"]]
    if not limits:
        return
    _logger.info(
        "a worker will hold up to %s of A, and its memory limit is %s",
        _validation.human_bytes(nbytes),
        _validation.human_bytes(min(limits)),
    )
    if nbytes > _SHARE * min(limits):
        raise MemoryError(
            f"a worker would hold {_validation.human_bytes(nbytes)} of A, more than 60 % of its "
            f"memory limit of {_validation.human_bytes(min(limits))}: take more workers, or give "
            "them more memory"
        )


def _blocks_of(
    A: Any, client: Any, transport: _DaskTransport, count: int
) -> tuple[list[Block], int]:
    """The blocks of A, and its number of columns."""
    if isinstance(A, dask.array.Array):
        return _of_array(A, client, transport)
    if isinstance(A, (list, tuple)):
        return _of_list(A, client, transport)
    if isinstance(A, (str, os.PathLike)):
        return of_path(os.fsdecode(A), count)
    if type(A).__module__.partition(".")[0] == "zarr":
        return of_rows(A, count)
    raise TypeError(
        "A must be a Dask array, a list of futures or delayed blocks, or a path, got "
        f"{_validation.type_name(A)}: an A in the memory of this process needs no cluster"
    )


def _of_array(A: Any, client: Any, transport: _DaskTransport) -> tuple[list[Block], int]:
    if np.isnan(A.shape).any():
        raise ValueError(
            "the sizes of A's chunks must be known: call A.compute_chunk_sizes() before"
        )
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be a square matrix, got shape {A.shape}")
    if A.numblocks[1] != 1:
        raise ValueError(
            f"the chunks of A must hold whole rows, and it has {A.numblocks[1]} of them side by "
            'side: pass A.rechunk({0: "auto", 1: -1})'
        )
    k = int(A.shape[1])
    chunks = list(A.to_delayed().ravel())
    if scipy.sparse.issparse(A._meta):
        return _of_futures(client.compute(chunks), transport), k
    row = k * A.dtype.itemsize
    counts = map(int, A.chunks[0])
    return [Block(n, n * row, chunk) for n, chunk in zip(counts, chunks, strict=True)], k


def _of_list(A: Sequence[Any], client: Any, transport: _DaskTransport) -> tuple[list[Block], int]:
    for number, block in enumerate(A):
        if not (isinstance(block, distributed.Future) or dask.is_dask_collection(block)):
            raise TypeError(
                f"A[{number}] must be a future or a delayed block, got "
                f"{_validation.type_name(block)}: scatter it, client.scatter(block)"
            )
    if not A:
        raise ValueError("A must have at least one block of rows, got an empty list")
    futures = [client.compute(block) if dask.is_dask_collection(block) else block for block in A]
    columns = transport.gather([transport.call(on_worker.columns, each) for each in futures])
    if len(set(columns)) != 1:
        raise ValueError(f"the blocks of A must have the same number of columns, got {columns}")
    return _of_futures(futures, transport), columns[0]


def _of_futures(futures: Sequence[Any], transport: _DaskTransport) -> list[Block]:
    found = transport.gather([transport.call(on_worker.size, each) for each in futures])
    return [Block(n, nbytes, each) for (n, nbytes), each in zip(found, futures, strict=True)]


# --- J on the workers


def csr_blocks(builder: JacobianBuilder, x: ArrayLike) -> list[Any]:
    """The blocks of J as delayed CSR matrices, which are assembled where A is.

    Parameters
    ----------
    builder : JacobianBuilder
        Its A was made by `rows`.
    x : array_like, shape (k,)

    Returns
    -------
    blocks : list of dask.delayed.Delayed
        Each computes a `scipy.sparse.csr_array` with k columns. They follow each other as the rows
        of J do.

    Raises
    ------
    ValueError
        If x has another shape or is not finite; if the rows of A do not follow those of J.
    TypeError
        If the A of the builder is not on a cluster.

    Notes
    -----
    **Memory.** Nothing is computed here. A block takes as much on its worker as `tocsr` takes for
    the rows of A that the worker has.

    Examples
    --------
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sparsejac import JacobianBuilder, distributed
    >>> with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    ...     A = distributed.rows(client.scatter([np.ones((1, 2)), np.ones((1, 2))], hash=False))
    ...     blocks = distributed.csr_blocks(JacobianBuilder(A), [1.0, 2.0])
    ...     print(blocks[1].compute().toarray())
    [[2. 1.]
     [0. 4.]]
    """
    backend, arguments, _ = _assembly_of(builder, x)
    assemble = dask.delayed(_csr_block, pure=False)
    return [assemble(part, *arguments) for part in backend.source.parts]


def _assembly_of(
    builder: JacobianBuilder, x: ArrayLike
) -> tuple[ClusterBackend, tuple[Any, ...], np.dtype[Any]]:
    """The backend, the arguments of `_csr_block` behind the part, and the dtype of J at x."""
    backend = builder._rows
    if not isinstance(backend, ClusterBackend):
        raise TypeError(
            "builder must have an A of sparsejac.distributed.rows, got one in this process: its "
            "tocsr and iter_csr form J"
        )
    if not backend.layout.rows_in_order:
        raise backend.wrong_order()
    x = builder._point(x)
    sent = backend.source.transport.send(x)
    return backend, (backend.view, sent, backend.implicit), x.dtype


def _csr_block(part: RowsPart, view: View, x: NDArray[Any], implicit: bool) -> Any:
    backend = part.backend(view)
    x = np.require(x, requirements=["C", "A"])
    x.flags.writeable = False
    J = assembly_of(backend, 1 if x.ndim == 1 else x.shape[1]).matrix(x)
    if not implicit:
        return J
    i0, i1 = backend.source.rows
    k = backend.pattern.k
    counts = np.zeros((i1 - i0) * k + 1, J.indptr.dtype)
    counts[1 + on_worker.places(backend)] = np.diff(J.indptr)
    return canonical(
        (J.data, J.indices, np.cumsum(counts, dtype=counts.dtype)), (counts.size - 1, k)
    )


def write_blocks(path: str | os.PathLike[str], builder: JacobianBuilder, x: ArrayLike) -> None:
    """Let the workers write J to a folder, as `sparsejac.io.write_csr_blocks` writes it.

    Parameters
    ----------
    path : str or path-like
        The name of a new folder, which all workers must see. An empty one may exist.
    builder : JacobianBuilder
        Its A was made by `rows`.
    x : array_like, shape (k,)

    Raises
    ------
    OSError
        If it cannot be written, for instance because the disk is full. `path` is then absent.
    ValueError
        If the folder exists and is not empty, or cannot be made; and as `csr_blocks` raises it.
    TypeError
        If the A of the builder is not on a cluster.

    Notes
    -----
    The folder has another name until it is complete.

    **Memory.** As for `csr_blocks` on each worker.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sparsejac import JacobianBuilder, distributed, io
    >>> path = os.path.join(tempfile.mkdtemp(), "J")
    >>> with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    ...     A = distributed.rows(client.scatter([np.ones((1, 2)), np.ones((1, 2))], hash=False))
    ...     distributed.write_blocks(path, JacobianBuilder(A), [1.0, 2.0])
    >>> print(io.read_matrix(path)[2:].toarray())
    [[2. 1.]
     [0. 4.]]
    """
    path = Path(path)
    backend, arguments, dtype = _assembly_of(builder, x)
    check_output_folder(path)
    index = builder._assembly.columns_dtype
    m, n = builder.shape
    files = {"data": (builder.nnz, dtype), "indices": (builder.nnz, index)}
    files["indptr"] = m + 1, index
    call, row, entry, written = backend.source.transport.call, 0, 0, []
    with complete_or_absent_folder(path) as folder:
        with naming(path):
            for name, (count, kind) in files.items():
                _make_file(folder / f"{name}.npy", count, kind)
            np.save(folder / "shape.npy", np.array([m, n]))
        where = str(folder)
        for part, count, nnz in zip(
            backend.source.parts, backend.lengths, backend.nnz_of_parts, strict=True
        ):
            written.append(call(_write_block, part, *arguments, where, str(path), row, entry))
            row, entry = row + count, entry + nnz * builder._assembly.variables.rank
        backend.source.transport.gather(written)


def _make_file(path: Path, count: int, dtype: np.dtype[Any]) -> None:
    """Make a ``.npy`` of zeros, which takes no space on most disks."""
    np.save(path, np.zeros(0, dtype))
    if count:
        np.lib.format.open_memmap(path, "w+", dtype, (count,)).flush()


def _write_block(
    part: RowsPart,
    view: View,
    x: NDArray[Any],
    implicit: bool,
    folder: str,
    path: str,
    row: int,
    entry: int,
) -> None:
    J = _csr_block(part, view, x, implicit)
    for name, numbers, start in (
        ("data", J.data, entry),
        ("indices", J.indices, entry),
        ("indptr", J.indptr[1:], row + 1),
    ):
        if numbers.size:
            added = entry if name == "indptr" else 0
            with naming(Path(path)):
                _write_numbers(Path(folder) / f"{name}.npy", start, numbers, added)


def _write_numbers(path: Path, start: int, numbers: NDArray[Any], added: int) -> None:
    """Write numbers into a ``.npy``, from the number `start` on, with `added` added to each.

    They are not written through a mapping: if the disk is full, the system would kill the process.
    """
    with path.open("r+b") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.seek(start * dtype.itemsize, os.SEEK_CUR)
        numbers = numbers.astype(dtype, copy=added != 0)
        if added:
            numbers += added
        file.write(np.ascontiguousarray(numbers).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
