"""Ways through the library that few problems take, each on the smallest problem that does.

What takes long, or needs another system, is called alone. `tests/mutation/cover.py` tells which
ways no test takes.
"""

import errno
import io
import os
import sys
import types
from pathlib import Path

import in_process
import numpy as np
import pytest
import scipy.sparse
from support import assert_same, integers, random_csr

from sparsejac import (
    JacobianBuilder,
    LeastSquares,
    _validation,
    row_column_scaling,
    symmetric_scaling,
    testing,
)
from sparsejac._backends import pool
from sparsejac._matrix import conversions, hicpro, numbers, overlay, weights_text
from sparsejac._matrix.memory import CsrMemory, same_indices
from sparsejac._matrix.rows import rows_source
from sparsejac._operators import raster
from sparsejac._operators.assembly import Assembly
from sparsejac._solvers import support
from sparsejac._solvers.balancing import _note_unscaled
from sparsejac._solvers.scaling import Scaling
from sparsejac._solvers.scaling_state import ScalingState
from sparsejac._solvers.status import ScalingStatus
from sparsejac._system import forks, machine, threads

X = np.arange(1.0, 7)

# --- kernels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [5, 36])
@pytest.mark.parametrize("rows", ["all", "upper"])
def test_blocks_of_j_past_the_caches(monkeypatch, rows, block):
    """A block may begin behind the diagonal of its first row, or end where a row ends."""
    monkeypatch.setattr(Assembly, "caches", 0)
    A = integers((6, 6)) + integers((6, 6)).T
    builder = JacobianBuilder(A, rows=rows)
    parts = [part for _, part in builder.iter_csr(X, block_rows=block)]
    assert_same(scipy.sparse.vstack(parts), builder.tocsr(X).toarray())


def few_entries(k):
    """A large sparse matrix with few entries, which the caches do not hold a vector of."""
    places = np.array([0, 1, k // 2, k - 1], np.int32)
    return scipy.sparse.csr_array((np.arange(1.0, 5), (places, places[::-1])), shape=(k, k))


@pytest.mark.parametrize(("rank", "k"), [(None, 66_000), (2, 33_000), (12, 4_000)])
def test_vectors_larger_than_the_caches(rank, k):
    """The kernels ask early for what the next entries need. That changes no number."""
    A, small = few_entries(k), few_entries(4)
    shown = np.array([0, 1, k // 2, k - 1])
    x, v = np.zeros((2, k, rank or 1))
    x[shown], v[shown] = integers((4, rank or 1), low=1), integers((4, rank or 1), seed=1)
    found, there = (
        JacobianBuilder(each, rows="stored", rank=rank).operator(z if rank else z[:, 0])
        for each, z in ((A, x), (small, x[shown]))
    )
    w = np.arange(1.0, 5)
    assert_same(found @ v.ravel(), there @ v[shown].ravel())
    assert_same((found.T @ w).reshape(x.shape)[shown], (there.T @ w).reshape(4, -1))


def test_complex_vectors_on_real_operators():
    A, Y, z = random_csr(6, 2), random_csr(6, 2), X - 2j * X[::-1]
    for options, of in (({}, ["hess", "normal"]), ({"loss": "huber"}, ["hess", "normal"])):
        problem = LeastSquares(A, Y, **options)
        for operator in (getattr(problem, name)(X) for name in of):
            assert_same(operator @ z, (operator @ z.real) + 1j * (operator @ z.imag))
    problem, Z = LeastSquares(A, Y, rank=2), np.stack([X, X[::-1]], axis=1)
    z = np.concatenate([z, z])
    for operator in (problem.hess(Z.ravel()), problem.normal(Z.ravel())):
        assert_same(operator @ z, (operator @ z.real) + 1j * (operator @ z.imag))


def test_diagonal_blocks_for_complex_variables():
    A, Z = integers((4, 4)), integers((4, 2), np.complex128)
    J = np.zeros((4, 4, 4, 2), np.complex128)
    for i, j in np.ndindex(4, 4):
        J[i, j, i] += A[i, j] * Z[j]
        J[i, j, j] += A[i, j] * Z[i]
    blocks = JacobianBuilder(A, rank=2).operator(Z).normal().block_diagonal()
    assert_same(blocks, np.einsum("ijsa,ijsb->sab", J.conj(), J))


def test_what_stays_on_a_cluster():
    A = scipy.sparse.csr_array(np.eye(6))
    there = JacobianBuilder(in_process.rows(A, [0, 3, 6]), rows="stored", rank=2)
    normal = there.operator(np.ones((6, 2))).normal()
    with pytest.raises(MemoryError, match="the explicit matrix would come to this process"):
        normal.tocsr()
    with pytest.raises(MemoryError, match="the pattern of J would come to this process"):
        raster.count_entries(there._assembly, 3, 3)


# --- threads --------------------------------------------------------------------------------------


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def test_a_system_without_a_thread_left(monkeypatch):
    """The work is done on this one."""
    done = []
    monkeypatch.setattr(pool._thread, "start_new_thread", no_thread)
    pool.on_own_threads(done.append, 3, 2)
    assert done == [0, 1, 2]


def test_what_no_signal_interrupts_is_done_without_a_thread(monkeypatch):
    monkeypatch.setattr(threads._thread, "start_new_thread", no_thread)
    assert threads.undisturbed(divmod, 7, 4) == (1, 3)


def test_a_fork_waits_for_an_import_for_a_limited_time(monkeypatch):
    module = types.ModuleType("half_imported")
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "half_imported", module)
    monkeypatch.setattr(forks, "_IMPORT", 0.02)
    waits = []
    monkeypatch.setattr(forks.time, "sleep", waits.append)
    forks._wait_for_import("half_imported")
    assert set(waits) == {0.005}
    module.__spec__._initializing = False
    waits.clear()
    forks._wait_for_import("half_imported")
    assert waits == []


def test_a_property_that_is_computed_once_has_its_description():
    class Owner:
        @forks.computed_once
        def number(self):
            """A number."""
            return 3

    assert Owner.number.__doc__ == "A number."
    assert Owner().number == 3


# --- systems that know less -----------------------------------------------------------------------


def test_the_largest_memory_where_no_file_tells_it(monkeypatch):
    known = machine.peak_memory()
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert machine.peak_memory() >= known // 2  # it may be that of another process
    monkeypatch.setattr(sys, "platform", "darwin")
    assert 0 < machine.peak_memory() * 1024 == pytest.approx(known, rel=9)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.peak_memory() is None


def test_locks_and_owners_that_a_system_does_not_have(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    from sparsejac._matrix import columns

    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "file"
    path.write_text("text")

    def refused(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with path.open() as file:
        columns._lock(path, file.fileno())
    monkeypatch.delattr(os, "chown")
    (tmp_path / "part").write_text("text")
    path.chmod(0o640)
    columns._copy_status(path, tmp_path / "part")
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o640


def test_errors_that_name_the_file(tmp_path):
    pytest.importorskip("h5py")
    from sparsejac._matrix import columns
    from sparsejac._matrix.contact_map import Map

    path, named = Path("a.cool"), types.SimpleNamespace(uri="a.cool")
    for error in (MemoryError("full"), ValueError("a.cool is wrong")):
        for context in (Map.naming_errors(named, "the group"), columns._as_oserror(path, path)):
            with pytest.raises(type(error), match=str(error)), context:
                raise error
    message = r"^a\.cool cannot be written: other words$"
    with pytest.raises(OSError, match=message), columns._as_oserror(path, path):
        raise ValueError("other\nwords")
    message = r"^a\.cool cannot be read, the group: other words$"
    with pytest.raises(ValueError, match=message), Map.naming_errors(named, "the group"):
        raise ValueError("other words")


# --- matrices and files ---------------------------------------------------------------------------


def test_selections_of_hdf5():
    h5s = pytest.importorskip("h5py").h5s
    from sparsejac._matrix import completeness

    space = h5s.create_simple((4, 6))

    def intervals():
        found = completeness._intervals(space, (4, 6))
        return sorted([part.tolist() for part in of] for of in found)

    assert intervals() == [[[[0, 4]], [[0, 6]]]]
    space.select_hyperslab((0, 0), (1, 1), block=(1, 2))
    space.select_hyperslab((2, 3), (1, 1), op=h5s.SELECT_OR)
    assert intervals() == [[[[0, 1]], [[0, 2]]], [[[2, 3]], [[3, 4]]]]
    space.select_none()
    assert intervals() == []


def test_a_block_of_a_wider_matrix():
    message = "A must have blocks of rows of a 4x4 matrix, got 2x3 at row 0: .* whole rows"
    with pytest.raises(ValueError, match=message):
        rows_source(np.ones((2, 3)), 0, 4, "A")


def test_rows_of_a_map_are_not_one_array_in_a_file(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "A.npy", "w+", shape=(6, 6))
    assert numbers.mapped_file(mapped) is not None
    assert numbers.mapped_file(mapped[::2, ::2]) is None


def test_the_upper_triangle_of_booleans_is_compared_as_numbers():
    booleans = types.SimpleNamespace(values=np.array([True, False]))
    found = CsrMemory._comparable(booleans)
    assert (found.dtype, found.tolist()) == (np.uint8, [1, 0])


def test_one_triangle_that_is_not_checked():
    A = np.triu(integers((4, 4)))
    for form in (np.asarray, scipy.sparse.csr_array):
        how = {"uplo": "U", "rows": "stored" if form is not np.asarray else "all"}
        found = JacobianBuilder(form(A), check_finite=False, **how).value(X[:4])
        assert_same(found, JacobianBuilder(form(A), **how).value(X[:4]))


def test_short_index_arrays():
    """SciPy makes none, but takes over those that a user sets."""
    A = scipy.sparse.csr_array(integers((4, 4)))
    expected = A.data.tolist(), A.indices.tolist(), A.indptr.tolist()
    for short in (np.int8, np.uint16):
        A.indices, A.indptr = A.indices.astype(short), A.indptr.astype(short)
        found = conversions.csr_arrays(A, transposed=False)
        assert tuple(each.tolist() for each in found) == expected


def test_a_triangle_that_a_map_does_not_hold():
    with pytest.raises(ValueError, match=r"uplo must be \"U\" for a contact map, .* got 'L'"):
        _validation.uplo_of("L", is_map=True)


def test_sums_of_duplicates_of_long_integers():
    """They are exact, unless they would wrap."""
    places = np.array([[0, 0, 1], [0, 0, 1]], np.int32)
    for large in (2**40, 2**62):
        A = scipy.sparse.coo_array((np.array([large, large, 1]), places), shape=(2, 2))
        values, _, _ = conversions.csr_arrays(A, transposed=False)
        assert values.tolist() == [2 * large, 1]
        assert values.dtype == (np.int64 if large < 2**60 else np.float64)


def test_index_arrays_that_are_no_integers():
    A = scipy.sparse.csr_array(np.eye(3))
    A.indices = A.indices.astype(np.float64)
    with pytest.raises(ValueError, match="its index arrays are float64 and int32"):
        JacobianBuilder(A)


def test_entries_outside_of_the_triangle_are_refused_where_both_are_made():
    A = scipy.sparse.csr_array(np.ones((3, 3)))
    with pytest.raises(ValueError, match="it has 3 entries below its diagonal"):
        conversions.completed(A, "U")


def test_indices_of_other_shapes_are_not_the_same():
    assert not same_indices(np.arange(3), np.arange(4))


def test_a_line_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(hicpro, "_BLOCK", 8)
    file = io.BytesIO(b"1\t2\t3\n" + 400 * b"4")
    with pytest.raises(ValueError, match=r"^map\.matrix"):
        list(hicpro._blocks("map.matrix", file))
    assert file.tell() < 40  # the rest is not read


def test_a_file_that_is_shorter_than_it_was(tmp_path):
    """What is missing is zeros."""
    (tmp_path / "file").write_bytes(b"1234")
    with (tmp_path / "file").open("rb") as file:
        page = overlay.Overlay(file.fileno(), 6)._page(0)
    assert bytes(page[:8]) == b"1234\0\0\0\0"


def test_biases_where_every_bin_is_left_out():
    assert weights_text._biases(np.full(3, np.nan)).tolist() == [-1, -1, -1]


def test_the_stored_zeros_of_a_diagonal_are_checked():
    A = scipy.sparse.dia_array((np.array([[1.0, 0, 3, 9]]), [1]), shape=(3, 3))
    dense, stored = testing._dense_with_pattern(A)
    assert dense.tolist() == [[0, 0, 0], [0, 0, 3], [0, 0, 0]]
    assert np.argwhere(stored).tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("count", "words"),
    [(1023, "1023 bytes"), (2**60, "1.0 EiB"), (2**71, "2048.0 EiB")],
)
def test_bytes_in_words(count, words):
    assert _validation.human_bytes(count) == words


# --- scalings -------------------------------------------------------------------------------------


def test_a_masked_mask():
    """What is masked is left out."""
    A, mask = np.ones((3, 3)), np.ma.array([False, True, False], mask=[True, False, False])
    assert symmetric_scaling(A, mask=mask).kept.tolist() == [False, False, True]


def test_columns_whose_sums_are_too_large():
    """The columns 1 and 2 have entries in row 2 only."""
    A = np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 1]]).T
    result = row_column_scaling(A, np.ones(3), np.ones(3))
    assert result.status == ScalingStatus.NO_SUPPORT
    assert "column" in result.message


def test_integers_in_the_proportions_of_targets():
    kept = np.array([True, True, False])
    found, exact = support._integers(np.array([0.5, 1.5, 7.0]), kept)
    assert (found.tolist(), exact) == ([1, 3, 0], True)
    many = np.ones(3)
    found, exact = support._integers(np.array([1.0, 2.0**29, 2.0**30]), many > 0)
    assert not exact
    assert found[2] == pytest.approx(2 * found[1], rel=1e-6)

    found, exact = support._integers(np.array([1.0, 2.0**29 + 1, 2.0**29 + 1]), many > 0)
    assert not exact
    assert found.tolist() == [0, 2**29 - 1, 2**29 - 1]


def test_a_scaling_along_curves_is_stopped_by_the_callback(monkeypatch):
    monkeypatch.setattr(Scaling, "_along_lines", lambda *_: None)
    A, seen = np.random.default_rng(0).random((6, 6)) + 0.1, []

    def stop(state):
        seen.append(state.nit)
        if len(seen) == 2:
            raise StopIteration

    result = symmetric_scaling(A + A.T, callback=stop)
    assert (result.status, result.message) == (ScalingStatus.CALLBACK, "stopped by the callback")
    assert len(seen) == 2


def test_a_scaling_without_a_step_has_no_x():
    assert ScalingState.last_x.fget(types.SimpleNamespace(_last=None)) is None


def test_units_of_an_infinite_vector():
    assert ScalingState._up(types.SimpleNamespace(_log_alpha=3), np.array([1.0, np.inf])) == -3


def test_row_sums_that_are_zero_are_drawn():
    pytest.importorskip("matplotlib")
    from sparsejac import plot

    nothing = types.SimpleNamespace(x=np.ones(3), kept=np.zeros(3, np.bool_))
    assert plot.scaling(np.zeros((3, 3)), nothing).axes[2].get_yscale() == "linear"


@pytest.mark.parametrize("words", ["has converged", "lacks"])
def test_chromosomes_without_a_scaling(words):
    result = types.SimpleNamespace(success=words == "has converged", message=words, status=1)
    contacts = types.SimpleNamespace(names=["a", "b"], unknown=[], bed=None)
    _note_unscaled(result, contacts, {1: "no support"}, "check")
    assert result.unscaled == ["b"]
    assert "1 of 2 chromosomes have no scaling and are left out (b: no support)" in result.message
    assert not result.success
