"""The seconds of a first call, of which most are the compiler's."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparsejac

CALLS = {"jacobian": "jacobian(A, x)", "fit": "fit(A, Y)", "scale": "symmetric_scaling(A)"}
PROGRAM = """
import time
import numpy as np
import scipy.sparse
from sparsejac import fit, jacobian, symmetric_scaling
A, x = np.random.default_rng(0).random((50, 50)), np.arange(1.0, 51)
A += A.T
Y = A * np.outer(x, x)
if {sparse}:
    A, Y = scipy.sparse.csr_array(A), scipy.sparse.csr_array(Y)
begin = time.perf_counter()
{call}
print(time.perf_counter() - begin)
"""


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("call", CALLS)
def test_first_call(call, sparse, tmp_path, benchmark, record):
    """Time it in a new process, with nothing compiled and then again with all of it on disk."""
    source = Path(sparsejac.__file__).parent
    shutil.copytree(source, tmp_path / "sparsejac", ignore=shutil.ignore_patterns("__pycache__"))
    program = PROGRAM.format(call=CALLS[call], sparse=sparse)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    seconds, whole = [], []

    def twice():
        for _ in range(2):
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            whole.append(time.perf_counter() - begin)
            seconds.append(float(done.stdout))

    benchmark.group, benchmark.name = "first call", f"{call}, {sparse}"
    benchmark.pedantic(twice, rounds=1)
    record(
        "the first call of a small matrix, s",
        {
            "call": CALLS[call],
            "A": "sparse" if sparse else "dense",
            "nothing compiled": f"{seconds[0]:.1f}",
            "compiled": f"{seconds[1]:.1f}",
            "its process, compiled": f"{whole[1]:.1f}",
        },
    )
