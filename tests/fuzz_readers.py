"""The readers of files that are given changed files, and an independent reading for each.

A reader says `refused` for a file that it does not accept, by an error that it documents, and
otherwise the matrix must be the one that the independent reading finds.
"""

import gzip
import io
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import cooler
import fuzz_changes as changes
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
from support import matrix

from sparsejac import JacobianBuilder, cool
from sparsejac._matrix import blacklist, hicpro
from sparsejac.io import read_matrix

COUNT = 60_000  # rows and columns of a matrix that is compared as a dense one
MARKER = Path("code-has-run")


class Bomb:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (MARKER.absolute(),)


class Reader(NamedTuple):
    names: tuple  # of the files that it reads; the first is handed over
    seeds: object  # () -> list of tuples of bytes, one for each file
    change: tuple  # of a function for each file
    read: object  # () -> what the reader finds in these files
    same: object  # (found) -> asserts that an independent reading finds the same


def triples(A):
    """The entries of a matrix of SciPy as sorted (i, j, value), where each sum is one."""
    A = scipy.sparse.coo_array(A)
    coords = A.coords if A.ndim == 2 else (np.zeros_like(A.coords[0]), *A.coords)
    return sorted((int(i), int(j), repr(v + 0)) for i, j, v in zip(*coords, A.data, strict=True))


def usable(found):
    """The matrix does not crash SciPy's routines, which trust its arrays."""
    if scipy.sparse.issparse(found) and found.ndim == 2 and max(found.shape) < COUNT:
        found.tocsr() @ np.ones(found.shape[1])
        found.tocsc().T @ np.ones(found.shape[0])


# --- Matrix Market --------------------------------------------------------------------------------


def market_seeds():
    lines = {
        "real": ["1 1 1.5", "2 1 -2", "3 2 .5e-3", "3 3 4."],
        "complex": ["1 1 1.5 0", "2 1 -2 1e300", "3 2 5 -6"],
        "integer": ["1 1 -3", "3 1 9223372036854775807", "3 2 5"],
        "unsigned-integer": ["1 1 3", "3 1 18446744073709551615"],
        "pattern": ["1 1", "3 1", "3 2"],
    }
    for field, entries in lines.items():
        for symmetry in ("general", "symmetric", "skew-symmetric", "hermitian"):
            body = [e for e in entries if symmetry != "skew-symmetric" or not e.startswith("1 1")]
            first = f"%%MatrixMarket matrix coordinate {field} {symmetry}"
            yield "\n".join([first, "% a comment", f"3 3 {len(body)}", *body, ""]).encode()
    for field, number in (("real", "1.5"), ("integer", "7"), ("complex", "1 -2")):
        yield (
            f"%%MatrixMarket matrix array {field} general\n2 3\n".encode()
            + (number + "\n").encode() * 6
        )
        yield (
            f"%%MatrixMarket matrix array {field} symmetric\n2 2\n".encode()
            + (number + "\n").encode() * 3
        )


def number(word):
    return float(re.sub(r"\(.*\)", "", word.lower().replace("d", "e")))


MARKET_VALUE = {
    "real": lambda words: number(words[0]),
    "double": lambda words: number(words[0]),
    "complex": lambda words: complex(*map(number, words)),
    "integer": lambda words: int(words[0]),
    "unsigned-integer": lambda words: int(words[0]),
    "pattern": lambda words: 1.0,
}


def read_market(text):
    """Read a Matrix Market file by Python's own split, int and float. Only for valid files."""
    first, *lines = (line.strip() for line in text.decode("latin-1").split("\n"))
    _, _, format_, field, symmetry = first.lower().split()
    sizes, *rest = (line.split() for line in lines if line and not line.startswith("%"))
    m, n, *count = map(int, sizes)
    if format_ == "array":
        below = {"general": -n, "skew-symmetric": 1}.get(symmetry, 0)
        places = [(i, j) for j in range(n) for i in range(m) if i >= j + below]
        assert len(places) == len(rest)
        rest = [[str(i + 1), str(j + 1), *w] for (i, j), w in zip(places, rest, strict=True)]
    else:
        assert count == [len(rest)]
    entries = []
    for row, column, *words in rest:
        i, j, value = int(row) - 1, int(column) - 1, MARKET_VALUE[field](words)
        assert 0 <= i < m, i
        assert 0 <= j < n, j
        entries.append((i, j, value))
        if symmetry != "general" and i != j:
            mirrored = {"skew-symmetric": lambda v: -v, "hermitian": lambda v: v.conjugate()}
            entries.append((j, i, mirrored.get(symmetry, lambda v: v)(value)))
    return (m, n), entries


def same_market(found, zipped=False):
    content = Path("A.mtx.gz" if zipped else "A.mtx").read_bytes()
    shape, entries = read_market(gzip.decompress(content) if zipped else content)
    assert found.shape == shape
    if not scipy.sparse.issparse(found):
        found = scipy.sparse.coo_array((found.reshape(-1), np.indices(shape).reshape(2, -1)), shape)
        given = {(i, j) for i, j, _ in entries}
        zeros = [(i, j) for i in range(shape[0]) for j in range(shape[1]) if (i, j) not in given]
        entries += [(i, j, 0) for i, j in zeros]
    wanted = sorted((i, j, repr(found.dtype.type(v) + 0)) for i, j, v in entries)
    assert triples(found) == wanted
    usable(found)


# --- arrays and archives --------------------------------------------------------------------------


def array_bytes(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def pickled_arrays():
    """Arrays of Python objects that would run code if they were unpickled."""
    return array_bytes(np.array([Bomb(), 1.0], object), allow_pickle=True)


def npy_seeds():
    for dtype in ("<f8", ">f8", "<f4", "<i4", "<i8", "|b1", "<c16"):
        B = np.arange(9).reshape(3, 3).astype(dtype)
        yield from map(array_bytes, (B, np.asfortranarray(B), B[0], B[:, :0]))
    yield array_bytes(np.ones((100, 100)))  # it is mapped
    yield pickled_arrays()


def same_npy(found):
    expected = np.load("A.npy", allow_pickle=False)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def same_streamed(found):
    """The values of F are those of an A in memory."""
    expected = np.load("A.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, expected.reshape(-1))


def npz_seeds():
    for form in ("csr", "csc", "coo", "dia", "bsr"):
        for kind in ("array", "matrix"):
            file = io.BytesIO()
            A = getattr(scipy.sparse, f"{form}_{kind}")(matrix(4, "csr"))
            scipy.sparse.save_npz(file, A, compressed=kind == "array")
            yield file.getvalue()
    file = io.BytesIO()
    np.savez(file, np.arange(6.0).reshape(2, 3))
    yield file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("A.npy", pickled_arrays())
    yield file.getvalue()


def entries_of(arrays):
    """The entries (i, j, value) of a matrix in an archive, by the definition of its format."""
    format_ = arrays["format"].item()
    format_ = format_.decode() if isinstance(format_, bytes) else format_
    data, shape = arrays["data"], [1, *arrays["shape"].tolist()][-2:]
    if format_ == "coo":
        names = ("coords",) if "coords" in arrays else ("row", "col")
        coords = [*arrays["coords"]] if len(names) == 1 else [arrays[name] for name in names]
        i, j = [np.zeros(data.size, int), *coords][-2:]
        return [(int(i), int(j), v) for i, j, v in zip(i, j, data, strict=True)]
    if format_ == "dia":
        return [
            (j - int(offset), j, row[j])
            for offset, row in zip(arrays["offsets"], data, strict=True)
            for j in range(min(shape[1], len(row)))
            if 0 <= j - int(offset) < shape[0]
        ]
    if format_ != "bsr":
        data = data.reshape(-1, 1, 1)
    indices, indptr = arrays["indices"].tolist(), arrays["indptr"].tolist()
    (_, r, c), found = data.shape, []
    for i in range(len(indptr) - 1):
        for q in range(indptr[i], indptr[i + 1]):
            for (p, s), v in np.ndenumerate(data[q]):
                place = i * r + p, indices[q] * c + s
                found.append((*(place[::-1] if format_ == "csc" else place), v))
    return found


def same_npz(found):
    with np.load("A.npz", allow_pickle=False) as arrays:
        if not scipy.sparse.issparse(found):
            (name,) = arrays.files
            np.testing.assert_array_equal(found, arrays[name])
            return
        assert list(found.shape) == arrays["shape"].tolist()
        assert found.dtype == arrays["data"].dtype.newbyteorder("=")
        wanted = [(i, j, repr(found.dtype.type(v) + 0)) for i, j, v in entries_of(arrays) if v != 0]
    if found.format == "dia" and max(found.shape) > COUNT:  # SciPy would need memory for rows
        return
    A = scipy.sparse.coo_array(found)
    A.data, A.coords = A.data[A.data != 0], tuple(c[A.data != 0] for c in A.coords)
    assert triples(A) == sorted(wanted)
    usable(found)


# --- folders --------------------------------------------------------------------------------------

FOLDER = tuple(f"A/{name}.npy" for name in ("data", "indices", "indptr", "shape"))


def folder_seeds():
    for dtype, index in ((np.float64, np.int32), (np.int32, np.int64)):
        A = matrix(5, "csr", dtype=dtype)
        arrays = (A.data, A.indices.astype(index), A.indptr.astype(index), np.array(A.shape))
        yield tuple(map(array_bytes, arrays))
    A = scipy.sparse.csr_array(np.ones((100, 100)))
    yield tuple(map(array_bytes, (A.data, A.indices, A.indptr, np.array(A.shape))))
    yield (pickled_arrays(), *map(array_bytes, (A.indices, A.indptr, np.array(A.shape))))


def same_folder(found):
    data, indices, indptr, shape = (np.load(name, allow_pickle=False) for name in FOLDER)
    assert found.shape == tuple(shape.tolist())
    assert indptr.shape == (shape[0] + 1,)
    expected = []
    for i in range(shape[0]):
        for q in range(int(indptr[i]), int(indptr[i + 1])):
            assert 0 <= indices[q] < shape[1]
            expected.append((i, int(indices[q]), repr(data[q] + 0)))
    assert triples(found) == sorted(expected)
    usable(found)


def same_streamed_folder(found):
    """F of ones, whose rows are the stored entries."""
    data, *_ = (np.load(name, allow_pickle=False) for name in FOLDER)
    np.testing.assert_array_equal(found, data)


def streamed(path, **options):
    builder = JacobianBuilder(path, workers=1, **options)
    return builder.value(np.ones(builder.shape[1]))


# --- contact maps ---------------------------------------------------------------------------------


def cool_seeds():
    U = scipy.sparse.coo_array(np.triu(np.arange(36).reshape(6, 6) % 4))
    bins = cooler.binnify(pd.Series({"a": 40, "b": 20}), 10)
    pixels = pd.DataFrame({"bin1_id": U.row, "bin2_id": U.col, "count": U.data})
    pixels = pixels.sort_values(["bin1_id", "bin2_id"])
    for dtype in ("int32", "float64"):
        cooler.create_cooler("seed.cool", bins, pixels, ordered=True, dtypes={"count": dtype})
        yield Path("seed.cool").read_bytes()
    with h5py.File("seed.cool", "r") as file:
        tables = {name: file[name][:] for name in ("chroms/name", "bins/start", "bins/end",
            "pixels/bin1_id", "pixels/bin2_id", "pixels/count", "indexes/bin1_offset",
            "indexes/chrom_offset", "chroms/length")}  # fmt: skip
    small = io.BytesIO()  # without the many attributes and chunks of cooler
    with h5py.File(small, "w") as file:
        for name, array in tables.items():
            file[name] = array
    yield small.getvalue()


def same_cool(found):
    U, chromosomes = found
    with h5py.File("A.cool", "r") as file:
        i, j, counts = (
            file[f"pixels/{name}"][:].tolist() for name in ("bin1_id", "bin2_id", "count")
        )
        k, dtype = file["bins/start"].size, file["pixels/count"].dtype
        offsets = file["indexes/chrom_offset"][:].tolist()
    sums = {}
    for row, column, count in zip(i, j, counts, strict=True):
        assert 0 <= row <= column < k
        sums[row, column] = sums.get((row, column), 0) + count
    assert U.shape == (k, k)
    assert triples(U) == sorted((*ij, repr(dtype.type(v) + 0)) for ij, v in sums.items())
    assert chromosomes.tolist() == [
        c for c in range(len(offsets) - 1) for _ in range(offsets[c], offsets[c + 1])
    ]


def hicpro_seeds():
    yield b"1\t1\t5\n1\t2\t2.5\n2\t3\t1e2\n3\t3\t7\n", b"a\t0\t10\t1\na\t10\t20\t2\nb\t0\t10\t3\n"
    yield b"1 1 0\r\n 1 3 2\n2 2 4\n2 2 3\n", b"a 0 10 1 x\nb 0 10 2\nc 0 9 3\n"


def read_hicpro():
    map_ = hicpro.Triplets("A.matrix", "A_abs.bed")
    return map_.matrix(strict=True), map_.names(), map_.chromosomes(), map_.bounds()


def same_hicpro(found):
    A, names, chromosomes, bounds = found
    bed = Path("A_abs.bed").read_bytes().decode("utf-8-sig", "surrogateescape")
    bins = [line.split() for line in bed.replace("\r", "\n").split("\n") if line.strip()]
    assert A.shape == (len(bins), len(bins))
    assert [names[c] for c in chromosomes] == [line[0] for line in bins]
    for side in (0, 1):
        assert bounds[side].tolist() == [int(line[side + 1]) for line in bins]
    sums = {}
    for line in Path("A.matrix").read_bytes().decode("latin-1").split("\n"):
        if line:
            i, j, count = line.split()
            assert 1 <= int(i) <= int(j) <= len(bins)
            sums[int(i) - 1, int(j) - 1] = sums.get((int(i) - 1, int(j) - 1), 0) + float(count)
    assert triples(A.astype(float)) == sorted((*ij, repr(np.float64(v))) for ij, v in sums.items())


class Bins(NamedTuple):
    """The bins of a map: two chromosomes of five bins."""

    uri = "a map"
    k = 10

    def bounds(self):
        starts = np.tile(np.arange(0, 50, 10), 2)
        return starts, starts + 10


def bed_seeds():
    yield (b"track name=x\n#c\na\t0\t15\tx\nb\t20\t20\nb\t40\t900\n",)
    yield (b"\xef\xbb\xbfa 0 5\r\nz 1 2\r\n",)


def read_bed():
    return blacklist.bins_of_bed("A.bed", Bins(), ["a", "b"], np.repeat([0, 1], 5))


def same_bed(found):
    out, _ = found
    text = Path("A.bed").read_bytes().decode("utf-8-sig", "surrogateescape")
    wanted = np.zeros(10, bool)
    for line in text.replace("\r", "\n").split("\n"):
        words = line.split()
        if not words or line.startswith("#") or words[0] in ("track", "browser"):
            continue
        begin, end = int(words[1]), int(words[2])
        assert 0 <= begin <= end
        for q in range(10):
            start = q % 5 * 10
            if words[0] == "ab"[q // 5] and start < end and start + 10 > begin:
                wanted[q] = True
    np.testing.assert_array_equal(out, wanted)


# --- all of them ----------------------------------------------------------------------------------


def one(seeds):
    return lambda: [(content,) for content in seeds()]


READERS = {
    "npy": Reader(("A.npy",), one(npy_seeds), (changes.changed_array,),
        lambda: read_matrix("A.npy"), same_npy),
    "npz": Reader(("A.npz",), one(npz_seeds), (changes.changed_archive,),
        lambda: read_matrix("A.npz"), same_npz),
    "mtx": Reader(("A.mtx",), one(market_seeds), (changes.changed_market,),
        lambda: read_matrix("A.mtx"), same_market),
    "mtx.gz": Reader(("A.mtx.gz",), lambda: [(gzip.compress(c),) for c in market_seeds()],
        (changes.zipped(changes.changed_market),),
        lambda: read_matrix("A.mtx.gz"), lambda found: same_market(found, zipped=True)),
    "folder": Reader(FOLDER, lambda: list(folder_seeds()), (changes.changed_array,) * 4,
        lambda: read_matrix("A"), same_folder),
    "cool": Reader(("A.cool",), one(cool_seeds), (changes.changed_hdf5,),
        lambda: cool.read("A.cool"), same_cool),
    "hicpro": Reader(("A.matrix", "A_abs.bed"), lambda: list(hicpro_seeds()),
        (changes.changed_text,) * 2, read_hicpro, same_hicpro),
    "bed": Reader(("A.bed",), lambda: list(bed_seeds()), (changes.changed_text,),
        read_bed, same_bed),
    "streamed npy": Reader(("A.npy",), one(npy_seeds), (changes.changed_array,),
        lambda: streamed("A.npy"), same_streamed),
    "streamed folder": Reader(FOLDER, lambda: list(folder_seeds()), (changes.changed_array,) * 4,
        lambda: streamed("A", rows="stored"), same_streamed_folder),
}  # fmt: skip
