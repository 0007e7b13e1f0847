"""A cluster within this process, for the cross product of tests: see `_backends.cluster`."""

import itertools
import pickle

import numpy as np

from sparsejac._backends.cluster import ClusterBackend
from sparsejac._backends.cluster_parts import make_part
from sparsejac._backends.cluster_source import ClusterSource


class Handle:
    """An object on a worker, or the error of the task that should have made it."""

    def __init__(self, value=None, error=None):
        self.value, self.error = value, error


class Array:
    """An array in blocks on the workers."""

    def __init__(self, blocks, shape, dtype):
        self.handles, self.shape, self.dtype, self.ndim = blocks, shape, dtype, len(shape)

    def compute(self):
        return np.concatenate([handle.value for handle in self.handles])


def moved(value):
    """A copy as a network delivers it: read-only, and at an odd address."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        memory = bytearray(value.nbytes + 1)
        copy = np.frombuffer(memory, np.uint8, value.nbytes, 1).view(value.dtype)
        copy = copy.reshape(value.shape)
        copy[...] = value
        copy.flags.writeable = False
        return copy
    return pickle.loads(pickle.dumps(value))


def nbytes(value):
    """The bytes of all arrays in a result."""
    if type(value) in (list, tuple):
        return sum(map(nbytes, value))
    return getattr(value, "nbytes", 0)


class InProcess:
    threads = 1

    def __init__(self):
        self.calls = self.sent = self.received = 0  # tasks, and bytes of arrays

    def put(self, part):
        return Handle(moved(part))

    def send(self, x):
        self.sent += getattr(x, "nbytes", 0)
        return Handle(moved(x))

    def call(self, function, part, *args):
        self.calls += 1
        try:
            return Handle(function(self._value(part), *map(self._value, args)))
        except Exception as error:  # noqa: BLE001  # a worker sends any
            return Handle(error=error)

    def _value(self, argument):
        if isinstance(argument, Handle):
            if argument.error is not None:
                raise argument.error
            return argument.value
        if isinstance(argument, (list, tuple)) and type(argument) in (list, tuple):
            return type(argument)(map(self._value, argument))
        return argument

    def gather(self, handles):
        found = [moved(self._value(handle)) for handle in handles]
        self.received += sum(map(nbytes, found))
        return found

    def is_array(self, value):
        return isinstance(value, Array)

    def array(self, blocks, lengths, like):
        found = [self._value(block) for block in blocks]
        assert [len(block) for block in found] == list(lengths)
        assert all(block.dtype == like.dtype for block in found)
        return Array(blocks, (sum(lengths), *like.shape[1:]), like.dtype)

    def blocks(self, array, lengths):
        whole, ends = array.compute(), np.cumsum(lengths)
        return [Handle(moved(whole[end - n : end])) for end, n in zip(ends, lengths, strict=True)]


def rows(A, bounds):
    """A matrix in memory as parts between these bounds of rows."""
    transport, k = InProcess(), A.shape[0]
    parts = [
        transport.call(make_part, Handle(moved(A[i0:i1])), i0, k, "A")
        for i0, i1 in itertools.pairwise(bounds)
    ]
    return ClusterSource(transport, parts, ClusterBackend)
