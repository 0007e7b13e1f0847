"""The command, as a person types it."""

import os
import re
import signal
import subprocess
import sys
import time
import types
from importlib.metadata import entry_points

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from support import slow

from sparsejac import __version__, cli, io, jacobian
from sparsejac._kernels import listeners
from sparsejac.cli import common, compiling, demo
from sparsejac.cli import parser as cli_parser
from sparsejac.testing import dense_jacobian

NOTICE = "compiling the kernels for this kind of matrix, which takes 5 to 30 seconds once"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a person stands, with an A and an x in every format."""
    monkeypatch.chdir(tmp_path)
    A, x = np.array([[1.0, 2, 0], [3, 4, 0], [0, 0, 5]]), np.array([1.0, 10, 100])
    np.save("A.npy", A)
    np.save("x.npy", x)
    scipy.sparse.save_npz("A.npz", scipy.sparse.csr_array(A))
    np.savez("x.npz", x)
    scipy.io.mmwrite("A.mtx", scipy.sparse.coo_matrix(A))
    scipy.io.mmwrite("x.mtx", x[:, np.newaxis])
    return tmp_path


def run(capsys, *arguments):
    """(exit code, stdout, stderr), the latter without the notice of a compilation."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, without_notice(err)


def without_notice(err):
    """What a command wrote to stderr, but for the notice: whether it comes depends on the cache."""
    return "".join(line for line in err.splitlines(keepends=True) if NOTICE not in line)


def wrong_use(capsys, *arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert re.search(message, err), err


@pytest.mark.parametrize("rows", ["all", "stored", "upper"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", ["npy", "npz", "mtx"])
def test_build(folder, capsys, form, order, rows):
    A = np.load("A.npy")
    if rows == "upper":
        A[1, 0] = 2
        np.save("A.npy", A)
        scipy.sparse.save_npz("A.npz", scipy.sparse.csr_array(A))
        scipy.io.mmwrite("A.mtx", scipy.sparse.coo_matrix(A))
    code, out, err = run(
        capsys, "build", f"A.{form}", f"x.{form}", "-o", "J.npz", "--rows", rows, "--order", order
    )
    assert (code, err) == (0, "")
    expected = jacobian(
        A if form == "npy" else scipy.sparse.csr_array(A), np.load("x.npy"), rows=rows, order=order
    )
    J = scipy.sparse.load_npz("J.npz")
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(J, name), getattr(expected, name))
    m, k = expected.shape
    nbytes = expected.data.nbytes + expected.indices.nbytes + expected.indptr.nbytes
    assert (
        f"A: A.{form}, 3 x 3, {'dense' if form == 'npy' else '5 stored entries'}, float64\n" in out
    )
    assert f"J: {m} x {k}, {expected.nnz} stored entries, rows={rows}, order={order}\n" in out
    assert re.search(
        rf"{nbytes} bytes \(.*\) in float64 and int32; assembled in [\d.]+ s, compiling included, "
        rf"written to J.npz in [\d.]+ s; peak memory [\d.]+ [MG]iB",
        out,
    )


def test_build_takes_the_stored_rows_unless_told_otherwise(folder, capsys):
    assert run(capsys, "build", "A.npz", "x.npz", "-o", "J.npz")[0] == 0
    assert scipy.sparse.load_npz("J.npz").shape == (5, 3)


def test_build_wrong_use(folder, capsys):
    (folder / "short.npy").write_bytes((folder / "A.npy").read_bytes()[:140])
    np.save("x4.npy", np.ones(4))
    np.save("nan.npy", np.array([[np.nan]]))
    np.save("wide.npy", np.ones((2, 3)))
    (folder / "folder.npz").mkdir()
    before = sorted(os.listdir())
    for arguments, message in [
        (["none.npy", "x.npy", "-o", "J.npz"], "No such file.*none.npy"),
        (["short.npy", "x.npy", "-o", "J.npz"], "short.npy cannot be read"),
        (["A.npy", "x4.npy", "-o", "J.npz"], "x must be a vector of length 3"),
        (["nan.npy", "x.npy", "-o", "J.npz"], "A must be finite"),
        (["wide.npy", "x.npy", "-o", "J.npz"], "A must be a square matrix"),
        (["A.npy", "A.npy", "-o", "J.npz"], "does not hold a vector"),
        (["A.npy", "x.npy", "-o", "J.mat"], r"must end in \.npz"),
        (["A.npy", "x.npy", "-o", "none/J.npz"], "folder of the output none/J.npz does not exist"),
        (["A.npy", "x.npy", "-o", "folder.npz"], "the output folder.npz is a folder"),
        (["A.npz", "x.npz", "-o", "A.npz"], "output A.npz is also an input"),
        (["A.npy", "x.npy", "-o", "J.npz", "--rows", "upper"], "needs a symmetric A"),
        (["A.npy", "x.npy", "-o", "J.npz", "--rows", "lower"], "invalid choice: 'lower'"),
        (["A.npy", "x.npy"], "required: -o/--output"),
        (["A.npy"], "required: X"),
    ]:
        wrong_use(capsys, "build", *arguments, message=message)
        assert sorted(os.listdir()) == before
    wrong_use(capsys, message="required: build")
    wrong_use(capsys, "make", message="invalid choice: 'make'")


def test_build_what_cannot_fit(folder, capsys):
    k = 10**6
    scipy.sparse.save_npz("huge.npz", scipy.sparse.eye_array(k, format="csr"))
    np.save("ones.npy", np.ones(k))
    arguments = ["huge.npz", "ones.npy", "-o", "J.npz", "--rows", "all"]
    wrong_use(
        capsys,
        "build",
        *arguments,
        message="would take .* bytes .* take --rows stored.* or write it block by block",
    )
    assert not os.path.exists("J.npz")


@pytest.mark.parametrize("size", [3, 200])  # read as a whole, and block by block
def test_build_a_folder_of_row_blocks(folder, capsys, size):
    A, x = np.random.default_rng(0).random((size, size)), np.linspace(1, 2, size)
    np.save("A.npy", A)
    np.save("x.npy", x)
    code, out, err = run(capsys, "build", "A.npy", "x.npy", "-o", "J", "--memory", "4MiB")
    assert (code, err) == (0, "")
    expected = jacobian(A, x)
    nbytes, blocks = re.search(
        r"   (\d+) bytes \(.*\) in (\d+) blocks of rows; assembled and written to the folder J in "
        r"[\d.]+ s",
        out,
    ).groups()
    J = io.read_matrix("J")
    assert (J.shape, J.nnz) == (expected.shape, expected.nnz)
    assert int(blocks) > (size == 200)
    assert int(nbytes) >= expected.data.nbytes + expected.indices.nbytes
    np.testing.assert_array_equal(J.data, expected.data)
    np.testing.assert_array_equal(J.indices, expected.indices)
    np.testing.assert_array_equal(J.indptr, expected.indptr)
    # What is there is not replaced, and nothing is done before that is known.
    wrong_use(capsys, "build", "A.npy", "x.npy", "-o", "J", message="the output J is there already")
    # Such a folder is read block by block, wherever an A is.
    code, out, _ = run(capsys, "build", "A.npy", "x.npy", "-o", "J.npz")
    assert code == 0
    wrong_use(
        capsys,
        "build",
        "A.npy",
        "x.npy",
        "-o",
        "J.v2",
        message="end in .npz, or be the name of a new folder, without a dot",
    )
    io.write_csr_blocks("B", [(0, scipy.sparse.csr_array(A))], shape=A.shape)
    wrong_use(
        capsys,
        "build",
        "B",
        "x.npy",
        "-o",
        "B/J",
        message="the output B/J is in a folder that is an input",
    )
    assert run(capsys, "check", "B")[0] == 0
    assert run(capsys, "build", "B", "x.npy", "-o", "J2.npz")[0] == 0
    np.testing.assert_array_equal(
        scipy.sparse.load_npz("J2.npz").data, scipy.sparse.load_npz("J.npz").data
    )


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_in_the_other_order(folder, capsys, monkeypatch, order):
    """Is loaded, if it fits; what is streamed need not be."""
    A, x = np.random.default_rng(0).random((150, 150)), np.ones(150)
    np.save("A.npy", np.asarray(A, order="F" if order == "C" else "C"))
    np.save("x.npy", x)
    assert run(capsys, "build", "A.npy", "x.npy", "-o", "J.npz", "--order", order)[0] == 0
    assert abs(scipy.sparse.load_npz("J.npz") - jacobian(A, x, order=order)).max() == 0
    assert run(capsys, "check", "A.npy", "--order", order)[0] == 0
    monkeypatch.setattr("sparsejac._system.machine.available_memory", lambda: 1000)
    wrong_use(
        capsys,
        "build",
        "A.npy",
        "x.npy",
        "-o",
        "K",
        "--order",
        order,
        message="A is stored by (rows|columns), and this needs its",
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [("512", 512), ("64MiB", 2**26), ("2GB", 2 * 10**9), ("1.5 kib", 1536), ("3G", 3 * 10**9)],
)
def test_sizes(text, count):
    assert cli_parser._bytes(text) == count


def test_memory_of_a_command(folder, capsys):
    k = 150
    A = np.exp(-abs(np.arange(k) - np.arange(k)[:, np.newaxis]) / 9)
    np.save("S.npy", A)
    np.save("Y.npy", A * np.outer(np.arange(1, k + 1), np.arange(1, k + 1)))
    assert run(capsys, "scale", "S.npy", "-o", "scaled.npy", "--memory", "4MiB")[0] == 0
    scaled = np.load("scaled.npy")
    np.testing.assert_allclose(scaled * (A @ scaled), 1, rtol=1e-7)
    assert run(capsys, "fit", "S.npy", "Y.npy", "-o", "fitted.npy", "--memory", "4MiB")[0] == 0
    np.testing.assert_allclose(np.load("fitted.npy"), np.arange(1, k + 1), rtol=1e-7)
    for bad in ("much", "-3", "0", "4 MiBs"):
        wrong_use(
            capsys,
            "scale",
            "S.npy",
            f"--memory={bad}",
            message="must be a number of bytes, such as 512MiB",
        )
    wrong_use(
        capsys,
        "scale",
        "S.npy",
        "--memory",
        "10kB",
        message=r"error: --memory must be at least .*pass more$",
    )


@pytest.mark.parametrize("name", ["min_nnz=3.npy", "x: workers=3, y.npy", "tol=1; a (b).mtx"])
def test_files_with_names_that_look_like_options(folder, capsys, name):
    wrong_use(
        capsys,
        "scale",
        name,
        message=re.escape(f"error: [Errno 2] No such file or directory: '{name}'\n"),
    )
    (folder / name).write_bytes(b"")
    wrong_use(capsys, "scale", name, message=re.escape(f"error: {name} is empty\n"))
    wrong_use(
        capsys,
        "scale",
        "A.npy",
        "--max-products",
        "0",
        message="error: --max-products must be a positive integer",
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here that is always full")
def test_a_full_disk(folder, monkeypatch, capsys):
    """/dev/full in place of the part file."""
    monkeypatch.setattr("pathlib.Path.with_name", lambda self, _: type(self)("/dev/full"))
    monkeypatch.setattr("pathlib.Path.unlink", lambda self, missing_ok: None)
    wrong_use(capsys, "build", "A.npy", "x.npy", "-o", "J.npz", message="No space left on device")
    assert not os.path.exists("J.npz")


@pytest.fixture
def problem(tmp_path, monkeypatch):
    """An A and a Y of which [1, 2, 3] is the answer, in every format."""
    monkeypatch.chdir(tmp_path)
    A, x = np.array([[0.0, 2, 1], [2, 0, 3], [1, 3, 0]]), np.array([1.0, 2, 3])
    for name, matrix in (("A", A), ("Y", A * np.outer(x, x))):
        np.save(f"{name}.npy", matrix)
        scipy.sparse.save_npz(f"{name}.npz", scipy.sparse.csr_array(matrix))
        scipy.io.mmwrite(f"{name}.mtx", scipy.sparse.coo_matrix(matrix))
    np.save("x0.npy", -x - 1)
    return tmp_path


@pytest.mark.parametrize("form", ["npy", "npz", "mtx"])
def test_fit(problem, capsys, form):
    code, out, err = run(capsys, "fit", f"A.{form}", f"Y.{form}", "-o", "x.npy")
    assert (code, err) == (0, "")
    np.testing.assert_allclose(np.load("x.npy"), [1, 2, 3], rtol=1e-6)
    assert f"A: A.{form}, 3 x 3" in out
    assert "fit: converged: optimality" in out
    assert re.search(
        r"cost ½‖A∘xxᵀ - Y‖² = \S+ after \d+ steps, \d+ passes over A, in [\d.]+ s", out
    )
    assert out.endswith("   x written to x.npy\n")
    assert (
        run(
            capsys, "fit", f"A.{form}", "Y.npy", "-o", "x.npy", "--x0", "x0.npy", "--rows", "upper"
        )[0]
        == 0
    )
    np.testing.assert_allclose(np.load("x.npy"), [-1, -2, -3], rtol=1e-6)


def test_fit_of_several_columns(folder, capsys):
    rng = np.random.default_rng(0)
    X, Y = rng.random((6, 2)), rng.random((4, 2))
    for name, matrix in {"A": np.ones((6, 4)), "M": X @ Y.T, "S": X @ X.T, "x0": X}.items():
        np.save(f"{name}.npy", matrix)
    code, out, err = run(
        capsys, "fit", "A.npy", "M.npy", "-o", "Z.npz", "--rank", "2", "--bilinear"
    )
    assert (code, err) == (0, "")
    assert "cost ½‖A∘XYᵀ - Y‖² =" in out
    assert out.endswith("   X and Y written to Z.npz\n")
    with np.load("Z.npz") as Z:
        np.testing.assert_allclose(Z["X"] @ Z["Y"].T, X @ Y.T)
    np.save("A.npy", np.ones((6, 6)))
    for output, start in (("Z.npz", []), ("Z.npy", ["--x0", "x0.npy", "--regularization", "1e-9"])):
        code, out, _ = run(capsys, "fit", "A.npy", "S.npy", "-o", output, "--rank", "2", *start)
        assert code == 0
        found = np.load(output)
        found = found["X"] if output == "Z.npz" else found
        assert found.shape == (6, 2)
        np.testing.assert_allclose(found @ found.T, X @ X.T, atol=1e-6)
    assert "‖A∘XXᵀ - Y‖² + ½λ‖x‖² =" in out
    message = r"A must be a square matrix.*pass --bilinear for"
    wrong_use(capsys, "fit", "M.npy", "M.npy", "-o", "x.npy", message=message)
    wrong = [
        (["--rank", "0"], "argument --rank: must be an integer, 1 or more, got '0'"),
        (["--regularization", "-1"], "--regularization must be at least 0"),
        (["--rank", "2", "--x0", "M.npy"], r"x0 must be an array of shape \(6, 2\)"),
        (["--bilinear", "--rows", "upper"], r"--rows upper is for a symmetric A"),
    ]
    for options, message in wrong:
        wrong_use(capsys, "fit", "S.npy", "S.npy", "-o", "x.npy", *options, message=message)


@pytest.fixture
def factors(folder):
    """A matrix A of 6x4, the X and Y of a fit, and a square B with an X."""
    rng = np.random.default_rng(0)
    A = scipy.sparse.csr_array(rng.integers(1, 9, (6, 4)) * (rng.random((6, 4)) < 0.6) * 1.0)
    B, X, Y = np.arange(36.0).reshape(6, 6), np.arange(12.0).reshape(6, 2), np.ones((4, 2))
    scipy.sparse.save_npz("A.npz", A)
    for name, matrix in {"B": B, "X": X, "flat": X.ravel(), "Z": np.vstack([X, Y])}.items():
        np.save(f"{name}.npy", matrix)
    np.savez("Z.npz", X=X, Y=Y)
    np.savez("X.npz", X=X)
    scipy.sparse.save_npz("S.npz", scipy.sparse.csr_array(X))
    return A, B, X, Y


@pytest.mark.parametrize("file", ["X.npy", "flat.npy", "X.npz", "S.npz"])
def test_build_and_check_of_several_columns(file, factors, capsys):
    _, B, X, _ = factors
    code, out, _ = run(capsys, "build", "B.npy", file, "-o", "J.npz", "--rank", "2")
    assert code == 0
    assert "J: 36 x 12, " in out
    J = scipy.sparse.load_npz("J.npz")
    np.testing.assert_array_equal(J.toarray(), dense_jacobian(B, X, rank=2, rows="stored"))
    assert run(capsys, "check", "B.npy", file, "--rank", "2")[0] == 0


@pytest.mark.parametrize("file", ["Z.npy", "Z.npz"])
def test_build_and_check_of_two_factors(file, factors, capsys):
    A, _, X, Y = factors
    options = ("--rank", "2", "--bilinear")
    assert run(capsys, "build", "A.npz", file, "-o", "J.npz", *options)[0] == 0
    expected = dense_jacobian(A, np.vstack([X, Y]), rank=2, bilinear=True, rows="stored")
    np.testing.assert_array_equal(scipy.sparse.load_npz("J.npz").toarray(), expected)
    code, out, _ = run(capsys, "check", "A.npz", file, *options)
    assert (code, out.splitlines()[-1]) == (0, "8 of 8 checks hold")
    assert run(capsys, "check", "A.npz", *options)[0] == 0


def test_wrong_factors(factors, capsys):
    np.savez("columns.npz", X=np.ones((6, 2)), Y=np.ones((4, 3)))
    np.savez("vectors.npz", X=np.ones(6), Y=np.ones(4))
    np.savez("turned.npz", X=np.ones((4, 2)), Y=np.ones((6, 2)))
    np.savez("names.npz", X=np.ones((6, 2)), V=np.ones((4, 2)))
    two = ["--rank", "2", "--bilinear"]
    alike = "its arrays X and Y must be matrices with as many columns each"
    for file, options, message in [
        ("columns.npz", two, rf"{alike}, got shapes \(6, 2\) and \(4, 3\)"),
        ("vectors.npz", two, rf"{alike}, got shapes \(6,\) and \(4,\)"),
        ("names.npz", two, "one array was expected, it has 2: 'X', 'V'"),
        ("turned.npz", two, r"Y must have 6 and 4 rows, as A is 6x4, got 4 and 6: take those"),
        ("Z.npz", [], "one array was expected, it has 2: 'X', 'Y'"),
        ("X.npz", two, r"x must be an array of shape \(10, 2\).*got an array of shape \(6, 2\)"),
        ("Z.npz", ["--rank", "0"], "--rank: must be an integer, 1 or more, got '0'"),
        ("Z.npz", two[:2], "one array was expected, it has 2: 'X', 'Y'"),
        ("Z.npy", two[:2], "A must be a square matrix.*pass --bilinear for"),
    ]:
        for command in (("build", "A.npz", file, "-o", "J.npz"), ("check", "A.npz", file)):
            wrong_use(capsys, *command, *options, message=message)
    assert not os.path.exists("J.npz")


def test_nonnegative_fit(folder, capsys):
    x = np.array([1.0, 2.0, -3.0])
    np.save("A.npy", np.ones((3, 3)))
    np.save("Y.npy", np.outer(x, x))
    np.save("x0.npy", x)
    for output, options, columns in (("x.npy", [], 1), ("X.npy", ["--rank", "2"], 2)):
        code, _, _ = run(capsys, "fit", "A.npy", "Y.npy", "-o", output, "--nonnegative", *options)
        assert code == 0
        found = np.load(output)
        assert found.size == 3 * columns
        assert (found >= 0).all()
        assert (found == 0).any()
    robust = ("--nonnegative", "--loss", "huber", "--f-scale", "0.5")
    assert run(capsys, "fit", "A.npy", "Y.npy", "-o", "x.npy", *robust)[0] == 0
    assert (np.load("x.npy") >= 0).all()
    wrong_use(
        capsys,
        *("fit", "A.npy", "Y.npy", "-o", "y.npy", "--nonnegative", "--x0", "x0.npy"),
        message=r"x0 must be within the bounds.* x0\[2\] = -3.0, whose bounds are 0.0 and inf",
    )


def test_fit_that_does_not_converge(problem, capsys):
    few = ("--max-iter", "1", "--tol", "1e-15")
    code, out, _ = run(capsys, "fit", "A.npy", "Y.npy", "-o", "x.npy", *few)
    assert code == 1
    assert "fit: the maximum of 1 iterations was reached" in out
    assert out.endswith("   the last x written to x.unfinished.npy, and nothing to x.npy\n")
    assert np.load("x.unfinished.npy").shape == (3,)
    assert not os.path.exists("x.npy")
    for _ in range(9):  # it is replaced, and may be the start of the next run
        again = run(
            capsys, "fit", "A.npy", "Y.npy", "-o", "x.npy", "--x0", "x.unfinished.npy", *few
        )
        assert again[0] in (0, 1)
    code = run(capsys, "fit", "A.npy", "Y.npy", "-o", "x.npy", "--x0", "x.unfinished.npy")[0]
    assert (code, np.load("x.npy").shape) == (0, (3,))
    code, out, _ = run(
        capsys, "fit", "A.npy", "Y.npy", "-o", "F.npz", "--rank", "2", "--bilinear", *few
    )
    assert code == 1
    assert "   the last X and Y written to F.unfinished.npz, and nothing to F.npz\n" in out
    assert set(np.load("F.unfinished.npz")) == {"X", "Y"}
    going_on = ("--x0", "F.unfinished.npz", "--rank", "2", "--bilinear", "--regularization", "1e-9")
    code, out, _ = run(capsys, "fit", "A.npy", "Y.npy", "-o", "F.npz", *going_on)
    assert (code, set(np.load("F.npz"))) == (0, {"X", "Y"})
    np.save("B.unfinished.npy", np.load("A.npy"))
    wrong_use(
        capsys,
        *("fit", "B.unfinished.npy", "Y.npy", "-o", "B.npy"),
        message="output B.unfinished.npy is also an input",
    )


def test_fit_wrong_use(problem, capsys):
    np.save("Y2.npy", np.ones((2, 2)))
    before = sorted(os.listdir())
    for arguments, message in [
        (["A.npy", "none.npy", "-o", "x.npy"], "No such file.*none.npy"),
        (["A.npy", "Y2.npy", "-o", "x.npy"], "Y must be a 3x3 matrix"),
        (["A.npz", "Y2.npy", "-o", "x.npy", "--tol", "-1"], "tol must be at least 0"),
        (
            ["A.npy", "Y.npy", "-o", "x.npz"],
            r"x\.npz would hold a matrix X: give --rank, or a name",
        ),
        (["A.npy", "Y.npy", "-o", "Y.npy"], "output Y.npy is also an input"),
        (["A.npy", "Y.npy", "-o", "x0.npy", "--x0", "x0.npy"], "output x0.npy is also an input"),
        (["A.npy", "Y.npy", "-o", "x.npy", "--max-iter", "x"], "invalid int value: 'x'"),
        (["A.npy", "Y.npy"], "required: -o/--output"),
        (["A.npy"], "required: Y"),
    ]:
        wrong_use(capsys, "fit", *arguments, message=message)
        assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["A.npy"],
        ["A.npz", "x.npz"],
        ["A.mtx", "x.mtx", "--order", "F"],
        ["A.npz", "--rows", "all", "--seed", "7"],
    ],
)
def test_check(folder, capsys, arguments):
    code, out, err = run(capsys, "check", *arguments)
    assert (code, err) == (0, "")
    assert out.count("   holds  ") == 8
    assert out.endswith("8 of 8 checks hold\n")


def test_check_that_fails(folder, capsys, monkeypatch):
    from sparsejac._operators.assembly import Assembly

    monkeypatch.setattr(Assembly, "matrix", lambda self, x, out=None: _wrong(self, x))
    code, out, err = run(capsys, "check", "A.npy", "x.npy")
    assert (code, err) == (1, "")
    assert "   FAILS  CSR @ v = operator @ v" in out
    assert out.endswith("5 of 8 checks hold\n")


def _wrong(assembly, x):
    pattern = assembly.rows.pattern
    J = assembly._block(x, 0, pattern.m, *pattern.bounds, np.dtype(np.int32))
    J.data[0] += 1
    return J


def test_check_wrong_use(folder, capsys):
    wrong_use(capsys, "check", "none.mtx", message="No such file")
    wrong_use(capsys, "check", "A.npy", "A.npy", message="does not hold a vector")
    for bad in ("x", "-1"):
        wrong_use(
            capsys,
            "check",
            "A.npy",
            f"--seed={bad}",
            message=f"argument --seed: must be an integer, 0 or more, got '{bad}'",
        )


def test_demo(folder, capsys):
    code, out, err = run(capsys, "demo")
    assert (code, err) == (0, "")
    assert "A: les_miserables.mtx, 77 x 77, 508 stored entries" in out
    assert "J: 508 x 77, 1016 stored entries, rows=stored, order=C" in out
    assert "8 of 8 checks hold" in out
    assert scipy.sparse.load_npz("sparsejac-demo/J.npz").shape == (508, 77)
    assert (folder / "sparsejac-demo" / "J.png").read_bytes().startswith(b"\x89PNG")
    picture = [
        line for line in out.splitlines() if line and all(0x2800 <= ord(c) < 0x2900 for c in line)
    ]
    assert len(picture) == 20
    assert len({len(line) for line in picture}) == 1


def test_demo_without_matplotlib(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    code, out, err = run(capsys, "demo", "-o", "here")
    assert (code, err) == (0, "")
    assert "pip install '.[plot]'" in out
    assert os.listdir("here") == ["J.npz"]


def test_demo_where_it_cannot_write(folder, capsys):
    (folder / "file").write_text("")
    wrong_use(capsys, "demo", "-o", "file", message="File exists: 'file'")


def test_picture_without_braille(monkeypatch):
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    eye = scipy.sparse.eye_array(3, format="coo")
    assert demo.picture(eye, width=80, height=20) == "#..\n.#.\n..#"
    assert (
        demo.picture(scipy.sparse.eye_array(100, format="coo"), width=10, height=5).splitlines()[0]
        == "##........"
    )


def test_picture_in_braille(monkeypatch):
    class Utf8:
        encoding = "utf-8"

    monkeypatch.setattr(sys, "stdout", Utf8())
    assert demo.picture(scipy.sparse.eye_array(4, format="coo"), width=80, height=20) == "⠑⢄"


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"sparsejac {__version__}\n", "")


# --- as a process ---------------------------------------------------------------------------------


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "sparsejac", *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_python_m_and_the_entry_point(folder):
    (script,) = [
        entry for entry in entry_points(group="console_scripts") if entry.name == "sparsejac"
    ]
    assert script.load() is cli.main
    with process("check", "A.npy") as running:
        out, err = running.communicate(timeout=120)
    assert (running.returncode, without_notice(err)) == (0, "")
    assert "8 of 8" in out


@pytest.mark.parametrize("unbuffered", ["", *slow("1")])
def test_a_reader_that_has_seen_enough(folder, unbuffered):
    """The work is done, and the exit code tells of it: `sparsejac build … | head -1`."""
    with process(
        "build", "A.npy", "x.npy", "-o", "J.npz", env={**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ) as running:
        running.stdout.close()
        running.stdout = None
        err = running.stderr.read()
    assert (running.returncode, without_notice(err)) == (0, "")
    assert scipy.sparse.load_npz("J.npz").shape == (9, 3)


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&-", 0),
        pytest.param(
            ">/dev/full",
            2,
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full"),
        ),
    ],
)
def test_outputs_that_are_closed_or_full(folder, redirection, code):
    command = f"exec {sys.executable} -m sparsejac build A.npy x.npy -o J.npz {redirection}"
    done = subprocess.run(
        ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    assert done.returncode == code
    assert without_notice(done.stderr) == (
        "" if code == 0 else "sparsejac build: error: [Errno 28] No space left on device\n"
    )


@pytest.mark.parametrize("arguments", [["demo"], *slow(["--help"], ["build", "--help"])])
def test_a_terminal_that_knows_ascii_only(folder, arguments):
    with process(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"}) as running:
        out, err = running.communicate(timeout=120)
    assert (running.returncode, without_notice(err)) == (0, "")
    assert out.isascii()
    if arguments == ["demo"]:
        assert "####" in out


@pytest.mark.skipif(os.name != "posix", reason="signals are sent the POSIX way")
def test_interrupted(folder):
    """Ctrl-C: one line, no traceback, no part of a file left."""
    k = 6000
    np.save("large.npy", np.ones((k, k)))
    np.save("ones.npy", np.ones(k))
    with process("build", "large.npy", "ones.npy", "-o", "J.npz") as running:
        while running.poll() is None and not any(name.endswith(".part") for name in os.listdir()):
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert (running.returncode, without_notice(err)) == (130, "sparsejac build: interrupted\n")
    assert not [name for name in os.listdir() if "J.npz" in name]


def test_interrupted_while_something_is_made(folder, monkeypatch, capsys):
    """A ZipFile without all of its attributes cannot be closed, and is deleted without a word."""

    class HalfMade:
        def __del__(self):
            raise AttributeError("half made")

    def read(path):
        half_made = HalfMade()
        raise KeyboardInterrupt(len([half_made]))

    monkeypatch.setattr("sparsejac.io.read_matrix", read)
    assert cli.main(["check", "A.npy"]) == 130
    assert capsys.readouterr().err == "sparsejac check: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is POSIX")
def test_progress_is_seen_on_a_terminal_when_it_takes_long(folder, monkeypatch):
    import fcntl
    import pty
    import select
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = (
        "import time; from sparsejac.cli import common\n"
        "bar = common.progress(total=4, desc='writing', unit='B'); time.sleep(2.1)\n"
        "[bar.update(1) or time.sleep(0.15) for _ in range(4)]; bar.close()\n"
    )
    subprocess.run([sys.executable, "-c", program], stderr=slave, check=True, timeout=60)
    assert select.select([master], [], [], 0)[0]
    assert b"writing" in os.read(master, 10_000)
    os.close(slave)
    os.close(master)
    quiet = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, timeout=60
    )
    assert quiet.stderr == b""  # not in a log file


@pytest.mark.parametrize("form", ["npy", "npz", "mtx"])
def test_scale(folder, capsys, form):
    A = np.array([[0.0, 2, 1], [2, 0, 3], [1, 3, 0]])
    np.save("S.npy", A)
    scipy.sparse.save_npz("S.npz", scipy.sparse.csr_array(A))
    scipy.io.mmwrite("S.mtx", scipy.sparse.coo_matrix(A))
    np.save("d.npy", np.array([3.0, 4.0, 5.0]))
    code, out, err = run(capsys, "scale", f"S.{form}", "-o", "x.npy")
    assert (code, err) == (0, "")
    x = np.load("x.npy")
    np.testing.assert_allclose(x * (A @ x), 1, atol=1e-8)
    assert "scale: converged: the residual" in out
    assert re.search(
        r"3 of 3 rows, \d+ passes over A, in [\d.]+ s, reading and compiling included\n", out
    )
    assert out.endswith("   x written to x.npy\n")
    assert (
        run(capsys, "scale", f"S.{form}", "--target", "d.npy", "-o", "y.npy", "--tol", "1e-12")[0]
        == 0
    )
    y = np.load("y.npy")
    np.testing.assert_allclose(y * (A @ y), [3, 4, 5], atol=1e-11)


def test_scale_options(folder, capsys):
    scipy.sparse.save_npz("U.npz", scipy.sparse.csr_array(np.triu(np.ones((5, 5)))))
    assert run(capsys, "scale", "U.npz", "--uplo", "U", "-o", "x.npy")[0] == 0
    np.testing.assert_allclose(np.load("x.npy"), 1 / np.sqrt(5))
    assert (
        run(capsys, "scale", "U.npz", "--uplo", "U", "--ignore-diags", "1", "-o", "x.npy")[0] == 0
    )
    np.testing.assert_allclose(np.load("x.npy"), 1 / 2)
    half = np.zeros((4, 4))
    half[:3, :3] = [[1, 1, 0], [1, 0, 1], [0, 1, 0]]
    np.save("H.npy", half)
    np.save("x.npy", before := np.load("x.npy"))
    code, out, _ = run(capsys, "scale", "H.npy", "-o", "x.npy")
    assert out.endswith("   nothing is written to x.npy, because that is no scaling\n")
    np.testing.assert_array_equal(np.load("x.npy"), before)
    assert (code, "row 3 has no entries; --min-nnz 1 leaves such rows out" in out) == (1, True)
    code, out, _ = run(capsys, "scale", "H.npy", "--min-nnz", "1", "--support", "check")
    assert (code, "no total support: 2 of its entries" in out) == (1, True)
    assert "--support drop_rows leaves out rows until the rest has a scaling" in out
    code, out, _ = run(
        capsys, "scale", "H.npy", "--min-nnz", "1", "--support", "drop", "-o", "x.npy"
    )
    assert (code, "scaled after dropping entries, and A itself is not" in out) == (3, True)
    assert "2 of its entries are dropped, in rows 0, 1" in out
    np.testing.assert_array_equal(np.isnan(np.load("x.npy")), [False, False, False, True])
    code, out, _ = run(capsys, "scale", "H.npy", "--support", "drop_rows", "-o", "x.npy")
    assert (code, "2 of 4 rows are left out (2 without support)" in out) == (0, True)
    np.testing.assert_array_equal(np.isnan(np.load("x.npy")), [True, False, False, True])
    assert run(capsys, "scale", "H.npy", "--min-count", "2", "--max-products", "1")[0] == 1


def test_scale_wrong_use(folder, capsys):
    np.save("S.npy", np.eye(3))
    np.save("N.npy", np.array([[1, np.nan], [np.nan, 1]]))
    np.save("M.npy", -np.eye(3))
    np.save("t.npy", [1.0, 0.0, 1.0])
    for arguments, message in [
        (["none.npy"], "No such file.*none.npy"),
        (["none.cool"], "none.cool does not exist"),
        (["A.npy"], r"A must be symmetric, but A\[0, 1\] != A\[1, 0\]"),
        (["S.npy", "--tol", "-1"], "tol must be at least 0"),
        (["S.npy", "-o", "x.npz"], r"must end in \.npy"),
        (["S.npy", "-o", "S.npy"], "output S.npy is also an input"),
        (["S.npy", "--write"], "--write is for contact maps, and S.npy is a matrix"),
        (["S.npy", "--mad-max", "3"], "--mad-max is for contact maps, and S.npy is a matrix"),
        (["S.npy", "--cis-only", "--trans-only"], "not allowed with"),
        (["S.npy", "--support", "x"], "invalid choice"),
        (
            ["S.npy", "--blacklist", "b.bed"],
            "--blacklist is for contact maps, and S.npy is a matrix",
        ),
        (["S.npy", "--mad-max", "0"], "--mad-max is for contact maps, and S.npy is a matrix"),
        (["N.npy"], r"A must be finite, but A\[0, 1\] = nan$"),
        (
            ["M.npy"],
            (
                r"with mixed signs a scaling need not exist; write abs\(A\) to scale its absolute "
                r"values$"
            ),
        ),
        (
            ["S.npy", "--target", "t.npy"],
            (
                "target must be positive and finite in every row that is kept, but it is 0.0 in "
                "row 1: "
                "change it$"
            ),
        ),
        (["A.npy"], r"write \(A \+ A.T\) / 2, or --uplo U if A holds"),
    ]:
        wrong_use(capsys, "scale", *arguments, message=message)


def test_compilation_is_noticed_once(capsys):
    with common.compilation_noticed("fit"):
        for listener in listeners * 2:
            listener("gradient_dense")
    assert capsys.readouterr() == ("", f"sparsejac fit: {NOTICE}\n")
    assert not listeners
    with common.compilation_noticed("compile"):
        listeners[0]("gradient_dense")
    assert capsys.readouterr() == ("", "")


def test_closed_stderr(folder):
    """Python has None for it, and print would write to stdout instead.

    Some versions of NumPy cannot be imported then, so it is closed later.
    """
    program = (
        "import sys, sparsejac.cli as cli; sys.stderr = None; sys.exit(cli.main(sys.argv[1:]))"
    )
    for arguments, code in ((["check", "A.npy"], 0), (["check", "none.npy"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code
        assert NOTICE not in done.stdout
        assert "error:" not in done.stdout


def test_compile(capsys, monkeypatch):
    used = []
    monkeypatch.setattr(compiling, "_use", lambda A, Y: used.append((A, Y)))
    code, out, err = run(capsys, "compile", "--dtype", "float32", "int8", "--dtype", "float32")
    assert code == 0
    assert err == ""
    assert [line.partition(" ")[0] for line in out.splitlines()] == [
        "compiling", "float32:", "compiling", "int8:", "They",
    ]  # fmt: skip
    assert "float32: 0 were missing, 0 s" in out
    assert len(used) == 8
    assert {A.dtype for A, _ in used if hasattr(A, "dtype")} == {np.dtype("f4"), np.dtype("i1")}


def test_compile_for_several_columns(capsys, monkeypatch):
    monkeypatch.setattr(compiling, "_use", lambda A, Y: None)
    code, out, _ = run(capsys, "compile", "--rank", "2", "--rank", "2", "1")
    assert code == 0
    assert "float64: 0 were missing" in run(capsys, "compile", "--rank", "2")[1]
    assert out.count("were missing") == 1
    wrong_use(capsys, "compile", "--rank", "0", message="must be an integer, 1 or more, got '0'")


def test_compile_for_a_dtype_that_is_none(capsys):
    wrong_use(capsys, "compile", "--dtype", "float16", message="invalid choice: 'float16'")


def test_compile_without_a_compiler(capsys, monkeypatch):
    monkeypatch.setattr(compiling.compiled_kernel("value"), "compiled", lambda: None)
    wrong_use(capsys, "compile", message="nothing is compiled while NUMBA_DISABLE_JIT is set")


def test_compile_without_a_folder(capsys, monkeypatch):
    kernel = compiling.compiled_kernel("value")
    nowhere = types.SimpleNamespace(stats=types.SimpleNamespace(cache_path=None))
    monkeypatch.setattr(kernel, "compiled", nowhere)
    wrong_use(capsys, "compile", message="no folder for compiled kernels can be written: name one")
