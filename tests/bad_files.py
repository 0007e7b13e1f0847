"""Inputs that must be refused, as in `bad_inputs`, by what reads or writes files, draws, or is a
command. The calls run in a folder in which `make_files` has written good files.
"""

# ruff: noqa: E501  # a line is an input

from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse
from bad_inputs import NO_FLAG, Bad, Group, K, S, X, at, flags, integers, numbers, options
from fuzz_readers import READERS
from scipy.optimize import OptimizeResult

from sparsejac import JacobianBuilder, cool, fit, plot, symmetric_scaling
from sparsejac.io import read_matrix, read_vector, write_csr, write_csr_blocks, write_vector

DENSE = np.ones((K, K)) + np.eye(K)
MAP = "map.cool"
BINS = 6


def make_files():
    np.save("A.npy", DENSE)
    np.save("x.npy", X)
    np.save("nan.npy", at(DENSE, (1, 2), np.nan))
    np.save("negative.npy", at(DENSE, ([1, 2], [2, 1]), -1.0))
    np.save("wide.npy", np.ones((2, 3)))
    np.save("cube.npy", np.ones((2, 2, 2)))
    np.save("short.npy", np.ones(3))
    np.save("text.npy", np.array(["a"]))
    scipy.sparse.save_npz("S.npz", S)
    scipy.io.mmwrite("A.mtx", DENSE)
    Path("A.txt").write_text("1 2\n3 4\n")
    Path("big.mtx").write_text(f"%%MatrixMarket matrix coordinate real general\n{2**63} 1 0\n")
    Path("empty.npy").touch()
    Path("folder.npz").mkdir()
    Path("full").mkdir()
    Path("full/file").touch()
    Path("cut.npy").write_bytes(Path("A.npy").read_bytes()[:150])
    Path(MAP).write_bytes(READERS["cool"].seeds()[2][0])
    Path("bad.cool").write_bytes(b"no HDF5")
    Path("bad.bed").write_text("chr1 5 x\n")
    Path("bins.matrix").write_text("1 1 5\n1 2 3\n")
    Path("bad.matrix").write_text("1 1 x\n")


# --- sparsejac.io ---------------------------------------------------------------------------------

READ = {"read_matrix": read_matrix, "read_vector": read_vector}
FILES = [
    Group("path", READ, [
        Bad("no such file", lambda: "none.npy", FileNotFoundError, "No such file…none.npy"),
        Bad("an unknown format", lambda: "A.txt", ValueError, "A.txt is of an unknown format: Matrix Market"),
        Bad("a folder called .npz", lambda: "folder.npz", (OSError, ValueError), "folder.npz"),
        Bad("sizes beyond int64", lambda: "big.mtx", ValueError, "big.mtx cannot be read as…the sizes in line 2 must be below 2**63"),
        Bad("empty", lambda: "empty.npy", ValueError, "empty.npy is empty"),
        Bad("cut", lambda: "cut.npy", ValueError, "cut.npy cannot be read as…it is truncated"),
        Bad("text in an array", lambda: "text.npy", ValueError, "text.npy cannot be read as…its dtype is <U1, which is not numeric"),
        Bad("three axes", lambda: Path("cube.npy"), ValueError, "cube.npy does not hold a"),
        Bad("None", lambda: None, TypeError, "NoneType"),
        Bad("a number", lambda: 3.5, TypeError, "float"),
    ]),
    Group("path of a vector", {"read_vector": read_vector}, [
        Bad("a matrix", lambda: "A.npy", ValueError, "A.npy does not hold a vector: its array has shape (4, 4)"),
    ]),
    Group("path of a matrix", {"read_matrix": read_matrix}, [
        Bad("a vector", lambda: "x.npy", ValueError, "x.npy does not hold a matrix: its array has shape (4,)"),
        Bad("another folder", lambda: "full", ValueError, "full is not the folder of a CSR matrix…write it anew"),
    ]),
    Group("path to write a vector", {"write_vector": lambda path: write_vector(path, X)}, [
        Bad("another suffix", lambda: "y.txt", ValueError, "the output must end in .npy, got y.txt"),
        Bad("in no folder", lambda: "none/y.npy", ValueError, "the folder of the output none/y.npy does not exist"),
        Bad("None", lambda: None, TypeError, "NoneType"),
    ]),
    Group("path to write J", {"write_csr": lambda path: write_csr(path, S)}, [
        Bad("another suffix", lambda: "J.npy", ValueError, "the output must end in .npz, got J.npy"),
        Bad("a folder", lambda: "folder.npz", ValueError, "the output folder.npz is a folder"),
        Bad("in no folder", lambda: "none/J.npz", ValueError, "the folder of the output none/J.npz does not exist"),
    ]),
    Group("path of a new folder", {"write_csr_blocks": lambda path: write_csr_blocks(path, [(0, S)], shape=(K, K))}, [
        Bad("a file", lambda: "A.npy", ValueError, "A.npy"),
        Bad("a full folder", lambda: "full", ValueError, "full"),
        Bad("in no folder", lambda: "none/J", ValueError, "none/J"),
    ]),
    Group("shape", {"write_csr_blocks": lambda shape: write_csr_blocks("J", [(0, S)], shape=shape)}, [
        Bad("a number", lambda: 4, ValueError, "shape must be (m, n), that of the whole matrix, got 4: pass builder.shape"),
        Bad("floats", lambda: (4.0, 4.0), TypeError, "shape must be an integer, 0 or more, got 4.0"),
        Bad("negative", lambda: (-4, 4), ValueError, "shape must be an integer, 0 or more, got -4"),
        Bad("more rows", lambda: (5, 4), ValueError, "blocks must cover all 5 rows"),
        Bad("fewer columns", lambda: (4, 3), ValueError, "blocks must be rows of a matrix of shape (4, 3)"),
        Bad("text", lambda: "44", ValueError, "shape must be (m, n)"),
    ]),
    Group("blocks", {"write_csr_blocks": lambda blocks: write_csr_blocks("J", blocks, shape=(K, K))}, [
        Bad("a matrix", lambda: [S], ValueError, "blocks must yield pairs of a first row and a CSR matrix…got scipy.csr_array"),
        Bad("dense", lambda: [(0, DENSE)], ValueError, "blocks must yield pairs…got int and numpy.ndarray"),
        Bad("csc", lambda: [(0, S.tocsc())], ValueError, "blocks must yield pairs…yield (first_row, matrix.tocsr())"),
        Bad("a gap", lambda: [(1, S[1:])], ValueError, "blocks must have each row once and in order, and row 0 is next"),
        Bad("two dtypes", lambda: [(0, S[:2]), (2, S[2:].astype("f4"))], ValueError, "blocks must have one dtype, float64 as the first"),
        Bad("None", lambda: None, TypeError, "NoneType"),
    ]),
]  # fmt: skip

# --- sparsejac.cool -------------------------------------------------------------------------------

BALANCE = {"balance": lambda **o: cool.balance(MAP, **o)}
ALL = {"balance_all": lambda **o: cool.balance_all(MAP, **o)}
WRITE = {
    "write_weights": lambda **o: cool.write_weights(
        MAP, **{"weight": np.ones(BINS), "stats": {}} | o
    )
}
OF_URI = {
    "read": cool.read,
    "balance": cool.balance,
    "write_weights": lambda uri: cool.write_weights(uri, np.ones(BINS), {}),
    "export_weights": lambda uri: cool.export_weights("w.tsv", uri, np.ones(BINS)),
}
MAPS = [
    Group("uri", OF_URI, [
        Bad("no such file", lambda: "none.cool", FileNotFoundError, "none.cool"),
        Bad("no HDF5", lambda: "bad.cool", ValueError, "bad.cool is not a contact map, as HDF5 cannot open it"),
        Bad("no such group", lambda: f"{MAP}::/x", ValueError, "map.cool::/x is not a contact map, as it has no group '/x'"),
        Bad("a folder", lambda: "full", IsADirectoryError, "full is a folder, and not a contact map"),
        Bad("None", lambda: None, TypeError, "NoneType"),
    ]),
    *(flags(BALANCE, name) for name in ("cis_only", "trans_only", "rescale", "store", "overwrite", "progress")),
    integers(BALANCE, "ignore_diags", "an integer, 0 or more", none=False),
    integers(BALANCE, "min_nnz", "an integer, 0 or more", none=False),
    integers(BALANCE, "max_products", none=False),
    integers(BALANCE, "workers"),
    *(numbers(BALANCE, name) for name in ("mad_max", "min_count", "tol")),
    options(BALANCE, "memory", Bad("text", lambda: "lots", TypeError, "memory must be a number of bytes, got 'lots'"),
        Bad("0", lambda: 0, ValueError, "memory must be a number of bytes, got 0")),
    options(BALANCE, "region", Bad("none such", lambda: "chrZ", ValueError, "region must be on a chromosome of map.cool, which has no 'chrZ': it has 'a', 'b'"),
        Bad("bounds that are none", lambda: "a:5-x", ValueError, "region must be a chromosome, or a part of one such as"),
        Bad("reversed", lambda: "a:20-10", ValueError, "region must hold a bin of 'a'"),
        Bad("a number", lambda: 3, ValueError, "region must be a chromosome"),
        Bad("empty", lambda: " ", ValueError, "region must be a chromosome")),
    options(BALANCE, "blacklist", Bad("too large", lambda: [6], ValueError, "blacklist must be the numbers of bins, integers from 0 to 5, got 6"),
        Bad("booleans", lambda: np.zeros(BINS, bool), ValueError, "blacklist must be the numbers of bins…pass np.flatnonzero(blacklist)"),
        Bad("floats", lambda: [1.5], ValueError, "blacklist must be the numbers of bins"),
        Bad("no such file", lambda: "none.bed", FileNotFoundError, "none.bed"),
        Bad("a bad file", lambda: "bad.bed", ValueError, "bad.bed, line 1: each line of a BED file must be")),
    options(BALANCE, "bed", Bad("of a cooler", lambda: "bad.bed", ValueError, "bed must be left out for map.cool")),
    options(BALANCE, "x0", Bad("too short", lambda: [1.0], ValueError, "x0 must"),
        Bad("text", lambda: "ones", TypeError, "x0 must be a NumPy array")),
    options(BALANCE, "support", Bad("another", lambda: "yes", ValueError, "support must be one of")),
    options({"balance": lambda **o: cool.balance(MAP, store=True, **o)}, "store_name",
        Bad("a number", lambda: 3, (TypeError, ValueError), "name"), Bad("empty", lambda: "", ValueError, "name"),
        Bad("a path", lambda: "a/b", ValueError, "name"), Bad("of the table", lambda: "start", ValueError, "start")),
    options(ALL, "blacklist", Bad("numbers", lambda: [1], TypeError, "blacklist must be a BED file")),
    options(ALL, "bed", Bad("a file", lambda: "x.bed", TypeError, "bed")),
    options(ALL, "nonsense", Bad("unknown", lambda: 1, TypeError, "nonsense")),
    options(WRITE, "weight", Bad("too short", lambda: [1.0], ValueError, "weight must be a vector of length 6, one for each bin of map.cool"),
        Bad("complex", lambda: np.ones(BINS) + 1j, TypeError, "is for real numbers, and weight is complex128"),
        Bad("text", lambda: "w", TypeError, "weight must be a NumPy array, got str")),
    options(WRITE, "stats", Bad("a list", lambda: [1], TypeError, "stats must be a mapping of attributes, got list")),
    options(WRITE, "overwrite", *(Bad(what, make, TypeError, "overwrite must be True or False") for what, make in NO_FLAG)),
    Group("path of text", {"export_weights": lambda path: cool.export_weights(path, MAP, np.ones(BINS))}, [
        Bad("another suffix", lambda: "w.txt", ValueError, "the output must end in .tsv"),
        Bad("in no folder", lambda: "none/w.tsv", ValueError, "none/w.tsv"),
    ]),
    Group("matrix of HiC-Pro", {"balance": cool.balance}, [
        Bad("a line that is none", lambda: "bad.matrix", ValueError, "bad.matrix, line 1: each line of HiC-Pro's matrix must be"),
        Bad("no such file", lambda: "none.matrix", FileNotFoundError, "none.matrix"),
    ]),
    Group("map without names", {"balance": lambda region: cool.balance("bins.matrix", region=region)}, [
        Bad("a region", lambda: "a", ValueError, "bins.matrix has numbers for its bins, and their chromosomes are needed: pass bed="),
    ]),
]  # fmt: skip

# --- sparsejac.plot -------------------------------------------------------------------------------

PICTURES = [
    Group("builder", {"pattern": plot.pattern}, [
        Bad("a matrix", lambda: DENSE, TypeError, "builder must be a JacobianBuilder, got numpy.ndarray: pass"),
        Bad("None", lambda: None, TypeError, "builder must be a JacobianBuilder, got NoneType"),
    ]),
    options({"pattern": lambda **o: plot.pattern(JacobianBuilder(DENSE), **o)}, "ax",
        Bad("text", lambda: "left", TypeError, "ax must be a matplotlib Axes, got str: take one that")),
    Group("result", {"convergence": plot.convergence}, [
        Bad("a vector", lambda: X, TypeError, "result must have the history that fit and the scalings return"),
        Bad("empty", OptimizeResult, TypeError, "result must have the history that fit and the scalings return"),
    ]),
    Group("result of a scaling", {"scaling": lambda result: plot.scaling(DENSE, result)}, [
        Bad("of a fit", lambda: fit(DENSE, DENSE), TypeError, "result must be…without x and kept"),
        Bad("of another A", lambda: symmetric_scaling(np.ones((3, 3))), ValueError, "result.x must be a vector of length 4"),
    ]),
    *(options({"scaling": lambda **o: plot.scaling(DENSE, symmetric_scaling(DENSE), **o)}, name, bad) for name, bad in [
        ("target", Bad("0", lambda: 0.0, ValueError, "target must be positive and finite")),
        ("ignore_diags", Bad("-1", lambda: -1, ValueError, "ignore_diags must be an integer, 0 or more, got -1")),
        ("pairs", Bad("cis", lambda: "cis", ValueError, "pairs must be one of")),
        ("figure", Bad("text", lambda: "wide", TypeError, "figure must be a matplotlib Figure, got str: pass")),
    ]),
]  # fmt: skip

# --- the command ----------------------------------------------------------------------------------

# arguments of the command, and parts of the line on stderr; the exit code is 2
COMMANDS = [
    ("", "required: build | check | fit"),
    ("make", "invalid choice: 'make'"),
    ("build A.npy x.npy", "required: -o/--output"),
    ("build none.npy x.npy -o J.npz", "No such file…none.npy"),
    ("build A.txt x.npy -o J.npz", "A.txt is of an unknown format"),
    ("build cut.npy x.npy -o J.npz", "cut.npy cannot be read…it is truncated"),
    ("build A.npy short.npy -o J.npz", "x must be a vector of length 4, as A is 4x4"),
    ("build A.npy A.npy -o J.npz", "A.npy does not hold a vector"),
    ("build nan.npy x.npy -o J.npz", "A must be finite, but A[1, 2] = nan"),
    ("build wide.npy x.npy -o J.npz", "A must be a square matrix, got shape (2, 3)"),
    ("build map.cool x.npy -o J.npz", "map.cool is a contact map, which only sparsejac scale takes"),
    ("build A.npy x.npy -o J.mat", "the output must end in .npz, or be the name of a new folder"),
    ("build A.npy x.npy -o none/J.npz", "the folder of the output none/J.npz does not exist"),
    ("build A.npy x.npy -o folder.npz", "the output folder.npz is a folder"),
    ("build A.npy x.npy -o full", "full"),
    ("build A.npy x.npy -o J.npz --rows lower", "argument --rows: invalid choice: 'lower'"),
    ("build A.npy x.npy -o J.npz --order A", "argument --order: invalid choice: 'A'"),
    ("build A.npy x.npy -o J.npz --memory lots", "argument --memory: must be a number of bytes, such as 512MiB or 2GB, got 'lots'"),
    ("build A.npy x.npy -o J.npz --memory 0", "must be a number of bytes"),
    ("build A.npy x.npy -o J.npz --memory=-1", "must be a number of bytes"),
    ("check none.npy", "No such file…none.npy"),
    ("check A.npy short.npy", "x must be a vector of length 4"),
    ("check A.npy short.npy --rank 2", "x must be an array of shape (4, 2), or flat with shape (8,)"),
    ("check A.npy --seed 1.5", "argument --seed: must be an integer, 0 or more, got '1.5'"),
    ("check A.npy --seed=-1", "argument --seed: must be an integer, 0 or more, got '-1'"),
    ("check wide.npy", "A must be a square matrix"),
    ("check nan.npy", "A must be finite"),
    ("check map.cool", "map.cool is a contact map"),
    ("fit A.npy", "required: Y"),
    ("fit A.npy wide.npy -o y.npy", "Y must be a 4x4 matrix as A is"),
    ("fit A.npy A.npy -o A.npy", "the output A.npy is also an input"),
    ("fit A.npy A.npy -o y.npz", "y.npz would hold a matrix X: give --rank, or a name with .npy"),
    ("fit A.npy A.npy -o y.npy --rank 0", "argument --rank: must be an integer, 1 or more, got '0'"),
    ("fit A.npy A.npy -o y.npy --rank 1.5", "argument --rank: must be an integer, 1 or more, got '1.5'"),
    ("fit A.npy A.npy -o y.npy --tol=-1", "--tol must be at least 0 and finite, got -1.0"),
    ("fit A.npy A.npy -o y.npy --tol nan", "--tol must be at least 0 and finite, got nan"),
    ("fit A.npy A.npy -o y.npy --max-iter 0", "--max-iter must be a positive integer, got 0"),
    ("fit A.npy A.npy -o y.npy --loss l2", "argument --loss: invalid choice: 'l2'"),
    ("fit A.npy A.npy -o y.npy --f-scale 0", "--f-scale must be between 1e-150 and 1e150, got 0.0"),
    ("fit A.npy A.npy -o y.npy --regularization=-1", "--regularization must be at least 0 and finite, got -1.0"),
    ("fit A.npy A.npy -o y.npy --x0 short.npy", "x0 must be a vector of length 4"),
    ("fit A.npy A.npy -o y.npy --plot y.nonsense", "the picture must end in what matplotlib can write"),
    ("fit A.npy A.npy -o y.npy --bilinear --rows upper", "is for a symmetric A"),
    ("scale negative.npy", "A must have no negative entries, but A[1, 2] = -1.0"),
    ("scale nan.npy", "A must be finite"),
    ("scale wide.npy", "A must be a square matrix"),
    ("scale A.npy --target short.npy", "target must be a number, or a vector of length 4"),
    ("scale A.npy --support yes", "argument --support: invalid choice: 'yes'"),
    ("scale A.npy --tol nan", "tol must be at least 0 and finite, got nan"),
    ("scale A.npy --max-products 0", "max-products must be a positive integer, got 0"),
    ("scale A.npy --cis-only", "--cis-only is for contact maps, and A.npy is a matrix"),
    ("scale A.npy --write", "--write is for contact maps, and A.npy is a matrix"),
    ("scale map.cool --uplo U", "--uplo is for matrices, and map.cool is a contact map"),
    ("scale map.cool --cis-only --trans-only", "not allowed with argument"),
    ("scale map.cool --region chrZ", "region must be on a chromosome of map.cool"),
    ("scale map.cool --blacklist bad.bed", "bad.bed, line 1: each line of a BED file"),
    ("scale map.cool --name w", "--name and --force say how to write: pass --write as well"),
    ("scale map.cool --all", "map.cool does not hold several maps"),
    ("scale bad.cool", "bad.cool is not a contact map, as HDF5 cannot open it"),
    ("scale bad.matrix", "bad.matrix, line 1: each line of HiC-Pro's matrix"),
    ("scale bins.matrix --cis-only", "their chromosomes are needed: pass --bed"),
    ("demo --output A.npy", "A.npy"),
    ("compile --dtype float16", "invalid choice: 'float16'"),
    ("compile --rank 0", "argument --rank: must be an integer, 1 or more, got '0'"),
]  # fmt: skip
GROUPS = [*FILES, *MAPS, *PICTURES]
