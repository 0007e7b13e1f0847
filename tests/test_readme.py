"""What the README shows is what happens."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from test_cuda_solvers import LINES

from sparsejac import JacobianBuilder, cli

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
NAMES = ["ten lines", "sparse", "fit", "scaling", "function"]
CLUSTER = [code for code in PYTHON if "distributed" in code]  # test_distributed.py runs it
BASH = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]


def test_every_block_is_run_here():
    assert [language for language, _ in BLOCKS] == [
        "text",
        "bash",
        "bash",
        "python",
        "python",
        "python",
        "python",
        "python",
        "python",
        "python",
        "bash",
    ]
    assert len(CLUSTER) == 1


@pytest.mark.parametrize(
    "code",
    [each for each in PYTHON if each not in CLUSTER],
    ids=["ten lines", "sparse", "fit", "several columns", "scaling", "function"],
)
def test_python(code, capsys):
    """It runs, and prints what its comments say."""
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102  # our own README
    expected = re.findall(r"^print\(.*\) +# (.*)$", code, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected) > 0
    for line, comment in zip(printed, expected, strict=True):
        assert comment.startswith(line)


def test_picture_of_the_pattern():
    """The drawing at k = 3, from the library's own pattern."""
    ((_, drawing), *_) = BLOCKS
    J = JacobianBuilder(np.ones((3, 3))).tocsr([1.0, 1, 1])
    for r in range(9):
        i, j = divmod(r, 3)
        cells = [
            "■" if i == j == s else "i" if s == i else "j" if s == j else " " for s in range(3)
        ]
        assert f"{i} {j} {'  '.join(cells).rstrip()}" in drawing
        assert [s for s in range(3) if cells[s] != " "] == J.indices[
            J.indptr[r] : J.indptr[r + 1]
        ].tolist()


def test_commands(tmp_path, monkeypatch, capsys):
    test_cool = pytest.importorskip("test_cool", reason="contact maps are written by cooler")
    monkeypatch.chdir(tmp_path)
    scipy.io.mmwrite("A.mtx", scipy.sparse.coo_matrix(np.eye(3)))
    scipy.io.mmwrite("Y.mtx", scipy.sparse.coo_matrix(4 * np.eye(3)))
    np.save("x.npy", np.ones(3))
    np.save("A.npy", np.eye(3))
    test_cool.write("map.cool", test_cool.contacts())
    commands = [line.split("#")[0].split() for line in BASH if line.startswith("sparsejac ")]
    assert len(commands) == 6
    for _, *arguments in commands:
        assert cli.main(arguments) == 0
    assert BASH[0].endswith("sparsejac demo")
    assert BASH[1].endswith("python -m pytest -n 2")
    capsys.readouterr()


def test_solvers_on_a_gpu():
    """`test_cuda_solvers.py` runs these lines."""
    first = "`cg`, `eigsh`, `lobpcg`, if A is on a GPU"
    for name, solver in ((first, "cg"), ("`lsmr`", "lsmr")):
        assert f"\n| cupyx's {name} | `{LINES[solver]}` |\n" in TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (Path(__file__).parents[1] / target).exists()
