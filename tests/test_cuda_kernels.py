"""The kernels for a GPU: CUDA's own compiler takes all of them, and the checks notice each fault.

See `cuda/cuda_checks.py`.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_checks
import numpy as np
import pytest
import scipy.sparse
from cuda_checks import (
    check_least_squares,
    check_maps,
    check_products,
    check_row_sums,
    instantiations,
    matrix,
    on_gpu,
)
from support import integers

from sparsejac import JacobianBuilder, LeastSquares, RowSums
from sparsejac._backends import cuda, cuda_device, cuda_sums, cuda_targets

fibers, gpu = cuda_checks.fibers, cuda_checks.gpu  # fixtures


# --- NVRTC, which compiles for a GPU where there is none


def nvrtc():
    """The library of NVIDIA's wheel, or that of CuPy's CUDA."""
    try:
        found = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip("the wheel nvidia-cuda-nvrtc-cu12 is not installed")
    (folder,) = found.submodule_search_locations
    return ctypes.CDLL(str(next(Path(folder).glob("lib/libnvrtc.so.1[0-9]"))))


@pytest.mark.slow
def test_nvrtc_compiles_every_kernel():
    library, program, names = nvrtc(), ctypes.c_void_p(), instantiations()
    source = cuda_device._source().encode()
    none = (ctypes.c_char_p * 0)()
    assert not library.nvrtcCreateProgram(
        ctypes.byref(program), source, b"kernels.cu", 0, none, none
    )
    for name in names:
        assert not library.nvrtcAddNameExpression(program, name.encode())
    options = [*cuda_device._OPTIONS, "--gpu-architecture=compute_70"]
    options = [option.encode() for option in options]
    failed = library.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    lowered = ctypes.c_char_p()
    for name in names:  # each was compiled
        assert not library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)), name
    library.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.mark.slow
def test_every_kernel_that_is_launched_is_in_the_list(fibers):
    for form in ("dense", "sparse"):
        for dtype in (np.float64, np.float32):
            A = matrix(9, form, dtype, symmetric=True)
            check_maps(A, "stored")
            check_products(A, "upper")
            for y_dtype in (np.float64, np.float32):
                check_least_squares(A, A.astype(y_dtype), "stored")
            check_row_sums(A)
            cuda.CudaBackend.positive_entries(JacobianBuilder(on_gpu(A), rows="stored")._rows)
    assert {*fibers.launched} <= {*instantiations()}


# --- deliberate faults


def dense_maps():
    check_maps(matrix(33, "dense"), "all")


def sparse_maps():
    check_maps(matrix(33, "sparse"), "all")


def upper_maps():
    check_maps(matrix(33, "dense", symmetric=True), "upper")


def residuals():
    A, Y = (matrix(70, "dense", symmetric=True, seed=seed) for seed in (0, 1))
    check_least_squares(A, Y, "stored")


def sparse_residuals():
    A = matrix(70, "sparse")
    check_least_squares(A, 2 * A, "stored")


def many_scalars():
    A = matrix(2100, "sparse")[::-1, ::-1].tocsr()  # the last rows are empty
    A.sort_indices()
    here, there = LeastSquares(A, 2 * A), LeastSquares(on_gpu(A), on_gpu(2 * A))
    x = integers((2100,), seed=1)
    assert there.cost(x) == here.cost(x)


def upper_products():
    check_products(matrix(33, "dense", symmetric=True), "upper")


def dense_products():
    check_products(matrix(33, "dense"), "all")


def wide_products():
    A = matrix(1030, "dense", symmetric=True)
    x = integers((1030,), seed=1)
    for rows in ("stored", "upper"):
        here, there = (JacobianBuilder(put(A), rows=rows) for put in (np.asarray, on_gpu))
        one, other = here.operator(x).normal(), there.operator(x).normal()
        np.testing.assert_array_equal(one @ x, other @ x)


def sparse_products():
    check_products(matrix(33, "sparse"), "stored")
    check_products(matrix(33, "sparse", symmetric=True), "upper")


def symmetric_rows():
    for form in ("dense", "sparse"):
        check_row_sums(matrix(33, form, symmetric=True))
        check_row_sums(matrix(33, form, symmetric=True), groups=np.arange(33) // 7, pairs="within")


def checks():
    for put in (np.asarray, scipy.sparse.csr_array):
        for place in ((30, 2), (2, 30), (69, 68)):
            A = matrix(70, "dense", symmetric=True, random=True)
            A[place] = 5
            with pytest.raises(ValueError, match="A must be symmetric"):
                RowSums(on_gpu(put(A)))
            A[place] = np.nan
            with pytest.raises(ValueError, match="finite"):
                JacobianBuilder(on_gpu(put(A)))
        A = matrix(70, "dense", symmetric=True, random=True)
        A[30, 2] *= 1 + 1e-14
        A[7, 5], A[5, 7] = 1e-14, 0  # the second one is not stored, and a greater column is
        RowSums(on_gpu(put(A)))


def nan_is_the_largest():
    A = matrix(33, "dense")
    A[5, 7] = np.nan
    there = JacobianBuilder(on_gpu(A), check_finite=False)
    rows, columns = there.max_abs(np.ones(33))
    assert np.isnan(rows[5])
    assert np.isnan(columns[7])
    assert np.isnan(rows).sum() == np.isnan(columns).sum() == 1


MUTANTS = [
    # of maps
    (dense_maps, "return a * (xi * xj);", "return (a * xi) * xi;"),
    (dense_maps, "a * (vi * xj + xi * vj)", "a * (vi * xj + vi * vj)"),
    (dense_maps, "c = e - q * columns", "c = 0"),
    (dense_maps, "2 * (a * x[i])", "a * x[i]"),
    (dense_maps, "bool below = j < i;", "bool below = false;"),
    (dense_maps, "o -= diagonal[i + 1] > diagonal[i] && j > i;", ""),
    (dense_maps, "if (r > m) return;", "if (r >= m) return;"),
    (sparse_maps, "implicit ? i * k + j : first[i] + q", "first[i] + q"),
    (sparse_maps, "if (implicit && (p >= hi[i] || indices[p] != j)) return;", ""),
    (upper_maps, "first[i] + q", "i * k + j"),
    (residuals, "return a * (xi * xj) - y;", "return a * (xi * xj) + y;"),
    (upper_products, "by == BY_ROW ? first[i] + p - lo[i]", "by == BY_ROW ? p"),
    # of edge functions
    (residuals, "double r = a * (xi[0] * xj[0]) - y", "double r = a * (xi[0] * xj[0])"),
    (residuals, "a * (a * (2.0 * xi[0] * xj[0]) - y)", "a * (a * (xi[0] * xj[0]) - y)"),
    (residuals, "t * xj[1], to_j[0] = t * xi[1]", "t * xj[1], to_j[0] = t * xj[1]"),
    (residuals, "more[2] = fabs(t)", "more[2] = t"),
    (dense_products, "double t = a * w;", "double t = a;"),
    (dense_products, "fabs(a) * (xi[0] * xj[0])", "a * (xi[0] * xj[0])"),
    (nan_is_the_largest, "t > s || t != t ? t : s", "t > s ? t : s"),
    # of sums over tiles
    (
        dense_products,
        "combined<Edge>(t, __shfl_down_sync(ALL, t, step));",
        "__shfl_down_sync(ALL, t, step);",
    ),
    (dense_products, "step > 0; step /= 2)\n    t =", "step > 1; step /= 2)\n    t ="),
    (dense_products, "if (lane == 0) of_warps[i - i0]", "of_warps[i - i0]"),
    (
        dense_products,
        "lo, first, k) * stride] : 0;\n      Edge::edge(data[p], y, xi",
        "lo, first, k)] : 0;\n      Edge::edge(data[p], y, xi",
    ),
    (dense_products, "if (own && on_diagonal)", "if (own && false)"),
    (dense_products, "w < WARPS; ++w) t = combined", "w < WARPS - 7; ++w) t = combined"),
    (wide_products, "if (j < left || j >= right) continue;", "if (j >= right) continue;"),
    (wide_products, "if (half && on_diagonal) to_j[o] = 0;", ""),
    (wide_products, "n < across; ++n", "n < 1; ++n"),
    (wide_products, "n < down; ++n", "n < down - 1; ++n"),
    (wide_products, "I64 c0 = tile % across * COLUMNS;", "I64 c0 = 0;"),
    (wide_products, "int visited = 0;\n", "int visited = 0; if (threadIdx.x > 0) i0 = i1;\n"),
    (residuals, "half && on_diagonal ? 0.5 * more[s] : more[s]", "more[s]"),
    (many_scalars, "n < count; n += THREADS) t += parts", "n < count; n += THREADS) t = parts"),
    # of barriers
    (residuals, "[s][warp] = t;\n  }\n  __syncthreads();", "[s][warp] = t;\n  }"),
    (
        many_scalars,
        "__syncthreads();\n  if (threadIdx.x > 0) return;\n  t",
        "if (threadIdx.x) return;\n  t",
    ),
    (many_scalars, "[n][warp] = t;\n  }\n  __syncthreads();", "[n][warp] = t;\n  }"),
    (checks, "__syncthreads();\n    for (int r", "for (int r"),
    (checks, "}\n    __syncthreads();\n  }", "}\n  }"),
    (checks, "of_warps[warp] = best;\n  __syncthreads();", "of_warps[warp] = best;"),
    # of sums over sparse rows
    (sparse_products, "if (p < lo[i] || p >= hi[i]) continue;", ""),
    (sparse_products, "total[o] = combined<Edge>(total[o], to_j[o]);", ";"),
    (sparse_products, "to_i[o] += begin ? to_i[o] + to_j[o] : to_i[o];", ""),
    (sparse_residuals, "for (int n = 0; n < SCALARS; ++n) sums[n] += more[n];", ";"),
    (sparse_residuals, "scalars[(I64)blockIdx.x * SCALARS + threadIdx.x]", "scalars[threadIdx.x]"),
    (symmetric_rows, "if (without && j == s) continue;", ""),
    (symmetric_rows, "lower_bound(indices, lo[i], indptr[i + 1], right[i])", "indptr[i + 1]"),
    # of checks
    (checks, "bad += a - a != 0 ? 1 : 0", "bad += a != a ? 0 : 0"),
    (checks, "j0 <= i0; j0 += SIDE", "j0 < i0; j0 += SIDE"),
    (checks, "return !(fabs(a - b) <= allowed);", "return false;"),
    (checks, "if (!largest) return true;", "if (!largest) return false;"),
    (checks, "relative * (largest[i]", "0 * (largest[i]"),
    (checks, "mirror[lane][r], largest", "mirror[r][lane], largest"),
    (checks, "q < hi[j] && indices[q] == i;", "q < hi[j];"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "old", "new"),
    [pytest.param(*each, id=f"{n} {each[0].__name__}") for n, each in enumerate(MUTANTS)],
)
def test_a_deliberate_fault_is_noticed(fibers, check, old, new):
    source = cuda_device._source()
    assert old in source
    fibers.source = source.replace(old, new, 1)
    for order in (1, 0, 2):
        fibers.order = order
        try:
            check()
        except (AssertionError, pytest.fail.Exception, RuntimeError, ValueError):
            return
    pytest.fail("no check has noticed it")


@pytest.mark.slow
@pytest.mark.parametrize("check", list(dict.fromkeys(each[0] for each in MUTANTS)))
def test_the_checks_themselves(gpu, check):
    """They pass with the kernels as they are."""
    check()


@pytest.mark.slow
def test_a_barrier_that_some_threads_do_not_reach(fibers):
    fibers.source = cuda_device._source().replace(
        "  visited = __syncthreads_or(visited);",
        "  if (threadIdx.x) visited = __syncthreads_or(visited);",
    )
    with pytest.raises(RuntimeError, match="not all threads reach a barrier"):
        dense_products()


# --- memory


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_beside_a_large_matrix(fibers, monkeypatch, dtype):
    """A pass over k = 30 000 takes at most 3 % of A. Nothing is computed here."""
    import cupy

    k, taken = 30_000, []

    def empty(of, what, shape, dtype, **_):
        taken.append(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        return cupy.empty(0 if taken[-1] > 2**22 else shape, dtype)

    A = cupy.ndarray(np.empty((k, k), dtype))  # it is never touched
    monkeypatch.setattr(cuda_device.Gpu, "empty", empty)
    monkeypatch.setattr(cuda_device.Gpu, "run", lambda *_: None)
    rows = JacobianBuilder(A, check_finite=False)._rows
    for kernel, operation in cuda_sums.REDUCTIONS.items():
        taken.clear()
        target = cuda_targets.CudaTarget(A, np.int32(0), A.dtype) if operation.aligned else None
        cuda_sums.sums(rows, operation, (np.ones(k), np.ones(k)), target)
        assert 0 < sum(taken) <= 0.03 * A.nbytes, kernel


# --- a card


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool):
    with cuda_checks.card():
        if shutil.which("compute-sanitizer") is None:
            pytest.skip("compute-sanitizer is not installed")
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        command += ["-m", "pytest", "-q", "-m", "gpu", "-k", "dense_problem or types", "--whole"]
        here = Path(__file__).parent
        subprocess.run(
            [*command, here / "test_cuda.py"], check=True, cwd=here.parent, env=os.environ
        )
