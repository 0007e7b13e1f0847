"""Balances a contact map: cooler's filters, a scaling, and the attributes of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from .. import _validation
from .._backends.row_products import RowProducts
from .._matrix.contacts import Contacts
from .._operators.base import silence
from .._system.progress import passes
from .._system.version import __version__
from .._validation import Pairs
from .balancing_options import Options
from .scaling import Scaling
from .status import ScalingStatus

_MANY = 1 / 3  # the share of bins that filters may leave out without a warning
_NO_FILTERS = ("region", "unscaled")  # what leaves out bins for other reasons than a filter


def balanced(uri: Any, options: Options) -> OptimizeResult:
    """Balance a map. The result is that of `cool.balance`."""
    contacts = Contacts(
        uri,
        blacklist=options.blacklist,
        region=options.region,
        bed=options.bed,
        memory=options.memory,
        needs_names=options.cis_only or options.trans_only,
    )
    chromosomes, k = contacts.chromosomes, contacts.k
    sums = _products(contacts, options, "within" if options.cis_only else "all")
    found = filtered(sums, chromosomes, **options.filters)
    # A bin counts for the first filter that leaves it out, and those outside a region for none.
    out = {name: bins for name, bins in contacts.out.items() if name == "region"}
    out |= found | contacts.out
    share = np.ones(k)
    if options.trans_only:
        sums = _products(contacts, options, "between")
        share = 1 - (np.bincount(chromosomes, minlength=len(contacts.names)) / k)[chromosomes]
    start = None
    if options.x0 is not None:
        of_each = f"a weight for each bin of {uri}"
        start = _validation.vector("x0", options.x0, k, of_each, finite=False).astype(np.float64)
        out["x0"] = ~((start > 0) & np.isfinite(start)), "by x0"
        start = np.divide(start, share, out=np.ones(k), where=share > 0)
    kept = ~np.logical_or.reduce([np.zeros(k, np.bool_), *(bins for bins, _ in out.values())])
    marginal = row_sums(sums, kept.astype(np.float64))
    with passes("scale", shown=options.progress) as bar:
        settings = options.tol, options.max_products, options.support, None, bar, "bin"
        result, unscaled = scaled(
            lambda: Scaling(sums, *settings), out, start, chromosomes, options.cis_only
        )
    of = chromosomes if options.cis_only else np.zeros(k, np.intp)
    result.weight = result.x * share
    if options.rescale:
        result.weight *= _raw_over_balanced(sums, result, of)
    _note_unscaled(result, contacts, unscaled, options.support)
    result.warning = _many_left_out(result)
    names = ("tol", *options.filters, "cis_only", "ignore_diags")
    by_chromosome = chromosomes if options.cis_only else None
    result.stats = {
        **{name: getattr(options, name) for name in names},
        **statistics(result, sums, marginal, by_chromosome, unscaled, len(contacts.names)),
        "residual": result.residual,
        "generator": f"sparsejac-hadamard {__version__}",
    }
    if options.rescale:
        result.stats["rescale"] = True
    if options.region is not None:
        result.stats["region"] = options.region
    return result


def _products(contacts: Contacts, options: Options, pairs: Pairs) -> RowProducts:
    return RowProducts(
        contacts.A,
        uplo="U",
        ignore_diags=options.ignore_diags,
        groups=contacts.chromosomes,
        pairs=pairs,
        check_finite=True,
        workers=options.workers,
        memory=options.memory,
        progress=options.progress,
    )


def row_sums(sums: RowProducts, x: NDArray[Any]) -> NDArray[Any]:
    """``x ∘ (A x)``"""
    sums.take_diagonal()
    with silence():
        return x * sums.times(x)


def _raw_over_balanced(
    sums: RowProducts, result: OptimizeResult, of: NDArray[Any]
) -> NDArray[np.float64]:
    """The factors by which weights give a balanced map as many contacts as the raw map has.

    iced's ``total_counts`` has the same default: √(Σ A_ij / Σ A_ij w_i w_j) over the contacts that
    count, of the bins that are kept. `of` numbers the groups that have a factor of their own.
    """
    raw, balanced_ = (
        np.bincount(of, weights=row_sums(sums, np.where(result.kept, weight, 0.0)))
        for weight in (1.0, result.weight)
    )
    factor: NDArray[np.float64] = np.sqrt(
        np.divide(raw, balanced_, out=np.ones(raw.size), where=balanced_ > 0)
    )[of]
    return factor


def _note_unscaled(
    result: OptimizeResult, contacts: Contacts, unscaled: Mapping[int, str], support: str
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


def _many_left_out(result: OptimizeResult) -> str:
    """A warning if filters leave out more than a third of the bins, and else an empty text."""
    others = sum(result.left_out.get(name, 0) for name in _NO_FILTERS)
    count, k = int(np.count_nonzero(~result.kept)) - others, result.kept.size
    k -= result.left_out.get("region", 0)
    if count <= _MANY * k:
        return ""
    return (
        f"filters leave out {count} of {k} bins, more than a third: the map may have too few "
        "contacts for bins of this size, so take a coarser resolution"
    )


# --- cooler's filters -----------------------------------------------------------------------------


def filtered(
    sums: RowProducts, chromosomes: NDArray[Any], *, mad_max: float, min_nnz: int, min_count: float
) -> dict[str, tuple[NDArray[np.bool_], str]]:
    """Find the bins that each of cooler's filters leaves out, with words for a message."""
    out: dict[str, tuple[NDArray[np.bool_], str]] = {}
    if min_nnz > 0:
        out["min_nnz"] = sums.nonzeros() < min_nnz, f"by min_nnz={min_nnz}"
    marginal = row_sums(sums, np.ones(chromosomes.size))
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


def scaled(
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


def statistics(
    result: OptimizeResult,
    sums: RowProducts,
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
    deviation = row_sums(sums, np.where(kept, result.x, 0.0)) - 1
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
