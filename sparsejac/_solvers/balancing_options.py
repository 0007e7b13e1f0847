"""The options of a balancing, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _validation
from .._matrix.region import check_region
from .scaling_state import Examination


@dataclass
class Options:
    """The options of `cool.balance`, with its defaults. They are checked when they are made."""

    cis_only: bool = False
    trans_only: bool = False
    ignore_diags: int = 2
    mad_max: float = 5
    min_nnz: int = 10
    min_count: float = 0
    blacklist: Any = None
    region: str | None = None
    bed: Any = None
    rescale: bool = False
    x0: Any = None
    tol: float = 1e-8
    max_products: int = 20_000
    support: Examination = "auto"
    progress: bool = False
    workers: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("cis_only", "trans_only", "rescale", "progress"):
            _validation.flag(name, getattr(self, name))
        if self.cis_only and self.trans_only:
            raise ValueError(
                "cis_only and trans_only exclude each other: leave both out for all contacts"
            )
        self.tol = _validation.nonnegative("tol", self.tol)
        self.max_products = _validation.positive_integer("max_products", self.max_products)
        self.support = _validation.choice("support", self.support, Examination)
        self.ignore_diags = _validation.nonnegative_integer("ignore_diags", self.ignore_diags)
        self.min_nnz = _validation.nonnegative_integer("min_nnz", self.min_nnz)
        self.min_count = _validation.nonnegative("min_count", self.min_count)
        self.mad_max = _validation.nonnegative("mad_max", self.mad_max)
        _validation.settings(True, self.workers, self.memory, self.progress)
        if check_region(self.region) is not None:
            if self.trans_only:
                raise ValueError(
                    "trans_only must be left out with a region, which is on one chromosome"
                )
            if self.memory is not None:
                raise ValueError(
                    "memory must be left out with a region, whose contacts are kept in memory"
                )

    @property
    def filters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("min_nnz", "min_count", "mad_max")}
