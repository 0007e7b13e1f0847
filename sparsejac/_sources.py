"""Where the rows of a matrix come from that is not in memory: files, functions, and objects that read files.

A source is dense or CSR. It is opened for a pass, which makes sure that nobody has changed it since it was handed over, and then
reads blocks of rows; when the pass is over it is closed. It never maps a file into memory: of a file that has become shorter
the system would then kill the process, where a read says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from . import _checks, _npy
from ._completeness import check_complete
from ._pattern import Indices
from ._rows import Room, Turn, turn_of
from ._stored import File, StoredCSR, read_at

_SMALL = 2**16  # bytes of a row above which a part of it is read alone
_PIECE = 2**26  # bytes of one read: macOS refuses 2**31
_COLUMNS = (
    2**20
)  # columns of a sparse matrix that are looked at at a time, where no pass is under way


class Part(NamedTuple):
    """What is wanted of a dense matrix: rows i0 ≤ i < i1, and of them at least columns c0 ≤ j < c1."""

    i0: int
    i1: int
    c0: int
    c1: int


# Gives an array of so many rows, of all columns, in room that it may ask for.
Reader = Callable[[Part, Room], NDArray[Any]]


# --- numbers in a row, in a file or in memory -----------------------------------------------------------------------


class Numbers(Protocol):
    """A long vector that can be read in parts."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def size(self) -> int: ...

    @property
    def serial(self) -> bool:
        """Whether one read must end before the next begins."""

    @property
    def mutable(self) -> bool:
        """Whether the numbers may change between two passes, and nobody would notice."""

    def opened(self) -> Any:
        """For a pass: a context that yields ``read(start, stop, room)``."""


@dataclass(frozen=True)
class FileNumbers:
    """Numbers that lie one after the other in a file, from a byte on."""

    name: str
    path: str
    offset: int
    dtype: np.dtype[Any]
    size: int
    identity: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))
    mutable: bool = (
        False  # through a mapping, to which the time of a file does not tell of every write
    )
    serial = False

    @classmethod
    def of(
        cls, name: str, path: Any, offset: int, dtype: np.dtype[Any], size: int, *, mutable: bool
    ) -> FileNumbers:
        path = str(Path(path).absolute())
        try:
            status = Path(path).stat()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                error.errno,
                f"{path}, of {name}, is not there any more: write it anew, or pass numpy.asarray({name})",
            ) from None
        needed = offset + size * dtype.itemsize
        if status.st_size < needed:
            raise ValueError(
                f"{path}, of {name}, has {status.st_size} bytes where {needed} are needed: it is truncated, write it anew"
            )
        return cls(name, path, offset, dtype, size, identity(status), mutable)

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Room], NDArray[Any]]]:
        with File(self.path) as opened:
            file = opened.fileno()
            self._check_unchanged(file)

            def read(start: int, stop: int, room: Room) -> NDArray[Any]:
                numbers = room.take(stop - start, self.dtype)
                self.fill(file, start, numbers)
                return numbers

            read.fill = lambda start, numbers: self.fill(file, start, numbers)  # type: ignore[attr-defined]  # straight to its place
            yield read
            self._check_unchanged(file)  # meanwhile

    def _check_unchanged(self, file: int) -> None:
        """Another file, or one of another length, is refused. The time counts where nobody is known to write through a mapping."""
        count = 3 if self.mutable else 4
        if identity(os.fstat(file))[:count] != self.identity[:count]:
            raise changed(self.name, self.path)

    def fill(self, file: int, start: int, numbers: NDArray[Any]) -> None:
        view = memoryview(numbers.view(np.uint8).data)
        position = self.offset + start * self.dtype.itemsize
        while view:
            count = read_at(file, view[:_PIECE], position)
            if count == 0:
                raise OSError(
                    f"{self.path}, of {self.name}, ends early, at byte {position}: it has been truncated"
                )
            view, position = view[count:], position + count


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed(name: str, path: str) -> ValueError:
    return ValueError(
        f"{path} has changed since it was handed over as {name}: its size, its time or the file itself is another one; hand it over anew"
    )


@dataclass(frozen=True)
class MemoryNumbers:
    """A vector in memory, beside one that is not."""

    values: NDArray[Any]
    serial = False
    mutable = True

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def size(self) -> int:
        return self.values.size

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Room], NDArray[Any]]]:
        yield lambda start, stop, _: self.values[start:stop]


def numbers(name: str, array: NDArray[Any]) -> Numbers:
    """A vector, or all numbers of a contiguous array: from its file if it is mapped."""
    mapped = mapped_file(array)
    if mapped is None:
        return MemoryNumbers(array.reshape(-1))
    mappings, address, inode = _mappings(), array.ctypes.data, _inode(mapped[0])
    own = [mapping for mapping in mappings if mapping.begin <= address < mapping.end]
    if (
        array.size and own and inode not in (None, own[0].inode)
    ):  # the name is that of another file by now
        raise changed(name, mapped[0])
    mutable = _memmap(array).mode != "r" or _is_mapped_for_writing(inode, mappings)
    return FileNumbers.of(name, *mapped, array.dtype, array.size, mutable=mutable)


class Mapping(NamedTuple):
    """A file, or a part of it, that this process has mapped."""

    begin: int
    end: int
    for_writing: bool
    inode: int


_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .(.).(.) \S+ \S+ ([1-9]\d*)", re.MULTILINE)


def _mappings() -> list[Mapping]:
    """The files that this process has mapped; none where the system does not tell."""
    try:
        text = Path("/proc/self/maps").read_bytes()
    except OSError:
        return []
    return [
        Mapping(int(begin, 16), int(end, 16), write + share == b"ws", int(inode))
        for begin, end, write, share, inode in _MAPPING.findall(text)
    ]


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None


def _is_mapped_for_writing(inode: int | None, mappings: list[Mapping]) -> bool:
    """Whether this process can write to a file through a mapping. What other processes have mapped is not known.

    Only the inode is compared: some file systems show another device here than `os.stat` does, and to look once too often does no harm.
    """
    return any(mapping.for_writing and mapping.inode == inode for mapping in mappings)


def _memmap(array: Any) -> Any:
    """The memmap whose memory an array has; None if it has no such."""
    owner = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and not isinstance(owner.base, np.ndarray):
            return owner
        owner = owner.base
    return None


def mapped_file(array: Any) -> tuple[str, int] | None:
    """The file that a contiguous array is mapped from, and where it starts in it; None if its numbers are not those of a file."""
    owner = _memmap(array)
    # A copy on write may differ from its file; what is not contiguous cannot be read in one go.
    if owner is None or owner.filename is None or owner.mode == "c":
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    return str(owner.filename), int(owner.offset) + array.ctypes.data - owner.ctypes.data


# --- dense rows -----------------------------------------------------------------------------------------------------


class DenseSource:
    """The rows of a square matrix, or, if it is `transposed`, its columns."""

    k: int
    dtype: np.dtype[Any]
    transposed = False
    half = False  # whether it has the upper triangle of a symmetric matrix only
    step = 1  # rows that are read together if possible, as they lie together
    extra = 0  # blocks that are in memory beside those that we hold, while one is read
    serial = False
    mutable = False  # whether its owner may change its numbers between two passes, and nobody would notice

    @property
    def scan_each_pass(self) -> bool:
        """Whether what a pass has seen does not hold for the next one."""
        return self.mutable

    def opened(self) -> Any:
        """For a pass: a context that yields a `Reader`."""
        raise NotImplementedError


@dataclass
class FileRows(DenseSource):
    """A matrix in a file, in C order, or in Fortran order and then transposed."""

    stored: Numbers
    k: int
    transposed: bool = False

    def __post_init__(self) -> None:
        self.dtype = self.stored.dtype

    @property
    def mutable(self) -> bool:  # type: ignore[override]  # it may change between two passes
        return self.stored.mutable

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        k = self.k
        with self.stored.opened() as numbers:

            def read(part: Part, room: Room) -> NDArray[Any]:
                i0, i1, c0, c1 = part
                # A read for each row costs more than reading on, unless it leaves out a good part of a long row.
                if (
                    c1 - c0 > k // 2
                    or k * self.dtype.itemsize < _SMALL
                    or not hasattr(numbers, "fill")
                ):
                    return numbers(i0 * k, i1 * k, room).reshape(i1 - i0, k)
                block = room.take((i1 - i0) * k, self.dtype).reshape(i1 - i0, k)
                for i in range(i0, i1):
                    numbers.fill(i * k + c0, block[i - i0, c0:c1])
                return block

            yield read


def _kept(block: NDArray[Any], room: Room) -> NDArray[Any]:
    """A copy of our own: whoever made the block may use its memory for the next one."""
    copy = room.take(block.size, block.dtype).reshape(block.shape)
    np.copyto(copy, block)
    return copy


@dataclass
class FunctionRows(DenseSource):
    """``rows(start, stop)`` of a function, called for one block after the other, in order.

    It is never called for two at a time, by however many builders: it may use the memory of its result again.
    """

    function: Callable[[int, int], Any]
    name: str = "A"
    serial = True
    scan_each_pass = True  # it promises the same numbers each time, which nobody can see
    extra = 8  # arrays of that size are what such a function makes on its way
    turn: Turn = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.turn = turn_of(self.function)
        with self.turn:
            found = self.function(0, 1)
        # A slice of a matrix without rows has none.
        first = found if np.shape(found) == (0, 0) else self._checked(0, 1, found)
        self.k, self.dtype = first.shape[1], first.dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, turn=turn_of(state["function"]))

    def _rows(self, i0: int, i1: int, room: Room) -> NDArray[Any]:
        with self.turn:
            return _kept(self._checked(i0, i1, self.function(i0, i1)), room)

    def _checked(self, i0: int, i1: int, found: Any) -> NDArray[Any]:
        block = _checks.array(f"what {self.name} returned for rows({i0}, {i1})", found)
        k = getattr(self, "k", None)
        if block.ndim != 2 or block.shape != (i1 - i0, k or block.shape[1]):
            raise ValueError(
                f"{self.name} must return rows {i0} to {i1 - 1} as an array of shape ({i1 - i0}, {k or 'k'}), got shape {block.shape}"
            )
        if k is not None and block.dtype != self.dtype:
            raise TypeError(
                f"{self.name} must return {self.dtype} for rows({i0}, {i1}), as it did for rows(0, 1), got {block.dtype}"
            )
        return block

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        yield lambda part, room: self._rows(part.i0, part.i1, room)


@dataclass
class ObjectRows(DenseSource):
    """An object with rows to slice, such as a dataset of h5py or an array of Zarr."""

    matrix: Any
    name: str = "A"
    transposed: bool = False
    turn: Turn = field(init=False, repr=False)
    serial = mutable = True

    def __post_init__(self) -> None:
        self.turn = turn_of(self.matrix)
        self.k, self.dtype = int(self.matrix.shape[0]), np.dtype(self.matrix.dtype)
        chunks = getattr(self.matrix, "chunks", None)
        self.step = int(chunks[0]) if chunks else 1
        self.step = min(self.step, max(self.k, 1))
        self.extra = 1 if hasattr(self.matrix, "read_direct") else 2
        self._check_chunks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, turn=turn_of(state["matrix"]))

    def _check_chunks(self) -> None:
        """Refuse missing data, which would be read as the fill value, without an error."""
        _check_open(self.name, self.matrix)
        check_complete(
            self.name,
            self.matrix,
            f"write them, or pass lambda i0, i1: {self.name}[i0:i1] if that is what they are",
        )

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        self._check_chunks()
        if (
            tuple(self.matrix.shape) != (self.k, self.k)
            or np.dtype(self.matrix.dtype) != self.dtype
        ):
            raise ValueError(
                f"{self.name} has become {self.matrix.dtype} of shape {self.matrix.shape} since it was handed over: hand it over anew"
            )
        yield self._read
        self._check_chunks()  # one may have gone meanwhile

    def _read(self, part: Part, room: Room) -> NDArray[Any]:
        i0, i1 = part.i0, part.i1
        with self.turn:
            if hasattr(self.matrix, "read_direct"):
                block = room.take((i1 - i0) * self.k, self.dtype).reshape(i1 - i0, self.k)
                self.matrix.read_direct(block, np.s_[i0:i1, :])
                return block
            return _kept(self._checked(i0, i1, np.asanyarray(self.matrix[i0:i1])), room)

    def _checked(self, i0: int, i1: int, found: Any) -> NDArray[Any]:
        block = _checks.array(f"{self.name}[{i0}:{i1}]", found)
        if block.shape != (i1 - i0, self.k) or block.dtype != self.dtype:
            raise ValueError(
                f"{self.name}[{i0}:{i1}] must be {self.dtype} of shape ({i1 - i0}, {self.k}), as {self.name} says, got {block.dtype} of shape {block.shape}"
            )
        return block


# --- CSR rows -------------------------------------------------------------------------------------------------------


class StoredColumns:
    """The column indices of a CSR matrix that are not in memory, as far as `Pattern` asks for them."""

    def __init__(self, stored: Numbers, dtype: np.dtype[Any]) -> None:
        self._stored, self.size, self.dtype = stored, stored.size, dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        with self._stored.opened() as read:
            return read(int(part.start), int(part.stop), Room()).astype(self.dtype)

    def blocks(self, indptr: Indices) -> Iterator[tuple[int, int, int, Any]]:
        room = Room()
        with self._stored.opened() as read:
            for i0, i1 in row_blocks(indptr, 0, indptr.size - 1, _COLUMNS):
                base, end = int(indptr[i0]), int(indptr[i1])
                yield i0, i1, base, read(base, end, room).astype(self.dtype, copy=False)


def row_blocks(indptr: Indices, i0: int, i1: int, entries: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows of so many entries together, or one row of more."""
    while i0 < i1:
        end = int(indptr[i0]) + entries
        stop = (
            int(
                np.searchsorted(
                    indptr, indptr.dtype.type(min(end, np.iinfo(indptr.dtype).max)), side="right"
                )
            )
            - 1
        )
        stop = min(max(stop, i0 + 1), i1)
        yield i0, stop
        i0 = stop


class CsrSource:
    """A CSR matrix, or the transposed of a CSC one, whose arrays are not all in memory."""

    def __init__(
        self,
        data: Numbers,
        indices: Numbers,
        indptr: Any,
        *,
        name: str = "A",
        transposed: bool = False,
        half: bool = False,
    ) -> None:
        from . import _kernels

        self.name, self.data, self.extra = name, data, 0
        self.serial, self.half = data.serial or indices.serial, half
        self.dtype, self.k, self.stored_indices = data.dtype, indptr.size - 1, indices
        self.transposed = transposed and self.k > 1
        if (
            indices.dtype.kind not in "iu"
            or indptr.dtype.kind not in "iu"
            or indices.size != data.size
        ):
            raise _checks.bad_structure(
                name,
                "csr",
                f"{indices.size} indices ({indices.dtype}) for {data.size} values, indptr of {indptr.dtype}",
            )
        self.index_dtype = (
            np.dtype(np.int32)
            if indices.dtype.itemsize < 8 and data.size < 2**31
            else np.dtype(np.int64)
        )
        self.indptr: Any = np.asarray(indptr, self.index_dtype)
        if (
            self.indptr[0] != 0
            or self.indptr[-1] != data.size
            or np.any(self.indptr[1:] < self.indptr[:-1])
        ):
            raise _checks.bad_structure(
                name, "csr", f"indptr must rise from 0 to the {data.size} values"
            )
        self.longest = int(np.max(np.diff(self.indptr), initial=1))  # row
        self.columns = StoredColumns(indices, self.index_dtype)
        self.on_diagonal = np.empty(self.k, self.index_dtype)
        for i0, i1, base, block in self.columns.blocks(self.indptr):
            defect, line = _kernels.csr_defect(self.indptr, block, base, i0, i1, self.k)
            if defect == 2:
                raise _checks.bad_structure(
                    name, "csr", f"row {line} has an index outside 0 … {self.k - 1}"
                )
            if defect:
                raise _checks.unsorted(name, line)
            _kernels.csr_diagonals(self.indptr, block, base, i0, i1, None, self.on_diagonal)

    @property
    def mutable(self) -> bool:
        """As for `DenseSource`."""
        return self.data.mutable

    scan_each_pass = mutable

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """For a pass: the reader of the values, and that of the columns."""
        with ExitStack() as stack:
            yield (
                stack.enter_context(self.data.opened()),
                stack.enter_context(self.stored_indices.opened()),
            )


Source = DenseSource | CsrSource


# --- what a user passes in ------------------------------------------------------------------------------------------


def find(name: str, A: Any) -> Source | None:
    """The source of a square matrix that is not in memory; None for whatever is, or is no matrix."""
    source = _find(name, A)
    if source is not None:
        _checks.float_dtype(name, source.dtype)
    return source


def _find(name: str, A: Any) -> Source | None:
    if isinstance(A, (str, os.PathLike)):
        return _of_path(name, os.fsdecode(A))
    if isinstance(A, (DenseSource, CsrSource)):
        return A
    if isinstance(A, StoredCSR):
        return of_stored(name, A)
    if scipy.sparse.issparse(A):
        return _of_sparse(name, A)
    source: DenseSource | None = None
    if (
        isinstance(A, np.memmap)
        and A.ndim == 2
        and A.shape[0] == A.shape[1]
        and mapped_file(A) is not None
    ):
        _checks.float_dtype(name, A.dtype)
        source = FileRows(numbers(name, A), len(A), transposed=not A.flags.c_contiguous)
    elif callable(A) and not hasattr(A, "shape"):
        source = FunctionRows(A, name)
    elif _has_rows(name, A):
        _square(name, tuple(A.shape))
        _checks.float_dtype(name, np.dtype(A.dtype))
        source = ObjectRows(A, name)
    return source


def _check_open(name: str, A: Any) -> None:
    if (
        type(A).__module__.startswith("h5py.") and not A
    ):  # it raises errors of its own for everything else
        raise ValueError(
            f"{name} is of a file that has been closed: open it again, and hand it over anew"
        )


def _has_rows(name: str, A: Any) -> bool:
    """Whether rows of A can be sliced, and lose nothing by it: what takes part in NumPy's functions has labels, units, or is lazy."""
    if isinstance(A, np.ndarray) or hasattr(A, "__array_ufunc__") or not hasattr(A, "__getitem__"):
        return False
    _check_open(name, A)
    try:
        np.dtype(A.dtype)
        return len(A.shape) == 2
    except (AttributeError, TypeError):
        return False


def _square(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {shape}")


def _of_path(name: str, path: str) -> Source:
    from . import _pixels

    if _pixels.is_map(path):
        return _pixels.source(name, path)
    if Path(path).is_dir():
        return of_stored(name, StoredCSR(path))
    if not path.endswith(".npy"):
        raise ValueError(
            f"{name} may be the path of a .npy, a .cool, or a folder of row blocks, got {path!r}: read it with sparsejac.io.read_matrix"
        )
    return npy(name, path)


def npy(name: str, path: str) -> DenseSource:
    """The matrix in a ``.npy``."""
    with open(path, "rb") as file:  # noqa: PTH123  # the system's own words if there is none
        try:
            shape, in_columns, dtype = _npy.header(file)
        except ValueError as error:
            raise ValueError(f"{path}, of {name}, cannot be read as a .npy: {error}") from None
        offset = file.tell()
    _square(name, shape)
    _checks.float_dtype(name, dtype)
    mutable = _is_mapped_for_writing(_inode(path), _mappings())
    stored = FileNumbers.of(name, path, offset, dtype, shape[0] * shape[1], mutable=mutable)
    try:
        _npy.check_size(shape, dtype, stored.identity[2] - offset)
    except ValueError as error:
        raise ValueError(f"{path}, of {name}, cannot be read as a .npy: {error}") from None
    return FileRows(stored, shape[0], transposed=in_columns and shape[0] > 1)


def _of_sparse(name: str, A: Any) -> CsrSource | None:
    if A.format not in ("csr", "csc") or A.ndim != 2 or A.shape[0] != A.shape[1]:
        return None
    if mapped_file(A.data) is None and mapped_file(A.indices) is None:
        return None
    _checks.float_dtype(name, A.dtype)
    pointers = numbers(name, A.indptr)  # it may be mapped as well
    with pointers.opened() as read:
        indptr = np.array(read(0, pointers.size, Room()))
    stored = int(indptr[-1]) if indptr.size else 0
    if not 0 <= stored <= min(A.data.size, A.indices.size):
        stored = A.data.size  # which is found to be wrong
    data, indices = numbers(name, A.data[:stored]), numbers(name, A.indices[:stored])
    return CsrSource(data, indices, indptr, name=name, transposed=A.format == "csc")


@dataclass(frozen=True)
class _Member:
    """The values or the columns of a folder of row blocks."""

    stored: StoredCSR
    member: Literal["data", "indices"]
    dtype: np.dtype[Any]
    size: int
    serial = mutable = False

    @contextmanager
    def opened(self) -> Iterator[Callable[[int, int, Room], NDArray[Any]]]:
        with self.stored.open():

            def read(start: int, stop: int, room: Room) -> NDArray[Any]:
                out = room.take(stop - start, self.dtype)
                self.stored.read(self.member, start, stop, out)
                return out

            yield read


def of_stored(name: str, stored: StoredCSR) -> CsrSource:
    """A folder of row blocks."""
    _square(name, stored.shape)
    data = _Member(stored, "data", stored.dtype, stored.nnz)
    indices = _Member(stored, "indices", stored.index_dtype, stored.nnz)
    return CsrSource(data, indices, stored.indptr(), name=name)
