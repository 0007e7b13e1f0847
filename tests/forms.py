"""A matrix of any structure, in any form in which it can be handed over.

`Matrix` holds numbers, and which of them are stored. All numbers are small integers, so that all of
our arithmetic is exact in every dtype.
"""

import pathlib
from dataclasses import dataclass, replace

import cooler
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
import zarr
from kinds import Kinds, Sliced
from support import np_matrix

QUICK_DTYPES = ["float64", "int8", "bool"]
REAL_DTYPES = [*QUICK_DTYPES, "float32", "int16", "int32", "int64", "uint8", "uint64"]
DTYPES = [*REAL_DTYPES, "complex128", "complex64"]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Numbers, and which of them a sparse matrix stores."""

    numbers: np.ndarray
    stored: np.ndarray
    foreign: bool = False  # whether numbers are handed over in the other byte order

    @property
    def shape(self):
        return self.numbers.shape

    @property
    def count(self):
        return int(np.count_nonzero(self.stored))


# --- forms ----------------------------------------------------------------------------------------


def _ordered(values, matrix):
    """The numbers of a sparse matrix in the byte order in which they are handed over.

    SciPy converts no numbers of foreign byte order between its formats.
    """
    return values.astype(values.dtype.newbyteorder()) if matrix.foreign else values


def _triplets(matrix, index=np.int32):
    i, j = (places.astype(index) for places in np.nonzero(matrix.stored))
    return matrix.numbers[i, j], i, j


def _coo(matrix, index=np.int32):
    values, i, j = _triplets(matrix, index)
    return scipy.sparse.coo_array((values, (i, j)), shape=matrix.shape)


def _csr(matrix):
    return _coo(matrix).tocsr()


def _referenced(matrix, form):
    S = _coo(matrix).asformat(form)
    return type(S)((_ordered(S.data, matrix), S.indices, S.indptr), shape=S.shape)


def _shuffled(matrix):
    values, i, j = _triplets(matrix)
    order = np.random.default_rng(5).permutation(values.size)
    return scipy.sparse.coo_array((values[order], (i[order], j[order])), shape=matrix.shape)


def _duplicates(matrix):
    """Each number is the sum of two that are stored; 0 is one of them, so that none overflows."""
    values, i, j = _triplets(matrix)
    both = [np.concatenate(pair) for pair in ((values, np.zeros_like(values)), (i, i), (j, j))]
    return scipy.sparse.coo_array((both[0], tuple(both[1:])), shape=matrix.shape)


def _unsorted_csr(matrix):
    S = _csr(matrix)
    for i in range(S.shape[0]):
        row = slice(S.indptr[i], S.indptr[i + 1])
        S.indices[row], S.data[row] = S.indices[row][::-1].copy(), S.data[row][::-1].copy()
    S.has_canonical_format = S.has_sorted_indices = False
    return S


def _spare(matrix):
    """SciPy allows more elements behind the last row."""
    S = _csr(matrix)
    data = np.append(S.data, np.full(3, 1, S.dtype))
    T = scipy.sparse.csr_array(S.shape, dtype=S.dtype)
    T.data, T.indices, T.indptr = data, np.append(S.indices, np.int32([0, 0, 0])), S.indptr
    return T


def _locked(array):
    array.flags.writeable = False
    return array


def _locked_csr(matrix):
    S = _csr(matrix)
    for array in (S.data, S.indices, S.indptr):
        array.flags.writeable = False
    return S


def _bsr(matrix):
    return _csr(matrix).tobsr(blocksize=(1, 1)) if min(matrix.shape) else _csr(matrix)


def _misaligned(B):
    memory_ = np.zeros(B.nbytes + 1, np.uint8)
    view = memory_[1:].view(B.dtype).reshape(B.shape)
    view[...] = B
    return view


def _framed(B):
    frame = np.ones((B.shape[0] + 4, B.shape[1] + 5), B.dtype)
    frame[3:-1, 2:-3] = B
    return frame[3:-1, 2:-3]


class Forms(Kinds):
    """Files of matrices. Those of `Kinds` have one size and structure."""

    def npy(self, B, order="C"):
        np.save(path := self.path(".npy"), np.asarray(B, order=order))
        return path

    def mapped(self, array, mode="r"):
        if not array.size:  # there is nothing to map
            return array
        return super().mapped(array, mode)

    def framed(self, B):
        framed = np.ones((B.shape[0] + 5, B.shape[1]), B.dtype)
        framed[3:-2] = B
        return self.mapped(framed)[3:-2]

    def columns(self, B):
        return self.mapped(np.asfortranarray(B))

    def hdf5(self, B, rows):
        file = h5py.File(self.path(".h5"), "w")
        chunks = (min(rows, B.shape[0]), min(4, B.shape[1])) if B.size and rows else None
        return file.create_dataset("A", data=B, chunks=chunks)

    def zarr(self, B):
        array = zarr.create_array(
            self.path(".zarr"), shape=B.shape, dtype=B.dtype.newbyteorder("="), chunks=(3, 2)
        )
        array[:] = B
        return array

    def sparse(self, matrix, form, *, mode="r", half=False):
        S = _coo(matrix).asformat(form)
        indices = (S.indices, S.indptr) if half else map(self.mapped, (S.indices, S.indptr))
        values = _ordered(S.data, matrix)
        return type(S)((self.mapped(values, mode), *indices), shape=S.shape)

    def folder(self, matrix):
        S, path = _csr(matrix), pathlib.Path(self.path(""))
        path.mkdir()
        np.save(path / "data.npy", _ordered(S.data, matrix))
        np.save(path / "indices.npy", S.indices)
        np.save(path / "indptr.npy", S.indptr)
        np.save(path / "shape.npy", np.array(S.shape))
        return path

    def cool(self, matrix):
        """A contact map, which holds the upper triangle, zeros that are stored included."""
        values, i, j = _triplets(replace(matrix, stored=np.triu(matrix.stored)))
        bins = cooler.binnify(pd.Series({"a": 10 * matrix.shape[0]}), 10)
        pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": values})
        types = {"count": values.dtype}
        cooler.create_cooler(uri := self.path(".cool"), bins, pixels, ordered=True, dtypes=types)
        return uri


MEMORY = {
    "C": lambda _, M: M.numbers.copy(),
    "F": lambda _, M: np.asfortranarray(M.numbers),
    "reversed": lambda _, M: np.ascontiguousarray(M.numbers[::-1, ::-1])[::-1, ::-1],
    "strided": lambda _, M: np.repeat(np.repeat(M.numbers, 2, axis=0), 3, axis=1)[::2, ::3],
    "part": lambda _, M: _framed(M.numbers),
    "read-only": lambda _, M: _locked(M.numbers.copy()),
    "csr": lambda _, M: _referenced(M, "csr"),
    "csc": lambda _, M: _referenced(M, "csc"),
    "coo": lambda _, M: _shuffled(M),
    "unsorted csr": lambda _, M: _unsorted_csr(M),
    "read-only csr": lambda _, M: _locked_csr(M),
    "csr with spare elements": lambda _, M: _spare(M),
    "duplicates": lambda _, M: _duplicates(M),
}
RARE = {
    "misaligned": lambda _, M: _misaligned(M.numbers),
    "np.matrix": lambda _, M: np_matrix(M.numbers),
    "list": lambda _, M: M.numbers.tolist() if M.shape[0] else M.numbers,
    "csr int64": lambda _, M: _coo(M, np.int64).tocsr(),
    "lil": lambda _, M: _csr(M).tolil(),
    "dok": lambda _, M: _coo(M).todok(),
    "bsr": lambda _, M: _bsr(M),
    "csr_matrix": lambda _, M: scipy.sparse.csr_matrix(_csr(M)),
}
STREAMED = {
    "npy": lambda forms, M: forms.npy(M.numbers),
    "npy in columns": lambda forms, M: forms.npy(M.numbers, "F"),
    "path": lambda forms, M: pathlib.Path(forms.npy(M.numbers)),
    "memmap": lambda forms, M: forms.mapped(M.numbers),
    "memmap in columns": lambda forms, M: forms.columns(M.numbers),
    "writable memmap": lambda forms, M: forms.mapped(M.numbers, "r+"),
    "part of a memmap": lambda forms, M: forms.framed(M.numbers),
    "function": lambda _, M: lambda i0, i1: M.numbers[i0:i1].copy(),
    "object": lambda _, M: Sliced(M.numbers),
    "hdf5": lambda forms, M: forms.hdf5(M.numbers, 5),
    "contiguous hdf5": lambda forms, M: forms.hdf5(M.numbers, 0),
    "zarr": lambda forms, M: forms.zarr(M.numbers),
    "mapped csr": lambda forms, M: forms.sparse(M, "csr"),
    "mapped csc": lambda forms, M: forms.sparse(M, "csc"),
    "half mapped": lambda forms, M: forms.sparse(M, "csr", half=True),
    "writable mapped csr": lambda forms, M: forms.sparse(M, "csr", mode="r+"),
    "folder": lambda forms, M: forms.folder(M),
    "cool": lambda forms, M: forms.cool(M),
}
FORMS = MEMORY | RARE | STREAMED
VECTORS = ["vector", "strided vector", "mapped vector"]
SPARSE = {
    *("csr", "csc", "coo", "unsorted csr", "read-only csr", "csr with spare elements"),
    *("duplicates", "csr int64", "lil", "dok", "bsr", "csr_matrix"),
    *("mapped csr", "mapped csc", "half mapped", "writable mapped csr", "folder", "cool"),
}
MAPPED = {name for name in STREAMED if "mapped" in name or "memmap" in name}
# The dense forms that may have numbers of foreign byte order.
SWAPPED = {"C", "F", "reversed", "strided", "read-only", "misaligned", "npy", "npy in columns"}
SWAPPED |= {"memmap", "function", "object", "hdf5", "part of a memmap"}


def is_streamed(form, matrix):
    """Whether A is read block by block. Without numbers there is nothing to map."""
    empty = not matrix.count if form in SPARSE else not matrix.numbers.size
    return form in STREAMED and not (form in MAPPED and empty)


def is_by_columns(form, shape):
    """Whether a file has the columns of the matrix one after the other, not its rows."""
    if form == "mapped csc":
        return shape not in ((0, 0), (1, 1))
    return form in ("npy in columns", "memmap in columns") and min(shape) > 1


def handed(form, matrix_, forms, *, swapped=False):
    """A matrix in its form, whose numbers may be of foreign byte order."""
    if swapped and form in SWAPPED:
        foreign = matrix_.numbers.astype(matrix_.numbers.dtype.newbyteorder())
        return FORMS[form](forms, replace(matrix_, numbers=foreign))
    return FORMS[form](forms, replace(matrix_, foreign=swapped))


# --- structures and numbers -----------------------------------------------------------------------


def _structure(kind, shape, rng):
    i, j = np.indices(shape)
    if kind == "random":
        stored = rng.random(shape) < rng.choice([0.1, 0.4, 0.8])
        for axis in (0, 1):  # empty rows and empty columns
            stored[(slice(None),) * axis + (rng.random(shape[axis]) < 0.2,)] = False
        return stored
    return {
        "all": i >= 0,
        "none": i < 0,
        "upper": i <= j,
        "lower": i >= j,
        "strictly upper": i < j,
        "diagonal": i == j,
        "no diagonal": i != j,
        "three diagonals": abs(i - j) <= 1,
        "first row": i == 0,
        "last column": j == shape[1] - 1,
        "last entry": (i == shape[0] - 1) & (j == shape[1] - 1),
    }[kind]


STRUCTURES = [
    "all",
    "random",
    "none",
    "upper",
    "lower",
    "strictly upper",
    "diagonal",
    "no diagonal",
]
STRUCTURES += ["three diagonals", "first row", "last column", "last entry"]


def small(shape, dtype, rng):
    """Integers, of which products of five and their sums are exact in every dtype."""
    dtype = np.dtype(dtype)
    low = 0 if dtype.kind in "bu" else -3
    found = rng.integers(low, 2 if dtype.kind == "b" else 4, shape)
    if dtype.kind == "c":
        found = found + 1j * rng.integers(low, 4, shape)
    return found.astype(dtype)


def mirrored(B):
    """The symmetric matrix of the upper triangle of B."""
    return np.where(np.tri(len(B), k=-1, dtype=bool), B.T, B)


def matrix(kind, shape, dtype, seed, *, symmetric=False, sparse=True):
    rng = np.random.default_rng(seed)
    numbers_, stored = small(shape, dtype, rng), np.ones(shape, bool)
    if sparse:
        stored = _structure(kind, shape, rng)
    elif kind != "all":  # a dense matrix has zeros there
        numbers_ = np.where(_structure(kind, shape, rng), numbers_, 0).astype(dtype)
    if symmetric:
        numbers_, stored = mirrored(numbers_), mirrored(stored)
    return Matrix(np.where(stored, numbers_, 0).astype(dtype), stored)


def garbage(dtype):
    """What a dense A may hold outside its triangle, and nobody may read."""
    return np.array(np.nan if dtype.kind in "fc" else 1).astype(dtype)
