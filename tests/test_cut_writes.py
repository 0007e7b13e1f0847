"""Each write ends early: by a kill, by a full disk, by a lock. Files are old or new, and whole.

A child is forked for each step of each writer. There the step kills the process, or fails.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import in_process
import numpy as np
import pytest
from failing import Failure, Steps
from support import slow

from sparsejac import JacobianBuilder, cli, io

cooler = pytest.importorskip("cooler", reason="contact maps are made by cooler")
pd = pytest.importorskip("pandas", reason="cooler brings pandas")

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
K = 30


# --- writers --------------------------------------------------------------------------------------


def matrix(seed):
    B = np.triu(np.random.default_rng(seed).integers(1, 9, (K, K))).astype(float)
    return B + np.triu(B, 1).T


def make_inputs(folder):
    """Write what the commands read. Outputs of an earlier run are there, but for folders."""
    A, x = matrix(0), np.random.default_rng(1).random(K) + 0.5
    np.save(folder / "A.npy", A)
    np.save(folder / "x.npy", x)
    np.save(folder / "Y.npy", A * np.outer(x, x))
    bins = cooler.binnify(pd.Series({"a": 10 * K // 2, "b": 10 * K // 2}), 10)
    i, j = np.triu_indices(K)
    pixels = pd.DataFrame({"bin1_id": i, "bin2_id": j, "count": A[i, j].astype(np.int32)})
    cooler.create_cooler(str(folder / "map.cool"), bins, pixels, ordered=True)
    for name in ("2", "1"):
        uri = str(folder / f"maps.mcool::/resolutions/{name}")
        cooler.create_cooler(uri, bins, pixels, ordered=True, mode="a")


def command(*arguments):
    """Run the command. Its exit code must be right, and its message one line."""

    def act():
        code = cli.main([*map(str, arguments)])
        if code:
            raise Refused(code)

    return act


class Refused(Exception):
    """The command has said on stderr why it ends, and this is its code."""


def in_cluster():
    from sparsejac import distributed

    source = in_process.rows(matrix(0), [0, 10, K])
    distributed.write_blocks("J", JacobianBuilder(source), np.load("x.npy"))


def blocks():
    builder = JacobianBuilder(matrix(0))
    io.write_csr_blocks("J", builder.iter_csr(np.load("x.npy"), block_rows=300), shape=(K * K, K))


def maps(what):
    from sparsejac import cool

    how = {"min_nnz": 0, "mad_max": 0, "store": True, "overwrite": True}
    return getattr(cool, what)({"balance": "map.cool", "balance_all": "maps.mcool"}[what], **how)


def exported(path):
    from sparsejac import cool

    cool.export_weights(path, "map.cool", np.full(K, 0.5))


# For each writer: the function, and the names of its outputs.
WRITERS = {
    "write_csr": (
        lambda: io.write_csr("J.npz", JacobianBuilder(matrix(0)).tocsr(np.load("x.npy"))),
        ["J.npz"],
    ),
    "write_csr_blocks": (blocks, ["J"]),
    "write_vector": (lambda: io.write_vector("f.npy", np.arange(5000.0)), ["f.npy"]),
    "write_blocks of a cluster": (in_cluster, ["J"]),
    "build, a file": (command("build", "A.npy", "x.npy", "-o", "J.npz"), ["J.npz"]),
    "build, a folder": (command("build", "A.npy", "x.npy", "-o", "J"), ["J"]),
    "fit": (
        command("fit", "A.npy", "Y.npy", "-o", "f.npy", "--plot", "f.png"),
        ["f.npy", "f.png"],
    ),
    "fit of rank 2": (command("fit", "A.npy", "Y.npy", "-o", "f.npz", "--rank", "2"), ["f.npz"]),
    "scale": (command("scale", "A.npy", "-o", "f.npy", "--plot", "f.png"), ["f.npy", "f.png"]),
    "scale a map": (
        command(
            *("scale", "map.cool", "--write", "--force", "-o", "f.tsv.gz"),
            *("--mad-max", "0", "--min-nnz", "0"),
        ),
        ["map.cool", "f.tsv.gz"],
    ),
    "scale all maps": (
        command(
            *("scale", "maps.mcool", "--all", "--write", "--force"),
            *("--mad-max", "0", "--min-nnz", "0"),
        ),
        ["maps.mcool"],
    ),
    "balance": (lambda: maps("balance"), ["map.cool"]),
    "balance_all": (lambda: maps("balance_all"), ["maps.mcool"]),
    "export_weights": (lambda: exported("f.biases"), ["f.biases"]),
    "export_weights, compressed": (lambda: exported("f.tsv.gz"), ["f.tsv.gz"]),
}


SOME = ["write_csr_blocks", "fit", "balance", "export_weights, compressed"]


def content(path):
    """What a file or a folder holds, or None if it is absent. It raises if that is damaged."""
    path = Path(path)
    if not path.exists():
        return None
    if path.is_dir() and not list(path.iterdir()):
        return "empty"
    if path.is_dir():
        return io.read_matrix(path).toarray().tobytes()
    if path.suffix in (".cool", ".mcool"):
        found = []
        for uri in cooler.fileops.list_coolers(str(path)):
            clr = cooler.Cooler(f"{path}::{uri}")
            held = [clr.pixels()[:].to_numpy().tobytes(), clr.bins()[:].to_csv()]
            if "weight" in clr.bins().columns:
                held.append(str(sorted(map(str, clr.open("r")["bins/weight"].attrs))))
            found.append(held)
        return found
    return path.read_bytes()


def hidden(folder):
    return [name for name in os.listdir(folder) if name.endswith(".part")]


class Writer:
    """A writer in a folder of its own, and what its outputs hold before and after it has run."""

    def __init__(self, name, folder, like=None):
        self.act, self.outputs = WRITERS[name]
        self.folder, self.name = folder, name
        if like is not None:
            shutil.copytree(like.folder.parent / "inputs", folder)
            self.old, self.new = like.old, like.new
            return
        folder.mkdir(parents=True)
        make_inputs(folder)
        for output in self.outputs:  # what was there before; folders are not replaced
            if "." in output and not (folder / output).exists():
                (folder / output).write_bytes(b"an earlier result")
        shutil.copytree(folder, folder.parent / "inputs")
        self.old = self.contents()
        with self.inside():
            self.act()
        self.new = self.contents()
        assert self.old != self.new

    @contextlib.contextmanager
    def inside(self):
        here = os.getcwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(here)

    def contents(self):
        return {output: content(self.folder / output) for output in self.outputs}

    def check_whole(self, *, each_map=False):
        """Each output is the old one or the new one, or, with `each_map`, each map of a file is."""
        found = self.contents()
        for output, held in found.items():
            old, new = self.old[output], self.new[output]
            if each_map and output.endswith(".mcool"):
                assert all(map_ in pair for map_, *pair in zip(held, old, new, strict=True))
            else:
                assert held in (old, new), output
        return found

    def check_next(self):
        """The next run succeeds, whatever the last one has left."""
        for output in self.outputs:
            if "." not in output and (self.folder / output).exists():
                shutil.rmtree(self.folder / output)
        with self.inside():
            self.act()
        assert self.contents() == self.new


@pytest.fixture
def writer(request, tmp_path):
    if "cluster" in request.param:
        pytest.importorskip("distributed", reason="Dask is an optional extra")
    return Writer(request.param, tmp_path / "first")


def each_writer(default, slowly=tuple(WRITERS)):
    return pytest.mark.parametrize(
        ("writer", "most"),
        [
            *((name, 4) for name in default),
            *(pytest.param(name, 5, marks=pytest.mark.slow) for name in slowly),
            *(pytest.param(name, 10**6, marks=pytest.mark.long) for name in WRITERS),
        ],
        indirect=["writer"],
    )


def forked(act):
    """Call `act` in a child. Return its exit code, and what it wrote to stderr."""
    reader, log = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(60)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = act() or 0
        except BaseException:  # noqa: BLE001  # the parent shows it
            traceback.print_exc()
            code = 98
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
    os.close(log)
    with os.fdopen(reader) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def copies(writer, numbers):
    """A writer for each number, in a folder of its own that is removed afterwards."""
    for number in numbers:
        other = Writer(writer.name, writer.folder.parent / f"run{number}", writer)
        yield number, other
        shutil.rmtree(other.folder)


def numbers_of(writer, most, steps=None):
    """The numbers of at most so many writes, the first and the last ones among them."""
    with writer.inside():
        shutil.rmtree("J", ignore_errors=True)
        count = (steps or Steps()).counted(writer.act)
    assert count > 3
    return np.unique(np.linspace(1, count, min(most, count)).astype(int)).tolist()


# --- kills ----------------------------------------------------------------------------------------


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@each_writer(["write_csr_blocks"])
def test_a_kill_at_any_write(writer, most, tried):
    steps, numbers = Steps(), numbers_of(writer, most)
    seen, killed = set(), 0
    for number, other in copies(writer, numbers):

        def act(other=other, number=number):
            with other.inside():
                steps.interrupted(other.act, number, kill)

        code, said = forked(act)
        found = other.check_whole()
        # A first run may write more than later ones do, by which the writes were counted.
        assert code == -signal.SIGKILL or (code == 0 and found == other.new), said
        killed += code == -signal.SIGKILL
        seen.update(map(str, found.values()))
        other.check_next()
    assert killed > len(numbers) // 2
    if most > 100:
        assert len(seen) > 1  # before the output has its name, and after that
    tried("writes that are killed", len(numbers))


# --- a full disk ----------------------------------------------------------------------------------


def refused(other, act):
    """The exit code 0 if the writer succeeds, and 7 if it says well that it cannot write."""
    try:
        with other.inside():
            act()
    except Refused as error:
        return 7 if error.args == (cli.ExitCode.MISUSED,) else 3
    except OSError as error:
        print(f"{error}", file=sys.stderr)
        return 7 if error.errno in (errno.ENOSPC, errno.EFBIG, None) else 4
    return 0


def check_refused(other, code, said, reason):
    found = other.check_whole()
    assert not hidden(other.folder), said
    if code == 0:
        assert found == other.new
        return
    assert code == 7, said
    lines = [line for line in said.splitlines() if "compiling the kernels" not in line]
    assert len(lines) == 1, said
    assert any(f"{output} cannot be written: " in lines[0] for output in other.outputs), said
    assert reason in lines[0], said


@each_writer(["write_csr"])
def test_a_disk_that_is_full_at_any_write(writer, most, tried):
    """The n-th call that writes raises ENOSPC."""
    steps = Steps(need_space=True)
    numbers = numbers_of(writer, most, steps)

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for number, other in copies(writer, numbers):
        code, said = forked(
            lambda other=other, number=number: refused(
                other, lambda: steps.interrupted(other.act, number, full)
            ),
        )
        check_refused(other, code, said, "No space left on device")
        other.check_next()
    tried("writes to a full disk", len(numbers))


@each_writer(["write_vector"], SOME)
def test_a_disk_that_is_full_at_any_byte(writer, most, tried):
    """A limit of the size of files cuts writes short, as the end of a disk does."""
    resource = pytest.importorskip("resource", reason="it limits the size of files")
    size = max(
        file.stat().st_size
        for output in writer.outputs
        for file in [writer.folder / output, *(writer.folder / output).glob("*")]
        if file.is_file()
    )
    limits = sorted({*np.linspace(0, size, min(most, 40)).astype(int).tolist(), 1, 100, size - 1})
    for limit, other in copies(writer, limits):

        def act(other=other, limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return refused(other, other.act)

        code, said = forked(act)
        check_refused(other, code, said, "")
        other.check_next()
    tried("limits of the size of files", len(limits))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here ({error})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["a cluster", *slow("one process")])
def test_a_small_disk(name, small_disk):
    """Its end is seen by the call that writes, and not by a signal that ends the process."""
    A, x = np.ones((90, 90)), np.ones(90)
    if name == "a cluster":
        pytest.importorskip("distributed", reason="Dask is an optional extra")

    def write():
        if name == "a cluster":
            from sparsejac import distributed

            builder = JacobianBuilder(in_process.rows(A, [0, 10, 90]))
            distributed.write_blocks(small_disk / "J", builder, x)
        else:
            builder = JacobianBuilder(A)
            io.write_csr_blocks(small_disk / "J", builder.iter_csr(x), shape=builder.shape)

    def act():
        with pytest.raises(OSError, match="J cannot be written: No space left on device"):
            write()

    assert forked(act) == (0, "")
    assert os.listdir(small_disk) == []


@each_writer([], SOME)
def test_a_failure_of_any_kind_at_any_write(writer, most, tried):
    """An interrupt, and an error that nobody expects: no file is left in part."""
    steps, numbers = Steps(), numbers_of(writer, most)
    for number, other in copies(writer, numbers):
        error = (KeyboardInterrupt, Failure, MemoryError)[number % 3]

        def fails(error=error):
            raise error

        def act(other=other, number=number, fails=fails, error=error):
            try:
                with other.inside():
                    steps.interrupted(other.act, number, fails)
            except (error, Refused, OSError):
                return 7
            return 0

        code, said = forked(act)
        assert code in (0, 7), said
        other.check_whole(each_map=True)  # a map that fails does not stop the others
        assert not hidden(other.folder), (error, said)
        other.check_next()
    tried("writes that fail", len(numbers))


# --- locks ----------------------------------------------------------------------------------------

MAPS = ["scale a map", "scale all maps", "balance", "balance_all"]


@pytest.mark.parametrize(
    "writer",
    [pytest.param(name, marks=pytest.mark.slow) for name in MAPS],
    indirect=True,
)
def test_a_lock_that_another_program_has(writer, tried):
    """The map stays as it is, or gets its column. The other program may take the lock any time."""
    fcntl = pytest.importorskip("fcntl", reason="locks are those of POSIX")
    steps, path = Steps(), writer.outputs[0]
    numbers = numbers_of(writer, 40 if writer.name == "balance" else 12)
    got = 0
    for number, other in copies(writer, numbers):
        locks = []

        def lock(locks=locks, other=other):  # another open file is another owner
            locks.append(os.open(other.folder / path, os.O_RDONLY))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks.append("taken")

        def act(other=other, number=number, lock=lock):
            try:
                with other.inside():
                    steps.interrupted(other.act, number, lock)
            except (Refused, OSError) as error:
                print(error, file=sys.stderr)
                return 7
            return 0

        code, said = forked(act)
        found = other.check_whole()
        assert code in (0, 7), said
        got += code == 7
        if code == 0:
            assert found == other.new
        else:
            assert "cannot be written: it is open in another program" in said or (
                "cannot be opened" in said
            ), said
        assert not hidden(other.folder)
        other.check_next()
    tried("locks of another program", len(numbers))
