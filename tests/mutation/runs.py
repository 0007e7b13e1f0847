"""Runs tests with a mutant, in a process of its own that is forked from one that has loaded all.

`InPlace` puts the code of a changed function in place of the one that is loaded. `Anew` loads a
changed file: what a file does when it is imported cannot be put in place. Neither changes a file.
"""

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import linecache
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Collection
from pathlib import Path

GIBIBYTE = 2**30
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = """
    -x -q -s --tb=no --no-header --no-summary --no-showlocals -p no:cacheprovider -p no:faulthandler
    -p recorder --seconds 600 --max-versions 0 -W ignore::RuntimeWarning
    -W ignore::pytest.PytestAssertRewriteWarning
"""


def in_a_child(function, seconds):
    """Call a function in a forked process, with a pipe to which it writes the names of the tests
    that it begins.

    Returns None if it returns 0, and otherwise the name of the last test that was begun.
    """
    reader, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            os.close(reader)
            _limit(seconds)
            code = int(function(pipe))
        os._exit(code)
    os.close(pipe)
    end, status = time.monotonic() + 3 * seconds, None
    while status is None:
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = found
        elif time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        else:
            time.sleep(0.003)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what a test has started
    with open(reader) as begun:
        names = begun.read().split("\n")[:-1]
    if os.waitstatus_to_exitcode(status) == 0:
        return None
    return names[-1] if names else "import"


def _limit(seconds):
    """Set limits to what a mutant may do."""
    os.setpgid(0, 0)
    with open(os.devnull, "r+") as null:
        for stream in range(3):
            os.dup2(null.fileno(), stream)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (12 * GIBIBYTE, 12 * GIBIBYTE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Begun:
    """A plugin of pytest that writes which test begins."""

    def __init__(self, pipe):
        self._pipe = pipe

    def pytest_runtest_logstart(self, nodeid):
        os.write(self._pipe, f"{nodeid}\n".encode())


class Anew:
    """Runs of pytest in processes that load a changed file."""

    left_out: Collection[str] = ()  # tests that fail without a change

    def run(self, file, source, tests, seconds):
        return in_a_child(lambda pipe: self._child(pipe, file, source, tests), seconds)

    def _child(self, pipe, file, source, tests):
        if source is not None:
            _load_in_place(file, source)
        import pytest

        out = [f"--deselect={test}" for test in self.left_out]
        return pytest.main([*OPTIONS.split(), *out, *tests], plugins=[Begun(pipe)])


class InPlace:
    """Runs of collected tests in processes that change the code of loaded functions.

    It is a plugin of pytest: a session that collects the tests, and calls `work` in place of
    running them.
    """

    left_out: Collection[str] = ()

    def __init__(self, files, work):
        self._files, self._work, self._written = files, work, []
        self._failed = False

    def pytest_sessionstart(self):
        # `from sparsejac._kernels import generate` would first import all kernels.
        generate = importlib.import_module("sparsejac._kernels.generate")
        write = generate.written_out

        def written_out(*given):
            function = write(*given)
            self._written.append((given, function))
            return function

        generate.written_out = written_out
        for module in sys.modules["sparsejac._kernels"]._MODULES:
            importlib.import_module(f"sparsejac._kernels.{module}")
        generate.written_out = self._write = write
        assert self._written
        for file in self._files:  # what is not loaded cannot be changed
            importlib.import_module(_name(file))

    def pytest_runtestloop(self, session):
        self._items = {item.nodeid: item for item in session.items}
        self._functions = {}
        gc.collect()
        for each in gc.get_objects():
            self._note(each)
        gc.freeze()
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report):
        self._failed |= report.failed

    def _note(self, each):
        if isinstance(each, types.FunctionType):
            code = each.__code__
            if code.co_filename.startswith(f"{ROOT}/sparsejac/"):
                self._functions.setdefault(_key(code), []).append(each)

    def run(self, file, source, tests, seconds):
        items = [self._items[test] for test in tests if test in self._items]
        items += [
            item
            for test in tests
            if test not in self._items
            for name, item in self._items.items()
            if name.startswith(test)
        ]
        items = [item for item in items if item.nodeid not in self.left_out]
        return in_a_child(lambda pipe: self._child(pipe, file, source, items), seconds)

    def _child(self, pipe, file, source, items):
        gc.disable()
        if source is not None:
            self._change(file, source)
        begun = Begun(pipe)
        for item, following in zip(items, [*items[1:], None], strict=True):
            begun.pytest_runtest_logstart(item.nodeid)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return 1
        return 0

    def _change(self, file, source):
        """Put the code of a changed file in place of what is loaded."""
        path = str(ROOT / file)
        changed = {key: code for key, (_, code) in _changed(file, source).items()}
        for key, code in changed.items():
            for function in self._functions.get(key, ()):
                function.__code__ = code
        templates = [key[1] for key in changed]
        module = sys.modules[_name(file)]
        if not any(given[2].__module__ == module.__name__ for given, _ in self._written):
            return
        generate = sys.modules["sparsejac._kernels.generate"]
        generate._trees.cache_clear()
        _show_source(path, source)
        for given, function in self._written:
            if given[2].__module__ == module.__name__ and given[2].__name__ in templates:
                function.__code__ = self._write(*given).__code__


def fits_in_place(file, source):
    """Whether the code of all changed functions can be put in place.

    Without its only `super()`, a function has one variable of a closure less.
    """
    return all(
        old is not None and len(old.co_freevars) == len(new.co_freevars)
        for old, new in _changed(file, source).values()
    )


def _changed(file, source):
    """The functions that a changed file changes: {key: (code before, code after)}."""
    path = str(ROOT / file)
    new = compile(source, path, "exec", dont_inherit=True)
    old = compile(Path(path).read_text(), path, "exec", dont_inherit=True)
    before = {_key(code): code for code in _codes(old)}
    pairs = {_key(code): (before.get(_key(code)), code) for code in _codes(new)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _key(code):
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code):
    """The code of all functions in this code, without that of modules and classes."""
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            if each.co_flags & 2:  # CO_NEWLOCALS: a function
                yield each
            yield from _codes(each)


def _name(file):
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _show_source(path, source):
    """Let `inspect` see this text in place of a file."""
    linecache.cache[path] = len(source), None, source.splitlines(keepends=True), path


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a text."""

    def __init__(self, name, path, source):
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname):
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder:
    def __init__(self, name, path, source):
        self._name, self._path, self._source = name, path, source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def _load_in_place(file, source):
    """Let this process load `source` where it would load a file."""
    path = str(ROOT / file)
    sys.meta_path.insert(0, _Finder(_name(file), path, source))
    _show_source(path, source)
