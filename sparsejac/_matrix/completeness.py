"""Checks that a dataset of HDF5 or an array of Zarr has all its data.

HDF5 and Zarr read missing data as the fill value, without an error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.signals import unless_signalled

_CELLS = 2**27  # bytes of the largest mask that marks the regions of a virtual dataset
Intervals = NDArray[np.int64]  # shape (n, 2): the first index and the end, along one axis


def check_complete(name: str, dataset: Any, hint: str = "write it anew") -> None:
    """Raise ValueError if data are missing in a dataset of h5py or an array of Zarr.

    Every other object is accepted.

    A Zarr array may lack chunks if its fill value is 0, because Zarr does not store chunks that
    equal the fill value. HDF5 stores all chunks, so each absent chunk of a dataset was not written
    or was lost.

    Parameters
    ----------
    name : str
        The name of the dataset in the message.
    dataset : object
    hint : str
        The end of the message, which says what the user can do.
    """
    if hasattr(dataset, "nchunks_initialized") and hasattr(dataset, "nchunks"):
        _check_zarr(name, dataset, hint)
    else:
        view_of = getattr(dataset, "_dset", dataset)  # h5py's astype() returns a view
        if hasattr(getattr(view_of, "id", None), "get_space_status"):
            _check_not_cut(name, view_of)
            _check_hdf5(name, view_of, hint, ())


# --- Zarr -----------------------------------------------------------------------------------------


def _check_zarr(name: str, array: Any, hint: str) -> None:
    fill = array.fill_value
    if fill is not None and np.asarray(fill).dtype.kind in "biufc" and fill == 0:
        return
    there, what, sizes = int(array.nchunks_initialized), "chunks", array.chunks
    shards = getattr(array, "shards", None)
    if shards is not None:
        # A shard is stored as a whole. Zarr counts all its chunks, also those beyond the edge.
        there //= math.prod(shard // chunk for shard, chunk in zip(shards, sizes, strict=True))
        what, sizes = "shards", shards
    wanted = math.prod(-(-size // step) for size, step in zip(array.shape, sizes, strict=True))
    if there < wanted:
        raise ValueError(
            f"{name} lacks {wanted - there} of its {wanted} {what}, which would be read as its "
            f"fill value {fill}: {hint}; Zarr does not store chunks that equal the fill value, so "
            'make the array with fill_value=0 or with config={"write_empty_chunks": True}'
        )


# --- HDF5 -----------------------------------------------------------------------------------------


def _check_not_cut(name: str, dataset: Any) -> None:
    """Refuse a file that was cut short after it was opened. HDF5 reads what it lacks as zeros.

    A file that is open for writing may end later, as HDF5 has not written all of it.
    """
    file = dataset.file
    if file.driver != "sec2" or file.mode != "r":
        return
    there, wanted = os.fstat(file.id.get_vfd_handle()).st_size, file.id.get_filesize()
    if there < wanted:
        raise ValueError(
            f"{name} is in the file {file.filename}, which has been cut short to {there} of its "
            f"{wanted} bytes: what it lacks would be read as zeros, so write it anew"
        )


def _check_hdf5(name: str, dataset: Any, hint: str, inside: tuple[tuple[str, str], ...]) -> None:
    from h5py import h5d

    if not dataset.size:  # the size is None if there is no shape
        return
    missing = f"would be read as {dataset.fillvalue}: {hint}"
    created = dataset.id.get_create_plist()
    layout = created.get_layout()
    if layout == h5d.VIRTUAL:
        _check_virtual(name, dataset, missing, hint, inside)
    elif layout == h5d.CHUNKED:
        there = dataset.id.get_num_chunks()
        wanted = math.prod(
            -(-size // chunk)
            for size, chunk in zip(dataset.shape, created.get_chunk(), strict=True)
        )
        if there < wanted:
            raise ValueError(
                f"{name} lacks {wanted - there} of its {wanted} chunks, which {missing}"
            )
    elif created.get_external_count():
        _check_external(name, dataset, missing)
    elif dataset.id.get_space_status() == h5d.SPACE_STATUS_NOT_ALLOCATED:
        raise ValueError(f"{name} was made but never written, and {missing}")


def _check_external(name: str, dataset: Any, missing: str) -> None:
    """Check the external files of a contiguous dataset. HDF5 reads missing parts as zeros."""
    access = dataset.id.get_access_plist()
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX") or _text(access.get_efile_prefix())
    folder = Path(_expanded(prefix, dataset))
    left = dataset.size * dataset.id.get_type().get_size()
    for file, offset, size in dataset.external:
        part = min(size, left)  # the size of the last file may be unlimited
        path = folder / file
        found = path.stat().st_size if path.is_file() else -1
        if part and found < offset + part:
            state = (
                "is missing" if found < 0 else f"has {found} bytes where {offset + part} are needed"
            )
            raise ValueError(
                f"{name} has its numbers in the file {path}, which {state}; they {missing}"
            )
        left -= part


def _check_virtual(
    name: str, dataset: Any, missing: str, hint: str, inside: tuple[tuple[str, str], ...]
) -> None:
    """Check that each source exists and is complete, and that all together cover the dataset."""
    here = (os.path.realpath(dataset.file.filename), dataset.name)
    if here in inside:
        raise ValueError(f"{name} is a virtual dataset that has itself as a source: {hint}")
    regions: list[list[Intervals]] = []
    for source in dataset.virtual_sources():
        region = _intervals(source.vspace, dataset.shape)
        unlimited = _unlimited_axis(source.vspace)
        names = source.file_name, source.dset_name
        count = 1
        # %b stands for the number of the block.
        if unlimited is not None and any("%b" in text for text in names):
            count = len(region[0][unlimited])
        for number in range(count):
            file_name, source_name = (
                text.replace("%b", str(number)).replace("%%", "%") for text in names
            )
            what = (
                f"its source {source_name!r} in "
                f"{dataset.file.filename if file_name == '.' else file_name}"
            )
            with _Source(dataset, file_name, source_name) as found:
                if found is None:
                    raise ValueError(
                        f"{name} is a virtual dataset, and {what} is missing, so that part "
                        f"{missing}"
                    )
                if not _fits(source, found.shape):
                    raise ValueError(
                        f"{name} is a virtual dataset, and {what} has another shape by now, "
                        f"{found.shape}; the rest {missing}"
                    )
                _check_hdf5(
                    f"{name} is a virtual dataset, and {what}", found, hint, (*inside, here)
                )
                axis = _unlimited_axis(source.src_space)
                if unlimited is not None and axis is not None:
                    # The region grows with the source.
                    (box,) = _intervals(source.src_space, found.shape)
                    length = int((box[axis][:, 1] - box[axis][:, 0]).sum())
                    region[0][unlimited] = _first(region[0][unlimited], length)
        regions += region
    if not _covered(dataset.shape, regions):
        raise ValueError(
            f"{name} is a virtual dataset, and its sources do not cover all of it; the rest "
            f"{missing}"
        )


class _Source:
    """Opens a source of a virtual dataset for a `with` block; None if it is missing."""

    def __init__(self, dataset: Any, file_name: str, source_name: str) -> None:
        self._dataset, self._file_name, self._source_name = dataset, file_name, source_name
        self._file: Any = None

    def __enter__(self) -> Any:
        import h5py

        if self._file_name == ".":
            file = self._dataset.file
        else:
            for path in _candidates(self._dataset, self._file_name):
                try:
                    self._file = h5py.File(path, "r")
                    break
                except unless_signalled(OSError):  # HDF5 then tries the next path
                    continue
            file = self._file
        try:
            found = None if file is None else file[self._source_name]
        except unless_signalled(KeyError, OSError, RuntimeError):
            found = None  # the source is missing, or a broken link
        return found if isinstance(found, h5py.Dataset) else None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _candidates(dataset: Any, file_name: str) -> Iterator[Path]:
    """Yield the paths at which HDF5 searches for the file of a source, in its order."""
    folder_of_file = Path(dataset.file.filename).parent
    path = Path(file_name)
    if path.is_absolute():
        yield path
        path = Path(path.name)
    environment = os.environ.get("HDF5_VDS_PREFIX", "")
    prefix = _text(dataset.id.get_access_plist().get_virtual_prefix())
    for folder in (*environment.split(os.pathsep), prefix):
        if folder:
            yield Path(_expanded(folder, dataset)) / path
    yield folder_of_file / path
    yield path
    yield Path(os.path.realpath(dataset.file.filename)).parent / path


def _text(value: Any) -> str:
    return os.fsdecode(value) if value else ""


def _expanded(prefix: str, dataset: Any) -> str:
    origin = str(Path(dataset.file.filename).absolute().parent)
    return origin + prefix[len("${ORIGIN}") :] if prefix.startswith("${ORIGIN}") else prefix


# --- regions of a virtual dataset -----------------------------------------------------------------


def _regular(space: Any) -> Any:
    """Start, stride, count and block of a selection, or None if it is not regular."""
    from h5py import h5s

    return (
        space.get_regular_hyperslab()
        if space.get_select_type() == h5s.SEL_HYPERSLABS and space.is_regular_hyperslab()
        else None
    )


def _unlimited_axis(space: Any) -> int | None:
    from h5py import h5s

    regular = _regular(space)
    if regular is not None:
        for axis, (count, block) in enumerate(zip(regular[2], regular[3], strict=True)):
            if h5s.UNLIMITED in (count, block):
                return axis
    return None


def _intervals(space: Any, shape: tuple[int, ...]) -> list[list[Intervals]]:
    """The selection as products of intervals, one for each axis, within `shape`."""
    from h5py import h5s

    kind = space.get_select_type()
    if kind == h5s.SEL_NONE:
        return []
    if kind == h5s.SEL_ALL:
        return [[np.array([[0, size]]) for size in shape]]
    regular = _regular(space)
    if regular is None:
        # HDF5 gives the last index of a block, and not its end.
        blocks = np.asarray(space.get_select_hyper_blocklist(), np.int64)
        return [
            [np.array([[lo, hi + 1]]) for lo, hi in zip(*block, strict=True)] for block in blocks
        ]
    box = []
    for size, start, stride, count, block in zip(shape, *regular, strict=True):
        number = max(0, -(-(size - start) // stride)) if count == h5s.UNLIMITED else int(count)
        length = max(0, size - start) if block == h5s.UNLIMITED else block
        starts = start + stride * np.arange(number, dtype=np.int64)
        ends = np.minimum(starts + length, size)
        box.append(np.stack([starts, ends], axis=1)[starts < size])
    return [box]


def _first(intervals: Intervals, length: int) -> Intervals:
    """The first intervals, up to the total length `length`."""
    before = np.cumsum(intervals[:, 1] - intervals[:, 0]) - (intervals[:, 1] - intervals[:, 0])
    ends = np.minimum(intervals[:, 1], intervals[:, 0] + np.maximum(length - before, 0))
    return np.stack([intervals[:, 0], ends], axis=1)


def _fits(source: Any, shape: tuple[int, ...]) -> bool:
    """Whether the selection in a source lies within the present shape of the source."""
    from h5py import h5s

    space = source.src_space
    kind = space.get_select_type()
    if kind == h5s.SEL_NONE or _unlimited_axis(space) is not None:
        return True
    if kind == h5s.SEL_ALL:  # HDF5 does not store the shape that the source had
        return _unlimited_axis(
            source.vspace
        ) is not None or source.vspace.get_select_npoints() == math.prod(shape)
    ends = space.get_select_bounds()[1]
    return len(ends) == len(shape) and all(
        end < size for end, size in zip(ends, shape, strict=True)
    )


def _covered(shape: tuple[int, ...], regions: list[list[Intervals]]) -> bool:
    """Whether the regions cover the whole shape.

    Their edges divide the shape into cells. A mask of the cells marks the regions.
    """
    edges = [
        np.unique(np.concatenate([[0, size], *(region[axis].ravel() for region in regions)]))
        for axis, size in enumerate(shape)
    ]
    edges = [
        lines[(lines >= 0) & (lines <= size)] for lines, size in zip(edges, shape, strict=True)
    ]
    if math.prod(lines.size - 1 for lines in edges) > _CELLS:
        return False
    marked = np.zeros([lines.size - 1 for lines in edges], np.bool_)
    for region in regions:
        where = []
        for lines, intervals in zip(edges, region, strict=True):
            change = np.zeros(lines.size, np.int64)
            np.add.at(change, np.searchsorted(lines, intervals[:, 0]), 1)
            np.add.at(change, np.searchsorted(lines, intervals[:, 1]), -1)
            where.append(np.flatnonzero(np.cumsum(change)[:-1] > 0))
        marked[np.ix_(*where)] = True
    return bool(marked.all())
