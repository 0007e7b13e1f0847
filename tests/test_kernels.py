"""The compiler's side: when Numba is imported, and where it keeps what it compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparsejac
from sparsejac import JacobianBuilder, _kernels

USE = (
    "import numpy as np, sparsejac; "
    "assert sparsejac.__file__.startswith(FOLDER); "
    "print((sparsejac.JacobianBuilder(np.eye(3)).operator(np.ones(3)) @ np.ones(3)).sum())"
)


def python(program, folder, **environment):
    """Run a program with a copy of the package in `folder`, and return what it prints."""
    others = os.environ.get("PYTHONPATH")  # those of a run that measures coverage
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), others])),
        "PYTHONWARNINGS": "error",
        **environment,
    }
    program = program.replace("FOLDER", repr(str(folder)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path):
    """A copy of the package without anything compiled."""
    source = Path(sparsejac.__file__).parent
    shutil.copytree(source, tmp_path / "sparsejac", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_import_does_not_import_numba(copy):
    program = (
        "import sys, sparsejac; names = ('numba', 'matplotlib', 'tqdm', 'pandas'); "
        "print([name for name in names if name in sys.modules])"
    )
    assert python(program, copy) == "[]"


LOG = (
    "import logging, sys; "
    "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s'); "
)


@pytest.mark.slow
def test_compiled_kernels_are_kept_on_disk_and_announced(copy):
    """Another process finds them, also if it keeps its own elsewhere."""
    folder = copy / "sparsejac" / "_kernels" / "__pycache__"
    *announced, result = python(LOG + USE, copy).splitlines()
    line = f"compiling the kernel matvec_dense for float64, int64, once; Numba keeps it in {folder}"
    assert line in announced
    assert all(each.endswith(f"once; Numba keeps it in {folder}") for each in announced)
    assert result == "6.0"
    assert list(folder.glob("walks.matvec_dense-*.nbc"))
    assert python(LOG + USE, copy) == "6.0"
    assert python(LOG + USE, copy, NUMBA_CACHE_DIR=str(copy / "other")) == "6.0"
    nowhere = (
        "import numba.core.caching as caching; "
        "caching._CacheLocator.ensure_cache_path = lambda self: open('/nowhere/at/all'); "
    )
    assert python(LOG + nowhere + USE, copy) == "6.0"  # an image where nothing can be written
    (index,) = folder.glob("walks.matvec_dense-*.nbi")
    index.write_bytes(b"damaged")
    found = python(LOG + USE, copy, NUMBA_CACHE_DIR=str(copy / "other")).splitlines()
    assert len(found) == 2
    assert found[0].startswith("compiling the kernel matvec_dense for float64")
    assert str(copy / "other") in found[0]


@pytest.mark.slow
def test_compile_leaves_nothing_to_compile(copy):
    """What the README does with float64 matrices, after `sparsejac compile`."""
    program = "import sys, sparsejac.cli as cli; sys.exit(cli.main(['compile']))"
    assert "float64: " in python(program, copy)
    program = (
        LOG.replace("; ", "\n")
        + """
import numpy as np
import scipy.sparse as sp
from sparsejac import JacobianBuilder, LeastSquares, fit, symmetric_scaling
rng = np.random.default_rng(0)
S, x = rng.random((30, 30)), rng.random(30)
S += S.T
for A in (S, np.asfortranarray(S), sp.csr_array(S * (S > 0.8))):
    for rows in ("all", "stored", "upper"):
        builder = JacobianBuilder(A, rows=rows)
        J = builder.operator(x)
        builder.tocsr(x), J.T @ (J @ x), J.normal() @ x
        JacobianBuilder(A, rows=rows, order="F").value(x)
        fit(A, A, rows=rows)
        LeastSquares(A, A, rows=rows).hessp(x, x)
    symmetric_scaling(A)
print("done")
"""
    )
    assert python(program, copy) == "done"


@pytest.mark.slow
def test_no_folder_is_writable(copy):
    """Permission bits do not stop root, files in the place of folders do."""
    (copy / "sparsejac" / "_kernels" / "__pycache__").write_text("")
    (copy / "home").write_text("")
    home = str(copy / "home")
    assert python(USE, copy, HOME=home, XDG_CACHE_HOME=home, NUMBA_CACHE_DIR="") == "6.0"
    assert python(USE, copy, HOME=home, NUMBA_CACHE_DIR=home + "/cache") == "6.0"


def test_a_folder_that_stops_being_writable(copy):
    """A full disk: Numba fails to save what it compiled, which then runs from memory."""
    program = (
        "import numpy as np, sparsejac, numba.core.caching as caching\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "caching.CacheImpl.check_cachable, caching.IndexDataCacheFile._save_data = lambda *_: "
        "True, full\n" + USE
    )
    assert python(program, copy) == "6.0"


def test_a_damaged_cache_is_named(copy):
    assert python(USE, copy) == "6.0"
    for file in copy.glob("sparsejac/_kernels/__pycache__/walks.matvec_dense-*.nbi"):
        file.write_bytes(file.read_bytes()[:10])
    lines = "\n    ".join(USE.split("; "))
    program = f"try:\n    {lines}\nexcept RuntimeError as error:\n    print(error)"
    printed = python(program, copy)
    assert (
        "Numba cannot use its cache of the compiled kernel matvec_dense: remove the folder"
        in printed
    )
    assert str(copy / "sparsejac" / "_kernels" / "__pycache__") in printed


@pytest.mark.slow
def test_two_processes_that_compile_at_once_do_not_mix_up_their_signatures(copy):
    """The last one to write the index has not seen what the other one compiled: here float64, and
    then integers.
    """
    assert python(USE, copy) == "6.0"
    ((index, of_the_first),) = [
        (file, file.read_bytes())
        for file in copy.glob("sparsejac/_kernels/__pycache__/walks.matvec_dense-*.nbi")
    ]
    index.unlink()
    integers = USE.replace("np.eye(3)", "np.eye(3, dtype=np.int64)")
    assert python(integers, copy) == "6.0"
    index.write_bytes(of_the_first)
    assert python(USE, copy) == "6.0"
    assert python(integers, copy) == "6.0"


def test_a_kernel_has_a_name():
    with pytest.raises(AttributeError, match="there is no kernel 'none'"):
        _kernels.none  # noqa: B018


def test_kernels_release_the_gil_and_are_honest_about_nan():
    for name in (
        "value",
        "matvec",
        "matmat",
        "csr_data",
        "csr_indices",
        "pairs",
        "rmatvec",
        "rmatmat",
        "squares",
        "squares_of_many",
        "gradient",
        "curvature",
        "cg_product",
        "cg_step",
        "cg_direction",
        "transpose",
    ):
        kernel = getattr(_kernels, name)
        for options in (kernel.compiled.targetoptions, kernel.sparse.targetoptions):
            assert options["nogil"]
            assert {"nnan", "ninf", "fast"}.isdisjoint(options.get("fastmath", ()))


def test_nothing_is_compiled_twice_for_read_only_and_writable_arrays():
    A, x = np.eye(3), np.ones(3)
    op = JacobianBuilder(A).operator(x)
    op @ x, op.T @ np.ones(9)
    before = len(_kernels.matvec.compiled.signatures), len(_kernels.rmatvec.compiled.signatures)
    for array in (A, x):
        array.flags.writeable = False
    w = np.ones(9)
    w.flags.writeable = False
    op = JacobianBuilder(A).operator(x)
    op @ x, op.T @ w
    assert (
        len(_kernels.matvec.compiled.signatures),
        len(_kernels.rmatvec.compiled.signatures),
    ) == before


@pytest.mark.cross_product
@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_bits_of_maps_do_not_depend_on_what_is_compiled_first(copy, kind):
    """A function that states no flags of its own is compiled with those of its first caller."""
    attribute = "compiled" if kind == "dense" else "sparse"
    program = (
        "import hashlib, numpy as np, scipy.sparse as sp\n"
        "from sparsejac import JacobianBuilder, _kernels\n"
        "A = np.random.default_rng(0).random((30, 30))\n"
        "x, v = np.random.default_rng(1).random((2, 30))\n"
        f"A = sp.csr_array(A) if {kind == 'csr'} else A\n"
        "def maps():\n"
        "    J = JacobianBuilder(A).operator(x)\n"
        "    print(hashlib.sha256((J @ v).tobytes()).hexdigest())\n"
        "def reductions():\n"
        "    JacobianBuilder(A).operator(x).T @ np.random.default_rng(2).random(900)\n"
        "for act in (ORDER): act()\n"
        f"kernels = [k.{attribute} for k in (_kernels.matvec, _kernels.rmatvec)]\n"
        "stats = [(k.stats.cache_hits, k.stats.cache_misses) for k in kernels]\n"
        "print([(sum(hits.values()), sum(misses.values())) for hits, misses in stats])\n"
    )
    printed = []
    for order in ("maps, reductions", "reductions, maps"):
        shutil.rmtree(copy / "sparsejac" / "_kernels" / "__pycache__", ignore_errors=True)
        bits, cold = python(program.replace("ORDER", order), copy).split("\n")
        again, warm = python(program.replace("ORDER", order), copy).split("\n")
        assert (cold, warm) == ("[(0, 1), (0, 1)]", "[(1, 0), (1, 0)]")
        printed += [bits, again]
    assert len(set(printed)) == 1


WIDE = """
import numpy as np, scipy.sparse
from sparsejac import JacobianBuilder
i = np.array([0, 7, K - 2, K - 1, K - 1], dtype=np.int32)
j = np.array([K - 1, 2, K - 1, K - 2, 3], dtype=np.int32)
A = scipy.sparse.coo_array((np.arange(1.0, 6), (i, j)), shape=(K, K)).tocsr()
A.indptr, A.indices = A.indptr.astype(np.int32), A.indices.astype(np.int32)
x = np.arange(1.0, 2 * K + 1).reshape(K, 2)
for order in "CF":
    for rank in (None, 2):
        builder = JacobianBuilder(A, rows="stored", order=order, rank=rank)
        Z = x[:, 0] if rank is None else x
        J, op, v = builder.tocsr(Z), builder.operator(Z), np.ones(Z.size)
        blocks = [block for *_, block in builder.iter_csr(Z, block_rows=2)]
        assert (J != scipy.sparse.vstack(blocks)).nnz == 0
        assert np.array_equal(J @ v, op @ v)
        assert np.array_equal(J.T @ np.arange(5), op.H @ np.arange(5))
        assert np.array_equal(J.T @ (J @ v), op.normal() @ v)
        entries = A.tocoo() if order == "C" else A.T.tocsr().tocoo()
        rows, columns = entries.coords if order == "C" else entries.coords[::-1]
        F = entries.data * (x[rows, : rank or 1] * x[columns, : rank or 1]).sum(axis=1)
        assert np.array_equal(J @ Z.ravel(), 2 * F)  # F is of degree 2
print("right")
"""


def test_entries_beyond_int32_without_the_compiler(copy):
    """Positions in F do not fit into int32, and NumPy's scalars of A's indices would overflow."""
    program = WIDE.replace("K", "46400")  # 46341² is more than 2³¹
    assert python(program, copy, NUMBA_DISABLE_JIT="1") == "right"
