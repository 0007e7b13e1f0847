"""Tests of columns that are written into a copy of a map, which then replaces the map.

Whatever happens, the map is the old one or the new one.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsejac import cli, cool
from sparsejac._matrix import columns as _columns
from sparsejac._matrix import overlay as _overlay

cooler = pytest.importorskip("cooler", reason="contact maps are made by cooler")
pd = pytest.importorskip("pandas", reason="which brings pandas")
h5py = pytest.importorskip("h5py", reason="which brings h5py")

K = 3000
OLD, NEW = np.arange(K) + 0.5, np.random.default_rng(0).random(K)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "map.cool"
    bins = cooler.binnify(pd.Series({"a": 10 * K}), 10)
    i = np.arange(K)
    cooler.create_cooler(
        str(path),
        bins,
        pd.DataFrame({"bin1_id": i, "bin2_id": i, "count": 1 + i % 7}),
        ordered=True,
    )
    cool.write_weights(path, OLD, {"tol": 1.0})
    return path


@pytest.fixture
def uri(made, tmp_path):
    return shutil.copy(made, tmp_path / "map.cool")


def column_of(uri):
    """Read the weights of a map, and check that the rest of the map can be read."""
    found = cooler.Cooler(str(uri))
    assert found.pixels()[:]["count"].sum() == (1 + np.arange(K) % 7).sum()
    assert found.bins()[:].columns.tolist() == ["chrom", "start", "end", "weight"]
    return found.bins()["weight"][:].to_numpy()


def is_old(uri):
    np.testing.assert_array_equal(column_of(uri), OLD)
    assert [name for name in os.listdir(Path(uri).parent) if name.endswith(".part")] == []


def is_new(uri):
    np.testing.assert_array_equal(column_of(uri), NEW)


def test_nothing_but_the_column_changes(uri):
    before = cooler.Cooler(str(uri))
    pixels, info = before.pixels()[:], before.info
    cool.write_weights(uri, NEW, {"tol": 2.0}, overwrite=True)
    is_new(uri)
    after = cooler.Cooler(str(uri))
    assert after.pixels()[:].equals(pixels)
    assert after.info == info
    with h5py.File(uri) as file:
        assert dict(file["bins/weight"].attrs) == {"tol": 2.0}


def test_a_check_does_not_touch_the_file(uri):
    before, stat = Path(uri).read_bytes(), os.stat(uri)
    for name, overwrite in (("weight", True), ("other", False)):
        _columns.check(uri, name, overwrite=overwrite)
    result = cool.balance(
        uri, ignore_diags=0, mad_max=0, min_nnz=0, store=True, overwrite=True, max_products=1, tol=0
    )
    assert not result.success
    assert Path(uri).read_bytes() == before
    assert (os.stat(uri).st_mtime_ns, os.stat(uri).st_ino) == (stat.st_mtime_ns, stat.st_ino)


def test_permissions_and_links_are_kept(uri, tmp_path):
    link = tmp_path / "link.cool"
    link.symlink_to(uri)
    os.chmod(uri, 0o640)
    if os.getuid() == 0:
        os.chown(uri, 12345, 23456)
    cool.write_weights(link, NEW, {}, overwrite=True)
    assert link.is_symlink()
    is_new(uri)
    stat = os.stat(uri)
    assert stat.st_mode & 0o7777 == 0o640
    if os.getuid() == 0:
        assert (stat.st_uid, stat.st_gid) == (12345, 23456)


STEPS = {
    "before the changes": ("h5py", "File", 2),
    "before the copy": ("_overlay.Overlay", "copy_to", 1),
    "during the copy": ("os", "read", "copying"),
    "before it is on disk": ("os", "fsync", 1),
    "before it is read": ("h5py", "File", 3),
    "before it has its permissions": ("_columns.shutil", "copystat", 1),
    "before it takes the name": ("_columns.Path", "replace", 1),
    "after that": ("_columns", "sync_folder", 1),
}

# A process of its own, in which there are no threads, forks a child for each file.
IN_CHILDREN = """
import errno, json, os, resource, signal, sys, h5py, numpy as np
from sparsejac import cool
from sparsejac._matrix import columns as _columns
from sparsejac._matrix import overlay as _overlay
new, codes = np.random.default_rng(0).random(3000), []
def kill(owner, name, when):
    whole, calls = getattr(owner, name), []
    def patched(*args, **options):
        calls.append(name)
        copying = any(other.endswith(".part") for other in os.listdir("."))
        if copying if when == "copying" else len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **options)
    setattr(owner, name, patched)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for path, what in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(os.path.dirname(path))
            limit(what) if isinstance(what, int) else kill(eval(what[0]), *what[1:])
            cool.write_weights(path, new, {}, overwrite=True)
            code = 0
        except OSError as error:
            named = str(error).find(path + " cannot be written: ") > 0
            code = 7 if error.errno == errno.EFBIG and named else 2
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def in_children(cases):
    run = subprocess.run(
        [sys.executable, "-c", IN_CHILDREN, json.dumps(cases)],
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
    )
    return json.loads(run.stdout)


def copies(made, folder, names):
    for name in names:
        (folder / name).mkdir()
        yield str(shutil.copy(made, folder / name / "map.cool"))


def test_a_kill_at_any_step(made, tmp_path):
    paths = list(copies(made, tmp_path, STEPS))
    assert in_children(list(zip(paths, STEPS.values(), strict=True))) == [-signal.SIGKILL] * len(
        STEPS
    )
    for step, path in zip(STEPS, paths, strict=True):
        np.testing.assert_array_equal(column_of(path), NEW if step == "after that" else OLD)
        cool.write_weights(path, NEW, {}, overwrite=True)  # nothing prevents the next one
        is_new(path)


def test_a_limit_of_the_size_of_files(made, tmp_path):
    """The write ends with one error, and not by a signal."""
    size = made.stat().st_size
    limits = [1000, size, size + 5000, size + 30_000]
    paths = list(copies(made, tmp_path, map(str, limits)))
    assert in_children(list(zip(paths, limits, strict=True))) == [7] * len(limits)
    for path in paths:
        is_old(path)


def test_interrupted(uri, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    for owner, name in ((_overlay.Overlay, "copy_to"), (os, "fsync"), (_columns, "_copy_status")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stop)
            with pytest.raises(KeyboardInterrupt):
                cool.write_weights(uri, NEW, {}, overwrite=True)
        is_old(uri)


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["seek", "readinto", "write", "truncate"])
def test_any_call_of_hdf5_fails(uri, method, kind, monkeypatch):
    """HDF5 goes on after an exception, and once crashed when it closed the file."""
    whole, before = getattr(_overlay.Overlay, method).__wrapped__, Path(uri).read_bytes()
    calls = failures = 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls == failures + 1:
            raise kind("in a call of HDF5")
        return whole(*args)

    monkeypatch.setattr(_overlay.Overlay, method, _overlay._kept(failing))
    written = False
    while not written:
        calls = 0
        try:
            cool.write_weights(uri, NEW, {}, overwrite=True)
            written = True
        except kind:
            assert Path(uri).read_bytes() == before
            failures += 1
    assert failures == calls >= 2
    is_new(uri)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
def test_a_time_limit_within_hdf5(uri, monkeypatch):
    """A handler raises when HDF5 has closed the file, and not in a call of HDF5."""

    def too_long(*_):
        raise TimeoutError("too long")

    def at_once(self, number, whole=_overlay.Overlay._page):
        signal.raise_signal(signal.SIGALRM)
        return whole(self, number)

    monkeypatch.setattr(_overlay.Overlay, "_page", at_once)
    handler = signal.signal(signal.SIGALRM, too_long)
    try:
        with pytest.raises(TimeoutError, match="too long"):
            cool.write_weights(uri, NEW, {}, overwrite=True)
    finally:
        signal.signal(signal.SIGALRM, handler)
    is_old(uri)


def full(after):
    """Make a class of files on a disk that has `after` bytes left."""

    class Full:
        def __init__(self, file):
            self._file, self._left = file, after

        def write(self, data):
            self._left -= len(data)
            if self._left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

    return Full


@pytest.mark.parametrize("after", [0, 4096, 50_000])
def test_a_full_disk(uri, after, monkeypatch):
    whole, Wrapped = _overlay.Overlay.copy_to, full(after)
    monkeypatch.setattr(_overlay.Overlay, "copy_to", lambda self, copy: whole(self, Wrapped(copy)))
    for call in (
        lambda: cool.write_weights(uri, NEW, {}, overwrite=True),
        lambda: cool.balance(uri, ignore_diags=0, mad_max=0, min_nnz=0, store=True, overwrite=True),
    ):
        with pytest.raises(
            OSError, match=r"map.cool cannot be written: No space left on device"
        ) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
        is_old(uri)


def test_a_disk_without_room_is_seen_beforehand(uri, monkeypatch, capsys):
    usage = shutil.disk_usage(Path(uri).parent)
    monkeypatch.setattr(_columns.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        OSError,
        match=r"a copy of it takes \d+ bytes \(.*\) for a while, and 1000 bytes are free on its "
        r"disk",
    ):
        cool.balance(uri, store=True, overwrite=True)
    assert cli.main(["scale", str(uri), "--write", "--force"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    is_old(uri)


def test_a_failure_at_any_step(uri, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    for owner, name in ((os, "fsync"), (_columns, "_copy_status"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, broken)
            with pytest.raises(OSError, match=r"map.cool cannot be written: Input/output error"):
                cool.write_weights(uri, NEW, {}, overwrite=True)
        is_old(uri)
    copy_to = _overlay.Overlay.copy_to

    def spoiled(self, copy):
        copy_to(self, copy)
        with open(copy.name, "r+b") as again:
            again.truncate(again.seek(0, 2) - 2000)

    monkeypatch.setattr(_overlay.Overlay, "copy_to", spoiled)
    with pytest.raises(OSError, match=r"map.cool cannot be written: "):
        cool.write_weights(uri, NEW, {}, overwrite=True)
    is_old(uri)


def test_a_copy_that_holds_other_numbers(uri, monkeypatch):
    monkeypatch.setattr(_columns, "_set", lambda column, *_: column.write_direct(np.zeros(K)))
    with pytest.raises(OSError, match="its copy does not hold what was written"):
        cool.write_weights(uri, NEW, {"tol": 1.0}, overwrite=True)
    is_old(uri)


def test_a_file_that_changes_while_it_is_copied(uri, monkeypatch):
    """The changes of another writer are not lost."""
    like = _columns._copy_status

    def meanwhile(path, part):
        like(path, part)
        changes[0]()

    def append():
        with open(uri, "ab") as file:
            file.write(b"x")

    def replace():
        shutil.copy(uri, f"{uri}.new")
        os.replace(f"{uri}.new", uri)

    monkeypatch.setattr(_columns, "_copy_status", meanwhile)
    for change in (append, replace):
        changes = [change]
        with pytest.raises(
            OSError,
            match=r"map.cool cannot be written: it has changed while it was copied; try it again",
        ):
            cool.write_weights(uri, NEW, {}, overwrite=True)
        is_old(uri)
    monkeypatch.undo()
    lock = _columns._lock

    def late(path, file):
        lock(path, file)
        replace()

    monkeypatch.setattr(_columns, "_lock", late)
    with pytest.raises(OSError, match=r"another process has replaced it just now; try it again"):
        cool.write_weights(uri, NEW, {}, overwrite=True)
    is_old(uri)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_is_open_elsewhere(uri, mode):
    message = r"map.cool cannot be (written: it is open in another program|opened)"
    with h5py.File(uri, mode), pytest.raises(OSError, match=message):
        cool.write_weights(uri, NEW, {}, overwrite=True)
    is_old(uri)


def test_hdf5_cannot_write_meanwhile(uri, monkeypatch):
    """HDF5's own lock prevents it."""
    like, seen = _columns._copy_status, []

    def meanwhile(path, part):
        like(path, part)
        program = (
            "import h5py, sys\n"
            "try:\n"
            "    h5py.File(sys.argv[1], 'r+')\n"
            "except OSError as error:\n"
            "    sys.exit(3)"
        )
        seen.append(
            subprocess.run(
                [sys.executable, "-c", program, str(uri)], check=False, timeout=60
            ).returncode
        )

    monkeypatch.setattr(_columns, "_copy_status", meanwhile)
    cool.write_weights(uri, NEW, {}, overwrite=True)
    assert seen == [3]
    is_new(uri)


def test_what_is_not_a_file_of_its_own(uri, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "linked.cool", "w") as file:
        for table in ("chroms", "bins", "pixels", "indexes"):
            file[table] = h5py.ExternalLink(str(uri), f"/{table}")
    with pytest.raises(
        ValueError,
        match=r"linked.cool has its bin table in another file, .*map.cool: pass that file",
    ):
        cool.write_weights(tmp_path / "linked.cool", NEW, {}, overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        PermissionError, match="a copy of it is written to its folder, which is read-only"
    ):
        cool.write_weights(uri, NEW, {}, overwrite=True)
    monkeypatch.undo()

    def refused(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_columns, "File", refused)
    with pytest.raises(PermissionError, match=r"map.cool cannot be written: Permission denied"):
        cool.write_weights(uri, NEW, {}, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"none.cool cannot be written: it is not a file"):
        _columns._locked(tmp_path / "none.cool").__enter__()
    is_old(uri)


def test_what_version_01_left(uri):
    """A killed run may have hidden a column. The next write of any column restores it."""
    with h5py.File(uri, "r+") as file:
        file.move("bins/weight", ".weight before")
        file[".other in the making"] = np.zeros(3)
    before = Path(uri).read_bytes()
    with pytest.raises(
        ValueError,
        match=r'has a column "weight" already, which a killed run of version 0.1 has hidden: '
        r"choose",
    ):
        _columns.check(uri, "weight", overwrite=False)
    assert Path(uri).read_bytes() == before
    cool.write_weights(uri, NEW, {}, name="other")
    found = cooler.Cooler(str(uri)).bins()[:]
    np.testing.assert_array_equal(found["weight"], OLD)
    np.testing.assert_array_equal(found["other"], NEW)
    with h5py.File(uri) as file:
        assert sorted(file) == ["bins", "chroms", "indexes", "pixels"]
        file_has = file["bins/weight"].attrs["tol"]
    assert file_has == 1.0


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (None, "stats must be a mapping of attributes, got NoneType"),
        ({3: 4}, "stats must have strings as keys, the names of attributes, got 3"),
        (
            {"a": None},
            (
                r"stats\['a'\] cannot be an attribute of HDF5, which holds numbers, strings and "
                r"arrays of them, got None"
            ),
        ),
        ({"a": 10**30}, r"stats\['a'\] cannot be an attribute of HDF5"),
    ],
)
def test_attributes_that_cannot_be_written(uri, stats, message):
    with pytest.raises(TypeError, match=message):
        cool.write_weights(uri, NEW, stats, overwrite=True)
    with pytest.raises(ValueError, match="the name of a column must be text that UTF-8 can encode"):
        cool.write_weights(uri, NEW, {}, name="\udc80")
    is_old(uri)


@pytest.mark.parametrize("key", ["", "a\0b"])
def test_attributes_whose_names_hdf5_would_cut(uri, key):
    with pytest.raises(
        ValueError,
        match="stats must have names of attributes as keys, not empty and without NUL, got ",
    ):
        cool.write_weights(uri, NEW, {key: 1}, overwrite=True)
    is_old(uri)


def test_a_name_that_is_too_long(uri):
    with pytest.raises(
        ValueError, match=r"a few characters without a slash, 200 at most, got 201: 'x{20}'…$"
    ):
        cool.write_weights(uri, NEW, {}, name="x" * 201)
    is_old(uri)


@pytest.mark.parametrize("external", [False, True])
def test_a_link_that_leads_nowhere(uri, external):
    """Such a link counts as a column. With overwrite=True it is replaced."""
    with h5py.File(uri, "r+") as file:
        del file["bins/weight"]
        file["bins/weight"] = (
            h5py.ExternalLink("none.h5", "/x") if external else h5py.SoftLink("/bins/none")
        )
    with pytest.raises(ValueError, match='has a column "weight" already'):
        cool.write_weights(uri, NEW, {})
    _columns.check(uri, "weight", overwrite=True)
    cool.write_weights(uri, NEW, {}, overwrite=True)
    is_new(uri)


def test_the_file_object_that_hdf5_is_given(tmp_path):
    """The object behaves as a file does, and does not write to the file below it."""
    rng = np.random.default_rng(0)
    content = rng.bytes(3 * _overlay._PAGE + 100)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    with open(tmp_path / "a", "rb") as below, open(tmp_path / "b", "r+b") as plain:
        changes = _overlay.Overlay(below.fileno(), len(content))
        for _ in range(300):
            at, size = (
                int(rng.integers(5 * _overlay._PAGE)),
                int(rng.integers(1, 2 * _overlay._PAGE)),
            )
            act = rng.integers(6)
            for file in (changes, plain):
                file.seek(at)
            if act < 3:
                assert changes.read(size) == plain.read(size)
            elif act < 5:
                data = rng.bytes(size)
                assert changes.write(data) == plain.write(data)
            else:
                changes.truncate(at)
                plain.truncate(at)
            assert changes.seek(0, os.SEEK_END) == plain.seek(0, os.SEEK_END)
        with open(tmp_path / "c", "wb") as copy:
            changes.copy_to(copy)
        plain.seek(0)
        assert (tmp_path / "c").read_bytes() == plain.read()
    assert (tmp_path / "a").read_bytes() == content
    (tmp_path / "a").write_bytes(b"")
    shorter = pytest.raises(OSError, match="it has become shorter while it was copied")
    with open(tmp_path / "a", "rb") as below, open(tmp_path / "c", "wb") as copy, shorter:
        _overlay.Overlay(below.fileno(), 10).copy_to(copy)
