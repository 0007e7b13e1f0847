"""Changes of files at random that know their formats: bytes, text, arrays, archives and HDF5.

A function takes the bytes of a file and a `random.Random`, and returns other bytes.
"""

import io
import struct
import warnings
import zipfile
import zlib

import h5py
import numpy as np

LARGEST = 20_000  # numbers that are kept of an array
EDGES = [0, 1, -1, 2, 3, 5, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1]
BYTES = [b"\0", b"\xff", b"\n", b"\r\n", b" ", b"\t", b"%", b"\xef\xbb\xbf", b"PK\3\4", b"\x80\4."]
NUMBERS = [
    *(str(number).encode() for number in (*EDGES, 2**63, 2**64, 10**19)),
    *b"1e400 -1e400 1e-400 1D+3 .5 5. 1.5e nan NaN(1) inf -inf +1 -0 0x10 1_0 1,5 1e5".split(),
    *b"' \xd9\xa1 e".split(),
    b"9" * 30,
    b"9" * 5000,
    b"0" * 50 + b"1",
    b"0." + b"3" * 400,
    b"",
]  # fmt: skip
MARKET_WORDS = (
    b"%%MatrixMarket matrix coordinate array real double complex integer unsigned-integer pattern "
    b"general symmetric skew-symmetric hermitian vector %MatrixMarket"
).split()


def changed_bytes(data, rng):
    """Change, cut, repeat or insert some bytes."""
    if not data:
        return rng.choice(BYTES)
    i = rng.randrange(len(data))
    j = min(len(data), i + rng.choice([1, 1, 2, 8, 64]))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :]
    if kind == 1:
        return data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :]
    if kind == 2:
        return data[:i] + data[j:]
    if kind == 3:
        return data[:i] + data[i:j] * rng.choice([2, 3, 50]) + data[j:]
    if kind == 4:
        return data[:i] + rng.choice(BYTES) + data[i if rng.random() < 0.5 else j :]
    return data[:i]


def changed_text(data, rng, words=()):
    """Change a word or a line."""
    if rng.random() < 0.2:
        return changed_bytes(data, rng)
    lines = data.split(b"\n")
    i, kind = rng.randrange(len(lines)), rng.randrange(10)
    if kind < 6:
        parts = lines[i].split(b" ")
        parts[rng.randrange(len(parts))] = rng.choice(words if words and i == 0 else NUMBERS)
        lines[i] = b" ".join(parts)
    elif kind == 6:
        del lines[i]
    elif kind == 7:
        lines[i:i] = [lines[rng.randrange(len(lines))]] * rng.choice([1, 1, 5])
    elif kind == 8:
        lines[i:i] = [rng.choice([b"", b"%", b"% 1 2", b"#", b"\r", b" ", b"track x", b"\t\t"])]
    else:
        lines[i] = lines[i].replace(b" ", rng.choice([b"\t", b"  ", b"\v", b"\xa0"])) + rng.choice(
            [b"", b"\r", b" ", b" 1", b"\0"]
        )
    return b"\n".join(lines)


def changed_market(data, rng):
    return changed_text(data, rng, MARKET_WORDS)


def zipped(change):
    """Change what is inside a .gz, or seldom the .gz itself."""

    def changed(data, rng):
        if rng.random() < 0.2:
            return changed_bytes(data, rng)
        try:
            inside = zlib.decompress(data, 31)
        except zlib.error:
            return changed_bytes(data, rng)
        packer = zlib.compressobj(rng.choice([0, 1, 9]), wbits=31)
        return packer.compress(change(inside, rng)) + packer.flush()

    return changed


DESCR = ["<f8", ">f8", "<i4", ">i4", "<i8", "<u8", "|b1", "|u1", "<f4", "<c8", "<c16", "<f2",
         "<f16", "|O", "|S3", "<U2", "|V8", "<M8[s]", "<m8", "O", "f8", [("a", "<f8")],
         ("<f8", (2,)),
         "<f8,<f8", None, 3, "|b8", "<q", "|S0", "<U0", "|V0"]  # fmt: skip


def array_file(descr, shape, numbers, *, in_columns=False, version=1):
    """The bytes of a .npy with any header."""
    header = repr({"descr": descr, "fortran_order": in_columns, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + numbers


def changed_array(data, rng):
    """Change the header or the numbers of a .npy."""
    try:
        with warnings.catch_warnings(action="ignore"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
            flat = array.reshape(-1)[:LARGEST].copy()
    except Exception:  # noqa: BLE001  # a damaged file makes the readers raise almost anything
        return changed_bytes(data, rng)
    kind = rng.randrange(8)
    descr, shape, numbers = np.lib.format.dtype_to_descr(array.dtype), array.shape, flat.tobytes()
    in_columns, version = False, rng.choice([1, 1, 2, 3])
    if kind == 0:
        return changed_bytes(data, rng)
    if kind in (1, 2) and flat.size and flat.dtype.kind in "biufc":
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            value = np.array(rng.choice([*EDGES, np.nan, np.inf]))
            flat[rng.randrange(flat.size)] = value.astype(flat.dtype)
        numbers = flat.tobytes()
    elif kind == 3:
        descr = rng.choice(DESCR)
    elif kind == 4:
        sizes = [rng.choice([*EDGES, flat.size]) for _ in range(rng.randrange(4))]
        shape = rng.choice([tuple(sizes), (*shape, 1), (1, *shape), sizes, "3", (2.0,), (True, 3)])
    elif kind == 5:
        in_columns = rng.choice([True, 1, 0, None, "x"])
    elif kind == 6 and flat.dtype.kind in "biufc":
        with warnings.catch_warnings(action="ignore"):
            flat = flat.astype(
                rng.choice(["f8", "i4", "i8", "u8", "c16", "?", "f2", "f4", ">f8", ">i4", "i2"]),
                casting="unsafe",
            )
        descr, numbers = flat.dtype.str, flat.tobytes()
    else:
        count = rng.randrange(flat.size + 1) if flat.size else 0
        flat = flat[:count] if rng.random() < 0.6 else np.concatenate([flat, flat[:3]])
        shape, numbers = flat.shape, flat.tobytes()
    return array_file(descr, shape, numbers, in_columns=in_columns, version=version)


def changed_archive(data, rng):
    """Change a member of a .npz, its name, or how it is stored."""
    if rng.random() < 0.25:
        return changed_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # noqa: BLE001  # a damaged file makes the readers raise almost anything
        return changed_bytes(data, rng)
    if not members:
        return changed_bytes(data, rng)
    i, kind = rng.randrange(len(members)), rng.randrange(10)
    name, content = members[i]
    method = rng.choice([0, 0, 8, 8, 12, 14])
    if kind < 6:
        members[i] = name, changed_array(content, rng)
    elif kind == 6:
        del members[i]
    elif kind == 7:
        other = members[rng.randrange(len(members))][0]
        members[i] = (
            rng.choice([other, "../x.npy", "/x.npy", "row.npy", "shape", "format.npy"]),
            content,
        )
    elif kind == 8:
        members.append(members[rng.randrange(len(members))])
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    result = file.getvalue()
    return with_other_sizes(result, rng) if kind == 9 else result


def with_other_sizes(data, rng):
    """Let the directory of an archive lie about the sizes of a member."""
    at = data.rfind(b"PK\1\2", 0, rng.randrange(1, len(data) + 1))
    if at < 0 or at + 28 > len(data):
        return data
    place = at + rng.choice([10, 16, 20, 24])
    size = struct.pack("<I", rng.choice([0, 1, 100, 2**20, 2**30, 2**31 - 1, 2**32 - 2]))
    return data[:place] + size + data[place + 4 :]


def changed_hdf5(data, rng):
    """Change a column, an attribute or a group of a file of contacts.

    The bytes are left alone: if they damage a heap, HDF5 itself can search it for ever.
    """
    file = io.BytesIO(data)
    try:
        with h5py.File(file, "r+") as tables:
            _change_tables(tables, rng)
    except Exception:  # noqa: BLE001  # a damaged file makes the readers raise almost anything
        return data
    return file.getvalue()


def _change_tables(tables, rng):
    names = []
    tables.visititems(lambda name, item: names.append(name))
    name, kind = rng.choice(sorted(names)), rng.randrange(12)
    item = tables[name]
    if kind == 0:
        del tables[name]
    elif kind == 1:
        value = rng.choice(["square", b"\xff", 3, np.ones(3), h5py.Empty("f8"), "symmetric-upper"])
        tables.attrs["storage-mode"] = value
    elif kind == 2:
        link = rng.choice(
            [h5py.SoftLink("/"), h5py.SoftLink("/no"), h5py.ExternalLink("no.h5", "/x")]
        )
        del tables[name]
        tables[name] = link
    elif isinstance(item, h5py.Dataset):
        _change_column(tables, name, item[()], kind, rng)


def _change_column(tables, name, array, kind, rng):
    options = rng.choice([{}, {}, {"chunks": (2,)}, {"chunks": (2,), "compression": "gzip"},
                          {"chunks": (3,), "fletcher32": True}, {"maxshape": (None,)}])  # fmt: skip
    del tables[name]
    if kind in (3, 4, 5, 6) and array.size and array.dtype.kind in "iuf":
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            value = np.array(rng.choice([*EDGES, 1, 2, 3])).astype(array.dtype)
        array[rng.randrange(array.size)] = value
    elif kind == 7 and array.dtype.kind in "iuf":
        array = array.astype(
            rng.choice(["f8", "i4", "i8", "u8", "f4", ">i4", "?", "u1", "f2", "c16", "S3"]),
            casting="unsafe",
        )
    elif kind == 8:
        array = (
            array[: rng.randrange(array.size + 1)] if rng.random() < 0.6 else np.repeat(array, 2)
        )
    elif kind == 9:
        array, options = rng.choice([array.reshape(1, -1), array[:1].reshape(())]), {}
    elif kind == 10:
        tables.create_group(name)
        return
    elif kind == 11:  # chunks that are never written
        tables.create_dataset(
            name, (rng.choice([*EDGES[:-1], array.size]),), array.dtype, chunks=(2,)
        )
        return
    tables.create_dataset(name, data=array, **options)
