"""The layout: how the stored rows of A and the rows of J correspond.

A source hands out *stored rows*: the rows of A, or its columns if the layout is `transposed`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .._validation import Order, Pairs, Rows, Triangle, Uplo
from .indices import ColumnRanges, triangle
from .pattern import Pattern
from .source import Source


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the diagonal of the stored rows, or a part of it.

    Attributes
    ----------
    which : {"upper", "lower"}
    offset : int
        The distance from the diagonal at which it begins.
    groups : tuple of two ndarrays of int, or None
        The begin and the end of the group of each row.
    pairs : {"all", "within", "between"}
        Which entries count: those of rows of one group, of two groups, or all.
    """

    which: Triangle
    offset: int = 0
    groups: ColumnRanges | None = None
    pairs: Pairs = "all"

    def column_ranges(self, k: int) -> ColumnRanges:
        """The columns ``left[i] <= j < right[i]`` of each stored row."""
        left, right = triangle(k, self.which, offset=self.offset)
        if self.groups is None or self.pairs == "all":
            return left, right
        begin, end = self.groups
        if self.pairs == "within":
            left, right = np.maximum(left, begin), np.minimum(right, end)
        elif self.which == "upper":
            left = np.maximum(left, end)
        else:
            right = np.minimum(right, begin)
        return np.minimum(left, right), right


@dataclass(frozen=True, eq=False)
class Layout:
    """What each stored row of A stands for.

    Attributes
    ----------
    transposed : bool
        The stored rows are columns of A.
    rows_in_order : bool
        J's rows follow the stored rows. Otherwise they follow the stored columns, so that only
        sums over all entries are possible.
    pairs_transposed : bool
        Stored row i and column j stand for the pair (j, i) of J, of Y and of weights. For a whole
        symmetric A this may differ from `transposed`.
    side : Side or None
        The columns of each stored row that are visited: those on one side of the diagonal, or all.
    implicit_rows : bool
        J has a row for each place (i, j), whether or not a sparse A stores an entry there.
    bilinear : bool
        The rows and the columns of A have variables of their own, and A need not be square.
    """

    transposed: bool
    rows_in_order: bool = True
    pairs_transposed: bool = False
    side: Side | None = None
    implicit_rows: bool = False
    bilinear: bool = False

    def half(self) -> Layout:
        """The layout of a sum over the upper triangle of an A that is symmetric."""
        return replace(self, side=Side("upper"), implicit_rows=False)


def is_wanted_transposed(rows: Rows, order: Order, uplo: Uplo | None) -> bool:
    """Whether J's rows would follow stored columns of A rather than stored rows.

    The rows of J for ``rows="upper"`` are the pairs i ≤ j. In row-major order they follow the rows
    of an upper triangle. Stacked by columns they follow the rows of a lower triangle, which for a
    symmetric A has the same numbers.
    """
    if rows != "upper":
        return order == "F"
    return uplo is not None and (uplo == "U") != (order == "C")


def layout_of(source: Source, rows: Rows, order: Order, *, bilinear: bool = False) -> Layout:
    """The layout of J over the rows of a source."""
    side = None
    in_order = source.transposed == is_wanted_transposed(rows, order, source.uplo)
    if rows == "upper" and source.uplo is None:  # A holds both triangles, which are equal
        side, in_order = Side("upper" if order == "C" else "lower"), True
    elif rows == "upper":
        side = Side(source.stored_triangle)
    return Layout(
        transposed=source.transposed,
        rows_in_order=in_order or min(source.shape) <= 1,  # one row or column has one order
        pairs_transposed=(order == "F") == in_order,
        side=side,
        implicit_rows=rows == "all",
        bilinear=bilinear,
    )


def layout_of_sums(
    source: Source, offset: int, groups: ColumnRanges | None, pairs: Pairs
) -> Layout:
    """The layout of products with a symmetric A. One side of its diagonal is visited.

    An entry there stands for (i, j) and (j, i).
    """
    side = Side(source.stored_triangle, offset, groups, pairs)
    return Layout(transposed=source.transposed, side=side)


def layout_of_whole(source: Source) -> Layout:
    """The layout of all entries that a source holds: one triangle, or both."""
    side = None if source.uplo is None else Side(source.stored_triangle)
    return Layout(transposed=source.transposed, side=side)


def pattern_of(source: Source, layout: Layout) -> Pattern:
    """The entries of a source that a layout visits."""
    ranges = None if layout.side is None else layout.side.column_ranges(source.k)
    pattern = source.pattern(ranges, implicit_rows=layout.implicit_rows)
    pattern.has_diagonal = not layout.bilinear
    return pattern
