"""What a matrix on a cluster takes: bytes for each worker, bytes and seconds for each pass.

It is arithmetic, not a measurement. ``python tests/benchmarks/scale.py --k 1e7 --entries 1e9
--workers 50`` prints a row of the table in the README.
"""

import argparse
import math

DIRECT = 8  # partial sums that the client adds itself; of more of them, workers add a tree


def arithmetic(*, k, entries, workers, threads, link, memory, rate, dense=False, symmetric=False):
    """The numbers of a row, with `link` in bytes per second and `rate` in entries per second."""
    vector = 8 * k
    index = 0 if dense else (4 if max(k, entries / workers) < 2**31 else 8)
    row_pointers = 0 if dense else k * (4 if entries / workers < 2**31 else 8)
    part = entries / workers * (8 + index) + row_pointers
    # x and the partial sums of each thread, interleaved for a sparse A, and their total
    sums = vector * (1 + 2 * threads + 1)
    levels = 0 if symmetric else max(math.ceil(math.log2(workers / DIRECT)), 0)
    arriving = vector * (1 if symmetric else math.ceil(workers / 2**levels))
    # Workers send x on to each other, so that it reaches all of them in log2(workers) rounds.
    seconds = {
        "compute": entries / workers / threads / rate,
        "x": vector / link * (1 + math.ceil(math.log2(max(workers, 1)))),
        "sums": (arriving + levels * vector) / link,
    }
    breaks = {
        "memory of a worker": (part + sums) / (0.6 * memory),
        "memory of the client": (25 * vector + arriving) / memory,
    }
    return {
        "GB a worker": (part + sums) / 1e9,
        "of it k-vectors": sums / 1e9,
        "GB a pass at the client": (vector + arriving) / 1e9,
        "s a pass": sum(seconds.values()),
        **{f"s: {name}": value for name, value in seconds.items()},
        "breaks first": max(breaks, key=breaks.get),
        "share of its limit": max(breaks.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    number = lambda text: int(float(text))
    parser.add_argument("--k", type=number, required=True, help="rows of A")
    parser.add_argument("--entries", type=number, required=True, help="stored entries of A")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--threads", type=int, default=4, help="threads of a worker")
    parser.add_argument("--link", type=float, default=10.0, help="Gbit/s of each machine")
    parser.add_argument("--memory", type=float, default=64.0, help="GB of each machine")
    parser.add_argument("--rate", type=float, default=1e8, help="entries a second and thread")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--symmetric", action="store_true", help="each worker returns its rows")
    given = vars(parser.parse_args())
    given["link"], given["memory"] = given["link"] * 1e9 / 8, given["memory"] * 1e9
    for name, value in arithmetic(**given).items():
        print(f"{name:26}", value if isinstance(value, str) else f"{value:.3g}")


if __name__ == "__main__":
    main()
