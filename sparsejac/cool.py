"""Hi-C contact maps in ``.cool`` and ``.mcool`` files: read as they are stored, balanced, and the weights written back.

They are files of the `cooler <https://cooler.readthedocs.io>`_ package, which is an extra: ``pip install '.[cool]'`` in a clone. They are read with h5py,
which comes with it.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._matrix import columns, pixels
from ._solvers.scaling import Scaling
from ._solvers.scaling_state import Examination
from ._solvers.status import ScalingStatus
from ._system.progress import passes
from ._system.version import __version__
from ._validation import Pairs
from .row_sums import RowSums

__all__ = ["balance", "read", "write_weights"]
_BOUND = re.compile(r"0{0,99}[0-9]{1,18}")  # of an interval; a longer one is no int64


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
        If it is not a cooler, not stored as an upper triangle, or damaged: the message names the column.
    TypeError
        If its counts are no numbers that we compute with.
    MemoryError
        If it would not fit into memory.
    ImportError
        If h5py is not installed.

    Notes
    -----
    Pixels that do not ascend within a bin's row, as old versions of cooler left them, are sorted, and those that are stored more than once are summed.

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
    with pixels.reading(uri) as map_:
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
    blacklist : array_like of int or path_like, optional
        Numbers of bins to leave out; or a BED file (``.bed``, ``.bed.gz``), of which bins that overlap with an interval are left out. It may name
        chromosomes that the map does not have, which the message then mentions.
    x0 : array_like, shape (k,), optional
        Weights to start from; bins where they are NaN or 0 are left out.
    tol : float, default 1e-08
        The largest relative deviation of a row sum from 1 (cooler's is a variance, in units of contacts).
    max_products : int, default 20000
        Passes over the map at most.
    support : {"auto", "check", "drop", "drop_rows", "skip"}, default "auto"
        As for `symmetric_scaling`. For shallow maps, of which bins lack support, take ``"drop_rows"``, which leaves those out.
    store : bool, default False
        Write the weights into the file, as `write_weights` does, if they balance the map: on success.
    store_name : str, default "weight"
        The column of the bin table to write. In one named KR, VC or VC_SQRT, by which cooler divides, 1/weight is written.
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
        other chromosomes); and with ``stats``, which are the attributes of the column. ``left_out`` says how many bins each filter left out, and so does
        the message: ``min_nnz``, ``min_count``, ``mad_max``, ``blacklist``, ``x0``, ``no_entries`` (that count, of bins that are kept), ``support``. With `cis_only`, chromosomes that
        cannot be balanced are left out as well, ``unscaled`` are their names (also of those of which ``support="drop_rows"`` leaves no bin), and the message says why: then the status is 7, which is no success, for the map is
        scaled in part. Chromosomes whose bins all went by filters are no such case. After ``support="drop"`` has dropped entries the status is 6, which is none either.

    Raises
    ------
    OSError
        If the file is missing, or cannot be read or written; with `store`, if it has changed between reading and writing.
    ValueError
        If it is not a cooler, not stored as an upper triangle, or damaged: the message names the column; if it has counts that are negative or not finite; if it has
        the column of weights already, unless `overwrite`; for options that do not fit, and lines of `blacklist` that are not BED.
    TypeError
        For options of the wrong kind.
    MemoryError
        If the map would not fit into memory.
    ImportError
        If h5py is not installed.

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
        _validation.flag(name, flag)
    if cis_only and trans_only:
        raise ValueError(
            "cis_only and trans_only exclude each other: leave both out for all contacts"
        )
    tol, max_products = (
        _validation.nonnegative("tol", tol),
        _validation.positive_integer("max_products", max_products),
    )
    support = _validation.choice("support", support, Examination)
    filters: dict[str, Any] = {
        "min_nnz": _validation.nonnegative_integer("min_nnz", min_nnz),
        "min_count": _validation.nonnegative("min_count", min_count),
        "mad_max": _validation.nonnegative("mad_max", mad_max),
    }
    read_from = None
    if store:
        columns.check_name(store_name)
        read_from = prepare(uri, store_name, overwrite=overwrite)
    bed = os.fsdecode(blacklist) if isinstance(blacklist, (str, os.PathLike)) else None
    with pixels.reading(uri) as map_:
        names, chromosomes, k = map_.names(), map_.chromosomes(), map_.k
        unknown: list[str] = []
        if blacklist is None:
            listed = None
        elif bed is None:
            listed = _bins(blacklist, k)
        else:
            listed, unknown = _bed(bed, map_, names, chromosomes)
        A: Any = map_.matrix(strict=True) if memory is None else None
    if memory is not None:
        A = pixels.source("A", os.fsdecode(uri), strict=True)

    def sums_of(pairs: Pairs) -> RowSums:
        return RowSums(
            A,
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
    if listed is not None:
        out["blacklist"] = listed, f"by {'blacklist' if bed is None else bed}"
    start = None
    if x0 is not None:
        start = np.array(
            _validation.vector("x0", x0, k, f"a weight for each bin of {uri}", finite=False),
            np.float64,
        )
        out["x0"] = ~((start > 0) & np.isfinite(start)), "by x0"
    share = np.ones(k)
    if trans_only:
        sums = sums_of("between")
        share = 1 - (np.bincount(chromosomes, minlength=len(names)) / k)[chromosomes]
        start = None if start is None else np.divide(start, share, out=np.ones(k), where=share > 0)
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
    result.unscaled = [names[c] for c in unscaled]
    if unscaled:
        reasons = "; ".join(f"{names[c]}: {reason}" for c, reason in unscaled.items())
        message = f"{len(unscaled)} of {len(names)} chromosomes have no scaling and are left out ({reasons})"
        hint = (
            ""
            if support == "drop_rows"
            else ', support="drop_rows" leaves out only their bins without support'
        )
        if result.success:
            result.status, result.success = ScalingStatus.IN_PART, False
            result.message = result.status.message(
                why=f"{message}{hint}; for the others: {result.message}"
            )
        else:
            result.message += f"; {message}"
    if unknown:
        shown = ", ".join(unknown[:3]) + ", …" * (len(unknown) > 3)
        result.message += f"; {bed} names chromosomes that the map does not have ({shown})"
    if store and store_name in columns.DIVISIVE:
        result.message += f"; the column {store_name!r} is for 1/weight, as cooler divides by columns of this name"
    result.stats = {
        "tol": tol,
        **filters,
        "cis_only": cis_only,
        "ignore_diags": ignore_diags,
        **_statistics(
            result, sums, marginal, chromosomes if cis_only else None, unscaled, len(names)
        ),
        "divisive_weights": bool(store) and store_name in columns.DIVISIVE,
        "residual": result.residual,
        "generator": f"sparsejac-hadamard {__version__}",
    }
    if store and result.success:
        write_balanced(uri, result, store_name, overwrite=overwrite, read=read_from)
    return result


def prepare(uri: str | os.PathLike[str], name: str, *, overwrite: bool) -> columns.Identity:
    """Refuse a column that could not be written, before anything is computed, and tell which file is going to be read."""
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
    """Write the weights of `balance`, if the file is still the one that `prepare` saw."""
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

    The file is copied, the copy gets the column, is read once for trial, and takes the file's name: whatever happens, a full disk or a kill at any moment, the file is the
    old one or the new one. This takes twice the space of the whole file while it lasts.

    Parameters
    ----------
    uri : str or path_like
        A ``.cool`` file, or ``file.mcool::/resolutions/10000``.
    weight : array_like, shape (k,)
        Factors: the balanced map is ``A_ij weight_i weight_j``. NaN for bins that are left out.
    stats : mapping
        The attributes, such as `balance` returns them: numbers, strings, and arrays of them. What takes 63 KiB or more is not written.
    name : str, default "weight"
        The column's. In one named KR, VC or VC_SQRT, by which cooler's readers divide, ``1/weight`` is written, and the attribute ``divisive_weights`` is True.
    overwrite : bool, default False
        Replace one that has this name.

    Raises
    ------
    OSError
        If the file is missing or cannot be written; if its disk has no room for a copy; if another program has it open, or has changed it meanwhile. The file
        is then as it was.
    ValueError
        If it is not a cooler, or has the column, unless `overwrite`; if `weight` has another length than the bin table, or numbers without a reciprocal that is needed; if the name is one of
        the table's coordinates.
    TypeError
        If `weight` is complex, or no array of numbers; if `stats` is no mapping, or cannot be written as attributes.
    ImportError
        If h5py is not installed.

    Notes
    -----
    The copy keeps the permissions, and where the system allows it the owner and the extended attributes. A symbolic link stays one. Other hard links keep the old file.
    What a killed process leaves is ``.map.cool.0123456789abcdef.part``, beside the file, which may be removed.

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
    with pixels.reading(uri) as map_:
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
                f"weight must have reciprocals, which are what is written into {name!r}, but 1/weight overflows"
            )
    if name in columns.DIVISIVE or "divisive_weights" in attributes:
        attributes["divisive_weights"] = name in columns.DIVISIVE
    if read is None:
        prepare(uri, name, overwrite=overwrite)
    columns.write(uri, name, column, attributes, overwrite=overwrite, read=read)


# --- cooler's filters -----------------------------------------------------------------------------------------------


def _bins(blacklist: Any, k: int) -> NDArray[Any]:
    needed = f"blacklist must be the numbers of bins, integers from 0 to {k - 1}"
    try:
        bins = np.asarray(blacklist)
    except ValueError:  # a ragged list
        raise ValueError(f"{needed}, got a list whose items differ in length") from None
    if bins.ndim != 1 or (bins.size and bins.dtype.kind not in "iu"):
        hint = (
            ": pass np.flatnonzero(blacklist)"
            if bins.dtype.kind == "b" and bins.shape == (k,)
            else ""
        )
        raise ValueError(f"{needed}, got {bins.dtype} of shape {bins.shape}{hint}")
    wrong = (bins < 0) | (bins >= k)
    if wrong.any():
        raise ValueError(f"{needed}, got {bins[np.argmax(wrong)]}")
    out = np.zeros(k, np.bool_)
    out[bins.astype(np.intp)] = True
    return out


def _bed(
    path: str, map_: pixels.Map, names: list[str], chromosomes: NDArray[Any]
) -> tuple[NDArray[np.bool_], list[str]]:
    """The bins that overlap with an interval of a BED file, and the chromosomes in it that are not in the map."""
    starts, ends = (map_.whole(f"bins/{name}", size=map_.k) for name in ("start", "end"))
    out, known = np.zeros(map_.k, np.bool_), False
    unknown: dict[str, None] = {}
    first = np.searchsorted(chromosomes, np.arange(len(names) + 1))
    number = {name: c for c, name in enumerate(names)}
    for chromosome, begin, end in _intervals(path):
        c = number.get(chromosome)
        if c is None:
            unknown[chromosome.encode(errors="surrogateescape").decode(errors="replace")] = None
            continue
        known = True
        part = np.s_[first[c] : first[c + 1]]
        out[part] |= (starts[part] < end) & (ends[part] > begin)
    if unknown and not known:
        raise ValueError(
            f"{path} names no chromosome of {map_.uri}: it has {', '.join(list(unknown)[:3])}, and the map {', '.join(names[:3])}; name them alike"
        )
    return out, list(unknown)


def _intervals(path: str) -> Iterator[tuple[str, int, int]]:
    # A name may be in any encoding, and a file may begin with a byte order mark.
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "errors": "surrogateescape"}
    try:
        with gzip.open(path, **how) if path.endswith(".gz") else Path(path).open(**how) as lines:
            for number, line in enumerate(lines, 1):
                if "\0" in line:
                    raise ValueError(
                        f"{path} cannot be read as a BED file: line {number} is no text"
                    )
                fields = line.split()
                if not fields or line.startswith("#") or fields[0] in ("track", "browser"):
                    continue
                chromosome, *bounds = fields[:3]
                if (
                    len(bounds) < 2
                    or not all(map(_BOUND.fullmatch, bounds))
                    or int(bounds[0]) > int(bounds[1])
                ):
                    raise ValueError(
                        f"{path}, line {number}: each line of a BED file must be a chromosome, a start and an end, integers with 0 <= start <= end, got "
                        f"{line.strip()[:80]!r}"
                    )
                yield chromosome, int(bounds[0]), int(bounds[1])
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read as a BED file: {error}") from None


def _filtered(
    sums: RowSums, chromosomes: NDArray[Any], *, mad_max: float, min_nnz: int, min_count: float
) -> dict[str, tuple[NDArray[np.bool_], str]]:
    """The bins that each of cooler's filters leaves out, and how to speak of it."""
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


# --- the scaling ----------------------------------------------------------------------------------------------------


def _scaled(
    scaling: Callable[[], Scaling],
    out: Mapping[str, tuple[NDArray[np.bool_], str]],
    start: NDArray[Any] | None,
    chromosomes: NDArray[Any],
    by_chromosome: bool,
) -> tuple[OptimizeResult, dict[int, str]]:
    """The scaling of the bins that are kept, and the chromosomes that had to be left out, each with the reason."""
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
        run.leave_lonely_out = True
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
    """The chromosomes of which ``support="drop_rows"`` has left no bin, though filters had."""
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
    """Scale, variance and convergence as cooler has them: numbers, or, by chromosome, one for each."""
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
    return (
        found
        if chromosomes is not None
        else {name: value[0].item() for name, value in found.items()}
    )
