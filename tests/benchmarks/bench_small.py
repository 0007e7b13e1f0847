"""A call at k = 10, its checks included: solvers make thousands of them.

Each is timed a hundred times in a row.
"""

import numpy as np
import pytest
from support import random_csr

from sparsejac import JacobianBuilder

K = 10


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_small_calls(race, form):
    A = np.ones((K, K)) if form == "dense" else random_csr(K, 3)
    builder = JacobianBuilder(A, rows="stored")
    x, w = np.ones(K), np.ones(builder.shape[0])
    op, J = builder.operator(x), builder.tocsr(x)
    calls = {
        "op @ v": lambda: op @ x,
        "variant: op.matvec(v)": lambda: op.matvec(x),
        "variant: op.rmatvec(w)": lambda: op.rmatvec(w),
        "variant: column_norms()": op.column_norms,
        "variant: value(x)": lambda: builder.value(x),
        "variant: operator(x)": lambda: builder.operator(x),
        "variant: tocsr(x, out=J)": lambda: builder.tocsr(x, out=J),
        "variant: tocsr(x)": lambda: builder.tocsr(x),
    }

    def a_hundred_times(call):
        def run():
            for _ in range(100):
                result = call()
            return result

        return run

    race(
        "100 calls",
        f"{form}, 10 rows",
        {name: a_hundred_times(call) for name, call in calls.items()},
    )
