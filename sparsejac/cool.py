"""Reads and balances Hi-C contact maps, and writes the weights.

The maps are in ``.cool``, ``.mcool`` and ``.scool`` files, or in the text files of HiC-Pro. The
`cooler <https://cooler.readthedocs.io>`_ package defines the former. It is an extra:
``pip install '.[cool]'`` in a clone. h5py, on which it depends, reads these files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from . import _validation
from ._matrix import columns, contact_map, contacts, map_files, weights_text
from ._solvers import balanced_files, balancing
from ._solvers.balancing_options import Options
from ._solvers.scaling_state import Examination

__all__ = ["balance", "balance_all", "export_weights", "read", "write_weights"]


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
    region: str | None = None,
    bed: str | os.PathLike[str] | None = None,
    rescale: bool = False,
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
        A ``.cool`` file, ``file.mcool::/resolutions/10000``, or the ``.matrix`` or ``.matrix.gz``
        of HiC-Pro: lines of two bins, counted from 1, and a count, of the upper triangle.
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
    region : str, optional
        A chromosome, or a part of it such as ``chr2:1,000,000-5,000,000``. Its bins are balanced
        from the contacts among themselves alone, as if the map had no other bins: the filters and
        the medians of `mad_max` take no other contacts. The weights of all other bins are NaN.
        Bins that overlap with the part belong to it. As for cooler, positions count from 0, and
        the end does not belong to the part; without an end, it is that of the chromosome.
    bed : path_like, optional
        For a ``.matrix`` of HiC-Pro: the file of its bins. The default is the ``_abs.bed`` of the
        same name, if it is there. Without it, chromosomes are not known: all bins count as one
        chromosome for `mad_max`, and `cis_only`, `trans_only`, `region` and a BED file as
        `blacklist` are refused.
    rescale : bool, default False
        Multiply the weights by a number, so that the sum of the balanced map is that of the raw
        map, over the contacts that count and the bins that are kept. Row sums are then not 1, but
        the mean of the raw ones, unless `trans_only`. With `cis_only`, each chromosome has a number
        of its own. iced scales so by default; cooler's ``rescale_marginals`` are weights without
        this number.
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
          kept), ``support``, and how many are outside the ``region``. The message says the same.
        * ``warning``: a text if more than a third of the bins, or of those in the region, are left
          out, which a map with too few contacts for its bins causes; otherwise empty.
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
        line of `blacklist`, of `bed` or of a ``.matrix`` is malformed (the message names it); if
        the map has no such `region`, or its chromosomes are needed and not known; if `memory` is
        given for a region or a ``.matrix``, which are kept in memory; if weights are to be stored
        into a ``.matrix``.
    TypeError
        If an option is of the wrong type.
    MemoryError
        If the map does not fit into memory.
    ImportError
        If h5py is not installed.

    Notes
    -----
    **Attributes** are those of cooler, and ``residual`` and ``generator``, and if they are given,
    ``rescale`` and ``region``. ``scale`` is the mean marginal before balancing, over the contacts
    that count and the bins that are kept. cooler's ``scale`` depends on its iteration, and may be
    several times as large. ``var`` is the variance of row sums around 1, before `rescale`.
    Attributes of 63 KiB or more are not written, because HDF5 cannot hold them. An attribute with a
    number for each chromosome is that large for eight thousand chromosomes.

    **Memory.** The map as `read` stores it, and the vectors of `symmetric_scaling`. With `memory`,
    that many bytes, which must be at least 384 bytes for each bin, 2 MiB, and some rows. Reading a
    ``.matrix`` takes 60 bytes for each line. Of a `region`, the map takes as much as `read` would
    for the pixels in the rows of its bins.

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
    options = Options(
        cis_only=cis_only,
        trans_only=trans_only,
        ignore_diags=ignore_diags,
        mad_max=mad_max,
        min_nnz=min_nnz,
        min_count=min_count,
        blacklist=blacklist,
        region=region,
        bed=bed,
        rescale=rescale,
        x0=x0,
        tol=tol,
        max_products=max_products,
        support=support,
        progress=progress,
        workers=workers,
        memory=memory,
    )
    _check_flags(store=store, overwrite=overwrite)
    read_from = balanced_files.prepare(uri, store_name, overwrite=overwrite) if store else None
    result = balancing.balanced(uri, options)
    if store:
        balanced_files.mark_divisive(result, store_name)
        if result.success:
            balanced_files.write_balanced(
                {uri: result}, store_name, overwrite=overwrite, read=read_from
            )
    else:
        result.stats["divisive_weights"] = False
    return result


def balance_all(
    path: str | os.PathLike[str],
    *,
    store: bool = False,
    store_name: str = "weight",
    overwrite: bool = False,
    **options: Any,
) -> dict[str, OptimizeResult]:
    """Balance all resolutions of a ``.mcool`` file, or all cells of a ``.scool`` file.

    If a map is damaged, the others are balanced, and its result says what is wrong.

    Parameters
    ----------
    path : str or path_like
        The file.
    store : bool, default False
        Write the weights of each map that is balanced into the file.
    store_name : str, default "weight"
        As for `balance`.
    overwrite : bool, default False
        Replace columns of this name.
    options : keyword arguments
        Those of `balance`, except `bed` and `x0`. A `blacklist` must be a BED file, because a bin
        has another number in each resolution.

    Returns
    -------
    results : dict of str to scipy.optimize.OptimizeResult
        The result of `balance` for each map, such as ``file.mcool::/resolutions/10000``, in the
        order of resolutions or names. If a map raises an error, its result has ``success`` False,
        ``status`` -1, the error as ``error`` and its text as ``message``.

    Raises
    ------
    OSError
        If the file is missing, or cannot be read or written; with `store`, if it has changed
        between reading and writing. Nothing is written then.
    ValueError
        If the file is not of HDF5 or has no maps; if an option has another value than for
        `balance`; with `store`, if one of the maps has the column already, unless `overwrite`.
        Nothing is computed then.
    TypeError
        If an option is unknown or of the wrong type.
    ImportError
        If h5py is not installed.

    Notes
    -----
    The columns of all maps are written at the end, into one copy of the file, which then replaces
    the file: see `write_weights`. So a run that is killed writes none of them.

    **Memory.** That of `balance` for one map at a time, and the results of all maps.

    Examples
    --------
    >>> import tempfile, cooler, numpy as np, pandas as pd
    >>> path = tempfile.mkdtemp() + "/map.mcool"
    >>> for size in (10, 20):
    ...     bins = cooler.binnify(pd.Series({"chr1": 600, "chr2": 400}), size)
    ...     i, j = np.triu_indices(len(bins))
    ...     pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1 + 300 // (1 + j - i)})
    ...     uri = f"{path}::/resolutions/{size}"
    ...     cooler.create_cooler(uri, bins, pixels, ordered=True, mode="a")
    >>> from sparsejac import cool
    >>> for uri, result in cool.balance_all(path, mad_max=0, store=True).items():
    ...     print(uri.partition("::")[2], result.success, result.kept.sum())
    /resolutions/10 True 100
    /resolutions/20 True 50
    """
    _check_flags(store=store, overwrite=overwrite)
    for name in options:
        if name not in Options.__dataclass_fields__ or name in ("bed", "x0"):
            raise TypeError(
                f"balance_all got the option {name!r}: it takes those of balance, except bed and x0"
            )
    checked, uris = balanced_files.options_of_all(**options), map_files.maps_of(path)
    read_from = (
        balanced_files.prepare_all(path, uris, store_name, overwrite=overwrite) if store else None
    )
    results = dict(balanced_files.balanced_each(uris, checked))
    done = {uri: result for uri, result in results.items() if result.success}
    for result in done.values():
        if store:
            balanced_files.mark_divisive(result, store_name)
    if store and done:
        balanced_files.write_balanced(done, store_name, overwrite=overwrite, read=read_from)
    return results


def _check_flags(**flags: bool) -> None:
    for name, flag in flags.items():
        _validation.flag(name, flag)


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
    columns.check_name(name)
    overwrite = _validation.flag("overwrite", overwrite)
    column = balanced_files.column_of(uri, weight, stats, name)
    balanced_files.prepare(uri, name, overwrite=overwrite)
    columns.write(uri, name, {os.fsdecode(uri): column}, overwrite=overwrite)


def export_weights(
    path: str | os.PathLike[str],
    uri: str | os.PathLike[str],
    weight: ArrayLike,
    *,
    bed: str | os.PathLike[str] | None = None,
) -> None:
    """Write weights as text, for programs that do not read ``.cool`` files.

    Parameters
    ----------
    path : path_like
        The file to write. Its end says what is written:

        * ``.tsv`` or ``.tsv.gz``: a line of names, and for each bin the columns ``chrom``,
          ``start``, ``end`` and ``weight``, as ``cooler dump -t bins --header`` prints them.
          Weights of bins that are left out are ``nan``.
        * ``.biases`` or ``.biases.gz``: the file for ``fithic --biases``, which must be compressed.
          It has no names, and for each bin a chromosome, a midpoint and a bias. The bias is
          1/weight, divided by the mean, so that the mean is 1. It is -1 in bins that are left out.
    uri : str or path_like
        The map: a ``.cool`` file, ``file.mcool::/resolutions/10000`` or a ``.matrix`` of HiC-Pro.
    weight : array_like, shape (k,)
        Factors of the balanced map ``A_ij weight_i weight_j``, NaN for bins that are left out.
    bed : path_like, optional
        The file of the bins of a ``.matrix``, as for `balance`.

    Raises
    ------
    OSError
        If the map cannot be read, or the file cannot be written. `path` is then untouched.
    ValueError
        If `path` has another end, cannot be the name of a file, or is write-protected; if the map
        is damaged, or its chromosomes are not known; if `weight` has another length than the bin
        table; if biases are to be written and a weight is zero, negative or infinite.
    TypeError
        If `weight` is complex, or not an array of numbers.
    ImportError
        If h5py is needed and not installed.

    Notes
    -----
    The formats are those of cooler and of Fit-Hi-C (https://github.com/ay-lab/fithic, whose
    ``HiCKRy.py`` and ``HiCPro2FitHiC.py`` write such biases). Fit-Hi-C discards bins whose bias
    is not between 0.5 and 2, unless its options ``-bL`` and ``-bU`` say otherwise. A midpoint is
    the start and half the size of the bins, also for the short last bin of a chromosome; if bins
    are of different sizes, half of its own size.

    **Memory.** Some 200 bytes for each bin.

    Examples
    --------
    >>> import tempfile, cooler, numpy as np, pandas as pd
    >>> bins = cooler.binnify(pd.Series({"chr1": 30, "chr2": 15}), 10)
    >>> i, j = np.triu_indices(len(bins))
    >>> pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": 1})
    >>> folder = tempfile.mkdtemp()
    >>> cooler.create_cooler(f"{folder}/map.cool", bins, pixels, ordered=True)
    >>> from sparsejac import cool
    >>> weight = [0.5, np.nan, 0.25, 0.5, 0.25]
    >>> cool.export_weights(f"{folder}/map.biases", f"{folder}/map.cool", weight)
    >>> import pathlib
    >>> print(pathlib.Path(f"{folder}/map.biases").read_text().expandtabs(8))
    chr1    5       0.6666666666666666
    chr1    15      -1.0
    chr1    25      1.3333333333333333
    chr2    5       0.6666666666666666
    chr2    15      1.3333333333333333
    <BLANKLINE>
    """
    path = Path(path)
    weights_text.check_output(path)
    with contacts.opened(uri, bed) as map_:
        names, chromosomes, bounds = map_.names(), map_.chromosomes(), map_.bounds()
        values = balanced_files.weights_of(uri, weight, map_.k)
    weights_text.write(path, names, chromosomes, bounds, values)
