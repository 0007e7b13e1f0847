"""Hi-C contact maps in ``.cool`` and ``.mcool`` files: read as they are stored, balanced, and the weights written back.

Files are opened with the `cooler <https://cooler.readthedocs.io>`_ package, which is an extra: ``pip install '.[cool]'`` in a clone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import __version__, _checks, _pixels
from ._checks import Pairs
from ._progress import passes
from ._rowsums import RowSums
from ._scaling import Examination, Scaling

__all__ = ["balance", "read", "write_weights"]

_ATTRIBUTE = 2**16 - 2**10  # bytes: HDF5 has no room for larger ones, as those of ten thousand chromosomes would be


def read(uri: str | os.PathLike[str]) -> tuple[scipy.sparse.csr_array, NDArray[Any]]:
    """Read the contacts of a ``.cool`` file as they are stored: the upper triangle, in the file's dtype.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.

    Returns
    -------
    U : scipy.sparse.csr_array, shape (k, k)
        The upper triangle of the symmetric matrix of counts, for ``uplo="U"``.
    chromosomes : ndarray of int, shape (k,)
        The number of each bin's chromosome, for ``groups=``.

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    ValueError
        If it is not a cooler, or not stored as an upper triangle.
    ImportError
        If cooler is not installed.

    Notes
    -----
    **Memory.** The result: for p pixels of int32 and k bins 8 p + 4 k bytes and the chromosomes' 8 k; and some 2 MiB while it is read.

    Examples
    --------
    >>> import tempfile, cooler, numpy as np, pandas as pd
    >>> bins = cooler.binnify(pd.Series({"chr1": 300, "chr2": 200}), 10)
    >>> i, j = np.triu_indices(len(bins))
    >>> pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1 + 300 // (1 + j - i)})
    >>> uri = tempfile.mkdtemp() + "/map.cool"
    >>> cooler.create_cooler(uri, bins, pixels, ordered=True)
    >>> from sparsejac import cool, symmetric_scaling
    >>> U, chromosomes = cool.read(uri)
    >>> print(U.shape, U.nnz, U.dtype)
    (50, 50) 1275 int32
    >>> symmetric_scaling(U, uplo="U", ignore_diags=2, groups=chromosomes, pairs="within").success
    True
    """
    with _pixels.reading(uri) as group:
        return _pixels.in_memory(group), _pixels.chromosomes(group)


def balance(
    uri: str | os.PathLike[str],
    *,
    cis_only: bool = False,
    trans_only: bool = False,
    ignore_diags: int = 2,
    mad_max: float = 5,
    min_nnz: int = 10,
    min_count: float = 0,
    blacklist: ArrayLike | None = None,
    x0: ArrayLike | None = None,
    tol: float = 1e-8,
    max_products: int = 20_000,
    support: Examination = "auto",
    store: bool = False,
    store_name: str = "weight",
    overwrite: bool = False,
    progress: bool = False,
    workers: int | None = None,
    memory: int | None = None,
) -> OptimizeResult:
    """Balance a contact map: what ``cooler.balance_cooler`` does, by `symmetric_scaling`, with the same filters and defaults.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.
    cis_only : bool, default False
        Balance each chromosome by itself, with its own contacts only.
    trans_only : bool, default False
        Balance the contacts between chromosomes only.
    ignore_diags : int, default 2
        Leave out contacts of bins that are fewer than so many bins apart.
    mad_max : float, default 5
        Leave out bins whose log marginal, divided by its chromosome's median, is that many median absolute deviations below
        the median; 0 for no such filter.
    min_nnz : int, default 10
        Leave out bins with fewer pixels than this that are not zero.
    min_count : float, default 0
        Leave out bins with fewer contacts than this.
    blacklist : array_like of int, optional
        Numbers of bins to leave out.
    x0 : array_like, shape (k,), optional
        Weights to start from; bins where they are NaN or 0 are left out.
    tol : float, default 1e-08
        The largest relative deviation of a row sum from 1 (cooler's is a variance, in units of contacts).
    max_products : int, default 20000
        Passes over the map at most.
    support : {"auto", "check", "drop", "skip"}, default "auto"
        As for `symmetric_scaling`.
    store : bool, default False
        Write the weights into the file, if they have converged.
    store_name : str, default "weight"
        The column of the bin table to write.
    overwrite : bool, default False
        Write it even if the file has such a column.
    progress : bool, default False
        Show a bar of the passes over the map, with the residual.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        Bytes that we may hold: the map is then not kept in memory, but read from the file in each pass. Default: it is kept.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        As `symmetric_scaling` returns it, with ``weight``, NaN in the bins that are left out, as ``cooler`` defines it: the balanced map is
        ``A_ij weight_i weight_j``, its row sums are 1 (with `trans_only`, cooler's weights are x times the part of all bins that are on
        other chromosomes); and with ``stats``, which are the attributes of the column. With `cis_only`, chromosomes that
        cannot be balanced are left out, ``unscaled`` are their names, and the message says why.

    Raises
    ------
    OSError
        If the file is missing, or cannot be read or written.
    ValueError
        If it is not a cooler, or not stored as an upper triangle; if it has the column, unless `overwrite`; for options that do not fit.
    TypeError
        For options of the wrong kind.
    ImportError
        If cooler is not installed.

    Notes
    -----
    **Attributes** are cooler's own, and ``residual`` and ``generator``. ``scale`` is the mean marginal, of the contacts that count, of the bins that are
    kept, before balancing; cooler's depends on the way that its iteration went, and may be several times that. ``var`` is of row sums around 1. Attributes
    of 63 KiB or more, those by chromosome of more than eight thousand chromosomes, are not written, as HDF5 has no room for them.

    **Memory.** The map as it is stored, `read`, and the vectors of `symmetric_scaling`; with `memory` what that says, which must be 384 bytes
    for each bin, 2 MiB, and some rows.

    Examples
    --------
    >>> import tempfile, cooler, numpy as np, pandas as pd
    >>> bins = cooler.binnify(pd.Series({"chr1": 300, "chr2": 200}), 10)
    >>> i, j = np.triu_indices(len(bins))
    >>> pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1 + 300 // (1 + j - i)})
    >>> uri = tempfile.mkdtemp() + "/map.cool"
    >>> cooler.create_cooler(uri, bins, pixels, ordered=True)
    >>> from sparsejac import cool
    >>> cool.balance(uri, ignore_diags=0, mad_max=0, store=True).success
    True
    >>> print(np.nansum(cooler.Cooler(uri).matrix(balance=True)[:], axis=0).round(6)[:3])
    [1. 1. 1.]
    """
    flags = {
        "cis_only": cis_only,
        "trans_only": trans_only,
        "store": store,
        "overwrite": overwrite,
        "progress": progress,
    }
    for name, flag in flags.items():
        _checks.flag(name, flag)
    if cis_only and trans_only:
        raise ValueError("cis_only and trans_only exclude each other: leave both out for all contacts")
    tol, max_products = _checks.nonnegative("tol", tol), _checks.positive_integer("max_products", max_products)
    support = _checks.choice("support", support, Examination)
    filters: dict[str, Any] = {
        "min_nnz": _checks.nonnegative_integer("min_nnz", min_nnz),
        "min_count": _checks.nonnegative("min_count", min_count),
        "mad_max": _checks.nonnegative("mad_max", mad_max),
    }
    if store:
        check_column(uri, store_name, overwrite=overwrite)
    with _pixels.reading(uri) as group:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in group["chroms/name"][:]]
        chromosomes = _pixels.chromosomes(group)
        pixels = _pixels.in_memory(group) if memory is None else _pixels.source("A", str(uri))
    k = chromosomes.size

    def sums_of(pairs: Pairs) -> RowSums:
        return RowSums(
            pixels,
            uplo="U",
            ignore_diags=ignore_diags,
            groups=chromosomes,
            pairs=pairs,
            workers=workers,
            memory=memory,
            progress=progress,
        )

    sums = sums_of("within" if cis_only else "all")
    kept = _kept(sums, chromosomes, **filters)
    if blacklist is not None:
        kept[_bins(blacklist, k)] = False
    start = None
    if x0 is not None:
        start = np.array(_checks.vector("x0", x0, k, f"a weight for each bin of {uri}", finite=False), np.float64)
        kept &= (start > 0) & np.isfinite(start)
    share = np.ones(k)
    if trans_only:
        sums = sums_of("between")
        share = 1 - (np.bincount(chromosomes, minlength=len(names)) / k)[chromosomes]
        start = None if start is None else start / share
    marginal = sums.value(kept.astype(np.float64))
    with passes("scale", shown=progress) as bar:
        result, unscaled = _scaled(
            lambda rows: Scaling(sums, rows, tol, max_products, support, None, bar), kept, start, chromosomes, cis_only
        )
    result.weight = result.x * share
    result.unscaled = [names[c] for c in unscaled]
    if unscaled:
        reasons = "; ".join(f"{names[c]}: {reason}" for c, reason in unscaled.items())
        result.message += f"; chromosomes without a scaling are left out ({reasons})"
    result.stats = {
        "tol": tol,
        **filters,
        "cis_only": cis_only,
        "ignore_diags": ignore_diags,
        **_statistics(result, sums, marginal, chromosomes if cis_only else None, unscaled, len(names)),
        "divisive_weights": False,
        "residual": result.residual,
        "generator": f"sparsejac-hadamard {__version__}",
    }
    if store and result.success:
        write_weights(uri, result.weight, result.stats, name=store_name, overwrite=overwrite)
    return result


def write_weights(
    uri: str | os.PathLike[str],
    weight: ArrayLike,
    stats: Mapping[str, Any],
    *,
    name: str = "weight",
    overwrite: bool = False,
) -> None:
    """Write a column of weights, and its attributes, into the bin table of a ``.cool`` file.

    The column is complete or absent: it is written elsewhere in the file, and then moved into the table; one that it replaces is deleted after that.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.
    weight : array_like, shape (k,)
        NaN for bins that are left out.
    stats : mapping
        The attributes.
    name : str, default "weight"
        The column's.
    overwrite : bool, default False
        Replace one that has this name.

    Raises
    ------
    OSError
        If the file is missing or cannot be written.
    ValueError
        If it is not a cooler, or has the column, unless `overwrite`; if `weight` has another length than the bin table, or the name is one of its
        coordinates.
    ImportError
        If cooler is not installed.

    Notes
    -----
    **Memory.** A copy of the weights.

    Examples
    --------
    >>> import tempfile, cooler, numpy as np, pandas as pd
    >>> bins = cooler.binnify(pd.Series({"chr1": 300, "chr2": 200}), 10)
    >>> i, j = np.triu_indices(len(bins))
    >>> pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1 + 300 // (1 + j - i)})
    >>> uri = tempfile.mkdtemp() + "/map.cool"
    >>> cooler.create_cooler(uri, bins, pixels, ordered=True)
    >>> from sparsejac import cool
    >>> cool.write_weights(uri, np.ones(50), {"tol": 1e-8}, name="raw")
    >>> list(cooler.Cooler(uri).bins().columns)
    ['chrom', 'start', 'end', 'raw']
    """
    check_column(uri, name, overwrite=overwrite)
    with _writing(uri) as group:
        bins = group["bins"]
        column = _checks.vector("weight", weight, bins["start"].size, f"one for each bin of {uri}", finite=False)
        _checks.real("weight", column.dtype, "a column of weights", "pass weight.real")
        # Neither is in the table of bins, where a killed run would leave it for all to see.
        new, old = f".{name} in the making", f".{name} before"
        if new in group:
            del group[new]
        try:
            made = group.create_dataset(new, data=column.astype(np.float64), compression="gzip", compression_opts=6)
            for key, value in stats.items():
                if np.asarray(value).nbytes < _ATTRIBUTE:
                    made.attrs[key] = value
            if name in bins:
                group.move(f"bins/{name}", old)
            group.move(new, f"bins/{name}")
        except BaseException:
            if new in group:
                del group[new]
            if old in group and name not in bins:
                group.move(old, f"bins/{name}")
            raise
        if old in group:
            del group[old]


def check_column(uri: str | os.PathLike[str], name: Any, *, overwrite: bool) -> None:
    """Refuse what could not be written, before anything is computed."""
    if not isinstance(name, str) or not name or name in {".", ".."} or "/" in name or "\0" in name or len(name) > 200:
        raise ValueError(f"the name of a column must be a few characters without a slash, got {name!r}")
    if name in ("chrom", "start", "end"):
        raise ValueError(f'"{name}" is a coordinate of the bins: choose another name for the column')
    overwrite = _checks.flag("overwrite", overwrite)
    with _writing(uri) as group:
        bins, old = group["bins"], f".{name} before"
        if old in group and name in bins:
            del group[old]
        elif old in group:  # a run was killed before the new column was in its place
            group.move(old, f"bins/{name}")
        if name not in bins:
            return
        if not overwrite:
            raise ValueError(
                f'{uri} has a column "{name}" already: choose another name, or have it replaced (overwrite=True, --force)'
            )
        if getattr(bins[name], "shape", None) != bins["start"].shape:
            raise ValueError(f'"{name}" in {uri} is not a column of the bins, and is not replaced: choose another name')


# --- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _writing(uri: str | os.PathLike[str]) -> Iterator[Any]:
    file = _pixels.opened(uri)
    try:
        opened = file.open("r+")
        group = opened.__enter__()
    except OSError as error:
        raise OSError(error.errno, f"{uri} cannot be written: {error}") from error
    try:
        yield group
    finally:
        opened.__exit__(None, None, None)


# --- cooler's filters -----------------------------------------------------------------------------------------------


def _bins(blacklist: ArrayLike, k: int) -> NDArray[Any]:
    bins = np.asarray(blacklist)
    if (
        bins.ndim != 1
        or (bins.size and bins.dtype.kind not in "iu")
        or (bins.size and not 0 <= bins.min() <= bins.max() < k)
    ):
        raise ValueError(f"blacklist must be the numbers of bins, integers from 0 to {k - 1}, got {blacklist!r}")
    return bins.astype(np.intp)


def _kept(
    sums: RowSums, chromosomes: NDArray[Any], *, mad_max: float, min_nnz: int, min_count: float
) -> NDArray[np.bool_]:
    """The bins that cooler keeps."""
    kept = np.ones(chromosomes.size, np.bool_)
    if min_nnz > 0:
        kept &= sums.nonzeros() >= min_nnz
    marginal = sums.value(np.ones(chromosomes.size))
    kept &= marginal >= min_count
    some = np.flatnonzero(marginal > 0)
    if mad_max > 0 and some.size:
        import pandas as pd

        medians = pd.Series(marginal[some]).groupby(chromosomes[some]).transform("median").to_numpy()
        logs = np.log(marginal[some] / medians)
        centre = np.median(logs)
        low = np.exp(centre - mad_max * np.median(np.abs(logs - centre)))
        kept[marginal == 0] = False
        kept[some[marginal[some] / medians < low]] = False
    return kept


# --- the scaling ----------------------------------------------------------------------------------------------------


def _scaled(
    scaling: Callable[[NDArray[np.bool_]], Scaling],
    kept: NDArray[np.bool_],
    start: NDArray[Any] | None,
    chromosomes: NDArray[Any],
    by_chromosome: bool,
) -> tuple[OptimizeResult, dict[int, str]]:
    """The scaling of the bins that are kept, and the chromosomes that had to be left out, each with the reason."""
    unscaled: dict[int, str] = {}
    products = 0
    while True:
        run = scaling(kept)
        run.leave_lonely_out = True
        result = run.run(1.0, start)
        result.n_products += products
        if not by_chromosome or result.status not in (4, 5) or not result.kept.any():
            return result, unscaled
        products = result.n_products
        bad = np.unique(chromosomes[np.concatenate([result.unsupported_rows, result.unsupported_entries[:, 0]])])
        why = "no support" if result.status == 4 else "no total support"
        unscaled |= dict.fromkeys(bad.tolist(), why)
        kept = result.kept & ~np.isin(chromosomes, bad)


def _statistics(
    result: OptimizeResult,
    sums: RowSums,
    marginal: NDArray[Any],
    chromosomes: NDArray[Any] | None,
    unscaled: Mapping[int, str],
    count: int,
) -> dict[str, Any]:
    """Scale, variance and convergence as cooler has them: numbers, or, by chromosome, one for each."""
    kept = result.kept
    of = np.zeros(kept.size, np.intp) if chromosomes is None else chromosomes
    deviation = sums.value(np.where(kept, result.x, 0.0)) - 1
    sizes = np.bincount(of[kept], minlength=count if chromosomes is not None else 1)

    def mean(values: NDArray[Any], empty: float) -> NDArray[Any]:
        total = np.bincount(of[kept], weights=values[kept], minlength=sizes.size)
        return np.divide(total, sizes, out=np.full(sizes.size, empty), where=sizes > 0)

    converged = np.full(sizes.size, bool(result.success))
    converged[list(unscaled)] = False
    found = {"scale": mean(marginal, np.nan), "converged": converged, "var": mean(deviation**2, 0.0)}
    return found if chromosomes is not None else {name: value[0].item() for name, value in found.items()}
