"""Each bad input is refused where it is passed: by this error, with these words, and without a
change of what was passed. The inputs are data: see `bad_inputs` and `bad_files`.
"""

import pickle
import re
import shlex
import warnings

import bad_files
import bad_inputs
import numpy as np
import pytest
import scipy.sparse

from sparsejac import cli

NOTICE = "compiling the kernels"


def pattern(words):
    """A regular expression for the words, in this order."""
    return "(?s)" + ".*".join(map(re.escape, words.split("…")))


def frozen(value):
    """The bytes of what was passed, which must stay as they are."""
    if isinstance(value, (tuple, list)):
        return [frozen(item) for item in value]
    if scipy.sparse.issparse(value):
        parts = ("data", "indices", "indptr", "coords", "row", "col", "offsets")  # no flags
        return [frozen(getattr(value, part, None)) for part in parts]
    if isinstance(value, np.ma.MaskedArray):
        return frozen(value.data), frozen(value.mask)
    if isinstance(value, np.ndarray):
        whole = pickle.dumps(value) if value.dtype == object else value.tobytes()
        return whole, value.dtype.str, value.shape, value.strides
    return repr(value)


GOOD = [vars(bad_inputs)[name] for name in ("A", "S", "X", "TARGET")]


def refuse(group):
    """Try each input of a group with each call, and return how many there were."""
    before, tried = frozen(GOOD), 0
    for bad in group.bad:
        for name, call in group.calls.items():
            error, words = bad.error, bad.but.get(name, bad.words)
            if isinstance(words, tuple):
                error, words = words
            value = bad.make()
            passed = frozen(value)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                if words is None:
                    call(value)
                else:
                    with pytest.raises(error, match=pattern(words)) as caught:
                        call(value)
                    message = str(caught.value)
                    assert "\n" not in message, (bad.what, name)
                    assert len(message) < 500, (bad.what, name)
                    tried += 1
            assert frozen(value) == passed, (bad.what, name)
    assert frozen(GOOD) == before
    return tried


NAMES = [f"{number} {group.argument}" for number, group in enumerate(bad_inputs.GROUPS)]


@pytest.mark.parametrize("group", bad_inputs.GROUPS, ids=NAMES)
def test_bad_arguments(group, tried, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried("calls with a bad input", refuse(group))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_files.make_files()

    def contents():
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    yield tmp_path
    assert contents() == before  # nothing is written, and nothing is lost


def test_bad_files(folder, tried):
    tried("calls with a bad input", sum(map(refuse, bad_files.FILES)))


def test_bad_maps(folder, tried):
    tried("calls with a bad input", sum(map(refuse, bad_files.MAPS)))


@pytest.mark.slow
def test_bad_pictures(folder, tried):
    tried("calls with a bad input", sum(map(refuse, bad_files.PICTURES)))


def test_bad_commands(folder, capsys, tried):
    for arguments, words in bad_files.COMMANDS:
        try:
            code = cli.main(shlex.split(arguments))
        except SystemExit as stop:
            code = stop.code
        lines = capsys.readouterr().err.splitlines()
        (line,) = [line for line in lines if NOTICE not in line]
        assert code == 2, arguments
        assert re.search(pattern(words), line), (arguments, line)
        assert line.startswith("sparsejac"), line
        assert "error: " in line
    tried("commands with a bad argument", len(bad_files.COMMANDS))


def test_there_are_many_bad_inputs():
    groups = [*bad_inputs.GROUPS, *bad_files.GROUPS]
    assert sum(len(group.bad) for group in groups) + len(bad_files.COMMANDS) >= 500
