"""Bad input: each gets a message that names the argument, what was needed, what came, and the way
out.
"""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from support import integers, matrix, np_matrix

from sparsejac import JacobianBuilder, LeastSquares, jacobian
from sparsejac._system import machine as _machine
from sparsejac.cli import hints

X = np.ones(3)


def raises(error, *parts):
    """pytest.raises for a message in which all the parts occur in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


# --- A --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "A",
    [
        np.ones((2, 3)),
        np.ones(3),
        np.ones((2, 2, 2)),
        np.float64(3),
        5,
        [[1, 2, 3]],
        scipy.sparse.csr_array((2, 3)),
        scipy.sparse.coo_array([1, 2]),
    ],
)
def test_a_is_square(A):
    with raises(ValueError, "A must be a square matrix, got shape"):
        JacobianBuilder(A)


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "longdouble",
        "clongdouble",
        "O",
        "U3",
        "S3",
        "datetime64[s]",
        "timedelta64[s]",
        [("a", "f8")],
    ],
)
def test_dtypes_that_are_refused(dtype):
    A = np.zeros((3, 3)).astype(dtype) if not isinstance(dtype, list) else np.zeros((3, 3), dtype)
    with raises(
        TypeError, "A must have a dtype among bool, integers, float32", "got", "A.astype(np."
    ):
        JacobianBuilder(A)
    with raises(TypeError, "x must have a dtype among", "got", "x.astype"):
        jacobian(np.eye(3), A[0])
    with raises(TypeError, "x must have a dtype among"):
        JacobianBuilder(np.eye(3)).operator(X) @ A[0]


def test_sparse_of_a_refused_dtype():
    with raises(
        TypeError,
        "A must have a dtype among",
        "longdouble" if np.dtype("longdouble").name == "longdouble" else "float128",
    ):
        JacobianBuilder(scipy.sparse.eye_array(3, dtype="longdouble", format="csr"))
    with raises(TypeError, "x_dtype must have a dtype among", "float16"):
        JacobianBuilder(np.eye(3)).csr_nbytes(np.float16)


def test_masked_arrays_are_refused():
    masked = np.ma.masked_equal(np.eye(3), 0)
    with raises(TypeError, "A is a masked array, and its mask would be lost: pass A.filled(0)"):
        JacobianBuilder(masked)
    with raises(TypeError, "x is a masked array", "x.filled(0)"):
        jacobian(np.eye(3), masked[0])


def test_pandas_is_refused():
    frame = pd.DataFrame(np.eye(3), index=list("abc"), columns=list("cba"))
    with raises(TypeError, "A must be a NumPy array", "got pandas.DataFrame", "np.asarray(A)"):
        JacobianBuilder(frame)
    with raises(TypeError, "x must be a NumPy array, got pandas.Series", "np.asarray(x)"):
        jacobian(np.eye(3), frame["a"])


@pytest.mark.parametrize("A", [None, {1: 2}, object(), iter([1]), b"ab"])
def test_what_is_no_matrix(A):
    with raises(TypeError, "A must be a NumPy array"):
        JacobianBuilder(A)


def test_a_ragged_list():
    with raises(ValueError, "A must be a rectangular array of numbers"):
        JacobianBuilder([[1, 2], [3]])


def test_a_is_finite():
    for bad in (np.nan, np.inf, complex(0, np.nan)):
        A = np.ones((300, 300), np.result_type(bad))
        A[200, 7] = bad
        for form in (A, np.asfortranarray(A), scipy.sparse.csr_array(A), scipy.sparse.csc_array(A)):
            for order in "CF":
                with raises(ValueError, "A must be finite, but A[200, 7] = ", "check_finite=False"):
                    JacobianBuilder(form, order=order)
            with np.errstate(
                invalid="ignore"
            ):  # what NaN and infinity do to the sums is the caller's wish
                assert not np.isfinite(
                    JacobianBuilder(form, check_finite=False).operator(np.ones(300)) @ np.ones(300)
                ).all()


def test_nan_and_infinity_stay_where_they_are():
    """Nothing in the kernels assumes that numbers are finite."""
    A = np.ones((4, 4))
    A[1, 2], A[3, 3] = np.nan, np.inf
    builder = JacobianBuilder(A, check_finite=False)
    J = builder.tocsr(np.ones(4))
    assert np.isnan(J.toarray()[1 * 4 + 2, [1, 2]]).all()
    assert np.isnan(J.data).sum() == 2
    assert np.isinf(J.data).sum() == 1
    op = builder.operator(np.ones(4))
    np.testing.assert_array_equal(np.isnan(op.T @ np.ones(16)), [False, True, True, False])
    np.testing.assert_array_equal(np.isinf(op.T @ np.ones(16)), [False, False, False, True])
    np.testing.assert_array_equal(np.isnan(op.column_norms()), [False, True, True, False])
    x = np.array([1, np.nan, np.inf, 2])
    np.testing.assert_array_equal(
        JacobianBuilder(np.eye(4), check_finite=False).value(x)[::5], [1, np.nan, np.inf, 4]
    )


# --- the structure of a sparse A ------------------------------------------------------------------


def broken(format_, *, indices=None, indptr=None, data=None):
    A = matrix(3, format_, density=1.0)
    for name, value in (("indices", indices), ("indptr", indptr), ("data", data)):
        if value is not None:
            setattr(A, name, np.array(value, getattr(A, name).dtype))
    return A


@pytest.mark.parametrize(("format_", "line"), [("csr", "row"), ("csc", "column")])
def test_inconsistent_structures(format_, line):
    message = f"A has an inconsistent {format_} structure"
    for bad in (3, -1):
        with raises(ValueError, message, f"{line} 1 has an index outside 0 … 2", "COO"):
            JacobianBuilder(broken(format_, indices=[0, 1, 2, 0, 1, bad, 0, 1, 2]))
    for indptr in ([0, 5, 3, 9], [1, 3, 6, 9], [0, 3, 6, 12], [0, 3, 6, -1]):
        with raises(
            ValueError, message, "indptr must start at 0, not decrease and not pass the 9 values"
        ):
            JacobianBuilder(broken(format_, indptr=indptr))
    with raises(ValueError, message, "indptr has 3 elements instead of 4"):
        JacobianBuilder(broken(format_, indptr=[0, 3, 9]))
    with raises(ValueError, message, "8 indices for 9 values"):
        JacobianBuilder(broken(format_, indices=[0, 1, 2, 0, 1, 2, 0, 1]))
    A = matrix(3, format_, density=1.0)
    A.indices = A.indices.astype(float)
    with raises(ValueError, message, "its index arrays are float64"):
        JacobianBuilder(A)
    for name in ("indices", "indptr", "data"):
        A = matrix(3, format_, density=1.0)
        setattr(A, name, getattr(A, name)[np.newaxis])
        with raises(ValueError, message, f"its {name} has 2 dimensions instead of 1"):
            JacobianBuilder(A)


def test_inconsistent_coo_and_bsr():
    coo = scipy.sparse.coo_array(np.eye(3))
    coo.row[1] = 7
    with raises(ValueError, "A has an inconsistent coo structure: it has an index i outside 0 … 2"):
        JacobianBuilder(coo)
    bsr = scipy.sparse.bsr_array(np.eye(4), blocksize=(2, 2))
    bsr.indices[1] = 9
    with raises(ValueError, "A has an inconsistent bsr structure"):
        JacobianBuilder(bsr)
    for columns, values in [([5], [1.0]), ([-1], [1.0]), ([0, 1], [1.0])]:
        lil = scipy.sparse.lil_array((3, 3))
        lil.rows[1], lil.data[1] = columns, values
        with raises(
            ValueError,
            "A has an inconsistent lil structure: row 1 has an index outside 0 … 2, or more "
            "indices than values",
        ):
            JacobianBuilder(lil)


def test_a_structure_that_changes_later_is_noticed():
    A = scipy.sparse.csr_array(np.array([[1.0, 2], [3, 4]]))
    builder = JacobianBuilder(A, rows="stored")
    A.data[0] = 0
    A.eliminate_zeros()
    for use in (builder.tocsr, builder.value, builder.operator, builder.iter_csr):
        with raises(
            ValueError,
            "the structure of A has changed",
            "it had 4 stored entries and now has 3",
            "copy of A",
        ):
            use(np.ones(2))
    with raises(ValueError, "the structure of A has changed"):
        builder.row_pairs()


@pytest.mark.parametrize("rows", ["stored", "upper", "all"])
def test_a_structure_that_changes_under_an_operator_is_noticed(rows):
    """A kernel that went by the old structure would write beyond its arrays."""
    A = scipy.sparse.csr_array(np.ones((3, 3)))
    A.data[:] = [1, 0, 0, 0, 2, 0, 0, 0, 3]
    builder = JacobianBuilder(A, rows=rows)
    op = builder.operator(X)
    blocks = builder.iter_csr(X, block_rows=2)
    next(blocks)
    A.eliminate_zeros()
    m = op.shape[0]
    for use in (
        lambda: op @ X,
        lambda: op @ np.eye(3),
        lambda: op.T @ np.ones(m),
        lambda: op.H @ np.ones((m, 2)),
        op.tocsr,
        op.column_norms,
        lambda: next(blocks),
        lambda: pickle.dumps(op),
        lambda: copy.deepcopy(builder),
    ):
        with raises(
            ValueError, "the structure of A has changed", "it had 9 stored entries and now has 3"
        ):
            use()


# --- x and options --------------------------------------------------------------------------------


def test_x_is_a_vector_of_the_right_length():
    builder = JacobianBuilder(np.eye(3))
    for use in (
        builder.tocsr,
        builder.value,
        builder.operator,
        builder.iter_csr,
        lambda x: builder.slice(x, 0),
        lambda x: jacobian(np.eye(3), x),
    ):
        with raises(
            ValueError, "x must be a vector of length 3, as A is 3x3, got an array of shape (4,)"
        ):
            use(np.ones(4))
        with raises(ValueError, "got an array of shape (3, 1): pass x.ravel()"):
            use(np.ones((3, 1)))
        with raises(ValueError, "got an array of shape ()"):
            use(1.0)
    with raises(ValueError, "shape (1, 3): pass x.ravel()"):
        builder.tocsr(np_matrix(np.ones(3)))
    with raises(
        TypeError, "x must be a dense array, got a sparse scipy.coo_array: pass x.toarray()"
    ):
        builder.tocsr(scipy.sparse.coo_array(np.ones(3)))


def test_x_is_finite():
    with raises(
        ValueError,
        "x must be finite, but 2 of its 3 values are not, the first x[1] = nan",
        "check_finite=False",
    ):
        jacobian(np.eye(3), [1, np.nan, np.inf])
    assert np.isnan(JacobianBuilder(np.eye(3), check_finite=False).tocsr([1, np.nan, 1]).data[1])


def test_options():
    for bad in ("ALL", "full", 1, ["all"]):
        with raises(ValueError, "rows must be one of 'all', 'stored', 'upper', got", repr(bad)):
            JacobianBuilder(np.eye(3), rows=bad)
    for bad in ("A", None, 0):
        with raises(ValueError, "order must be one of 'C', 'F', got", repr(bad)):
            JacobianBuilder(np.eye(3), order=bad)
    for bad in (0, -2):
        with raises(ValueError, f"workers must be a positive integer, got {bad}"):
            JacobianBuilder(np.eye(3), workers=bad)
    with raises(TypeError, "workers must be a positive integer, got 1.5 (float)"):
        JacobianBuilder(np.eye(3), workers=1.5)
    for bad in ("no", np.array([True, False]), 1):
        with raises(TypeError, "check_finite must be True or False, got"):
            JacobianBuilder(np.eye(3), check_finite=bad)
    for bad in ("abc", 3):
        with raises(TypeError, "x_dtype must be a dtype, got", repr(bad)):
            JacobianBuilder(np.eye(3)).csr_nbytes(bad)


@pytest.mark.parametrize("form", ["C", "F", "csr", "csc"])
def test_upper_rows_need_a_symmetric_matrix(form):
    A = matrix(300, form, symmetric=True, density=0.1)
    assert JacobianBuilder(A, rows="upper").shape[1] == 300
    B = A.toarray() if scipy.sparse.issparse(A) else A.copy()
    i, j = np.argwhere(np.triu(B, 1))[-1]
    B[i, j] += 1
    B = scipy.sparse.csr_array(B).asformat(form) if form.startswith("cs") else B
    for order in "CF":
        with raises(
            ValueError, 'rows="upper" needs a symmetric A, but A[', "] != A[", "(A + A.T) / 2"
        ):
            JacobianBuilder(B, rows="upper", order=order)


def test_a_pattern_that_is_not_symmetric():
    for i, j in [(0, 2), (2, 0), (1, 2), (2, 1)]:
        A = scipy.sparse.csr_array(([1.0, 1.0], ([1, i], [1, j])), shape=(3, 3))
        with raises(ValueError, "needs a symmetric A", f"{i}, {j}" if i < j else ""):
            JacobianBuilder(A, rows="upper")
    hermitian = np.array([[1, 2j], [-2j, 1]])
    with raises(ValueError, "needs a symmetric A"):
        JacobianBuilder(hermitian, rows="upper")
    same_nan = np.array([[1, np.nan], [np.nan, 1]])
    for A in (same_nan, scipy.sparse.csr_array(same_nan)):
        assert JacobianBuilder(A, rows="upper", check_finite=False).nnz == 4


# --- operands and out -----------------------------------------------------------------------------


def test_lengths_of_operands_are_in_the_message():
    op = JacobianBuilder(np.eye(3)).operator(X)
    for product, name, operand in [
        (op.matvec, "J @ x, where J is 9x3: x must have length 3, got shape (4,)", np.ones(4)),
        (op.rmatvec, "J.H @ x, where J is 9x3: x must have length 9, got shape (4,)", np.ones(4)),
        (
            op.matmat,
            "J @ X, where J is 9x3: X must have shape (3, n), got shape (4, 2)",
            np.ones((4, 2)),
        ),
        (
            op.rmatmat,
            "J.H @ X, where J is 9x3: X must have shape (9, n), got shape (4, 2)",
            np.ones((4, 2)),
        ),
        (
            op.T.matvec,
            "J.T @ x, where J.T is 3x9: x must have length 9, got shape (4,)",
            np.ones(4),
        ),
        (
            op.T.rmatvec,
            "J.T.H @ x, where J.T is 3x9: x must have length 3, got shape (4,)",
            np.ones(4),
        ),
        (
            op.H.matvec,
            "J.H @ x, where J.H is 3x9: x must have length 9, got shape (4,)",
            np.ones(4),
        ),
        (
            op.H.matmat,
            "J.H @ X, where J.H is 3x9: X must have shape (9, n), got shape (4, 2)",
            np.ones((4, 2)),
        ),
        (op.matvec, "x must have length 3, got shape ()", 1.0),
        (op.matmat, "X must have shape (3, n), got shape (3,)", np.ones(3)),
    ]:
        with raises(ValueError, name):
            product(operand)
    for use in (
        lambda: op @ np.ones(4),
        lambda: op @ np.ones((4, 2)),
        lambda: op.T @ np.ones(4),
        lambda: np.ones(4) @ op,
    ):
        with pytest.raises(ValueError, match=r"(?i)dimension mismatch.*4"):
            use()
    with raises(TypeError, "got a sparse", "toarray()"):
        op @ scipy.sparse.csr_array(np.eye(3))
    for use in (
        lambda: op @ np.ma.masked_equal(X, 2),
        lambda: op.T.matvec(np.ma.masked_equal(np.ones(9), 2)),
    ):
        with raises(TypeError, "x is a masked array"):
            use()


def test_out_of_elsewhere():
    builder, x = JacobianBuilder(np.ones((3, 3))), np.ones(3)
    J = builder.tocsr(x)
    for other in (
        JacobianBuilder(np.ones((3, 3))).tocsr(x),
        JacobianBuilder(np.ones((2, 2))).tocsr(x[:2]),
        J.copy(),
        J[:],
    ):
        with raises(
            ValueError, "out must be a matrix that this builder's tocsr returned", "omit out="
        ):
            builder.tocsr(x, out=other)
    for other in (J.tocsc(), J.toarray(), scipy.sparse.csr_matrix(J)):
        with raises(
            TypeError,
            "out must be a csr_array that this builder's tocsr returned, got",
            "omit out=",
        ):
            builder.tocsr(x, out=other)
    with raises(ValueError, "out must have dtype complex128", "got float64"):
        builder.tocsr(x * 1j, out=J)


def test_out_changed_in_its_structure():
    builder = JacobianBuilder(np.ones((3, 3)))
    for spoil in (
        lambda J: J.eliminate_zeros(),
        lambda J: setattr(J, "indices", J.indices.astype(np.int64)),
        lambda J: setattr(J, "indices", J.indices.copy()),
        lambda J: setattr(J, "indptr", J.indptr.copy()),
        lambda J: J.resize(3, 3),
    ):
        J = builder.tocsr([0, 1, 1])
        spoil(J)
        before = J.toarray()
        with raises(ValueError, "its structure was changed"):
            builder.tocsr(np.ones(3), out=J)
        np.testing.assert_array_equal(J.toarray(), before)
    J = builder.tocsr(np.ones(3))
    J.check_format(full_check=True)  # these two replace the index arrays by views of all of them
    J.prune()
    assert builder.tocsr([1, 2, 3], out=J) is J
    for data in (
        J.data.tolist(),
        J.data[:-1],
        np.repeat(J.data, 2)[::2],
        np.broadcast_to(1.0, J.data.shape),
    ):
        J.data = data
        with raises(ValueError, "out.data must be a writable, contiguous array of 15 numbers"):
            builder.tocsr(np.ones(3), out=J)


def test_out_with_the_numbers_of_a():
    memory, S = np.arange(15.0), scipy.sparse.csr_array(np.diag([1.0, 2, 3]))
    for A, data in ((memory[:9].reshape(3, 3), memory), (S, S.data)):
        builder, before = JacobianBuilder(A, rows="stored"), A.copy()
        J = builder.tocsr(np.ones(3))
        J.data = data
        with raises(ValueError, "out.data shares its memory with A, which is never written to"):
            builder.tocsr(np.ones(3), out=J)
        assert abs(A - before).max() == 0


# --- memory ---------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_it_is_allocated():
    k = 200_000
    builder = JacobianBuilder(np.broadcast_to(1.0, (k, k)), check_finite=False)
    op = builder.operator(np.ones(k))
    with raises(
        MemoryError,
        f"would take {builder.csr_nbytes()} bytes (1.5 TiB)",
        "available: builder.operator(x)",
        "iter_csr",
    ):
        builder.tocsr(np.ones(k))
    for use in (op.matvec, builder.value):
        with raises(MemoryError, f"would take {8 * k * k} bytes (298.0 GiB)", "iter_csr"):
            use(np.ones(k))
    with raises(MemoryError, f"would take {3 * 8 * k * k} bytes"):
        op @ np.ones((k, 3))
    with raises(MemoryError, "row_pairs would take"):
        builder.row_pairs()
    with raises(MemoryError, f"a block of {k * k} rows would take", "take a smaller block_rows"):
        next(builder.iter_csr(np.ones(k), block_rows=k * k))
    first_row, block = next(builder.iter_csr(np.ones(k)))
    assert first_row == 0
    assert block.data.nbytes < 2**26


def test_what_cannot_fit_for_a_sparse_matrix_names_stored_rows():
    k = 10**6
    builder = JacobianBuilder(scipy.sparse.eye_array(k, format="csr"))
    for use in (builder.tocsr, builder.value, builder.operator(np.ones(k)).matvec):
        with raises(
            MemoryError, 'take rows="stored", one row for each of the 1000000 stored entries of A'
        ):
            use(np.ones(k))


def test_a_k_that_is_too_large_for_its_row_pointers(monkeypatch):
    monkeypatch.setattr(_machine, "available_memory", lambda: 10**8)
    A = scipy.sparse.coo_array(([1.0], ([0], [0])), shape=(10**9, 10**9))
    with raises(
        MemoryError,
        f"a builder for a {10**9}x{10**9} A would take",
        "leave out rows and columns without entries",
    ):
        JacobianBuilder(A, rows="stored")


def test_a_copy_of_the_target_that_cannot_fit(monkeypatch):
    """Y is stored in another way than A, so its numbers are copied."""
    dense, sparse = np.ones((6, 6)), scipy.sparse.csr_array(1 - np.eye(6))
    monkeypatch.setattr("sparsejac._validation.LARGE", 1)
    for A, Y, count in ((dense, sparse, 288), (sparse, sparse.toarray(), 240)):
        monkeypatch.setattr(_machine, "available_memory", lambda: 10**6)
        LeastSquares(A, Y)
        monkeypatch.setattr(_machine, "available_memory", lambda count=count: count - 1)
        with raises(
            MemoryError,
            f"a copy of Y with a number for each entry of A would take {count} bytes",
            "pass a Y with the structure of A, or a sparse A",
        ):
            LeastSquares(A, Y)


def test_shapes_of_a_target_in_a_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "Y.h5", "w") as file:
        Y = file.create_dataset("Y", data=np.ones(16))
        with raises(TypeError, "Y must be a NumPy array", "got h5py.Dataset: pass np.asarray(Y)"):
            LeastSquares(np.ones((4, 4)), Y)
        A, wrong = (file.create_dataset(str(n), data=np.ones((4, n))) for n in (3, 2))
        assert LeastSquares(A, A, bilinear=True).shape == (12, 7)
        with raises(ValueError, "Y must be a 4x3 matrix as A is, got 4x2"):
            LeastSquares(A, wrong, bilinear=True)


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(_machine, "_CGROUP", tmp_path)
    free = _machine.available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert _machine.available_memory() is None or abs(_machine.available_memory() - free) < 2**30
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000\n")
    assert _machine.available_memory() == 6000
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert _machine.cpu_count() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _machine.cpu_count() >= 1


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_machine, "_read", lambda _: "")
    monkeypatch.delattr("os.sysconf", raising=False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert _machine.available_memory() is None
    assert _machine.cpu_count() >= 1
    monkeypatch.setattr("sparsejac._validation.LARGE", 0)
    assert JacobianBuilder(np.eye(3)).tocsr(X).nnz == 15


@pytest.mark.parametrize("form", ["C", "F", "csr"])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_sums_are_honest_about_nan_and_infinity(form, special):
    """As a plain loop has them: 0 · ∞ is not 0, and ∞ - ∞ is not ∞, whatever the order in which
    kernels add.
    """
    k = 13
    A, W, x = integers((k, k), seed=8), integers((k, k), seed=9), integers((k,), seed=10)
    A[7, 7], W[3, 5], W[4, 4], W[12, 0], x[2] = special, special, -special, special, 0
    i, j = np.nonzero(
        (integers((k, k), seed=11) > 0) | ~np.isfinite(A) if form == "csr" else np.ones((k, k))
    )
    given = (
        scipy.sparse.csr_array((A[i, j], (i, j)), shape=(k, k))
        if form == "csr"
        else np.array(A, order=form)
    )
    expected = np.zeros(k)
    with np.errstate(all="ignore"):
        for p, q in zip(i, j, strict=True):
            term = A[p, q] * W[p, q]
            expected[p] += term * x[q]
            expected[q] += term * x[p]
    op = JacobianBuilder(given, rows="stored", check_finite=False).operator(x)
    w = W[i, j]
    np.testing.assert_array_equal(op.T @ w, expected)
    np.testing.assert_array_equal((op.T @ np.stack([w, w, w], axis=1))[:, 1], expected)


def test_hints_that_fit_where_they_are_read():
    """A hint that names an argument which cannot be passed is left out; in the shell options are
    spelled as they are typed.
    """
    finite = "A must be finite, but A[0, 1] = nan: pass check_finite=False to compute with it"
    small = "memory must be at least 5 bytes for this A; got 1: pass more, or fewer workers"
    support = 'no scaling exists: support="drop_rows" leaves out rows; min_nnz=1 others'
    for message, taken, python, shell in [
        (
            finite,
            {"check_finite"},
            finite,
            finite.replace("check_finite=False", "--check-finite False"),
        ),
        (finite, {"tol"}, finite.partition(": ")[0], finite.partition(": ")[0]),
        (small, {"memory", "workers"}, small, f"--{small}"),
        (
            small,
            {"memory"},
            small.removesuffix(", or fewer workers"),
            f"--{small.removesuffix(', or fewer workers')}",
        ),
        (
            "max_products = 4 was reached",
            {"max_products"},
            "max_products = 4 was reached",
            "--max-products 4 was reached",
        ),
        (
            "left out (2 by mad_max=5)",
            {"mad_max"},
            "left out (2 by mad_max=5)",
            "left out (2 by --mad-max 5)",
        ),
        (
            support,
            {"support", "min_nnz"},
            support,
            "no scaling exists: --support drop_rows leaves out rows; --min-nnz 1 others",
        ),
        (
            support,
            {"min_nnz"},
            "no scaling exists: min_nnz=1 others",
            "no scaling exists: --min-nnz 1 others",
        ),
        (
            "A is odd: pass (A + A.T) / 2",
            set(),
            "A is odd: pass (A + A.T) / 2",
            "A is odd: write (A + A.T) / 2",
        ),
        ("a=b.mtx: no file", set(), "a=b.mtx: no file", "a=b.mtx: no file"),
        ("interrupted", set(), "interrupted", "interrupted"),
    ]:
        assert hints.adapted(message, taken) == python
        assert hints.adapted(message, taken, shell=True) == shell


@pytest.mark.parametrize(
    "name",
    ["tol=5.cool", "x: workers=3, y.npy", "workers", "tol must be", "pass (a).npy", "a, or tol="],
)
def test_names_that_look_like_hints(name):
    """They stay as they are, in quotes or, if they are known, without."""
    for shell in (False, True):
        for message, given in [
            (f"no file: {name!r}", ()),
            (f"no file: {name}", [name]),
            (f"{name} is odd: {name!r}: {name}", [name, name[:6]]),
        ]:
            assert hints.adapted(message, {"tol"}, shell=shell, given=given) == message
    expected = f"{name} is A's: --tol 5"
    assert (
        hints.adapted(f"{name} is A's: tol=5, or pass uplo=", {"tol"}, shell=True, given=[name])
        == expected
    )
