"""The user's own sparse matrix, whose arrays are read. It may be given others meanwhile."""

from __future__ import annotations

import weakref
from typing import Any

from .. import _validation
from .indices import Indices

_PARTS = "data", "indices", "indptr"


class Referenced:
    """A CSR or CSC matrix of the user, and the arrays that it had when it was handed over.

    What is written into these arrays is seen. SciPy replaces them, however, if an entry is
    inserted, and so does ``A.data = …``. A pass over the old arrays would give numbers of a matrix
    that the user no longer has. It has so many `stored` entries. `indptr` are its row pointers, if
    they are in memory: `eliminate_zeros` changes them in place.

    Of the matrix, only `indptr` is kept alive. A pickle or a deep copy is not watched: it has
    ``None`` in place of this.
    """

    def __init__(self, name: str, matrix: Any, stored: int, indptr: Indices | None = None) -> None:
        self._name, self._matrix, self._shape = name, weakref.ref(matrix), matrix.shape
        self._stored, self._indptr = stored, indptr
        arrays = [getattr(matrix, part) for part in _PARTS]
        self._arrays = [weakref.ref(array) for array in arrays]
        self._beginnings = [_beginning(array) for array in arrays]
        self._sizes = stored, stored, arrays[2].size

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()

    def check(self) -> None:
        """Refuse to go on if entries were removed, or if an array was replaced. This takes O(1)."""
        if self._indptr is not None and (now := int(self._indptr[-1])) != self._stored:
            raise _validation.changed_structure(self._name, self._stored, now)
        matrix = self._matrix()
        if matrix is None:
            return
        if matrix.shape != self._shape:  # SciPy may cut off rows, and keep the arrays
            raise _validation.replaced(self._name, "shape")
        for q, part in enumerate(_PARTS):
            array: Any = getattr(matrix, part, None)
            if array is not None and array is self._arrays[q]():
                continue
            # SciPy makes new arrays of the same memory when it cuts off spare elements.
            if _beginning(array) != self._beginnings[q] or array.size < self._sizes[q]:
                raise _validation.replaced(self._name, part)
            self._arrays[q] = weakref.ref(array)


def _nothing() -> None:
    """What a copy has."""


def _beginning(array: Any) -> tuple[Any, ...] | None:
    """Where an array begins in memory, and what its numbers are. None for another object."""
    for name in "__cuda_array_interface__", "__array_interface__":
        interface = getattr(array, name, None)
        if isinstance(interface, dict):
            return interface["data"][0], interface["typestr"], interface.get("strides")
    return None
