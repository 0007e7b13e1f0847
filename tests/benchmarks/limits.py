"""What moving the bytes takes, on one thread and on two."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

TWO_THREADS_FROM = 1000  # k below which they would measure how long a thread takes to wake up
_pool = ThreadPoolExecutor(1)


def on_two_threads(function, *arrays):
    """Call the function with one half of each array and with the other, at the same time."""
    middle = len(arrays[0]) // 2
    other = _pool.submit(function, *(array[middle:] for array in arrays))
    function(*(array[:middle] for array in arrays))
    other.result()


def two_threads(k, limit):
    """{name: function} where two threads are worth measuring."""
    return limit if k >= TWO_THREADS_FROM else {}


def copied(A):
    """A function that copies A into fresh memory on two threads."""

    def copy():
        result = np.empty_like(A)
        on_two_threads(np.copyto, result, A)
        return result

    return copy


def into_fresh_memory(builder, product):
    """A product of this builder without the memory of the result before it."""

    def run():
        builder._rows.results.free()
        return product()

    return run


def filled(sizes):
    for size, dtype in sizes:
        np.empty(size, dtype).fill(1)


def filled_on_two_threads(sizes):
    for size, dtype in sizes:
        on_two_threads(lambda array: array.fill(1), np.empty(size, dtype))
