"""A matrix whose rows are on the workers of a cluster, and what carries objects to them.

A *handle* stands for an object that is on a worker.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _validation
from .._matrix.source import Source
from . import cluster_parts as on_worker

Handle = Any


class Transport(Protocol):
    """Carries objects to the workers of a cluster, and runs functions there."""

    @property
    def threads(self) -> int:
        """How many threads a worker has."""

    def put(self, part: Any) -> Handle:
        """Move a part to one of the workers."""

    def send(self, x: Any) -> Handle:
        """Send a vector, which all workers will read."""

    def call(self, function: Callable[..., Any], part: Any, *args: Any) -> Handle:
        """Run a function where its first argument is. Arguments may be handles."""

    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        """Wait for the objects, and return them."""

    def has(self, handles: Sequence[Handle]) -> bool:
        """Whether none of these objects is lost. One that can be made again is not."""

    def is_array(self, value: object) -> bool:
        """Whether this is an array on the workers."""

    def array(self, blocks: Sequence[Handle], lengths: Sequence[int], like: NDArray[Any]) -> Any:
        """Make an array on the workers of blocks of so many rows. `like` is an empty block."""

    def blocks(self, array: Any, lengths: Sequence[int]) -> list[Handle]:
        """Split an array on the workers into blocks of so many rows."""


class ClusterSource(Source):
    """A matrix whose rows are on the workers of a cluster, in parts."""

    def __init__(self, transport: Transport, parts: Sequence[Handle], backend: Any) -> None:
        calls = [transport.call(on_worker.facts, part) for part in parts]
        facts: list[on_worker.Facts] = transport.gather(calls)
        self.backend = backend
        self.transport, self.parts, self.k = transport, [*parts], facts[0].k
        self.bounds = [0, *(each.rows[1] for each in facts)]
        self.dtype = np.result_type(*(each.dtype for each in facts))
        self.sparse = facts[0].sparse
        if any(each.sparse != self.sparse for each in facts):
            raise _validation.mixed_blocks()
        self.max_row_nnz = max(each.max_row_nnz for each in facts)

    def has_structure_of(self, other: Source) -> bool:  # noqa: ARG002  # to know it takes a pass
        return False

    def check_outside(self) -> None:
        calls = [
            self.transport.call(on_worker.count_outside, part, self.uplo) for part in self.parts
        ]
        outside = sum(self.transport.gather(calls))
        if outside and self.uplo:
            raise _validation.outside_triangle(self.uplo, outside)

    def parts_at(self, bounds: list[int]) -> list[Handle]:
        """The parts of this matrix between these bounds of rows."""
        if bounds == self.bounds:
            return self.parts
        own = list(zip(self.parts, self.bounds[:-1], self.bounds[1:], strict=True))
        found = []
        for i0, i1 in itertools.pairwise(bounds):
            some = [part for part, b0, b1 in own if b0 < i1 and i0 < b1] or self.parts[:1]
            found.append(self.transport.call(on_worker.joined, some, i0, i1))
        return found
