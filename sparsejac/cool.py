"""Reads and balances Hi-C contact maps in ``.cool`` and ``.mcool`` files, and writes the weights.

The `cooler <https://cooler.readthedocs.io>`_ package defines these files. It is an extra:
``pip install '.[cool]'`` in a clone. h5py, on which it depends, reads the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._matrix import columns, contact_map, pixels
from ._matrix.blacklist import bins_of_bed, numbered_bins
from ._solvers.scaling import Scaling
from ._solvers.scaling_state import Examination
from ._solvers.status import ScalingStatus
from ._system.progress import passes
from ._system.version import __version__
from ._validation import Pairs
from .row_sums import RowSums

__all__ = ["balance", "read", "write_weights"]


def read(uri: str | os.PathLike[str]) -> tuple[scipy.sparse.csr_array, NDArray[Any]]:
    """Read the contacts of a ``.cool`` file as an upper triangle, in the dtype of the file.

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
        If it is not a cooler, not stored as an upper triangle, or damaged. The message names the
        column.
    TypeError
        If its counts have a dtype that is not accepted.
    MemoryError
        If the result does not fit into memory.
    ImportError
        If h5py is not installed.

    Notes
    -----
    Old versions of cooler wrote pixels that do not ascend within the row of a bin. These are
    sorted. Pixels that are stored more than once are summed.

    **Memory.** The result takes 8 p + 4 k bytes for p pixels of int32 and k bins. The chromosomes
    take 4 k bytes, and reading takes some 2 MiB.

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
    with contact_map.reading(uri) as map_:
        return map_.matrix(strict=False), map_.chromosomes()


def balance(
    uri: str | os.PathLike[str],
    *,
    cis_only: bool = False,
    trans_only: bool = False,
    ignore_diags: int = 2,
    mad_max: float = 5,
    min_nnz: int = 10,
    min_count: float = 0,
    blacklist: ArrayLike | str | os.PathLike[str] | None = None,
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
    """Balance a contact map by `symmetric_scaling`, with the filters of ``cooler.balance_cooler``.

    The defaults are those of cooler.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.
    cis_only : bool, default False
        Balance each chromosome by itself, from the contacts within it.
    trans_only : bool, default False
        Balance the contacts between chromosomes only.
    ignore_diags : int, default 2
        Leave out contacts of bins that are fewer bins apart than this.
    mad_max : float, default 5
        Leave out bins with too small a marginal. Marginals are divided by the median of their
        chromosome. A bin is left out if the logarithm is more than this many median absolute
        deviations below the median of all logarithms. 0 leaves out none.
    min_nnz : int, default 10
        Leave out bins with fewer nonzero pixels than this.
    min_count : float, default 0
        Leave out bins with fewer contacts than this.
    blacklist : array_like of int or path_like, optional
        Numbers of bins to leave out, or a BED file (``.bed``, ``.bed.gz``). Bins that overlap with
        an interval of the file are left out. If the file names chromosomes that the map does not
        have, the message mentions them.
    x0 : array_like, shape (k,), optional
        Weights to start from. Bins whose weight is NaN or 0 are left out.
    tol : float, default 1e-08
        The largest relative deviation of a row sum from 1. (The tolerance of cooler is a variance,
        in units of contacts.)
    max_products : int, default 20000
        The largest number of passes over the map.
    support : {"auto", "check", "drop", "drop_rows", "skip"}, default "auto"
        As for `symmetric_scaling`. In shallow maps some bins lack support; ``"drop_rows"`` leaves
        them out.
    store : bool, default False
        On success, write the weights into the file, as `write_weights` does.
    store_name : str, default "weight"
        The column of the bin table to write. A column named KR, VC or VC_SQRT gets 1/weight,
        because cooler divides by it.
    overwrite : bool, default False
        Replace a column of this name.
    progress : bool, default False
        Show a bar of the passes over the map, with the residual.
    workers : int, optional
        As for `JacobianBuilder`.
    memory : int, optional
        The number of bytes that may be used. The map is then read from the file in each pass. By
        default, the map is kept in memory.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        The result of `symmetric_scaling`, and in addition:

        * ``weight``: NaN in the bins that are left out. The balanced map is
          ``A_ij weight_i weight_j``, and its row sums are 1. With `trans_only` a weight is, as
          cooler defines it, x times the share of all bins that are on other chromosomes.
        * ``stats``: the attributes of the column.
        * ``left_out``: how many bins each filter left out: ``min_nnz``, ``min_count``, ``mad_max``,
          ``blacklist``, ``x0``, ``no_entries`` (bins that have no contacts with bins that are
          kept), ``support``. The message says the same.
        * ``unscaled``: with `cis_only`, the names of chromosomes that cannot be balanced, or of
          which ``support="drop_rows"`` leaves no bin. They are left out, the message says why, and
          the status is 7, IN_PART. Chromosomes whose bins were all left out by filters do not
          count.

    Raises
    ------
    OSError
        If the file is missing, or cannot be read or written; with `store`, if it has changed
        between reading and writing.
    ValueError
        If the file is not a cooler, not stored as an upper triangle, or damaged (the message names
        the column); if it has counts that are negative or not finite; if it has the column of
        weights already, unless `overwrite`; if an option has another value than those above; if a
        line of `blacklist` is not BED.
    TypeError
        If an option is of the wrong type.
    MemoryError
        If the map does not fit into memory.
    ImportError
        If h5py is not installed.

    Notes
    -----
    **Attributes** are those of cooler, and ``residual`` and ``generator``. ``scale`` is the mean
    marginal before balancing, over the contacts that count and the bins that are kept. cooler's
    ``scale`` depends on its iteration, and may be several times as large. ``var`` is the variance
    of row sums around 1. Attributes of 63 KiB or more are not written, because HDF5 cannot hold
    them. An attribute with a number for each chromosome is that large for eight thousand
    chromosomes.

    **Memory.** The map as `read` stores it, and the vectors of `symmetric_scaling`. With `memory`,
    that many bytes, which must be at least 384 bytes for each bin, 2 MiB, and some rows.

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
    _check_flags(
        cis_only=cis_only,
        trans_only=trans_only,
        store=store,
        overwrite=overwrite,
        progress=progress,
    )
    tol = _validation.nonnegative("tol", tol)
    max_products = _validation.positive_integer("max_products", max_products)
    support = _validation.choice("support", support, Examination)
    filters = _checked_filters(mad_max=mad_max, min_nnz=min_nnz, min_count=min_count)
    read_from = None
    if store:
        columns.check_name(store_name)
        read_from = prepare(uri, store_name, overwrite=overwrite)
    contacts = _Contacts(uri, blacklist, memory)
    k, chromosomes = contacts.k, contacts.chromosomes

    def sums_of(pairs: Pairs) -> RowSums:
        return RowSums(
            contacts.A,
            uplo="U",
            ignore_diags=ignore_diags,
            groups=chromosomes,
            pairs=pairs,
            workers=workers,
            memory=memory,
            progress=progress,
        )

    sums = sums_of("within" if cis_only else "all")
    out = _filtered(sums, chromosomes, **filters)
    if contacts.listed is not None:
        out["blacklist"] = contacts.listed, f"by {contacts.bed or 'blacklist'}"
    share = np.ones(k)
    if trans_only:
        sums = sums_of("between")
        share = 1 - (np.bincount(chromosomes, minlength=len(contacts.names)) / k)[chromosomes]
    start = None
    if x0 is not None:
        found = _validation.vector("x0", x0, k, f"a weight for each bin of {uri}", finite=False)
        start = np.array(found, np.float64)
        out["x0"] = ~((start > 0) & np.isfinite(start)), "by x0"
        start = np.divide(start, share, out=np.ones(k), where=share > 0)
    kept = ~np.logical_or.reduce([np.zeros(k, np.bool_), *(bins for bins, _ in out.values())])
    marginal = sums.value(kept.astype(np.float64))
    with passes("scale", shown=progress) as bar:
        result, unscaled = _scaled(
            lambda: Scaling(sums._products, tol, max_products, support, None, bar, "bin"),
            out,
            start,
            chromosomes,
            cis_only,
        )
    result.weight = result.x * share
    _note_unscaled(result, contacts, unscaled, support)
    divisive = store and store_name in columns.DIVISIVE
    if divisive:
        result.message += (
            f"; the column {store_name!r} is for 1/weight, as cooler divides by columns of this "
            "name"
        )
    by_chromosome = chromosomes if cis_only else None
    result.stats = {
        "tol": tol,
        **filters,
        "cis_only": cis_only,
        "ignore_diags": ignore_diags,
        **_statistics(result, sums, marginal, by_chromosome, unscaled, len(contacts.names)),
        "divisive_weights": divisive,
        "residual": result.residual,
        "generator": f"sparsejac-hadamard {__version__}",
    }
    if store and result.success:
        write_balanced(uri, result, store_name, overwrite=overwrite, read=read_from)
    return result


def _check_flags(*, cis_only: bool, trans_only: bool, **others: bool) -> None:
    for name, flag in {"cis_only": cis_only, "trans_only": trans_only, **others}.items():
        _validation.flag(name, flag)
    if cis_only and trans_only:
        raise ValueError(
            "cis_only and trans_only exclude each other: leave both out for all contacts"
        )


def _checked_filters(*, mad_max: float, min_nnz: int, min_count: float) -> dict[str, Any]:
    return {
        "min_nnz": _validation.nonnegative_integer("min_nnz", min_nnz),
        "min_count": _validation.nonnegative("min_count", min_count),
        "mad_max": _validation.nonnegative("mad_max", mad_max),
    }


class _Contacts:
    """A contact map for `balance`, with the bins that a blacklist names."""

    def __init__(self, uri: Any, blacklist: Any, memory: int | None) -> None:
        self.bed = os.fsdecode(blacklist) if isinstance(blacklist, (str, os.PathLike)) else None
        self.listed: NDArray[np.bool_] | None = None
        self.unknown: list[str] = []  # chromosomes of the BED file that the map does not have
        with contact_map.reading(uri) as map_:
            self.names, self.chromosomes, self.k = map_.names(), map_.chromosomes(), map_.k
            if self.bed is not None:
                self.listed, self.unknown = bins_of_bed(
                    self.bed, map_, self.names, self.chromosomes
                )
            elif blacklist is not None:
                self.listed = numbered_bins(blacklist, self.k)
            self.A: Any = map_.matrix(strict=True) if memory is None else None
        if memory is not None:
            self.A = pixels.source("A", os.fsdecode(uri), strict=True)


def _note_unscaled(
    result: OptimizeResult, contacts: _Contacts, unscaled: Mapping[int, str], support: str
) -> None:
    """Add chromosomes without a scaling, or unknown to the map, to the result and its message."""
    names = contacts.names
    result.unscaled = [names[c] for c in unscaled]
    if unscaled:
        reasons = "; ".join(f"{names[c]}: {reason}" for c, reason in unscaled.items())
        count = f"{len(unscaled)} of {len(names)} chromosomes"
        why = f"{count} have no scaling and are left out ({reasons})"
        if result.success:
            if support != "drop_rows":
                why += ', support="drop_rows" leaves out only their bins without support'
            result.status, result.success = ScalingStatus.IN_PART, False
            result.message = result.status.message(why=f"{why}; for the others: {result.message}")
        else:
            result.message += f"; {why}"
    if contacts.unknown:
        shown = ", ".join(contacts.unknown[:3]) + ", …" * (len(contacts.unknown) > 3)
        result.message += f"; {contacts.bed} names chromosomes that the map does not have ({shown})"


def prepare(uri: str | os.PathLike[str], name: str, *, overwrite: bool) -> columns.Identity:
    """Refuse a column that cannot be written, and return the identity of the file.

    This is called before anything is computed.
    """
    columns.recover(uri)
    columns.check(uri, name, overwrite=overwrite)
    return columns.file_of(uri)


def write_balanced(
    uri: str | os.PathLike[str],
    result: OptimizeResult,
    name: str,
    *,
    overwrite: bool,
    read: columns.Identity | None,
) -> None:
    """Write the weights of `balance`. The file must not have changed since `prepare`."""
    columns.check_unchanged(uri, read)
    _write(uri, result.weight, result.stats, name, overwrite=overwrite, read=read)


def write_weights(
    uri: str | os.PathLike[str],
    weight: ArrayLike,
    stats: Mapping[str, Any],
    *,
    name: str = "weight",
    overwrite: bool = False,
) -> None:
    """Write a column of weights, and its attributes, into the bin table of a ``.cool`` file.

    The file is copied. The copy gets the column, is read once as a test, and replaces the file. So
    even after a full disk, or if the process is killed, the file is the old one or the new one.
    This takes twice the space of the whole file for a while.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.
    weight : array_like, shape (k,)
        Factors of the balanced map ``A_ij weight_i weight_j``, NaN for bins that are left out.
    stats : mapping
        The attributes, such as the ``stats`` of `balance`: numbers, strings, and arrays of them.
        Attributes of 63 KiB or more are not written.
    name : str, default "weight"
        The name of the column. A column named KR, VC or VC_SQRT gets ``1/weight``, because cooler
        divides by it, and its attribute ``divisive_weights`` is True.
    overwrite : bool, default False
        Replace a column of this name.

    Raises
    ------
    OSError
        If the file is missing or cannot be written; if its disk cannot hold a copy; if another
        program has it open, or changes it at the same time. The file is then unchanged.
    ValueError
        If the file is not a cooler, or has the column, unless `overwrite`; if `weight` has another
        length than the bin table; if a column of reciprocals would overflow; if the name is one of
        the table's coordinates.
    TypeError
        If `weight` is complex, or not an array of numbers; if `stats` is not a mapping, or cannot
        be written as attributes.
    ImportError
        If h5py is not installed.

    Notes
    -----
    The copy has the permissions of the file, and, if the system allows it, its owner and its
    extended attributes. A symbolic link stays a link. Other hard links keep the old file. A killed
    process leaves ``.map.cool.0123456789abcdef.part`` in the same folder, which may be removed.

    **Memory.** Two copies of the weights, and 8 MiB.

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
    _write(uri, weight, stats, name, overwrite=overwrite)


def _write(
    uri: str | os.PathLike[str],
    weight: ArrayLike,
    stats: Mapping[str, Any],
    name: str,
    *,
    overwrite: bool,
    read: columns.Identity | None = None,
) -> None:
    columns.check_name(name)
    overwrite = _validation.flag("overwrite", overwrite)
    if not isinstance(stats, Mapping):
        raise TypeError(
            f"stats must be a mapping of attributes, got {_validation.type_name(stats)}"
        )
    with contact_map.reading(uri) as map_:
        k = map_.k
    values = _validation.vector("weight", weight, k, f"one for each bin of {uri}", finite=False)
    _validation.real("weight", values.dtype, "a column of weights", "pass weight.real")
    column = values.astype(np.float64)
    attributes = dict(stats)
    if name in columns.DIVISIVE:
        with np.errstate(all="ignore"):
            column = 1 / column
        if not np.array_equal(np.isinf(column), values == 0):
            raise ValueError(
                f"weight must have reciprocals, which are what is written into {name!r}, but "
                "1/weight overflows"
            )
    if name in columns.DIVISIVE or "divisive_weights" in attributes:
        attributes["divisive_weights"] = name in columns.DIVISIVE
    if read is None:
        prepare(uri, name, overwrite=overwrite)
    columns.write(uri, name, column, attributes, overwrite=overwrite, read=read)


# --- cooler's filters -----------------------------------------------------------------------------


def _filtered(
    sums: RowSums, chromosomes: NDArray[Any], *, mad_max: float, min_nnz: int, min_count: float
) -> dict[str, tuple[NDArray[np.bool_], str]]:
    """Find the bins that each of cooler's filters leaves out, with words for a message."""
    out: dict[str, tuple[NDArray[np.bool_], str]] = {}
    if min_nnz > 0:
        out["min_nnz"] = sums.nonzeros() < min_nnz, f"by min_nnz={min_nnz}"
    marginal = sums.value(np.ones(chromosomes.size))
    if min_count > 0:
        out["min_count"] = marginal < min_count, f"by min_count={min_count:g}"
    some = np.flatnonzero(marginal > 0)
    if mad_max > 0:
        bad = marginal == 0
        if some.size:
            ends = np.flatnonzero(np.diff(chromosomes[some])) + 1
            parts = np.split(marginal[some], ends)
            medians = np.repeat([np.median(part) for part in parts], [part.size for part in parts])
            logs = np.log(marginal[some] / medians)
            centre = np.median(logs)
            low = np.exp(centre - mad_max * np.median(np.abs(logs - centre)))
            bad[some[marginal[some] / medians < low]] = True
        out["mad_max"] = bad, f"by mad_max={mad_max:g}"
    return out


# --- the scaling ----------------------------------------------------------------------------------


def _scaled(
    scaling: Callable[[], Scaling],
    out: Mapping[str, tuple[NDArray[np.bool_], str]],
    start: NDArray[Any] | None,
    chromosomes: NDArray[Any],
    by_chromosome: bool,
) -> tuple[OptimizeResult, dict[int, str]]:
    """Scale the bins that are kept. The dict maps chromosomes without a scaling to the reason."""
    unscaled: dict[int, str] = {}
    products = 0
    while True:
        run = scaling()
        for name, (bins, words) in out.items():
            run.leave_out(name, bins, words)
        if unscaled:
            run.leave_out(
                "unscaled", np.isin(chromosomes, list(unscaled)), "on chromosomes without a scaling"
            )
        run.leaves_out_empty_rows = True
        result = run.run(1.0, start)
        result.n_products += products
        impossible = (ScalingStatus.NO_SUPPORT, ScalingStatus.NO_TOTAL_SUPPORT)
        if not by_chromosome or result.status not in impossible:
            if by_chromosome and result.left_out.get("support"):
                unscaled |= dict.fromkeys(
                    _dropped_whole(result, chromosomes), "every bin lacks support"
                )
            return result, unscaled
        products = result.n_products
        bad = np.unique(
            chromosomes[np.concatenate([result.unsupported_rows, result.unsupported_entries[:, 0]])]
        )
        lacks_all = result.status is ScalingStatus.NO_SUPPORT
        why = "no support" if lacks_all else "no total support"
        unscaled |= dict.fromkeys(bad.tolist(), why)


def _dropped_whole(result: OptimizeResult, chromosomes: NDArray[Any]) -> list[int]:
    """Find the chromosomes of which ``support="drop_rows"`` has left no bin."""
    dropped: list[int] = np.setdiff1d(
        chromosomes[result.unsupported_rows], chromosomes[result.kept]
    ).tolist()
    return dropped


def _statistics(
    result: OptimizeResult,
    sums: RowSums,
    marginal: NDArray[Any],
    chromosomes: NDArray[Any] | None,
    unscaled: Mapping[int, str],
    count: int,
) -> dict[str, Any]:
    """Compute scale, variance and convergence as cooler defines them.

    They are numbers, or arrays with an element for each chromosome.
    """
    kept = result.kept
    of = np.zeros(kept.size, np.intp) if chromosomes is None else chromosomes
    deviation = sums.value(np.where(kept, result.x, 0.0)) - 1
    sizes = np.bincount(of[kept], minlength=count if chromosomes is not None else 1)

    def mean(values: NDArray[Any], empty: float) -> NDArray[Any]:
        total = np.bincount(of[kept], weights=values[kept], minlength=sizes.size)
        return np.divide(total, sizes, out=np.full(sizes.size, empty), where=sizes > 0)

    converged = np.full(
        sizes.size, result.status in (ScalingStatus.CONVERGED, ScalingStatus.IN_PART)
    )
    converged[list(unscaled)] = False
    found = {
        "scale": mean(marginal, np.nan),
        "converged": converged,
        "var": mean(deviation**2, 0.0),
    }
    if chromosomes is not None:
        return found
    return {name: value[0].item() for name, value in found.items()}
