"""Each bad input is refused where it is passed: by this error, with these words, and without a
change of what was passed. The inputs are data: see `bad_inputs` and `bad_files`.
"""

import ast
import pickle
import re
import shlex
import warnings
from pathlib import Path

import bad_files
import bad_inputs
import numpy as np
import pytest
import scipy.sparse

import sparsejac
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


# --- each message of the package occurs in a test -------------------------------------------------

PACKAGE, TESTS = Path(sparsejac.__file__).parent, Path(__file__).parent
HOLE = "\0"  # where a message has a value
SHORTEST = 10  # characters of a text that tells a message from others


def text_of(node):
    """The text of a string, with holes for its values; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(p.value if isinstance(p, ast.Constant) else HOLE for p in node.values)
    return None


def messages():
    """The messages of errors that are made in the package, with the places."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if re.search(r"(Error|Exception)$", node.func.id):
                for argument in node.args[-1:]:
                    if (text := text_of(argument)) is not None:
                        yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def texts_of_tests():
    """All texts in the tests, without the marks of regular expressions."""
    for path in sorted([*TESTS.glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if (text := text_of(node)) is not None:
                for part in re.split(r"(?:\.\*\??|…|\||\0|\.\+|\.\{[\d,]+\})", text):
                    plain = re.sub(r"\\(.)", r"\1", part).strip()
                    yield plain.strip("()^$")


def occurs(message, quoted):
    """Whether the tests have three words in a row of a message, or all of a shorter part."""
    for part in message.split(HOLE):
        words = part.split()
        for i in range(max(len(words) - 2, 1)):
            text = " ".join(words[i : i + 3])
            if len(text) >= SHORTEST and text in quoted:
                return True
    return all(len(part.strip()) < SHORTEST for part in message.split(HOLE))


@pytest.mark.slow
def test_each_message_occurs_in_a_test():
    """A message that has no text of some length between its values is not compared."""
    quoted = " ".join("\n".join(texts_of_tests()).split())
    found = dict(messages())
    assert len(found) > 200
    lacking = {place: text for place, text in found.items() if not occurs(text, quoted)}
    assert not lacking
