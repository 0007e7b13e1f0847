"""Builders, operators, problems, fits and results that are kept, used in any order.

A result that is kept never changes: memory is recycled when nothing can reach it any more, and not
before. After each step, spare memory is overwritten, so that no result can lie in it unnoticed.
"""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest
import rank_oracle as oracle
import scipy.sparse
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sparsejac import JacobianBuilder, LeastSquares, RowSums, fit
from sparsejac._system import recycling

pytestmark = pytest.mark.usefixtures("dirty_results", "_short_collections")


@pytest.fixture(scope="module")
def _short_collections():
    """Collections leave out what was there before, which takes a third of a second otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


picks = st.integers(0, 2**16 - 1)
seeds = st.integers(0, 2**16 - 1)
# The forms that are referenced, so that later calls see changes of A, and their orders.
FORMS = {"C": "CF", "F": "CF", "strided": "CF", "csr": "C", "csc": "F", "function": "C"}
QUICK_FORMS = ("C", "F", "csr")


def small(shape, seed):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(float)


class Model:
    """A as it is now, and how it was handed over."""

    def __init__(self, form, rows, order, rank, k, seed):
        rng = np.random.default_rng(seed)
        self.form, self.rows, self.order, self.rank, self.k = form, rows, order, rank, k
        self.sparse = form in ("csr", "csc")
        self.stored = rng.random((k, k)) < 0.6 if self.sparse else np.ones((k, k), bool)
        if rows == "upper":
            self.stored = np.triu(self.stored) | np.triu(self.stored).T
        self.version = 0
        self.numbers = self.drawn(seed)
        self.given = self.handed_over()
        self.pairs = oracle.rows_of_J(self.stored, rows, order)

    def drawn(self, seed):
        B = np.where(self.stored, small((self.k, self.k), seed), 0)
        return np.triu(B) + np.triu(B, 1).T if self.rows == "upper" else B

    def handed_over(self):
        B, form = self.numbers, self.form
        if self.sparse:
            i, j = (places.astype(np.int32) for places in np.nonzero(self.stored))
            return scipy.sparse.coo_array((B[i, j], (i, j)), shape=B.shape).asformat(form)
        if form == "function":
            held = B.copy()
            self.held = held
            return lambda i0, i1: held[i0:i1]
        if form == "strided":
            return np.repeat(np.repeat(B, 2, axis=0), 3, axis=1)[::2, ::3]
        return np.array(B, order=form)

    def change(self, seed):
        """Change the numbers in place, and not the structure."""
        self.numbers, self.version = self.drawn(seed), self.version + 1
        if self.sparse:
            i = np.repeat(np.arange(self.k), np.diff(self.given.indptr))
            j = self.given.indices
            i, j = (i, j) if self.form == "csr" else (j, i)
            self.given.data[:] = self.numbers[i, j]
        else:
            (self.held if self.form == "function" else self.given)[...] = self.numbers

    def builder(self):
        return JacobianBuilder(
            self.given, rows=self.rows, order=self.order, rank=self.rank, workers=2
        )

    def columns(self, x):
        return x.reshape(self.k, self.rank or 1)

    def point(self, seed):
        return small((self.k, self.rank) if self.rank else (self.k,), seed)

    def value(self, x):
        return oracle.value(self.numbers, self.columns(x), self.pairs)

    def jacobian(self, x):
        return oracle.jacobian(self.numbers, self.columns(x), self.pairs)


class Held:
    """Something that was made of a model, which `fresh` says is still what it is."""

    def __init__(self, made, model, **more):
        self.made, self.model, self.version = made, model, model.version
        self.__dict__.update(more)

    @property
    def fresh(self):
        return self.version == self.model.version


class Kept:
    """A result, or what reaches its memory, with the bytes that it must have."""

    def __init__(self, result):
        self.result = result
        self.expected = [part.copy() for part in self.parts()]

    def parts(self):
        if scipy.sparse.issparse(self.result):
            return [self.result.data, self.result.indices, self.result.indptr]
        return [np.asarray(self.result)]

    def check(self):
        for part, expected in zip(self.parts(), self.expected, strict=True):
            np.testing.assert_array_equal(part, expected)


VIEWS = {
    "slice": lambda y: y[1:],
    "reversed": lambda y: y[::-1],
    "transposed": lambda y: y.reshape(1, -1).T,
    "bytes": lambda y: y.view(np.uint8),
    "memoryview": memoryview,
    "a part of a memoryview": lambda y: memoryview(y)[: len(y) // 2],
    "DLPack": np.from_dlpack,
    "frombuffer": lambda y: np.frombuffer(y) if y.size else y,
    "matrix": lambda y: scipy.sparse.csr_array(
        (y, np.arange(y.size), np.array([0, y.size])), shape=(1, max(y.size, 1))
    ),
}


def poison():
    """Overwrite all spare memory."""
    for reference in recycling.Recycler._all.valuerefs():
        recycler = reference()
        for owner in tuple(recycler._spare) if recycler is not None else ():
            owner.memory[...] = 0x5A


class Machine(RuleBasedStateMachine):
    forms = QUICK_FORMS
    ranks = (None,)

    def __init__(self):
        super().__init__()
        self.builders, self.operators, self.normals, self.problems = [], [], [], []
        self.matrices, self.kept, self.blocks, self.sums = [], [], [], []

    def pick(self, held, pick):
        return held[pick % len(held)]

    def keep(self, result, expected):
        """Check a result, and keep it."""
        found = result.toarray() if scipy.sparse.issparse(result) else result
        np.testing.assert_array_equal(found, expected)
        self.kept.append(Kept(result))
        del self.kept[:-30]

    # --- what is made

    @initialize(pick=picks, seed=seeds)
    def begin(self, pick, seed):
        self.new_builder(pick, seed)

    @rule(pick=picks, seed=seeds)
    def new_builder(self, pick, seed):
        form = self.forms[pick % len(self.forms)]
        orders, rows = FORMS[form], ["all", "stored", "upper"][pick // 8 % 3]
        if rows == "upper" and form == "csc":  # it is converted, so a change would not be seen
            form, orders = "csr", "C"
        order, rank = orders[pick // 32 % len(orders)], self.ranks[pick // 64 % len(self.ranks)]
        model = Model(form, rows, order, rank, [5, 6, 6, 1][pick // 256 % 4], seed)
        self.builders.append(Held(model.builder(), model))
        del self.builders[:-6]

    @rule(pick=picks, seed=seeds)
    def new_operator(self, pick, seed):
        held = self.pick(self.builders, pick)
        x = held.model.point(seed)
        op = held.made.operator(given := x.copy())
        given[...] = np.nan  # the operator has a copy
        self.operators.append(Held(op, held.model, x=x))
        del self.operators[:-6]

    @precondition(lambda self: self.operators)
    @rule(pick=picks, damping=st.sampled_from([0.0, 2.0]))
    def new_normal(self, pick, damping):
        held = self.pick(self.operators, pick)
        J = held.model.jacobian(held.x)
        N = J.T @ J + damping * np.eye(J.shape[1])
        self.normals.append(Held(held.made.normal(damping), held.model, matrix=N))
        del self.normals[:-6]

    @rule(pick=picks, seed=seeds)
    def new_hessian(self, pick, seed):
        held = self.pick(self.builders, pick)
        w, model = small((len(held.model.pairs),), seed), held.model
        H = oracle.curvature(model.numbers, (model.k, model.rank or 1), model.pairs, w)
        self.normals.append(Held(held.made.hessian(w), model, matrix=H))
        del self.normals[:-6]

    @rule(pick=picks, seed=seeds)
    def new_problem(self, pick, seed):
        model = self.pick(self.builders, pick).model
        Y = np.where(model.stored, small((model.k, model.k), seed), 0)
        Y = np.triu(Y) + np.triu(Y, 1).T if model.rows == "upper" else Y
        options = {"rows": model.rows, "order": model.order, "rank": model.rank}
        self.problems.append(Held(LeastSquares(model.given, Y, **options), model, Y=Y))
        del self.problems[:-4]

    # --- results

    @rule(pick=picks, seed=seeds)
    def value(self, pick, seed):
        held = self.pick(self.builders, pick)
        x = held.model.point(seed)
        self.keep(held.made.value(x), held.model.value(x))

    @rule(pick=picks)
    def row_pairs(self, pick):
        held = self.pick(self.builders, pick)
        pairs = np.reshape(held.model.pairs, (len(held.model.pairs), 2))
        for found, expected in zip(held.made.row_pairs(), pairs.T, strict=True):
            self.keep(found, expected)

    @rule(pick=picks, seed=seeds, of=st.sampled_from(["builder", "operator"]))
    def tocsr(self, pick, seed, of):
        held = self.pick(self.builders, pick)
        x = held.model.point(seed)
        J = held.made.tocsr(x) if of == "builder" else held.made.operator(x).tocsr()
        self.keep(J, held.model.jacobian(x))
        self.matrices.append((J, held.made))
        del self.matrices[:-6]

    @precondition(lambda self: self.matrices)
    @rule(pick=picks, which=picks, seed=seeds)
    def tocsr_into(self, pick, which, seed):
        """A matrix of this builder is rewritten. Others are refused, and stay as they are."""
        held, (J, owner) = self.pick(self.builders, pick), self.pick(self.matrices, which)
        x = held.model.point(seed)
        if owner is not held.made:
            before = Kept(J)
            with pytest.raises(ValueError, match="out must be a matrix that this builder's tocsr"):
                held.made.tocsr(x, out=J)
            before.check()
            return
        self.kept = [kept for kept in self.kept if not self.reaches(kept, J)]
        assert held.made.tocsr(x, out=J) is J
        self.keep(J, held.model.jacobian(x))

    @staticmethod
    def reaches(kept, J):
        return any(np.may_share_memory(part, J.data) for part in kept.parts())

    @precondition(lambda self: self.matrices)
    @rule(pick=picks, how=st.sampled_from(["dtype", "copy", "structure", "part", "lock"]))
    def tocsr_into_another(self, pick, how):
        """What is not a matrix of the builder any more is refused, and not written to."""
        J, owner = self.pick(self.matrices, pick)
        wrong = copy.copy(J)
        wrong.data = J.data
        if how == "dtype":
            wrong.data = J.data.astype(np.float32)
        elif how == "copy":
            wrong = J.copy()
        elif how == "structure":
            wrong.indices = J.indices.copy()
        elif how == "part":
            wrong.data = np.append(J.data, 0.0)[: max(J.nnz - 1, 0)] if J.nnz else np.zeros(1)
        else:
            wrong.data = J.data.copy()
            wrong.data.flags.writeable = False
        before = Kept(wrong)
        with pytest.raises(ValueError, match="out"):
            owner.tocsr(np.ones(J.shape[1]), out=wrong)
        before.check()

    @rule(pick=picks, seed=seeds, rows=st.integers(1, 9))
    def begin_blocks(self, pick, seed, rows):
        held = self.pick(self.builders, pick)
        x = held.model.point(seed)
        blocks = held.made.iter_csr(x, block_rows=rows)
        self.blocks.append(Held(blocks, held.model, x=x))
        del self.blocks[:-3]

    @precondition(lambda self: self.blocks)
    @rule(pick=picks)
    def next_block(self, pick):
        held = self.pick(self.blocks, pick)
        found = next(held.made, None)
        if found is None:
            self.blocks.remove(held)
        else:
            row, block = found
            self.keep(block, held.model.jacobian(held.x)[row : row + block.shape[0]])

    @precondition(lambda self: self.operators)
    @rule(pick=picks, seed=seeds, how=st.sampled_from(["@", "T", "H", "columns", "T columns"]))
    def product(self, pick, seed, how):
        held = self.pick(self.operators, pick)
        J = held.model.jacobian(held.x)
        op = held.made
        if how == "@":
            self.keep(op @ (v := small(J.shape[1], seed)), J @ v)
        elif how == "columns":
            self.keep(op @ (V := small((J.shape[1], 2), seed)), J @ V)
        else:
            w = small((len(J), 2) if how == "T columns" else len(J), seed)
            self.keep((op.H if how == "H" else op.T) @ w, J.T @ w)

    @precondition(lambda self: self.operators)
    @rule(pick=picks)
    def column_norms(self, pick):
        held = self.pick(self.operators, pick)
        J = held.model.jacobian(held.x)
        self.keep(held.made.column_norms(), np.sqrt((J * J).sum(axis=0)))

    @precondition(lambda self: any(held.fresh for held in self.normals))
    @rule(pick=picks, seed=seeds, how=st.sampled_from(["@", "toarray", "diagonal"]))
    def product_with_normal(self, pick, seed, how):
        held = self.pick([held for held in self.normals if held.fresh], pick)
        v = small(len(held.matrix), seed)
        found, expected = {
            "@": (lambda: held.made @ v, held.matrix @ v),
            "toarray": (held.made.toarray, held.matrix),
            "diagonal": (held.made.diagonal, np.diag(held.matrix)),
        }[how]
        self.keep(found(), expected)

    @precondition(lambda self: any(held.fresh for held in self.problems))
    @rule(pick=picks, seed=st.integers(0, 3))
    def residuals(self, pick, seed):
        """At few points, so that results at the last one are used again."""
        held = self.pick([held for held in self.problems if held.fresh], pick)
        model, given, x = held.model, held.made, held.model.point(seed)
        r = model.value(x) - np.array([held.Y[i, j] for i, j in model.pairs])
        J = model.jacobian(x)
        self.keep(given.fun(x), r)
        cost, gradient = given.value_and_grad(x)
        assert cost == (r @ r) / 2 == given.cost(x)
        self.keep(gradient, (J.T @ r).reshape(x.shape))
        H = J.T @ J + oracle.curvature(model.numbers, (model.k, model.rank or 1), model.pairs, r)
        self.normals.append(Held(given.hess(x), model, matrix=H))
        self.normals.append(Held(given.normal(x), model, matrix=J.T @ J))
        del self.normals[:-6]

    @precondition(lambda self: any(held.fresh for held in self.problems))
    @rule(pick=picks, seed=seeds)
    def a_fit(self, pick, seed):
        held = self.pick([held for held in self.problems if held.fresh], pick)
        model = held.model
        options = {"rows": model.rows, "order": model.order, "rank": model.rank, "max_iter": 3}
        A, Y = model.numbers.copy(), held.Y.copy()
        result = fit(model.given, held.Y, model.point(seed), **options)
        assert np.array_equal(A, model.numbers)
        assert np.array_equal(Y, held.Y)
        self.kept.append(Kept(result.x))

    @rule(pick=picks, seed=seeds)
    def row_sums(self, pick, seed):
        model = self.pick(self.builders, pick).model
        if model.rows == "upper":
            x = small(model.k, seed)
            self.keep(RowSums(model.given).value(x), x * (model.numbers @ x))

    # --- what may happen to them

    @rule(pick=picks, seed=seeds)
    def change_A(self, pick, seed):
        self.pick(self.builders, pick).model.change(seed)

    @precondition(lambda self: self.kept)
    @rule(pick=picks, count=st.integers(1, 9))
    def drop(self, pick, count):
        begin = pick % len(self.kept)
        del self.kept[begin : begin + count]

    @precondition(lambda self: self.kept)
    @rule(pick=picks)
    def drop_in_a_cycle(self, pick):
        """Then only a collection of garbage frees it."""
        cycle = [self.kept.pop(pick % len(self.kept))]
        cycle.append(cycle)

    @rule()
    def drop_matrices(self):
        self.matrices.clear()

    @rule(pick=picks)
    def drop_builder(self, pick):
        if len(self.builders) > 1:
            del self.builders[pick % len(self.builders)]

    @rule()
    def collect(self):
        gc.collect()

    @precondition(lambda self: self.kept)
    @rule(pick=picks, how=st.sampled_from(sorted(VIEWS)))
    def view(self, pick, how):
        """What reaches the memory of a result outlives the result."""
        kept = self.pick(self.kept, pick)
        result = kept.result.data if scipy.sparse.issparse(kept.result) else kept.result
        plain = type(result) is np.ndarray and result.ndim == 1 and result.dtype == np.float64
        if plain and result.flags.c_contiguous:
            self.kept.remove(kept)
            self.kept.append(Kept(VIEWS[how](result)))

    @precondition(lambda self: self.kept)
    @rule(pick=picks)
    def overwrite(self, pick):
        """A result belongs to the caller, who may write to it."""
        kept = self.pick(self.kept, pick)
        if type(kept.result) is np.ndarray and kept.result.flags.writeable:
            mine = kept.result
            self.kept = [each for each in self.kept if not self.shares(each, mine)]
            mine[...] = 7
            self.kept.append(Kept(mine))

    @staticmethod
    def shares(kept, array):
        return any(np.may_share_memory(part, array) for part in kept.parts())

    @rule(pick=picks, how=st.sampled_from(["pickle", "copy", "deepcopy"]))
    def copy_builder(self, pick, how):
        """A copy has the same A; a pickle and a deep copy have one of their own."""
        held = self.pick(self.builders, pick)
        model = held.model
        if how != "copy":
            if model.form == "function":
                return
            model = copy.copy(model)
            model.numbers, model.given = model.numbers.copy(), None
            model.change = lambda seed: None
        make = {"copy": copy.copy, "deepcopy": copy.deepcopy}.get(
            how, lambda builder: pickle.loads(pickle.dumps(builder))
        )
        if model.given is not None:
            self.builders.append(Held(make(held.made), model))

    @precondition(lambda self: self.kept)
    @rule(pick=picks)
    def pickle_result(self, pick):
        kept = self.pick(self.kept, pick)
        if not isinstance(kept.result, memoryview):
            self.kept.append(Kept(pickle.loads(pickle.dumps(kept.result))))
            for part, expected in zip(self.kept[-1].parts(), kept.expected, strict=True):
                np.testing.assert_array_equal(part, expected)

    @precondition(lambda self: self.operators)
    @rule(pick=picks, seed=seeds, count=st.integers(2, 4))
    def in_threads(self, pick, seed, count):
        """Threads make results, and drop those of this one."""
        held = self.pick(self.operators, pick)
        J, found, dropped = held.model.jacobian(held.x), [None] * count, self.kept[::3]
        del self.kept[::3]
        vectors = small((count, J.shape[1]), seed)

        def work(which):
            for _ in range(3):
                found[which] = held.made @ vectors[which]
                if dropped:
                    dropped.pop()

        threads = [threading.Thread(target=work, args=(which,)) for which in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result, v in zip(found, vectors, strict=True):
            self.keep(result, J @ v)

    @invariant()
    def kept_results_are_what_they_were(self):
        poison()
        for kept in self.kept:
            kept.check()


class AnyForm(Machine):
    forms = tuple(FORMS)
    ranks = (None, None, 2)


TestQuick = Machine.TestCase
TestAnyForm = pytest.mark.slow(AnyForm.TestCase)
TestQuick.settings = TestAnyForm.settings = settings(stateful_step_count=40)
