"""What the README promises, each for every kind of A, rows, order and dtype that it speaks of."""

import itertools
import os
import pickle
import signal
import threading

import numpy as np
import pytest
import scipy.sparse
from kinds import KINDS, SPARSE, STREAMED, K, Kinds, numbers
from support import ORDERS, ROWS, integers, slow

from sparsejac import JacobianBuilder, LeastSquares, RowSums

x, v = np.array([2.0, -1, 3, 1, -2, 1]), np.array([1.0, 2, -1, 0, 3, -2])
pytestmark = pytest.mark.cross_product
COMBINATIONS = [
    (rows, order, kind)
    for rows, order, kind in itertools.product(ROWS, ORDERS, KINDS)
    if kind != "cool" or rows == "upper"
]
cross_product = pytest.mark.parametrize(("rows", "order", "kind"), COMBINATIONS)


@pytest.fixture
def kinds(tmp_path):
    return Kinds(tmp_path)


def calls(builder, x, v):
    """What a builder gives, but for what needs the lines of a file that lie the other way."""
    op, w = builder.operator(x), np.arange(1.0, builder.shape[0] + 1)
    maps = {
        "value": lambda: builder.value(x),
        "J v": lambda: op @ v,
        "J V": lambda: op @ np.stack([v, x], axis=1),
        "csr": lambda: builder.tocsr(x).data,
        "slice": lambda: builder.slice(x, 1).toarray(),
    }
    sums = {
        "Jᵀw": lambda: op.T @ w,
        "norms": op.column_norms,
        "JᵀJ v": lambda: op.normal() @ v,
        "diagonal": lambda: op.normal().diagonal(),
    }
    return maps, sums


def results(functions):
    found = {}
    for name, function in functions.items():
        try:
            found[name] = function()
        except ValueError as error:
            assert "A is stored by" in str(error)  # noqa: PT017  # whatever else it is fails the test as well
    return found


def bits(found):
    return {
        name: (numbers.dtype, numbers.shape, numbers.tobytes()) for name, numbers in found.items()
    }


@cross_product
def test_results_are_the_callers_own_and_nothing_of_theirs_is_written_to(kinds, rows, order, kind):
    A, _ = numbers(rows, kind, "float64")
    there, point, direction = KINDS[kind](kinds, A.copy()), x.copy(), v.copy()
    builder = JacobianBuilder(there, rows=rows, order=order)
    maps, sums = calls(builder, point, direction)
    first = results(maps | sums)
    before = bits(first)
    for result in first.values():
        assert result.flags.writeable
        result[...] = 99
    assert bits(results(maps | sums)) == before
    assert np.array_equal(point, x)
    assert np.array_equal(direction, v)
    assert (
        bits(results(calls(JacobianBuilder(there, rows=rows, order=order), x, v)[0])).items()
        <= before.items()
    )


@cross_product
def test_the_structure_depends_on_that_of_a_alone(kinds, rows, order, kind):
    """Zeros in A and in x are stored."""
    A, _ = numbers(rows, kind, "float64")
    builder = JacobianBuilder(KINDS[kind](kinds, A), rows=rows, order=order)
    zeros = JacobianBuilder(zeroed(KINDS[kind](kinds, A), kinds, A, kind), rows=rows, order=order)
    try:
        J = builder.tocsr(x)
    except ValueError:
        assert not builder._rows.layout.rows_in_order
        return
    for other in (builder.tocsr(np.zeros(K)), zeros.tocsr(x)):
        assert np.array_equal(J.indices, other.indices)
        assert np.array_equal(J.indptr, other.indptr)


def zeroed(there, kinds, A, kind):
    """The same structure with zeros in it."""
    if kind == "cool":
        return there  # cooler stores no zeros
    if kind not in SPARSE:
        return KINDS[kind](kinds, np.zeros_like(A))
    S = scipy.sparse.csr_array(A)
    S.data[:] = 0
    if kind == "folder":
        return kinds.folder(S)
    if kind in ("csr", "csc", "coo"):
        return S.asformat(kind)
    S = S.asformat("csc" if "csc" in kind else "csr")
    arrays = kinds.mapped(S.data), kinds.mapped(S.indices), kinds.mapped(S.indptr)
    return type(S)(arrays, shape=S.shape)


DTYPES = ["bool", "int8", "uint16", "int64", "float64", "complex128", *slow("float32", "complex64")]


@pytest.mark.parametrize("x_dtype", ["int8", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("cool", "foreign", "strided")]
)
def test_dtypes(kinds, kind, dtype, x_dtype):
    """`numpy.result_type` of A and x, where integers and booleans count as float64."""
    A, _ = numbers("all", kind, "float64")
    builder = JacobianBuilder(
        KINDS[kind](kinds, A.astype(dtype)),
        rows="stored",
        order="F" if "c" in kind[-3:] or "columns" in kind else "C",
    )
    counted = [
        np.dtype(d) if np.dtype(d).kind in "fc" else np.dtype(np.float64) for d in (dtype, x_dtype)
    ]
    point = integers((K,), x_dtype, low=1)
    assert builder.dtype == counted[0]
    assert builder._point(point).dtype == np.result_type(*counted)
    if x_dtype in ("int8", "float64") and dtype in (
        "int8",
        "float64",
        "float32",
    ):  # of others each is a kernel to compile
        assert {result.dtype for result in results(calls(builder, point, v)[0]).values()} == {
            np.result_type(*counted)
        }


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "object", "str"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("cool", "foreign")])
def test_other_dtypes_are_refused_everywhere(kinds, kind, dtype):
    A, _ = numbers("all", kind, "float64")
    if (kind in SPARSE or kind in ("hdf5", "zarr") or "memmap" in kind) and dtype in (
        "object",
        "str",
        "longdouble",
    ):
        pytest.skip("there is no such matrix")
    if kind in SPARSE:
        pytest.skip("SciPy has no sparse matrices of float16")
    with pytest.raises(
        (TypeError, ValueError),
        match=r"dtype among bool, integers|pickle|Object arrays|not numeric",
    ):
        JacobianBuilder(KINDS[kind](kinds, A.astype(dtype)))


@cross_product
def test_workers_threads_pickles_and_forks(kinds, rows, order, kind):
    A, _ = numbers(rows, kind, "float64")
    A = A * np.pi  # so that sums round
    builders = [
        JacobianBuilder(KINDS[kind](kinds, A), rows=rows, order=order, workers=workers)
        for workers in (1, 2, 7)
    ]
    wanted, *others = (
        bits(results({**maps, **sums})) for maps, sums in (calls(b, x, v) for b in builders)
    )
    assert wanted
    assert others == [wanted, wanted]
    maps, sums = calls(builders[1], x, v)
    at_once = []
    threads = [
        threading.Thread(target=lambda: at_once.append(bits(results(maps | sums))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once == [wanted] * 3
    if kind not in (
        "function",
        "hdf5",
    ):  # a function of a test, and a data set of h5py, do not pickle
        maps, sums = calls(pickle.loads(pickle.dumps(builders[1])), x, v)
        assert bits(results(maps | sums)) == wanted
    if order == "C" and rows != "stored":  # a fork is slow
        assert in_a_child(lambda: bits(results(calls(builders[1], x, v)[1]))) == {
            name: number for name, number in wanted.items() if name in sums
        }


def in_a_child(function):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)
            with os.fdopen(writer, "wb") as file:
                pickle.dump(function(), file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        found = pickle.load(file)
    os.waitpid(pid, 0)
    return found


@cross_product
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(kinds, rows, order, kind, bad):
    A, stored = numbers(rows, kind, "float64")
    i, j = (int(index[-1]) for index in np.nonzero(np.triu(stored & (A != 0))))
    broken = A.copy()
    broken[i, j] = broken[j, i] = bad
    places = rf"\[({i}, {j}|{j}, {i})\] = {bad}"
    with pytest.raises(ValueError, match=rf"A must be finite, but A{places}"):
        JacobianBuilder(KINDS[kind](kinds, broken), rows=rows, order=order).operator(
            x
        ).column_norms()
    unchecked = JacobianBuilder(
        KINDS[kind](kinds, broken), rows=rows, order=order, check_finite=False
    )
    assert not np.isfinite(unchecked.operator(x).column_norms()).all()
    builder = JacobianBuilder(KINDS[kind](kinds, A), rows=rows, order=order)
    for call in (builder.value, builder.tocsr, builder.operator):
        with pytest.raises(ValueError, match="x must be finite, but 1 of its 6 values are not"):
            call(np.array([1, 1, bad, 1, 1, 1]))
    if kind != "cool":
        with pytest.raises(
            ValueError, match=rf"Y must be finite, but Y{places}|Y must be stored as A is"
        ):
            LeastSquares(
                A if kind not in SPARSE else scipy.sparse.csr_array(A),
                KINDS[kind](kinds, broken),
                rows=rows,
                order=order,
            ).cost(x)


@pytest.mark.parametrize("kind", STREAMED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", ROWS)
def test_streamed_maps_have_the_bits_of_memory_and_sums_its_rounding(kinds, rows, order, kind):
    if kind == "cool" and rows != "upper":
        pytest.skip("a contact map holds the upper triangle")
    A, _ = numbers(rows, kind, "float64")
    A = A * np.pi
    point, direction = x / 7, v / 3
    streamed = JacobianBuilder(KINDS[kind](kinds, A), rows=rows, order=order)
    there = JacobianBuilder(
        scipy.sparse.csr_array(A) if kind in SPARSE else A, rows=rows, order=order
    )
    (maps, sums), (maps_there, sums_there) = (
        calls(streamed, point, direction),
        calls(there, point, direction),
    )
    found = bits(results(maps))
    assert found.items() <= bits(results(maps_there)).items()
    assert len(found) == len(maps) or (not streamed._rows.layout.rows_in_order)
    absolute = JacobianBuilder(abs(A), rows=rows, order=order)
    terms = results(calls(absolute, abs(point), abs(direction))[1])
    for name, wanted in results(sums_there).items():
        if name in (found_sums := results(sums)):
            assert (
                abs(found_sums[name] - wanted) <= 2 * K * np.finfo(float).eps * np.max(terms[name])
            ).all(), name
    if rows == "upper":
        one, other = (
            RowSums(KINDS[kind](kinds, A), uplo="U" if kind == "cool" else None),
            RowSums(A),
        )
        np.testing.assert_allclose(one.value(point), other.value(point), rtol=1e-14, atol=1e-14)
