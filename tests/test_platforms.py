"""What other systems lack, taken away on this one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from support import matrix
from test_cool import contacts, write

from sparsejac import JacobianBuilder, LeastSquares, cool, io
from sparsejac._matrix import columns, numbers
from sparsejac._system import outputs


@pytest.fixture
def no_maps(monkeypatch, tmp_path):
    """As on macOS and Windows, where no file lists the mappings of a process."""
    monkeypatch.setattr(numbers, "_MAPS", tmp_path / "none")


@pytest.mark.parametrize("given", ["path", "memmap"])
def test_writes_through_a_mapping_without_proc(tmp_path, no_maps, given):
    """Where mappings are not known, each pass scans the file, and takes a new time as a change."""
    path = tmp_path / "A.npy"
    np.save(path, matrix(6))
    writable = np.load(path, mmap_mode="r+")
    A = str(path) if given == "path" else np.load(path, mmap_mode="r")
    operator, x = JacobianBuilder(A).operator(np.ones(6)), np.arange(6.0)
    before, time = operator @ x, path.stat()
    np.testing.assert_array_equal(before, JacobianBuilder(matrix(6)).operator(np.ones(6)) @ x)
    writable[1, 2] = np.nan
    writable.flush()
    with pytest.raises(ValueError, match="has changed since it was handed over as A"):
        operator @ x
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))  # as if it did not show the write
    with pytest.raises(ValueError, match=r"A must be finite, but A\[1, 2\] = nan"):
        operator @ x
    writable[1, 2] = 50
    writable.flush()
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert (operator @ x)[8] == 50 * (x[1] + x[2])


def test_a_target_without_proc(tmp_path, no_maps):
    np.save(tmp_path / "Y.npy", matrix(6, seed=1))
    problem = LeastSquares(matrix(6), np.load(tmp_path / "Y.npy", mmap_mode="r"))
    x = np.arange(1.0, 7)
    assert problem.cost(x) == LeastSquares(matrix(6), matrix(6, seed=1)).cost(x)


def test_where_no_folder_is_replaced(tmp_path, monkeypatch):
    """Windows refuses that even for an empty folder."""
    replace = Path.replace

    def as_on_windows(path, target):
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied")
        return replace(path, target)

    J = scipy.sparse.csr_array(matrix(6))
    monkeypatch.setattr(Path, "replace", as_on_windows)
    (tmp_path / "J").mkdir()
    with pytest.raises(PermissionError, match="J cannot be written: Access is denied"):
        io.write_csr_blocks(tmp_path / "J", [(0, J)], shape=J.shape)
    assert os.listdir(tmp_path) == ["J"]
    monkeypatch.setattr(outputs, "_REPLACES_FOLDERS", False)
    io.write_csr_blocks(tmp_path / "J", [(0, J)], shape=J.shape)
    assert (io.read_matrix(tmp_path / "J") != J).nnz == 0
    with pytest.raises(ValueError, match="J is there already, and only an empty folder"):
        io.write_csr_blocks(tmp_path / "J", [(0, J)], shape=J.shape)


def test_where_no_open_file_is_replaced(tmp_path, monkeypatch):
    """Windows: the map is closed before its copy replaces it. Nor has Windows these modules."""
    uri = write(tmp_path / "map.cool", contacts())
    opened, replaced, replace = [], [], Path.replace

    class File(columns.File):
        def __init__(self, *args):
            super().__init__(*args)
            opened.append(self.fileno())

    monkeypatch.setattr(columns, "File", File)

    def as_on_windows(path, target):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[0])
        replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", as_on_windows)
    monkeypatch.setattr(columns, "_REPLACES_OPEN_FILES", False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert cool.balance(uri, store=True).success
    assert [Path(path).name for path in replaced] == ["map.cool"]
    with pytest.raises(ValueError, match="weight"):  # it is there now
        cool.balance(uri, store=True)


PROGRAM = """
import os, sys
import numba, numpy as np, scipy.optimize, scipy.sparse.linalg  # they look at what there is
for name in {absent}:
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "resource"):
    sys.modules[name] = None
from sparsejac import JacobianBuilder, fit, io, symmetric_scaling
from sparsejac._system import machine
A = np.array([[1.0, 2, 1], [2, 1, 3], [1, 3, 1]])
np.save("A.npy", A)
io.write_csr("J.npz", JacobianBuilder("A.npy", rows="upper").tocsr(np.ones(3)))
assert fit("A.npy", A).success and symmetric_scaling("A.npy").success
assert machine.cpu_count() >= 1
print("done")
"""


def test_without_what_only_linux_or_posix_has(tmp_path):
    absent = ["register_at_fork", "sched_getaffinity", "sysconf", "preadv", "chown", "getxattr"]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(absent=absent)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
