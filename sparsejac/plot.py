"""Pictures: the pattern of J, the convergence of a solver, and a matrix before and after a scaling.

`matplotlib <https://matplotlib.org>`_ draws them. It is an extra: ``pip install '.[plot]'`` in a
clone. It is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._operators.raster import add_up, count_entries, edges
from ._validation import Pairs, Uplo
from .builder import JacobianBuilder

__all__ = ["convergence", "pattern", "scaling"]

_CELLS = 512  # the largest number of rows and of columns of a raster
_SCALED = "Diag(x) A Diag(x)"
_ROWS = 2**18  # the rows of a block of J from which a scaled matrix is drawn


def pattern(builder: JacobianBuilder, *, ax: Any = None) -> Any:
    """Draw the pattern of J, at any size and without forming J.

    Up to 512 rows and columns, each entry is a black cell. A larger J is binned: the colour of a
    cell of the picture is the share of its places that are entries of J.

    Parameters
    ----------
    builder : JacobianBuilder
        Whose J is drawn. A streamed A stays where it is, but its column indices are read.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: the current Axes of pyplot.

    Returns
    -------
    ax : matplotlib.axes.Axes
        Its x axis has the columns of J, and its y axis the rows, downwards.

    Raises
    ------
    TypeError
        If `builder` is not a JacobianBuilder, or `ax` is not an Axes.
    ValueError
        If A is streamed, and J's rows do not follow its stored rows.
    MemoryError
        If A is on a cluster.
    ImportError
        If matplotlib is not installed.

    Notes
    -----
    The entries are counted from the index pattern, which takes 40 to 60 ns for each entry of A, and
    each column of x. Zeros in A and x are entries, too.

    **Memory.** The raster, 2 MiB; 8 bytes for each column of J; and 13 MiB for a block of 131072
    entries of A, or 100 bytes for each entry of a longer row. It does not depend on the number of
    J's rows.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from sparsejac import JacobianBuilder, plot
    >>> ax = Figure().subplots()
    >>> plot.pattern(JacobianBuilder(np.ones((2000, 2000))), ax=ax).get_title()
    'J: 4000000 × 2000, 7998000 entries'
    """
    if not isinstance(builder, JacobianBuilder):
        raise TypeError(
            f"builder must be a JacobianBuilder, got {_validation.type_name(builder)}: pass "
            "JacobianBuilder(A)"
        )
    ax = _axes(ax)
    m, n = builder.shape
    rows, columns = (max(min(size, _CELLS), 1) for size in (m, n))
    counts = count_entries(builder._assembly, rows, columns)
    label = None
    if (rows, columns) != (max(m, 1), max(n, 1)):
        label = "share of the places that are entries"
    places = np.outer(np.diff(edges(m, rows)), np.diff(edges(n, columns)))
    _draw_raster(ax, counts / np.maximum(places, 1), (m, n), label)
    ax.set(title=f"J: {m} × {n}, {builder.nnz} entries", xlabel="variable", ylabel="row of J")
    return ax


def convergence(result: OptimizeResult, *, ax: Any = None) -> Any:
    """Draw how a fit or a scaling converged, over the passes over A.

    Of a fit these are the optimality, and how far the cost is above the least one, relative to the
    cost at the start. Of a scaling it is the residual.

    Parameters
    ----------
    result : scipy.optimize.OptimizeResult
        What `fit`, `symmetric_scaling`, `row_column_scaling` or `sparsejac.cool.balance` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: the current Axes of pyplot.

    Returns
    -------
    ax : matplotlib.axes.Axes
        Its y axis is logarithmic. Numbers that are zero or not finite are left out.

    Raises
    ------
    TypeError
        If `result` has no history, or `ax` is not an Axes.
    ImportError
        If matplotlib is not installed.

    Notes
    -----
    **Memory.** A copy of the history.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from sparsejac import fit, plot
    >>> result = fit(np.ones((3, 3)), np.diag([1.0, 2.0, 3.0]))
    >>> ax = plot.convergence(result, ax=Figure().subplots())
    >>> [line.get_label() for line in ax.lines]
    ['optimality', '(cost - least cost) / first cost']
    """
    history = getattr(result, "history", None)
    if not isinstance(history, np.ndarray) or history.ndim != 2 or history.shape[1] not in (2, 3):
        raise TypeError(
            "result must have the history that fit and the scalings return, got "
            f"{_validation.type_name(result)}: pass what one of them returned"
        )
    ax = _axes(ax)
    passes, *measures = history.T
    if len(measures) == 1:
        curves = {"residual": measures[0]}
    else:
        cost, optimality = measures
        with np.errstate(all="ignore"):
            above = (cost - np.min(cost)) / cost[0]
        curves = {"optimality": optimality, "(cost - least cost) / first cost": above}
    drawn = [curve[(curve > 0) & (curve < np.inf)].size for curve in curves.values()]
    for label, curve in curves.items():
        shown = np.where((curve > 0) & (curve < np.inf), curve, np.nan)
        ax.plot(passes, shown, marker="." if passes.size <= 100 else None, label=label)
    if any(drawn):
        ax.set_yscale("log")
    ax.set_xlabel("passes over A")
    ax.set_title(str(getattr(result, "message", "")).partition(":")[0])
    ax.legend()
    return ax


def scaling(
    A: Any,
    result: OptimizeResult,
    target: ArrayLike = 1.0,
    *,
    uplo: Uplo | None = None,
    ignore_diags: int = 0,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    pairs: Pairs = "all",
    memory: int | None = None,
    figure: Any = None,
) -> Any:
    """Draw a symmetric matrix before and after its scaling, with its row sums.

    Up to 512 rows, each cell is an entry. A larger matrix is binned: a cell shows the mean of its
    entries, and of the row sums of a bin their range is drawn.

    Parameters
    ----------
    A : array_like or SciPy sparse array or matrix, shape (k, k)
        Symmetric, as for `symmetric_scaling`, or the path of a ``.cool``.
    result : scipy.optimize.OptimizeResult
        What `symmetric_scaling` or `sparsejac.cool.balance` returned for A.
    target : float or array_like, shape (k,), default 1.0
        The row sums that were asked for. It is not read in rows that are left out.
    uplo : {"U", "L"}, optional
        A holds its upper (lower) triangle only.
    ignore_diags : int, default 0
        The entries with ``|i - j| < ignore_diags`` did not count, and are not drawn.
    groups : sequence of labels, shape (k,), optional
        The group of each row, as for `symmetric_scaling`.
    pairs : {"all", "within", "between"}, default "all"
        The entries that counted, as for `symmetric_scaling`. Others are not drawn.
    memory : int, optional
        As for `JacobianBuilder`.
    figure : matplotlib.figure.Figure, optional
        Where to draw three Axes. Default: a new figure of pyplot.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Its Axes are A, ``Diag(x) A Diag(x)``, and the row sums of both: those of A over the rows
        that are kept, divided by their mean, and those of the scaled matrix, divided by `target`.

    Raises
    ------
    TypeError
        If `result` has no x, or `figure` is not a Figure; and as for `JacobianBuilder`.
    ValueError
        If A is not symmetric, or has another size than x; if `target` is not positive.
    ImportError
        If matplotlib is not installed.

    Notes
    -----
    It takes one pass over A.

    **Memory.** Four rasters of 2 MiB, five k-vectors, and 40 MiB for a block of 262144 entries.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from sparsejac import plot, symmetric_scaling
    >>> A = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    >>> figure = plot.scaling(A, symmetric_scaling(A), figure=Figure())
    >>> [ax.get_title() for ax in figure.axes[:3]]
    ['A', 'Diag(x) A Diag(x)', 'row sums']
    """
    x, kept = getattr(result, "x", None), getattr(result, "kept", None)
    if not (isinstance(x, np.ndarray) and isinstance(kept, np.ndarray)):
        raise TypeError(
            "result must be what symmetric_scaling or sparsejac.cool.balance returned, got "
            f"{_validation.type_name(result)} without x and kept"
        )
    figure = _figure(figure)
    ignore_diags = _validation.nonnegative_integer("ignore_diags", ignore_diags)
    pairs = _validation.pairs(pairs)
    builder = JacobianBuilder(A, rows="upper", uplo=uplo, memory=memory)
    k = builder.shape[1]
    _validation.vector("result.x", x, k, f"as A is {k}x{k}", finite=False)
    d = np.where(kept, _validation.positive("target", target, kept), 1.0)
    bounds = _validation.groups(groups, pairs, k)

    def counts(i: NDArray[Any], j: NDArray[Any]) -> NDArray[np.bool_]:
        counted = j - i >= ignore_diags
        if bounds is not None and pairs != "all":
            counted &= (bounds[0][i] == bounds[0][j]) == (pairs == "within")
        return counted

    cells = max(min(k, _CELLS), 1)
    found = add_up(
        builder.iter_csr(np.ones(k), block_rows=_ROWS), np.where(kept, x, 0.0), cells, counts
    )
    size = np.diff(edges(k, cells))
    before, after, sums = figure.subplots(1, 3)
    for ax, raster, title in ((before, found.before, "A"), (after, found.after, _SCALED)):
        label = "entry" if cells == k else "mean entry of the cell"
        _draw_raster(ax, raster / np.maximum(np.outer(size, size), 1), (k, k), label)
        ax.set(title=title, xlabel="column", ylabel="row", aspect="equal")
    mean = float(np.mean(found.row_sums[kept])) if kept.any() else 1.0
    _draw_range(sums, found.row_sums / (mean or 1.0), kept, "before, divided by their mean", "C7")
    _draw_range(sums, found.scaled_row_sums / d, kept, "after, divided by the target", "C0")
    if np.any(found.row_sums[kept] > 0):
        sums.set_yscale("log")
    sums.set(title="row sums", xlabel="row")
    sums.legend()
    return figure


def _draw_raster(
    ax: Any, values: NDArray[Any], shape: tuple[int, int], label: str | None = None
) -> None:
    """Draw the positive numbers of a raster, in logarithmic colours if they have a `label`."""
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_where(~(values > 0), values)
    empty = not (values > 0).any()
    m, n = (max(size, 1) for size in shape)
    how = {"extent": (-0.5, n - 0.5, m - 0.5, -0.5), "aspect": "auto"}
    if label is None or empty:
        ax.imshow(shown, cmap="gray_r", vmin=0, vmax=1, **how)
        return
    image = ax.imshow(shown, cmap="viridis_r", norm=LogNorm(), **how)
    ax.figure.colorbar(image, ax=ax, label=label)


def _draw_range(
    ax: Any, values: NDArray[Any], kept: NDArray[np.bool_], label: str, colour: str
) -> None:
    """Draw numbers of rows as a line, or of many rows as the range of each bin."""
    values = np.where(kept, values, np.nan)
    if values.size <= _CELLS:
        ax.plot(values, label=label, color=colour)
        return
    starts = edges(values.size, _CELLS)[:-1]
    lowest, highest = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    centres = starts + np.diff(edges(values.size, _CELLS)) / 2
    ax.fill_between(centres, lowest, highest, label=label, color=colour, linewidth=1)


def _axes(ax: Any) -> Any:
    """The Axes to draw on."""
    _validation.matplotlib_is_there()
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.gca()
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be a matplotlib Axes, got {_validation.type_name(ax)}: take one that "
            "plt.subplots() returns"
        )
    return ax


def _figure(figure: Any) -> Any:
    """The figure to draw on."""
    _validation.matplotlib_is_there()
    if figure is None:
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(13, 4), layout="constrained")
    from matplotlib.figure import FigureBase

    if not isinstance(figure, FigureBase):
        raise TypeError(
            f"figure must be a matplotlib Figure, got {_validation.type_name(figure)}: pass "
            "plt.figure()"
        )
    return figure
