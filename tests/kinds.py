"""A matrix in every form in which it can be handed over."""

import itertools

import cooler
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
import zarr

from sparsejac import io

K = 6


class Sliced:
    """The least that an object with rows has."""

    def __init__(self, B):
        self._B, self.shape, self.dtype = B, B.shape, B.dtype

    def __getitem__(self, rows):
        return self._B[rows]


class Kinds:
    """A matrix in every form in which it can be handed over, files in a folder of their own."""

    def __init__(self, folder):
        self._folder, self._names = folder, itertools.count()

    def path(self, suffix):
        return str(self._folder / f"{next(self._names)}{suffix}")

    def mapped(self, array, mode="r"):
        np.save(path := self.path(".npy"), array)
        return np.load(path, mmap_mode=mode)

    def npy(self, B, order="C"):
        np.save(path := self.path(".npy"), np.asarray(B, order=order))
        return path

    def hdf5(self, B):
        return h5py.File(self.path(".h5"), "w").create_dataset("A", data=B, chunks=(5, 4))

    def zarr(self, B):
        array = zarr.create_array(self.path(".zarr"), shape=B.shape, dtype=B.dtype, chunks=(3, 2))
        array[:] = B
        return array

    def mapped_sparse(self, B, form, mode="r"):
        S = getattr(scipy.sparse, f"{form}_array")(B)
        arrays = self.mapped(S.data, mode), self.mapped(S.indices), self.mapped(S.indptr)
        return getattr(scipy.sparse, f"{form}_array")(arrays, shape=S.shape)

    def half_mapped(self, B):
        S = scipy.sparse.csr_array(B)
        return scipy.sparse.csr_array((self.mapped(S.data), S.indices, S.indptr), shape=S.shape)

    def folder(self, B):
        S = scipy.sparse.csr_array(B)
        io.write_csr_blocks(
            path := self.path(""),
            ((i, S[i : i + 2]) for i in range(0, S.shape[0], 2)),
            shape=S.shape,
        )
        return path

    def cool(self, B):
        U = scipy.sparse.coo_array(np.triu(B))
        bins = cooler.binnify(pd.Series({"a": 10 * len(B)}), 10)
        pixels = pd.DataFrame({"bin1_id": U.row, "bin2_id": U.col, "count": U.data}).sort_values(
            ["bin1_id", "bin2_id"]
        )
        cooler.create_cooler(
            uri := self.path(".cool"), bins, pixels, ordered=True, dtypes={"count": B.dtype}
        )
        return uri


MEMORY = {
    "C": lambda kinds, B: B,
    "F": lambda kinds, B: np.asfortranarray(B),
    "strided": lambda kinds, B: np.repeat(np.repeat(B, 2, axis=0), 3, axis=1)[::2, ::3],
    "foreign": lambda kinds, B: B.astype(B.dtype.newbyteorder()),
    "csr": lambda kinds, B: scipy.sparse.csr_array(B),
    "csc": lambda kinds, B: scipy.sparse.csc_array(B),
    "coo": lambda kinds, B: scipy.sparse.coo_array(B),
}
STREAMED = {
    "npy": lambda kinds, B: kinds.npy(B),
    "npy in columns": lambda kinds, B: kinds.npy(B, "F"),
    "memmap": lambda kinds, B: kinds.mapped(B),
    "writable memmap": lambda kinds, B: kinds.mapped(B, "r+"),
    "function": lambda kinds, B: lambda i0, i1: B[i0:i1].copy(),
    "object": lambda kinds, B: Sliced(B),
    "hdf5": lambda kinds, B: kinds.hdf5(B),
    "zarr": lambda kinds, B: kinds.zarr(B),
    "mapped csr": lambda kinds, B: kinds.mapped_sparse(B, "csr"),
    "mapped csc": lambda kinds, B: kinds.mapped_sparse(B, "csc"),
    "half mapped": lambda kinds, B: kinds.half_mapped(B),
    "writable mapped csr": lambda kinds, B: kinds.mapped_sparse(B, "csr", "r+"),
    "folder": lambda kinds, B: kinds.folder(B),
    "cool": lambda kinds, B: kinds.cool(B),
}
KINDS = MEMORY | STREAMED
SPARSE = {
    "csr",
    "csc",
    "coo",
    "mapped csr",
    "mapped csc",
    "half mapped",
    "writable mapped csr",
    "folder",
    "cool",
}


def numbers(rows, kind, dtype):
    """A, and which of its entries are stored: small integers, so that all arithmetic is exact;
    zeros, stored or not, and an empty row.
    """
    rng = np.random.default_rng(1)
    A, stored = rng.integers(1, 5, (K, K)), rng.random((K, K)) < 0.6
    if kind not in SPARSE:
        A, stored = np.where(stored, A, 0), np.ones((K, K), bool)
    if rows == "upper":
        A, stored = np.triu(A) + np.triu(A, 1).T, np.triu(stored) | np.triu(stored).T
    if kind in SPARSE:
        stored[2], stored[:, 2] = False, False
        A = np.where(stored, A, 0)
    return A.astype(dtype), stored
