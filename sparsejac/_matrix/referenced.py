"""The user's own sparse matrix, whose arrays are read. It may have been given others meanwhile."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from .. import _validation

_PARTS = "data", "indices", "indptr"


class Referenced:
    """A CSR or CSC matrix of the user, and the arrays that it had when it was handed over.

    What is written into these arrays is seen. SciPy replaces them, however, if an entry is
    inserted, and so does ``A.data = …``. A pass over the old arrays would give numbers of a matrix
    that the user no longer has. The matrix is not kept alive. A pickle or a deep copy has arrays of
    its own, and ``None`` in place of this.
    """

    def __init__(self, name: str, matrix: Any) -> None:
        self._name, self._matrix = name, weakref.ref(matrix)
        self._arrays = tuple(getattr(matrix, part) for part in _PARTS)
        self._indptr = self._arrays[2]
        # CuPy removes entries by replacing the arrays, and to read a number takes long there.
        self._counts = isinstance(self._indptr, np.ndarray)
        self._stored = int(self._indptr[-1]) if self._counts else 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()

    def check(self) -> None:
        """Refuse to go on if entries were removed, or if an array was replaced. This takes O(1)."""
        if self._counts and (now := int(self._indptr[-1])) != self._stored:
            raise _validation.changed_structure(self._name, self._stored, now)
        matrix = self._matrix()
        if matrix is None:
            return
        for part, before in zip(_PARTS, self._arrays, strict=True):
            array = getattr(matrix, part)
            if array is not before and not _is_same(array, before):
                raise _validation.replaced(self._name, part)


def _nothing() -> None:
    """What a copy has."""


def _is_same(one: Any, other: Any) -> bool:
    """Whether two arrays begin with the same numbers in memory: SciPy cuts off spare elements."""
    return _beginning(one) == _beginning(other)


def _beginning(array: Any) -> tuple[Any, ...]:
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0], interface["typestr"], interface.get("strides")
