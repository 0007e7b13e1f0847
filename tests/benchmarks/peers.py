"""The same operations by others.

Each function takes a problem and gives {name: function}, for whatever is installed.
"""

import importlib
import warnings

import numpy as np
import scipy.sparse


def installed(name):
    """A module, or None; what it warns of is its own affair."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


def jax():
    module = installed("jax")
    if module is not None:
        module.config.update("jax_enable_x64", True)
    return module


def of_jax(A, x):
    """{operation: function from its operand to a function to time}, by JAX, jitted: dense A, or the
    stored entries of a CSR one.
    """
    module = jax()
    if module is None:
        return {}
    numpy, x = module.numpy, module.numpy.asarray(x)
    if scipy.sparse.issparse(A):
        i = np.repeat(np.arange(A.shape[0], dtype=A.indices.dtype), np.diff(A.indptr))
        shape, a = (
            (-1,),
            tuple(map(numpy.asarray, (A.data, i, A.indices))),
        )  # constants would be slow to compile
    else:
        shape, a = A.shape, numpy.asarray(A)

    def F(a, x):
        return a[0] * x[a[1]] * x[a[2]] if isinstance(a, tuple) else a * x[:, None] * x[None, :]

    def jvp(a, x, v):
        return module.jvp(lambda x: F(a, x), (x,), (v,))[1]

    def vjp(a, x, w):
        return module.vjp(lambda x: F(a, x), x)[1](w)[0]

    def prepared(function, *shape):
        function = module.jit(function)

        def prepare(operand):
            operand = numpy.asarray(
                operand.reshape(*shape, *operand.shape[1:]) if shape else operand
            )
            return lambda: function(a, x, operand).block_until_ready()

        return prepare

    value = module.jit(F)
    return {
        "value": lambda _: lambda: value(a, x).block_until_ready(),
        "matvec": prepared(jvp),
        "rmatvec": prepared(vjp, *shape),
        "normal": prepared(lambda a, x, v: vjp(a, x, jvp(a, x, v))),
        "matmat": prepared(module.vmap(jvp, (None, None, 1), -1)),
        "rmatmat": prepared(module.vmap(vjp, (None, None, -1), 1), *shape),
    }


def of_torch(A, x):
    """The same by PyTorch's function transforms, for a dense A."""
    torch = installed("torch")
    if torch is None:
        return {}
    a, x = torch.from_numpy(A), torch.from_numpy(x)

    def F(x):
        return a * x[:, None] * x[None, :]

    def matvec(v):
        v = torch.from_numpy(v)
        return lambda: torch.func.jvp(F, (x,), (v,))[1]

    def rmatvec(w):
        w = torch.from_numpy(w.reshape(A.shape))
        return lambda: torch.func.vjp(F, x)[1](w)[0]

    return {"value": lambda _: lambda: F(x), "matvec": matvec, "rmatvec": rmatvec}


def of_numpy(A, x):
    """The same by hand, dense, in as few passes as NumPy allows."""
    k = len(x)

    def matvec(v):
        result = np.outer(v, x)
        result += np.outer(x, v)
        result *= A
        return result

    def rmatvec(w):
        scaled = A * w.reshape(k, k)
        return scaled @ x + x @ scaled

    def column_norms(_=None):
        squares = A * A
        result = squares @ (x * x) + (x * x) @ squares
        result += 2 * squares.diagonal() * x * x
        return np.sqrt(result)

    def matmat(V):
        result = x[:, None, None] * V
        result += V[:, None, :] * x[:, None]
        result *= A[:, :, None]
        return result

    def rmatmat(W):
        scaled = A[:, :, None] * W.reshape(k, k, -1)
        return np.einsum("ijc,j->ic", scaled, x) + np.einsum("ijc,i->jc", scaled, x)

    operations = {
        "value": lambda _: A * np.outer(x, x), "matvec": matvec, "rmatvec": rmatvec,
        "matmat": matmat, "rmatmat": rmatmat, "column_norms": column_norms,
    }  # fmt: skip
    return {
        name: lambda operand, f=function: lambda: f(operand)
        for name, function in operations.items()
    }


def of_numpy_sparse(A, x):
    """The same by hand for the stored entries of a CSR matrix."""
    a, j = A.data, A.indices
    i = np.repeat(np.arange(A.shape[0], dtype=j.dtype), np.diff(A.indptr))

    def rmatvec(w):
        scaled = scipy.sparse.csr_array((a * w, j, A.indptr), shape=A.shape)
        return scaled @ x + scaled.T @ x

    def column_norms(_):
        squares = scipy.sparse.csr_array((a * a, j, A.indptr), shape=A.shape)
        return np.sqrt(squares @ (x * x) + squares.T @ (x * x) + 2 * squares.diagonal() * x * x)

    def matmat(V):
        return a[:, None] * (V[i] * x[j][:, None] + x[i][:, None] * V[j])

    def rmatmat(W):
        return np.stack([rmatvec(w) for w in W.T], axis=1)

    operations = {
        "value": lambda _: a * x[i] * x[j], "matvec": lambda v: a * (v[i] * x[j] + x[i] * v[j]),
        "rmatvec": rmatvec, "matmat": matmat, "rmatmat": rmatmat, "column_norms": column_norms,
    }  # fmt: skip
    return {
        name: lambda operand, f=function: lambda: f(operand)
        for name, function in operations.items()
    }


def take(others, operation, operand):
    """{name: function to time} of those that have the operation."""
    return {
        name: makers[operation](operand) for name, makers in others.items() if operation in makers
    }


# --- J as a sparse matrix -------------------------------------------------------------------------


def kronecker(A, x):
    """``diags(vec A) @ (kron(x, I) + kron(I, x))``, the textbooks' formula, in SciPy."""
    column, identity = (
        scipy.sparse.csr_array(x[:, np.newaxis]),
        scipy.sparse.eye_array(len(x), format="csr"),
    )
    return scipy.sparse.diags_array(A.ravel()) @ (
        scipy.sparse.kron(column, identity) + scipy.sparse.kron(identity, column)
    )


def triplets(a, i, j, x, shape):
    """What one writes by hand: two entries for each row of J as COO, and SciPy's conversion."""
    rows = np.arange(shape[0], dtype=i.dtype)
    entries = (
        np.concatenate([a * x[j], a * x[i]]),
        (np.concatenate([rows, rows]), np.concatenate([i, j])),
    )
    return scipy.sparse.coo_array(entries, shape=shape).tocsr()


def asdex_jacobian(A, x):
    """A function that evaluates J by asdex (colouring on JAX), its pattern and colours found
    before; or None.
    """
    module, asdex = jax(), installed("asdex")
    if module is None or asdex is None:
        return None
    a, k = module.numpy.asarray(A), len(x)

    def F(x):
        return (a * x[:, None] * x[None, :]).ravel()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jacobian = module.jit(
            asdex.jacobian_from_coloring(F, asdex.jacobian_coloring(F, module.numpy.asarray(x)))
        )
        jacobian(x).block_until_ready()

    def evaluate():
        J = jacobian(x).block_until_ready()
        positions = np.asarray(J.indices)
        return scipy.sparse.csr_array(
            (np.asarray(J.data), (positions[:, 0], positions[:, 1])), shape=(k * k, k)
        )

    return evaluate


def casadi_jacobian(A, x):
    """A function that evaluates J by CasADi (symbolic, in its virtual machine), the expression
    built before; or None.
    """
    casadi = installed("casadi")
    if casadi is None:
        return None
    k = len(x)
    symbol = casadi.SX.sym("x", k)
    F = casadi.vec((casadi.DM(A) * (symbol @ symbol.T)).T)  # CasADi stacks columns
    jacobian = casadi.Function("J", [symbol], [casadi.jacobian(F, symbol)])
    return lambda: jacobian(x).sparse().tocsr()


def write_cool(cooler, path, A, chromosome):
    """A .cool file of a symmetric matrix of counts, in bins of one length."""
    pandas = importlib.import_module("pandas")
    sizes = np.bincount(chromosome)
    names = np.array([f"chr{number + 1}" for number in range(sizes.size)])
    start = np.concatenate([np.arange(size) for size in sizes])
    bins = pandas.DataFrame(
        {"chrom": names[chromosome], "start": 1000 * start, "end": 1000 * (start + 1)}
    )
    U = scipy.sparse.triu(A).tocsr().tocoo()
    pixels = pandas.DataFrame({"bin1_id": U.row, "bin2_id": U.col, "count": U.data})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cooler.create_cooler(str(path), bins, pixels, ordered=True)
    return str(path)


def of_iced(A, kept, good_enough):
    """{"iced": function that gives x}, stopped at the first tolerance of its own at which x is good
    enough.
    """
    module = installed("iced")
    if module is None:
        return {}
    part = A[kept][:, kept].tocoo()
    part = scipy.sparse.coo_matrix((part.data, (part.row, part.col)), shape=part.shape)

    def scaled(eps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, bias = module.normalization.ICE_normalization(
                part, max_iter=10_000, eps=eps, output_bias=True
            )
        x = np.full(kept.size, np.nan)
        x[kept] = 1 / np.asarray(bias).ravel()
        rows = np.nan_to_num(x) * (A @ np.nan_to_num(x))
        return x / np.sqrt(rows[kept].mean())

    eps = next(eps for eps in 10.0 ** np.arange(0, -14, -1) if good_enough(scaled(eps)))
    return {"iced": lambda: scaled(eps)}


# --- several columns of variables -----------------------------------------------------------------


def of_rank(A, X, V):
    """{name: function that computes JᵀJ V at X}, by hand: dense A, or the stored entries of a CSR
    one.
    """
    functions = {"NumPy": _numpy_rank(A, X, V)}
    for name, make in (("JAX", _jax_rank), ("PyTorch", _torch_rank)):
        function = make(A, X, V)
        if function is not None:
            functions[name] = function
    return functions


def _triplets_of(A):
    i = np.repeat(np.arange(A.shape[0], dtype=A.indices.dtype), np.diff(A.indptr))
    return A.data * A.data, i, A.indices


def _numpy_rank(A, X, V):
    if not scipy.sparse.issparse(A):
        squares = A * A

        def dense():
            M = X @ V.T
            M += M.T.copy()
            M *= squares
            return M @ X + M.T @ X

        return dense
    squares, i, j = _triplets_of(A)

    def sparse():
        numbers = squares * (np.einsum("ec,ec->e", X[i], V[j]) + np.einsum("ec,ec->e", V[i], X[j]))
        M = scipy.sparse.csr_array((numbers, j, A.indptr), shape=A.shape)
        return M @ X + M.T @ X

    return sparse


def _jax_rank(A, X, V):
    module = jax()
    if module is None:
        return None
    numpy, k = module.numpy, A.shape[0]
    X, V = numpy.asarray(X), numpy.asarray(V)
    if scipy.sparse.issparse(A):
        a = tuple(map(numpy.asarray, _triplets_of(A)))

        def normal(a, X, V):
            squares, i, j = a
            Xi, Xj, Vi, Vj = X[i], X[j], V[i], V[j]
            numbers = (squares * (Xi * Vj + Vi * Xj).sum(1))[:, None]
            add = module.ops.segment_sum
            return add(numbers * Xj, i, k, indices_are_sorted=True) + add(numbers * Xi, j, k)
    else:
        a = numpy.asarray(A * A)

        def normal(a, X, V):
            M = a * (X @ V.T + V @ X.T)
            return M @ X + M.T @ X

    normal = module.jit(normal)
    return lambda: normal(a, X, V).block_until_ready()


def _torch_rank(A, X, V):
    torch = installed("torch")
    if torch is None:
        return None
    X, V = torch.from_numpy(X), torch.from_numpy(V)
    if not scipy.sparse.issparse(A):
        squares = torch.from_numpy(A * A)

        def dense():
            M = squares * (X @ V.T + V @ X.T)
            return M @ X + M.T @ X

        return dense
    squares, i, j = map(torch.from_numpy, _triplets_of(A))

    def sparse():
        Xi, Xj, Vi, Vj = X[i], X[j], V[i], V[j]
        numbers = (squares * (Xi * Vj + Vi * Xj).sum(1))[:, None]
        return torch.zeros_like(X).index_add_(0, i, numbers * Xj).index_add_(0, j, numbers * Xi)

    return sparse
