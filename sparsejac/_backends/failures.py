"""Failures of a backend that is not in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BackendError(RuntimeError):
    """What holds A has failed, and no result is known."""


class BackendTimeoutError(BackendError, TimeoutError):
    """What holds A did not answer in time."""


class LostPartsError(BackendError):
    """A part of A, or a vector that was sent, is gone."""


class WorkersDiedError(BackendError, MemoryError):
    """Workers died one after the other. Most likely they have too little memory."""


@contextmanager
def last_x_saved(last: Callable[[], NDArray[Any] | None]) -> Iterator[None]:
    """Save the last x of a solver if the backend fails, and name its file in the message."""
    try:
        yield
    except BackendError as error:
        x = last()
        if x is None:
            raise
        with tempfile.NamedTemporaryFile(
            prefix="sparsejac-x-", suffix=".npy", delete=False
        ) as file:
            np.save(file, x)
        saved = f'{error}; the last x is kept: x0=np.load("{file.name}") goes on from it'
        raise type(error)(saved) from error
