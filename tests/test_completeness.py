"""Tests that data which are missing in HDF5 or Zarr are refused, and not read as zeros.

The builder refuses them, and so does each operation.
"""

import os

import numpy as np
import pytest
from support import slow

from sparsejac import JacobianBuilder, RowSums, symmetric_scaling
from sparsejac._matrix.completeness import check_complete

h5py = pytest.importorskip("h5py")

K = 8
ROWS = np.s_[0:4], np.s_[4:8]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HDF5_VDS_PREFIX", raising=False)
    monkeypatch.delenv("HDF5_EXTFILE_PREFIX", raising=False)
    return tmp_path


@pytest.fixture
def opened():
    files = []

    def file(name, mode="r"):
        files.append(h5py.File(name, mode))
        return files[-1]

    yield file
    for one in files:
        one.close()


@pytest.fixture
def sources():
    for name in "ab":
        with h5py.File(f"{name}.h5", "w") as file:
            file["d"] = np.full((4, K), 2.0)
            file.create_dataset("never", (4, K), "f8")
            file["group/d"] = np.ones((4, K))
            part = file.create_dataset("part", (4, K), "f8", chunks=(2, 2))
            part[:2] = 1


def source(file, name="d", shape=(4, K)):
    return h5py.VirtualSource(f"{file}.h5", name, shape)


def virtual(name, parts, shape=(K, K)):
    layout = h5py.VirtualLayout(shape, "f8")
    for place, part in parts:
        layout[place] = part
    with h5py.File(name, "w") as file:
        file.create_virtual_dataset("A", layout, fillvalue=-1)


def halves(top=None, bottom=None):
    return list(zip(ROWS, (top or source("a"), bottom or source("b")), strict=True))


# --- virtual datasets -----------------------------------------------------------------------------


def complete():
    b = source("b", "d", (4, K))
    return {
        "halves": halves(),
        "interleaved": [(np.s_[::2], source("a")), (np.s_[1::2], b)],
        "columns": [(np.s_[i, :], source("a")[i % 4]) for i in range(K)],
        "overlapping": [*halves(), (np.s_[2:6], b)],
        "blocks": [
            (np.s_[r : r + 4, c : c + 4], source(f)[:, c : c + 4])
            for r, f in ((0, "a"), (4, "b"))
            for c in (0, 4)
        ],
    }


@pytest.mark.parametrize("kind", complete())
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_complete_virtual_datasets(sources, opened, kind, mode):
    virtual("v.h5", complete()[kind])
    A = opened("v.h5", mode)["A"]
    check_complete("A", A)
    np.testing.assert_array_equal(A[:], np.full((K, K), 2.0))
    check_complete("A", A)  # HDF5 has opened its sources by now
    opened("a.h5", "r")
    check_complete("A", A)
    x = np.ones(K)
    np.testing.assert_array_equal(JacobianBuilder(A).value(x), np.full(K * K, 2.0))


def incomplete():
    b = source("b")
    return {
        "half": (halves()[:1],
            "its sources do not cover all of it; the rest would be read as -1.0"),
        "one element": ([*halves()[:1], (np.s_[4:8, :7], b[:, :7]), (np.s_[4:7, 7], b[:3, 7])],
            "do not cover all of it"),
        "one twice": ([(np.s_[0:4], source("a")), (np.s_[0:4], b)], "do not cover all of it"),
        "none": ([], "do not cover all of it"),
        "no file": (halves(bottom=source("c")),
            r"its source 'd' in c\.h5 is missing, so that part would be read as -1\.0"),
        "no dataset": (halves(bottom=source("b", "e")), r"its source 'e' in b\.h5 is missing"),
        "a group": (halves(bottom=source("b", "group")), r"its source 'group' in b\.h5 is missing"),
        "never written": (halves(bottom=source("b", "never")),
            r"'never' in b\.h5 was made but never written, and would be read"),
        "chunks": (halves(bottom=source("b", "part")), r"'part' in b\.h5 lacks 4 of its 8 chunks"),
        "part of a smaller one": (halves(bottom=source("b", "d", (6, K))[2:]),
            r"has another shape by now, \(4, 8\)"),
        "all of a smaller one": ([(np.s_[:], source("a", "d", (K, K)))],
            r"has another shape by now, \(4, 8\)"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", incomplete())
def test_incomplete_virtual_datasets(sources, opened, kind):
    parts, words = incomplete()[kind]
    virtual("v.h5", parts)
    A = opened("v.h5")["A"]
    for use in (
        JacobianBuilder,
        symmetric_scaling,
        lambda A: JacobianBuilder(np.ones((K, K))) and check_complete("A", A),
    ):
        with pytest.raises(ValueError, match=f"A is a virtual dataset, and .*{words}"):
            use(A)
    with pytest.raises(
        ValueError, match=rf"{words}.*: write them, or pass lambda i0, i1: A\[i0:i1\] if that"
    ):
        JacobianBuilder(A)


def test_virtual_datasets_of_virtual_ones(sources, opened):
    virtual("inner.h5", halves())
    virtual("outer.h5", [(np.s_[:], source("inner", "A", (K, K)))])
    check_complete("A", opened("outer.h5")["A"])
    os.remove("b.h5")
    with pytest.raises(
        ValueError,
        match=r"source 'A' in inner\.h5 is a virtual dataset, and its source 'd' in b\.h5 is "
        r"missing",
    ):
        check_complete("A", opened("outer.h5")["A"])


def test_sources_that_go_missing_after_the_builder_was_made(sources, opened):
    virtual("v.h5", halves())
    builder = JacobianBuilder(opened("v.h5")["A"])
    os.remove("b.h5")
    with pytest.raises(ValueError, match=r"its source 'd' in b\.h5 is missing"):
        builder.value(np.ones(K))


def test_where_sources_are_looked_for(sources, opened, folder, monkeypatch):
    (folder / "sub").mkdir()
    virtual("sub/v.h5", halves())  # its sources are in the working directory
    check_complete("A", opened("sub/v.h5")["A"])
    os.replace("a.h5", "sub/a.h5")
    os.replace("b.h5", "sub/b.h5")
    (folder / "link.h5").symlink_to("sub/v.h5")
    for name in ("sub/v.h5", "link.h5"):
        A = opened(name)["A"]
        check_complete("A", A)
        assert A[5, 0] == 2
    (folder / "elsewhere").mkdir()
    os.replace("sub/b.h5", "elsewhere/b.h5")
    with pytest.raises(ValueError, match="is missing"):
        check_complete("A", opened("sub/v.h5")["A"])
    monkeypatch.setenv("HDF5_VDS_PREFIX", "${ORIGIN}/../elsewhere")
    check_complete("A", opened("sub/v.h5")["A"])
    virtual(
        "absolute.h5", halves(bottom=source(folder / "nowhere" / "a"))
    )  # HDF5 also tries the last part of the path
    os.replace("sub/a.h5", "a.h5")
    check_complete("A", opened("absolute.h5")["A"])


def test_sources_in_the_same_file(opened):
    file = opened("s.h5", "w")
    file["d"] = np.ones((K, K))
    layout = h5py.VirtualLayout((K, K), "f8")
    layout[:] = h5py.VirtualSource(file["d"])
    check_complete("A", file.create_virtual_dataset("A", layout))
    layout = h5py.VirtualLayout((K, K), "f8")
    layout[:] = h5py.VirtualSource(".", "self", (K, K))
    with pytest.raises(
        ValueError, match="is a virtual dataset that has itself as a source: write it anew"
    ):
        check_complete("A", file.create_virtual_dataset("self", layout))


def unlimited(name, *mappings):
    """A virtual dataset with an unlimited number of rows."""
    created, everything = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.UNLIMITED
    for file, columns, numbered in mappings:
        width = columns.stop - columns.start
        space = h5py.h5s.create_simple((6, 6), (everything, 6))
        if numbered:
            taken = h5py.h5s.create_simple((2, width))
            space.select_hyperslab((0, columns.start), (everything, 1), (2, 1), (2, width))
        else:
            taken = h5py.h5s.create_simple((3, 6), (everything, 6))
            taken.select_hyperslab((0, columns.start), (1, 1), None, (everything, width))
            space.select_hyperslab((0, columns.start), (1, 1), None, (everything, width))
        created.set_virtual(space, file, b"d", taken)
    with h5py.File(name, "w") as file:
        h5py.h5d.create(file.id, b"A", h5py.h5t.NATIVE_DOUBLE, space, created)


def test_unlimited_virtual_datasets(opened):
    for name, rows in (("u3", 3), ("u5", 5), ("p0", 2), ("p1", 2)):
        with h5py.File(f"{name}.h5", "w") as file:
            file.create_dataset("d", data=np.ones((rows, 6)), maxshape=(None, 6), chunks=(1, 6))
    unlimited("one.h5", (b"u3.h5", range(6), False))
    check_complete("A", opened("one.h5")["A"])
    unlimited("two.h5", (b"u3.h5", range(3), False), (b"u5.h5", range(3, 6), False))
    with pytest.raises(
        ValueError, match="its sources do not cover all of it; the rest would be read as 0"
    ):
        check_complete("A", opened("two.h5")["A"])
    unlimited("numbered.h5", (b"p%b.h5", range(6), True))
    A = opened("numbered.h5")["A"]
    assert A.shape == (4, 6)
    check_complete("A", A)
    os.remove("p0.h5")
    with pytest.raises(ValueError, match=r"its source 'd' in p0\.h5 is missing"):
        check_complete("A", A)


def test_a_grid_that_is_too_large_to_look_at(sources, opened, monkeypatch):
    monkeypatch.setattr("sparsejac._matrix.completeness._CELLS", 1)
    virtual("v.h5", halves())
    with pytest.raises(ValueError, match="do not cover all of it"):
        check_complete("A", opened("v.h5")["A"])


# --- other layouts --------------------------------------------------------------------------------


def test_datasets_that_were_never_written(opened):
    file = opened("f.h5", "w")
    A = file.create_dataset("A", (K, K), "f8")
    for use in (JacobianBuilder, symmetric_scaling, lambda A: check_complete("A", A)):
        with pytest.raises(
            ValueError, match=r"A was made but never written, and would be read as 0\.0: write"
        ):
            use(A)
    with pytest.raises(ValueError, match="A was made but never written"):
        JacobianBuilder(A.astype("f4"))
    A[:] = np.ones((K, K))
    for whole in (A, A.astype("f4")):
        assert JacobianBuilder(whole).value(np.ones(K)).sum() == K * K


def test_chunks(opened):
    file = opened("f.h5", "w")
    A = file.create_dataset("A", (5, 5), "f8", chunks=(2, 2), maxshape=(None, None))
    A[:4] = 1
    with pytest.raises(
        ValueError, match=r"A lacks 3 of its 9 chunks, which would be read as 0\.0: write it anew"
    ):
        check_complete("A", A)
    A[4] = 1
    check_complete("A", A)
    A.resize((7, 7))
    with pytest.raises(ValueError, match="A lacks 7 of its 16 chunks"):
        check_complete("A", A)
    A.resize((3, 3))
    check_complete("A", A)


def test_nothing_is_missing_where_nothing_is_wanted(opened):
    file = opened("f.h5", "w")
    check_complete("A", file.create_dataset("contiguous", (0, 0), "f8"))
    check_complete(
        "A", file.create_dataset("chunked", (0, 0), "f8", chunks=(2, 2), maxshape=(None, None))
    )
    check_complete("A", file.create_dataset("null", data=h5py.Empty("f8")))
    virtual("v.h5", [], (0, 0))
    check_complete("A", opened("v.h5")["A"])
    assert JacobianBuilder(file["chunked"]).shape == (0, 0)
    for other in (np.ones(3), [1], None):
        check_complete("A", other)


def external(name, files, shape=(4, 4)):
    with h5py.File(name, "w") as file:
        file.create_dataset("A", shape, "f8", external=files)


def test_external_files(opened, folder, monkeypatch):
    np.ones(20).tofile("raw")
    np.ones(8).tofile("short")
    external("one.h5", [("raw", 0, 128)])
    external("rest.h5", [("raw", 8, h5py.h5f.UNLIMITED)])
    external("two.h5", [("short", 0, 64), ("raw", 0, 64)])
    for name in ("one.h5", "rest.h5", "two.h5"):
        A = opened(name)["A"]
        check_complete("A", A)
        assert JacobianBuilder(A).value(np.ones(4)).sum() == 16
    external("bad.h5", [("raw", 0, 64), ("short", 8, 64)])
    with pytest.raises(
        ValueError,
        match=r"A has its numbers in the file short, which has 64 bytes where 72 are needed; they "
        r"would be read as 0\.0",
    ):
        JacobianBuilder(opened("bad.h5")["A"])
    (folder / "sub").mkdir()
    os.replace("raw", "sub/raw")
    with pytest.raises(
        ValueError, match="A has its numbers in the file raw, which is missing; they would be"
    ):
        check_complete("A", opened("one.h5")["A"])
    monkeypatch.setenv("HDF5_EXTFILE_PREFIX", "${ORIGIN}/sub")
    check_complete("A", opened("rest.h5")["A"])


# --- Zarr -----------------------------------------------------------------------------------------


@pytest.fixture
def array():
    zarr = pytest.importorskip("zarr")

    def make(fill, dtype="f8", shape=(5, 5), **options):
        return zarr.create_array(
            {},
            shape=shape,
            chunks=options.pop("chunks", (2, 2)),
            dtype=dtype,
            fill_value=fill,
            **options,
        )

    return make


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("fill", "dtype"),
    [(0.0, "f8"), (-0.0, "f8"), (False, "bool"), (0j, "c16"), *slow((0, "i4"), (0.0, "f4"))],
)
def test_absent_chunks_of_zeros(array, version, fill, dtype):
    A = array(fill, dtype, zarr_format=version)
    B = np.full((5, 5), fill, dtype)
    B[:2, :2] = 1
    A[:] = B
    assert A.nchunks_initialized == 1
    np.testing.assert_array_equal(JacobianBuilder(A).value(np.ones(5)), B.ravel())


@pytest.mark.parametrize(
    ("version", "fill"), [(2, 1), (2, np.nan), (2, None), (3, 1), (3, np.nan), (3, np.inf)]
)
def test_absent_chunks_of_something_else(array, version, fill):
    A = array(fill, zarr_format=version)
    A[:2] = 3
    for use in (JacobianBuilder, symmetric_scaling, lambda A: check_complete("A", A)):
        with pytest.raises(
            ValueError, match="A lacks 6 of its 9 chunks, which would be read as its fill value"
        ) as info:
            use(A)
        assert 'with fill_value=0 or with config={"write_empty_chunks": True}' in str(info.value)
    A[:] = 3
    check_complete("A", A)


def test_the_option_that_the_message_names(array):
    A = array(1.0, config={"write_empty_chunks": True})
    A[:] = 1
    np.testing.assert_array_equal(JacobianBuilder(A).value(np.ones(5)), np.ones(25))


def test_shards(array):
    """A shard at the edge has chunks outside the array. They must not replace missing ones."""
    A = array(1.0, chunks=(1, 1), shards=(4, 4))
    A[:4] = 3
    with pytest.raises(ValueError, match="A lacks 2 of its 4 shards"):
        check_complete("A", A)
    A[4:] = 3
    check_complete("A", A)
    check_complete("A", array(1.0, shape=(0, 0)))


@pytest.mark.parametrize("chunks", [None, (2, K)])
def test_a_file_that_is_cut_short_while_it_is_open(opened, chunks):
    with h5py.File("cut.h5", "w") as file:
        file.create_dataset("A", data=np.ones((K, K)), chunks=chunks)
    A = opened("cut.h5")["A"]
    builder, sums = JacobianBuilder(A), RowSums(A)
    x = np.ones(K)
    assert np.all(builder.value(x) == 1)
    os.truncate("cut.h5", os.path.getsize("cut.h5") - 8)
    match = r"A is in the file cut.h5, which has been cut short to \d+ of its \d+ bytes"
    for call in (builder.value, builder.tocsr, sums.value, lambda _: JacobianBuilder(A)):
        with pytest.raises(ValueError, match=match):
            call(x)


def test_a_file_that_is_written_to_is_not_taken_for_cut(opened):
    file = opened("written.h5", "w")
    A = file.create_dataset("A", data=np.ones((K, K)))
    assert np.all(JacobianBuilder(A).value(np.ones(K)) == 1)
