"""The variables that the rows and columns of A belong to."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import Layout
from .source import Source


@dataclass(frozen=True)
class Variables:
    """A matrix Z of variables, with a row for each row and column of A.

    Entry (i, j) of F is ``A_ij (z_s·z_t)``, where row s of Z belongs to the stored row i of A, and
    row t to its stored column j. If the problem is symmetric, then s = i and t = j. If it is
    bilinear, Z is X above Y. Variable s r + c, which is column s r + c of J, is Z[s, c].

    Attributes
    ----------
    count : int
        The number of rows of Z.
    rank : int
        The number r of its columns.
    row_offset, column_offset : int
        ``s - i`` and ``t - j``.
    """

    count: int
    rank: int
    row_offset: int = 0
    column_offset: int = 0

    @property
    def size(self) -> int:
        return self.count * self.rank

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.rank


def variables_of(source: Source, layout: Layout, rank: int) -> Variables:
    """The variables of the rows and columns of a source."""
    if not layout.bilinear:
        return Variables(source.k, rank)
    m, n = source.shape
    offsets = (m, 0) if source.transposed else (0, m)
    return Variables(m + n, rank, *offsets)
