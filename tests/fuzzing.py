"""Hands files that were changed at random to a reader, in a process with limits.

    python tests/fuzzing.py READER… [--runs N] [--seed N] [--guided] [--corpus FOLDER]

`--guided` keeps inputs that reach new lines of the reader and changes them further. It needs
Atheris (libFuzzer): ``pip install atheris``. Without it each input is a seed with some changes.

Each input must be refused by a documented error that names the file in one line, or be read as an
independent reading reads it. It must not run code, warn, leave a file open, or take much time or
memory. The process prints ``READER: N refused, M read``, or ends with the input that broke a rule.
"""

import argparse
import collections
import faulthandler
import gc
import importlib
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

SECONDS = 60  # for one input; a machine that does other things may be slow
MEMORY = 2**29  # bytes that a reader may take for one of these files, of some kilobytes
LARGEST = 2**17  # bytes of an input


def packed(parts):
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpacked(data, count):
    """The parts of an input. Whatever the bytes are, so many parts."""
    parts = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return parts


def changed(reader, data, rng, others=None):
    """Another input, by one or a few changes of one or two of its files."""
    parts = unpacked(data, len(reader.names))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(parts))
        if others is not None and rng.random() < 0.1:
            parts[at] = others(parts[at])
        else:
            parts[at] = reader.change[at](parts[at], rng)
    return packed(part[:LARGEST] for part in parts)


class Trial:
    """Tries inputs on a reader in the working directory, and counts what came out."""

    def __init__(self, name):
        from fuzz_readers import READERS

        self.name, self.reader = name, READERS[name]
        self.counts = collections.Counter()
        self.stray = []  # errors that Python could not raise, such as warnings of open files

    def seeds(self):
        return [packed(parts) for parts in self.reader.seeds()]

    def __call__(self, data):
        from fuzz_readers import MARKER

        for name, part in zip(
            self.reader.names, unpacked(data, len(self.reader.names)), strict=True
        ):
            path = Path(name)
            path.parent.mkdir(exist_ok=True)
            if path.exists():  # an array of the last input may still be mapped
                path.unlink()
            path.write_bytes(part)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.counts[self._verdict()] += 1
        faulthandler.cancel_dump_traceback_later()
        assert not MARKER.exists(), "code of the file has run"
        assert not self.stray, self.stray
        if sum(self.counts.values()) % 500 == 0:
            self._check_files()

    def _verdict(self):
        try:
            found = self.reader.read()
        except (ValueError, OSError, TypeError) as error:
            self._check_error(error)
            return "refused"
        except MemoryError as error:
            self._check_memory(error)
            return "refused"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.reader.same(found)
        return "read"

    def _check_memory(self, error):
        assert str(error).startswith(self.reader.names), repr(error)

    def _check_error(self, error):
        message = str(error)
        kinds = (ValueError, OSError, TypeError)
        assert type(error) in (*kinds, FileNotFoundError, IsADirectoryError), repr(error)
        assert "\n" not in message, message
        names = (*self.reader.names, Path(self.reader.names[0]).parts[0], "column ")
        assert message.startswith((*names, "A ")), message
        assert len(message) < 1000, message

    def _check_files(self):
        gc.collect()
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if
                  os.path.islink(f"/proc/self/fd/{fd}")]  # fmt: skip
        left = [name for name in opened if name.startswith(os.getcwd())]
        assert not left, f"these files are open: {left}"


def limit_memory():
    """Let this process allocate so much more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def try_each(trial, runs, seed):
    """Try changed seeds, without guidance."""
    seeds, rng = trial.seeds(), random.Random(f"{trial.name} {seed}")
    for data in seeds:
        trial(data)
    limit_memory()
    for _ in range(runs):
        data = changed(trial.reader, rng.choice(seeds), rng)
        try:
            trial(data)
        except BaseException:
            Path("fault").write_bytes(data)
            print(f"the input is {os.path.abspath('fault')}", file=sys.stderr)
            raise
    return trial.counts


def instrument():
    """Have the modules of the readers tell libFuzzer which lines are reached."""
    import atheris

    with atheris.instrument_imports(include=["sparsejac._matrix", "sparsejac.io"]):
        for module in ("sparsejac.io", "sparsejac.cool"):
            importlib.import_module(module)


def guided(trial, runs, seed, corpus):
    """Try inputs by libFuzzer, which keeps those that reach new lines."""
    import atheris

    Path(corpus).mkdir(exist_ok=True)
    seeds = trial.seeds()
    for data in seeds:
        trial(data)
        Path(corpus, f"seed-{zlib.crc32(data)}").write_bytes(data)
    limit_memory()
    left = runs

    def one_input(data):
        nonlocal left
        trial(data)
        left -= 1
        if left <= 0:
            report(trial)
            sys.stdout.flush()
            os._exit(0)

    def mutate(data, most, number):
        rng = random.Random(number)
        data = rng.choice(seeds) if rng.random() < 0.3 else data  # the others are mostly refused
        result = changed(trial.reader, data, rng, lambda part: atheris.Mutate(part, LARGEST))
        return result if len(result) <= most else data

    atheris.Setup(
        [sys.argv[0], f"-seed={seed + 1}", f"-runs={2 * runs}", f"-max_len={4 * LARGEST}",
         "-rss_limit_mb=0", "-artifact_prefix=./", "-verbosity=0", "-len_control=0", corpus],
        one_input, custom_mutator=mutate)  # fmt: skip
    atheris.Fuzz()


def report(trial):
    print(f"{trial.name}: {trial.counts['refused']} refused, {trial.counts['read']} read")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="+")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--corpus", help="a folder of inputs to begin with, which grows")
    parser.add_argument("--input", type=Path, help="try this input only")
    arguments = parser.parse_args()
    given = arguments.input.read_bytes() if arguments.input else None
    corpus = os.path.abspath(arguments.corpus or "")
    folder = tempfile.mkdtemp(
        prefix="fuzzing-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    )
    os.chdir(folder)
    if arguments.guided:
        instrument()
    for name in arguments.readers:
        trial = Trial(name)
        sys.unraisablehook = lambda stray, of=trial: of.stray.append(repr(stray.exc_value))
        if given is not None:
            trial(given)
        elif arguments.guided:
            guided(trial, arguments.runs, arguments.seed, corpus if arguments.corpus else "corpus")
        else:
            try_each(trial, arguments.runs, arguments.seed)
        report(trial)
        sys.stdout.flush()
    os.chdir("/")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
