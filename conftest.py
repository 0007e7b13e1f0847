"""Which modules have no doctests here."""

import importlib.util

# It needs Dask, which is an extra.
collect_ignore = [] if importlib.util.find_spec("distributed") else ["sparsejac/distributed.py"]
