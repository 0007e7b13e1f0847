"""The numbers of a Y at the entries of A: blocks of any size, against a loop over dense arrays."""

import types

import numpy as np
import pytest
import scipy.sparse
from kinds import Kinds
from support import slow

from sparsejac import LeastSquares
from sparsejac._matrix.align import AlignedSource, VectorRows, align, source_of_target
from sparsejac._matrix.buffers import Buffer
from sparsejac._matrix.csr import CsrSource
from sparsejac._matrix.dense import FileRows
from sparsejac._matrix.layout import Layout, Side, pattern_of
from sparsejac._matrix.numbers import MemoryNumbers
from sparsejac._matrix.registry import memory_source
from sparsejac._matrix.source import Part

K, N = 7, 5
WHOLE = Layout(transposed=False)
UPPER = Layout(transposed=False, side=Side("upper"))
BUFFERS = 5


def matrices(seed, *, shape=(K, N), alike=0):
    """A and Y as CSR. Y stores nothing else in the first `alike` rows, and parts of A's later.

    Each also stores zeros, and Y stores some where A stores no entry.
    """
    rng = np.random.default_rng(seed)
    pattern = rng.random(shape) < 0.6
    pattern[seed % shape[0]] = False
    A, Y = (np.where(pattern, rng.integers(1, 9, shape), 0.0) for _ in range(2))
    stored = pattern & (rng.random(shape) < 0.6)
    zeros = rng.random(shape) < 0.2
    stored[:alike], zeros[:alike] = pattern[:alike], False
    Y = np.where(stored, Y, 0.0)
    return csr(A, pattern), csr(Y, stored | zeros)


def csr(values, stored):
    """A CSR matrix that stores these entries, zero or not."""
    i, j = (index.astype(np.int32) for index in np.nonzero(stored))
    return scipy.sparse.coo_array((values[i, j], (i, j)), shape=values.shape).tocsr()


def streamed(S, **options):
    """The source of a CSR or a dense matrix as it is read block by block."""
    if scipy.sparse.issparse(S):
        # Columns of another byte order are converted, in a buffer of their own.
        data, indices = MemoryNumbers(S.data), MemoryNumbers(S.indices.astype(">i4"))
        return CsrSource(data, indices, S.indptr, width=S.shape[1], **options)
    return FileRows(MemoryNumbers(S.reshape(-1)), S.shape[0], _width=S.shape[1], **options)


def blocks(aligned, own, pattern, rows):
    """The numbers at all entries of A, read in blocks of so many rows."""
    found = []
    with own.opened() as read_own, aligned.opened() as read:
        for i0 in range(0, own.k, rows):
            part = Part(i0, min(i0 + rows, own.k), 0, own.width)
            columns = read_own(part, full_of_nonsense()).indices
            block = read(part, full_of_nonsense(), columns=columns)
            assert block.base == pattern.start(i0)
            assert block.data.size == pattern.start(part.i1) - block.base
            found.append(np.array(block.data))
    return np.concatenate(found)


def full_of_nonsense():
    """Buffers whose numbers are NaN."""
    buffers = [Buffer() for _ in range(BUFFERS)]
    for buffer in buffers:
        buffer.acquire(4 * K * N, np.dtype(np.float64))[:] = np.nan
    return buffers


def expected(A, Y):
    """The numbers of a dense Y at the entries of A, in the order of A."""
    if not scipy.sparse.issparse(A):
        return Y.ravel()
    return np.array(
        [Y[i, j] for i in range(A.shape[0]) for j in A.indices[A.indptr[i] : A.indptr[i + 1]]]
    )


@pytest.mark.parametrize("rows", [1, 2, 3, K])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("of_A", "of_Y"), [("csr", "csr"), ("csr", "dense"), ("dense", "csr")])
def test_numbers_in_blocks(of_A, of_Y, seed, rows):
    A, Y = matrices(seed, alike=3 * (seed % 2))
    dense = Y.toarray()
    A = A if of_A == "csr" else A.toarray()
    own = streamed(A)
    aligned = align(streamed(Y if of_Y == "csr" else dense), own, pattern_of(own, WHOLE), WHOLE)
    assert isinstance(aligned, AlignedSource)
    found = blocks(aligned, own, pattern_of(own, WHOLE), rows)
    np.testing.assert_array_equal(found, expected(A, dense))


@pytest.mark.parametrize(
    ("of_A", "of_Y"),
    [
        ([[1, 1, 0]], [[5, None, 0]]),  # as many entries in each row, at other places
        ([[1], [1], [None]], [[None], [5], [0]]),  # the same columns, in other rows
        ([[1, 1], [1, None]], [[5, None], [6, 0]]),
    ],
)
def test_structures_that_look_alike(of_A, of_Y):
    """None is not stored. Y may store zeros where A stores nothing."""
    A, Y = (
        csr(np.array(M, float), np.array([[one is not None for one in row] for row in M]))
        for M in (of_A, of_Y)
    )
    A.data[:] = 1
    own = streamed(A)
    pattern = pattern_of(own, WHOLE)
    found = blocks(align(streamed(Y), own, pattern, WHOLE), own, pattern, 9)
    np.testing.assert_array_equal(found, expected(A, np.nan_to_num(Y.toarray())))


@pytest.mark.parametrize("rows", [1, 2, 3, K])
@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("layout", [WHOLE, UPPER], ids=["whole", "upper"])
def test_a_vector_in_the_order_of_the_rows_of_J(form, layout, rows):
    A, _ = matrices(1, shape=(K, K))
    A = A if form == "csr" else A.toarray()
    own = streamed(A)
    pattern = pattern_of(own, layout)
    y = np.arange(1.0, pattern.m + 1)
    stored = np.ones((K, K), bool) if form == "dense" else np.zeros((K, K), bool)
    if form == "csr":
        stored[np.repeat(np.arange(K), np.diff(A.indptr)), A.indices] = True
    visited = stored if layout is WHOLE else np.triu(stored)
    Y = np.zeros((K, K))
    Y[visited] = y
    of = VectorRows(MemoryNumbers(y), pattern, layout)
    found = blocks(align(of, own, pattern, layout), own, pattern, rows)
    np.testing.assert_array_equal(found, expected(A, Y))


@pytest.mark.parametrize("dtype", [np.float64, *slow(np.int32, np.float32)])
@pytest.mark.parametrize("of_Y", ["csr", "dense"])
def test_an_a_in_memory(of_Y, dtype):
    A, Y = matrices(2)
    Y = Y.astype(dtype)
    own = memory_source(A, name="A")
    of = memory_source(Y if of_Y == "csr" else Y.toarray(), transposed=False, name="Y")
    entries = align(of, own, pattern_of(own, WHOLE), WHOLE)
    np.testing.assert_array_equal(entries.values, expected(A, Y.toarray()))


@pytest.mark.parametrize("rows", [1, 2, K])
@pytest.mark.parametrize("of_Y", ["csr", "dense"])
@pytest.mark.parametrize("uplo", ["U", "L"])
def test_the_other_triangle_of_y_does_not_count(uplo, of_Y, rows):
    """A stores zeros in its other triangle, and Y has numbers there."""
    A, Y = matrices(3, shape=(K, K))
    held = (np.triu if uplo == "U" else np.tril)(np.ones((K, K)))
    A.data *= expected(A, held)
    dense = np.where(held, Y.toarray(), 7.0)
    own = streamed(A, uplo=uplo)
    layout = Layout(transposed=False, side=Side("upper" if uplo == "U" else "lower"))
    pattern = pattern_of(own, layout)
    of = streamed(scipy.sparse.csr_array(dense) if of_Y == "csr" else dense)
    found = blocks(align(of, own, pattern, layout), own, pattern, rows)
    inside = expected(A, held) > 0
    np.testing.assert_array_equal(found[inside], expected(A, dense)[inside])


@pytest.mark.parametrize("of_Y", ["csr", "dense"])
def test_numbers_where_a_triangle_stores_none(of_Y):
    """Those in the triangle that does not count are left alone."""
    A, Y = csr(np.ones((4, 4)), np.eye(4) > 0), np.tril(np.ones((4, 4)))
    Y[1, 3] = 5
    own = streamed(A, uplo="U")
    layout = Layout(transposed=False, side=Side("upper"))
    pattern = pattern_of(own, layout)
    of = streamed(scipy.sparse.csr_array(Y) if of_Y == "csr" else Y)
    message = r"Y has 1 entries .* where A stores none, the first at \(1, 3\)"
    with pytest.raises(ValueError, match=message):
        blocks(align(of, own, pattern, layout), own, pattern, 4)


@pytest.mark.parametrize("of_Y", ["csr", "dense"])
@pytest.mark.parametrize("rows", [1, 2, K])
def test_numbers_where_a_stores_none(of_Y, rows):
    """The message counts those of a block, and names the first."""
    A = csr(np.ones((4, 4)), np.eye(4) > 0)
    Y = np.diag([1.0, 2, 3, 4])
    Y[2, [0, 3]] = Y[3, 1] = 5
    count = {1: 2, 2: 3, K: 3}[rows]
    own = streamed(A)
    pattern = pattern_of(own, WHOLE)
    of = streamed(scipy.sparse.csr_array(Y) if of_Y == "csr" else Y)
    aligned = align(of, own, pattern, WHOLE)
    message = rf"Y has {count} entries .* where A stores none, the first at \(2, 0\)"
    with pytest.raises(ValueError, match=message):
        blocks(aligned, own, pattern, rows)


def test_what_a_source_says_of_its_numbers():
    """An aligned source needs the lock of its Y, and changes when that does."""
    A, Y = matrices(0)
    own, lock = streamed(A), object()
    pattern = pattern_of(own, WHOLE)
    for of, nbytes in (
        (streamed(Y), 8 + 16),
        (streamed(Y.toarray()), 8 * -(-N // own.max_row_nnz)),
        (VectorRows(MemoryNumbers(np.ones(pattern.m)), pattern, WHOLE), 8),
    ):
        aligned = align(of, own, pattern, WHOLE)
        assert aligned.entry_bytes(np.dtype(np.float64)) == 8 + nbytes
        assert aligned.entry_bytes(np.dtype(np.float32)) == 4 + nbytes
        of.owned_lock = lock
        assert aligned.owned_lock is lock
        assert aligned.mutable == of.mutable
        assert aligned.scan_each_pass == of.scan_each_pass
    vector = types.SimpleNamespace(dtype=np.dtype(np.float64), mutable=lock)
    assert VectorRows(vector, pattern, WHOLE).mutable is lock
    assert own.max_row_nnz in (3, 4)  # so that a row of Y has the size of two numbers


def test_a_y_that_is_read_along_the_other_axis():
    A, Y = matrices(0, shape=(K, K))
    own, of = streamed(A), streamed(Y, transposed=True)
    with pytest.raises(ValueError, match="Y must be stored as A is, which is read along its rows"):
        align(of, own, pattern_of(own, WHOLE), WHOLE)


def test_numbers_in_memory_are_checked_only_if_asked():
    A, y = np.ones((3, 3)), np.full(9, np.nan)
    with pytest.raises(ValueError, match=r"Y must be finite, but Y\[0\] = nan"):
        LeastSquares(A, y)
    assert np.isnan(LeastSquares(A, y, check_finite=False).cost(np.ones(3)))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_vector_of_all_places(order, tmp_path):
    """A is sparse and streamed, and J has a row for each place."""
    A, Y = matrices(4)
    if order == "F":
        A, Y = scipy.sparse.csr_array(A.T), scipy.sparse.csr_array(Y.T)  # as stored rows
    np.save(tmp_path / "y.npy", Y.toarray().ravel())
    y = np.load(tmp_path / "y.npy", mmap_mode="r")
    own = streamed(A, transposed=order == "F")
    layout = Layout(transposed=order == "F", pairs_transposed=order == "F", implicit_rows=True)
    pattern = pattern_of(own, layout)
    of = source_of_target(y, own, pattern, layout, None, check=True)
    assert (of.transposed, of.shape) == (order == "F", (K, N))
    found = blocks(align(of, own, pattern, layout), own, pattern, 2)
    np.testing.assert_array_equal(found, expected(A, Y.toarray()))


# --- what is on disk, and holds one triangle ------------------------------------------------------


@pytest.fixture
def on_disk(tmp_path):
    """A function that writes a matrix, and returns its path."""

    def write(name, M, order="C"):
        path = tmp_path / f"{name}.npy"
        np.save(path, np.asarray(M, order=order))
        return path

    return write


@pytest.mark.parametrize("of_Y", ["C", "F"])
@pytest.mark.parametrize("of_A", ["C", "F"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_lower_triangle_is_not_taken_for_the_upper_one(order, of_A, of_Y, on_disk):
    """Also where the lower triangle of a whole A is read, in place of the upper one."""
    A, Y = on_disk("A", np.ones((4, 4)), of_A), on_disk("Y", np.tril(np.ones((4, 4))), of_Y)
    with pytest.raises(ValueError, match=r"but this Y holds its lower triangle only: pass Y\.T"):
        LeastSquares(A, Y, rows="upper", order=order)


@pytest.mark.parametrize("uplo", ["U", "L"])
@pytest.mark.parametrize("side", [1, -1])
def test_a_triangle_of_two_diagonals(uplo, side, on_disk):
    A = (np.triu if uplo == "U" else np.tril)(np.ones((4, 4)))
    Y = on_disk("Y", np.eye(4) + np.eye(4, k=side))
    held = "upper" if side == 1 else "lower"
    with pytest.raises(ValueError, match=f"Y must be whole .* but it holds its {held} triangle"):
        LeastSquares(A, Y, rows="all", uplo=uplo)


@pytest.mark.parametrize("uplo", ["U", "L"])
def test_numbers_that_are_not_finite_are_those_of_y(uplo, on_disk):
    A, Y = (np.triu if uplo == "U" else np.tril)(np.ones((4, 4))), np.ones((4, 4))
    Y[1, 2] = np.nan
    path = on_disk("Y", Y)
    problem = LeastSquares(A, path, rows="all", uplo=uplo)  # the first pass over Y checks it
    with pytest.raises(ValueError, match=r"Y must be finite, but Y\[1, 2\] = nan"):
        problem.cost(np.ones(4))
    found = LeastSquares(A, path, rows="all", uplo=uplo, check_finite=False)
    assert np.isnan(found.cost(np.ones(4)))


@pytest.mark.parametrize("order", ["C", "F"])
def test_contact_maps_as_y(order, tmp_path):
    """A map holds its upper triangle, and is taken where that one is read."""
    rng = np.random.default_rng(0)
    pattern = np.triu(rng.random((6, 6)) < 0.6)
    pattern = pattern | pattern.T
    kinds, A = Kinds(tmp_path), pattern * 1.0
    Y = A * np.arange(1.0, 7) * np.arange(1.0, 7)[:, np.newaxis]
    maps = kinds.cool(A), kinds.cool(Y)
    if order == "F":
        with pytest.raises(ValueError, match='rows="upper" reads the lower triangles of A and Y'):
            LeastSquares(kinds.npy(A), maps[1], rows="upper", order="F")
        return
    x = np.arange(1.0, 7)
    for of_A in (maps[0], kinds.npy(A), A):
        problem = LeastSquares(of_A, maps[1], rows="upper")
        assert problem.cost(x) == 0
        assert problem.cost(2 * x) == pytest.approx(4.5 * np.sum(np.triu(Y) ** 2))
