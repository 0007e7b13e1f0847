"""Checks of the arguments that users pass, with their messages. No other module repeats them."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import Bounds

from ._system import machine
from ._system.recycling import Recycler
from ._system.signals import unless_signalled

_Path = TypeVar("_Path", bound=str | os.PathLike[str])
_Read = TypeVar("_Read")
_More = ParamSpec("_More")
Rows = Literal["all", "stored", "upper"]
Order = Literal["C", "F"]
Uplo = Literal["U", "L"]
LossName = Literal["linear", "soft_l1", "huber", "cauchy", "arctan"]
Pairs = Literal["all", "within", "between"]
Triangle = Literal["upper", "lower"]
REPLACE = "choose another name, or have it replaced (overwrite=True, --force)"
_ACCEPTED = "bool, integers, float32, float64, complex64 or complex128"
# Smaller arrays are not checked, because asking the system for its free memory takes longer than a
# small call.
LARGE = 2**26


def human_bytes(count: int) -> str:
    """Format a number of bytes: 1536 → '1.5 KiB'."""
    units = "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"
    power = min(max(int(count).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count} bytes" if power == 0 else f"{count / 1024**power:.1f} {units[power]}"


# --- options --------------------------------------------------------------------------------------


def rows_of(value: object, uplo_: Uplo | None, default: Rows = "all", *, is_map: bool) -> Rows:
    """Check `rows`. The default is "upper" if A holds one triangle."""
    if is_map and value not in (None, "upper"):
        raise ValueError(
            'rows must be "upper" for a contact map, which holds the upper triangle of a '
            f"symmetric A, got {value!r}: leave it out, or read the map with cooler and pass its "
            "matrix"
        )
    if value is None:
        return "upper" if uplo_ else default
    return choice("rows", value, Rows)


def cannot_complete(rows_: Rows, uplo_: Uplo) -> ValueError:
    return ValueError(
        f'rows must be "upper" for an A that is read from disk and holds one triangle '
        f"(uplo={uplo_!r}), got {rows_!r}: leave rows out, write the whole of A, or, if it fits, "
        "pass A in memory"
    )


def order(value: object) -> Order:
    return choice("order", value, Order)


def bilinear_options(rows_: Rows, uplo_: Uplo | None) -> None:
    """Refuse the options that need a symmetric A."""
    for name, value, is_wrong in (
        ("uplo", uplo_, uplo_ is not None),
        ("rows", rows_, rows_ == "upper"),
    ):
        if is_wrong:
            raise ValueError(
                f'{name}="{value}" is for a symmetric A, and with bilinear=True the rows and the '
                f"columns of A have variables of their own: leave {name} out"
            )


def bilinear_function(name: str) -> TypeError:
    return TypeError(
        f"{name} must not be a function with bilinear=True, as it does not say how many rows "
        f"{name} has: pass an object with shape, dtype, and rows to slice"
    )


def bilinear_on_workers() -> TypeError:
    return TypeError(
        "A must not be on a cluster with bilinear=True: pass the symmetric problem "
        "[[0, A], [0, 0]] with rank=, whose variables are X above Y"
    )


class Settings(NamedTuple):
    """The keywords of a backend. They mean the same in every function that takes an A."""

    check_finite: bool = True
    workers: int | None = None
    memory: int | None = None
    progress: bool = False


def settings(check_finite: object, workers: object, memory_: object, progress: object) -> Settings:
    return Settings(
        flag("check_finite", check_finite),
        None if workers is None else positive_integer("workers", workers),
        memory(memory_),
        flag("progress", progress),
    )


def uplo(value: object) -> Uplo | None:
    return None if value is None else choice("uplo", value, Uplo)


def uplo_of(value: object, *, is_map: bool) -> Uplo | None:
    """Check `uplo`. It is always "U" for a contact map."""
    if is_map and value not in (None, "U"):
        raise ValueError(
            f'uplo must be "U" for a contact map, which holds the upper triangle, got {value!r}: '
            "leave it out"
        )
    return "U" if is_map else uplo(value)


def pairs(value: object) -> Pairs:
    return choice("pairs", value, Pairs)


def choice(name: str, value: Any, alias: Any) -> Any:
    """Check that a value is one of the strings of a Literal."""
    legal = get_args(alias)
    if not isinstance(value, str) or value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, legal))}, got {value!r}")
    return value


def positive_integer(name: str, value: object) -> int:
    return _integer(name, value, 1, "a positive integer")


def nonnegative_integer(name: str, value: object) -> int:
    return _integer(name, value, 0, "an integer, 0 or more")


def _integer(name: str, value: object, least: int, needed: str) -> int:
    try:
        if isinstance(value, bool):  # it has an index
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]  # this line tests the type
    except TypeError:
        raise TypeError(f"{name} must be {needed}, got {value!r} ({type_name(value)})") from None
    if number < least:
        raise ValueError(f"{name} must be {needed}, got {number}")
    return number


def nonnegative(name: str, value: object) -> float:
    """Check that a value is a finite real number that is not negative."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type_name(value)})")
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    return float(value)


def scale(value: object) -> float:
    """Check f_scale."""
    found = nonnegative("f_scale", value)
    if not 1e-150 < found < 1e150:  # its square is a number
        raise ValueError(
            f"f_scale must be between 1e-150 and 1e150, got {value}: give the size of a residual "
            "that is no outlier"
        )
    return found


def rank(value: object) -> int | None:
    return None if value is None else positive_integer("rank", value)


def memory(value: object) -> int | None:
    return None if value is None else _integer("memory", value, 1, "a number of bytes")


def flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def variable_index(s: object, count: int) -> int:
    try:
        number = operator.index(s)  # type: ignore[arg-type]  # this line tests the type
    except TypeError:
        raise TypeError(
            f"s must be an integer, the index of one variable, got {s!r} ({type_name(s)})"
        ) from None
    if not 0 <= number < count:
        raise IndexError(f"s must be the index of a variable, 0 <= s < {count}, got {number}")
    return number


# --- dtypes ---------------------------------------------------------------------------------------


def float_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of computations with values of `dtype`.

    It is `dtype`, or float64 for integers and booleans.
    """
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    if (dtype.kind == "f" and dtype.itemsize in (4, 8)) or (
        dtype.kind == "c" and dtype.itemsize in (8, 16)
    ):
        return dtype.newbyteorder("=")
    target = "complex128" if dtype.kind == "c" else "float64"
    how = (
        f", as in {name}.astype(np.{target})"
        if name.isidentifier() and name != "x_dtype"
        else f" to {target}"
    )
    raise TypeError(f"{name} must have a dtype among {_ACCEPTED}, got {dtype}: convert it{how}")


def dtype_of(name: str, value: Any) -> np.dtype[Any]:
    """The dtype of computations with values of the dtype that `value` describes."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be a dtype, got {value!r}") from None
    return float_dtype(name, dtype)


# --- vectors --------------------------------------------------------------------------------------


def array(name: str, value: object, *, alternative: str = "") -> NDArray[Any]:
    """Return `value` as an ndarray of an accepted dtype, without a copy.

    Arrays that would lose a mask, labels or a unit are refused.
    """
    if type(value) is np.ndarray:
        float_dtype(name, value.dtype)
        return value
    it = "its" if " " in name else name  # it may be words
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and its mask would be lost: pass {it}.filled(0), or "
            "the entries to keep as a sparse matrix"
        )
    if scipy.sparse.issparse(value):
        raise TypeError(
            f"{name} must be a dense array, got a sparse {type_name(value)}: pass {it}.toarray()"
        )
    if not isinstance(value, (np.ndarray, np.generic, list, tuple, int, float, complex)):
        hint = ""
        if hasattr(value, "__cuda_array_interface__"):
            hint = f": pass {name}.get(), which is a copy in the memory of this process"
        elif isinstance(value, (str, os.PathLike)):
            what = "matrix" if name in ("A", "J") else "vector"
            hint = f": pass sparsejac.io.read_{what}({name})"
        elif hasattr(value, "__array__"):
            hint = f": pass np.asarray({name}), which keeps only its values, in their order"
        raise TypeError(f"{name} must be a NumPy array{alternative}, got {type_name(value)}{hint}")
    try:
        result = np.asarray(value)
    except unless_signalled(ValueError) as error:  # a ragged list
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    float_dtype(name, result.dtype)
    return result


def point(
    name: str,
    x: object,
    of: tuple[int, int],
    rank: int | None,
    *,
    bilinear: bool,
    finite: bool,
) -> NDArray[Any]:
    """Return the variables x for an A of this shape, without a copy.

    They are a vector, or, if there is a rank, also a matrix with a row for each row of A, and in
    the bilinear form for each column.
    """
    (m, n), result, several = of, array(name, x), rank is not None
    rank = rank or 1
    count = m + n if bilinear else m
    size = count * rank
    if result.shape != (size,) and not (several and result.shape == (count, rank)):
        why = f"A is {m}x{n}" + (f" and rank is {rank}" if several else "")
        if bilinear:
            why += " and x has the variables of its rows above those of its columns"
        raise _wrong_point(name, result, (count, rank), why, several=several)
    if finite and result.dtype.kind in "fc" and not np.isfinite(result).all():
        flat = result.reshape(-1)
        bad = np.flatnonzero(~np.isfinite(flat))
        place = ", ".join(map(str, divmod(int(bad[0]), rank))) if several else str(bad[0])
        raise ValueError(
            f"{name} must be finite, but {bad.size} of its {size} values are not, the first "
            f"{name}[{place}] = {flat[bad[0]]}: pass check_finite=False to compute with them"
        )
    return result


def _wrong_point(
    name: str, x: NDArray[Any], shape: tuple[int, int], why: str, *, several: bool
) -> ValueError:
    size, hint = shape[0] * shape[1], ""
    if several and x.shape == shape[::-1]:
        hint = f": pass {name.upper()}.T, whose rows belong to the rows of A"
    elif x.ndim > 1 and x.size == size:
        hint = f": pass {name}.ravel() if its {x.size} values are meant"
    needed = f"a vector of length {size}"
    if several:
        needed = f"an array of shape {shape}, or flat with shape {(size,)}"
    return ValueError(f"{name} must be {needed}, as {why}, got an array of shape {x.shape}{hint}")


def bounds(value: object, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lower and the upper bounds of x as read-only float64 arrays of this shape."""
    if isinstance(value, Bounds):
        value = value.lb, value.ub
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        what = type_name(value)
        if isinstance(value, (tuple, list)):
            what += f" of length {len(value)}"
        raise TypeError(
            "bounds must be a pair (low, high) of numbers or arrays, or a scipy.optimize.Bounds, "
            f"got a {what}: pass (0, np.inf) for x ≥ 0"
        )
    low, high = (_bound(f"bounds[{side}]", limit, shape) for side, limit in enumerate(value))
    wrong = low > high
    if wrong.any():
        place, i = _first(wrong)
        raise ValueError(
            f"bounds must not cross, but those of x[{place}] are {low[i]} and {high[i]}: the lower "
            "ones come first, and equal bounds fix a variable"
        )
    empty = (low == np.inf) | (high == -np.inf)
    if empty.any():
        place, i = _first(empty)
        raise ValueError(
            f"bounds must leave a finite x, but those of x[{place}] are {low[i]} and {high[i]}: "
            "pass -np.inf below and np.inf above for a variable without bounds"
        )
    return low, high


def _bound(name: str, value: object, shape: tuple[int, ...]) -> NDArray[Any]:
    if value is None:
        raise TypeError(
            f"{name} must be a number or an array, got None: pass -np.inf below or np.inf above "
            "for variables without that bound"
        )
    given = array(name, value)
    real(name, given.dtype, "least squares")
    size = int(np.prod(shape))
    if len(shape) == 2 and given.shape == (size,) and size > shape[1]:
        given = given.reshape(shape)  # x may be flat as well
    try:
        result = np.broadcast_to(given.astype(np.float64), shape)
    except ValueError:
        raise ValueError(
            f"{name} must be a number, or an array that broadcasts to the shape {shape} of x, got "
            f"an array of shape {given.shape}"
        ) from None
    lacking = np.isnan(result)
    if lacking.any():
        place, _ = _first(lacking)
        raise ValueError(
            f"{name} must not be NaN, but it is for x[{place}]: pass -np.inf below or np.inf above "
            "for a variable without that bound"
        )
    return result


def _first(where: NDArray[np.bool_]) -> tuple[str, tuple[Any, ...]]:
    """The index of the first element for which `where` is true, in words and as a tuple."""
    i = np.unravel_index(int(np.argmax(where)), where.shape)
    return ", ".join(map(str, i)), i


def within(name: str, x: NDArray[Any], bounds_: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """Refuse a start outside its bounds."""
    low, high = bounds_
    outside_ = (x < low) | (x > high)
    if outside_.any():
        place, i = _first(outside_)
        raise ValueError(
            f"{name} must be within the bounds, but {np.count_nonzero(outside_)} of its {x.size} "
            f"values are not, the first {name}[{place}] = {x[i]}, whose bounds are {low[i]} and "
            f"{high[i]}: pass np.clip({name}, low, high), or leave {name} out"
        )


def target_given(Y: object) -> None:
    if Y is None:
        raise TypeError("Y must be given, unless A is a LeastSquares, which has its own")


def only_defaults(Y: object, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse what belongs to a problem, and is given beside a problem that exists already."""
    if Y is not None:
        raise TypeError(
            "Y must be left out if the first argument is a LeastSquares, which has its own, got "
            f"{type_name(Y)}: pass a start as x0="
        )
    given = [name for name, option in options.items() if option != defaults[name]]
    if given:
        names = ", ".join(given)
        raise TypeError(
            f"{names} must be left out if the first argument is a LeastSquares, which has its own: "
            f"pass {'it' if len(given) == 1 else 'them'} to LeastSquares"
        )


def vector(name: str, value: object, length: int, of: str, *, finite: bool) -> NDArray[Any]:
    """Return `value` as a vector of `length` numbers, without a copy."""
    result = array(name, value)
    if result.shape != (length,):
        hint = ""
        if result.ndim > 1 and result.size == length:
            hint = f": pass {name}.ravel() if its {length} values are meant"
        raise ValueError(
            f"{name} must be a vector of length {length}, {of}, got an array of shape "
            f"{result.shape}{hint}"
        )
    if finite:
        finite_blocks(name, result, lambda i: (i,))
    return result


_NO_COMPLEX_DERIVATIVE = (
    "‖F‖² of a complex x has no complex derivative; write its real and imaginary parts as "
    "separate problems"
)


def real(name: str, dtype: np.dtype[Any], what: str, why: str = _NO_COMPLEX_DERIVATIVE) -> None:
    if dtype.kind == "c":
        raise TypeError(f"{what} is for real numbers, and {name} is {dtype}: {why}")


# --- symmetric scaling ----------------------------------------------------------------------------


def groups(labels: Any, which: Pairs, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return for each row the first row of its group, and the row after the last one."""
    if labels is None:
        if which != "all":
            raise ValueError(
                f'pairs="{which}" needs groups: pass the label of each row, such as its chromosome'
            )
        return None
    nested = isinstance(labels, (list, tuple)) and [
        isinstance(label, (list, tuple, np.ndarray)) for label in labels
    ]
    if nested and any(nested):
        i = nested.index(True)
        raise ValueError(
            "groups must be labels that can be compared, such as strings or integers, but that "
            f"of row {i} is a {type_name(labels[i])}: give each group a number"
        )
    array = np.atleast_1d(np.asarray(labels))
    if array.shape != (k,):
        raise ValueError(
            f"groups must be a label for each of the {k} rows, as A is {k}x{k}, got an array of "
            f"shape {np.shape(labels)}"
        )
    lacking = _lacking_labels(labels, array)
    if lacking.any():
        i = int(np.argmax(lacking))
        why = "None" if array[i] is None else "NaN, NaT, or masked"
        raise ValueError(
            f"groups must be a label for each row, but that of row {i} is missing ({why}): give "
            "such rows a label of their own"
        )
    bounds = _bounds(array)
    sizes = np.diff(bounds)
    return np.repeat(bounds[:-1], sizes), np.repeat(bounds[1:], sizes)


def _bounds(array: NDArray[Any]) -> NDArray[np.int64]:
    """Find the first row of each group, and the end of the last. Rows of a group must adjoin."""
    try:
        changes = np.asarray(array[1:] != array[:-1], np.bool_)
        starts = np.append(np.zeros(min(1, array.size), np.int64), np.flatnonzero(changes) + 1)
        names = array[starts].tolist()
        distinct = len(set(names))
    except unless_signalled(TypeError, ValueError) as error:
        raise ValueError(
            "groups must be labels that can be compared, such as strings or integers: "
            f"{' '.join(str(error).split())}"
        ) from None
    if distinct < len(names):
        again = next(number for number, name in enumerate(names) if name in names[:number])
        raise ValueError(
            f"the rows of a group must be neighbours, but group {names[again]!r} begins again at "
            f"row {starts[again]}: sort the rows and columns of A by their groups"
        )
    return np.append(starts, array.size)


def _lacking_labels(labels: Any, array: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the labels that are missing.

    In a list with strings, NumPy would convert NaN to the label "nan". So each item is tested.
    """
    if isinstance(labels, np.ma.MaskedArray):
        return np.atleast_1d(np.ma.getmaskarray(labels))
    if isinstance(labels, (list, tuple)) and array.ndim == 1:
        array = np.empty(len(labels), object)
        array[:] = labels
    if array.dtype == object:
        return np.fromiter(map(_is_lacking, array.tolist()), np.bool_, array.size)
    return np.asarray(array != array, np.bool_)  # noqa: PLR0124  # true for NaN and NaT only


def _is_lacking(label: Any) -> bool:
    try:
        return label is None or bool(label != label)  # noqa: PLR0124  # as above
    except TypeError:  # comparing pandas.NA with itself is neither True nor False
        return True


def mask(value: object, k: int) -> NDArray[np.bool_]:
    """Return a boolean for each row, which is True if the row is left out."""
    if value is None:
        return np.zeros(k, np.bool_)
    if isinstance(value, np.ma.MaskedArray):
        value = value.filled(True)
    array = np.asarray(value, np.bool_) if k == 0 else np.asarray(value)
    if array.dtype != np.bool_ or array.shape != (k,):
        raise ValueError(
            f"mask must be a boolean for each of the {k} rows, True if the row is left out, got "
            f"{array.dtype} of shape {array.shape}: from row numbers, make it by mask = "
            "np.zeros(k, bool); mask[rows] = True"
        )
    return array


def positive(name: str, value: object, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a float64 copy of a vector that is positive and finite in the rows that are kept.

    A scalar stands for all rows.
    """
    k = kept.size
    given = array(name, value)
    real(name, given.dtype, "a scaling", f"pass {name}.real")
    if given.shape not in {(), (k,)}:
        raise ValueError(
            f"{name} must be a number, or a vector of length {k} as A is {k}x{k}, got shape "
            f"{given.shape}"
        )
    result = np.full(k, given, np.float64) if given.ndim == 0 else np.array(given, np.float64)
    bad = kept & ~((result > 0) & (result < np.inf))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"{name} must be positive and finite in every row that is kept, but it is "
            f"{result[i]} in row {i}: change it, or leave the row out by mask="
        )
    return result


def positive_line_sums(name: str, value: object, size: int, noun: str) -> NDArray[np.float64]:
    """Return a float64 copy of the targets of A's rows, or of its columns.

    A scalar stands for all of them.
    """
    given = array(name, value)
    real(name, given.dtype, "a scaling", f"pass {name}.real")
    if given.shape not in {(), (size,)}:
        raise ValueError(
            f"{name} must be a number, or one number for each of A's {size} {noun}s, got shape "
            f"{given.shape}"
        )
    result = np.full(size, given, np.float64) if given.ndim == 0 else np.array(given, np.float64)
    bad = ~((result > 0) & (result < np.inf))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"{name} must be positive and finite, but it is {result[i]} for {noun} {i}: change it, "
            f"or remove the {noun} from A and from {name}"
        )
    return result


def equal_totals(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
    """Refuse targets of rows and columns whose sums differ by more than rounding."""
    unit = max(float(np.max(rows, initial=0.0)), float(np.max(columns, initial=0.0))) or 1.0
    one, other = float(np.sum(rows / unit)), float(np.sum(columns / unit))
    if abs(one - other) > 1e-12 * max(one, other):
        raise ValueError(
            "row_target and column_target must have the same sum, which is that of the scaled "
            f"matrix, but they sum to {one * unit:.16g} and {other * unit:.16g}: leave out "
            "column_target, or multiply it by row_target.sum() / column_target.sum()"
        )


def negative(i: int, j: int, value: Any) -> ValueError:
    return ValueError(
        f"A must have no negative entries, but A[{i}, {j}] = {value}: with mixed signs a scaling "
        "need not exist; pass abs(A) to scale its absolute values"
    )


def outside_triangle(uplo: Uplo, count: int) -> ValueError:
    side, function = ("below", "triu") if uplo == "U" else ("above", "tril")
    return ValueError(
        f'uplo="{uplo}" is for an A that holds one triangle only, but it has {count} entries '
        f"{side} its diagonal: leave out uplo if A is whole, or pass scipy.sparse.{function}(A)"
    )


def operand(name: str, value: object, length: int, product: str, *, matrix: bool) -> NDArray[Any]:
    """Check the shape and dtype of a vector or matrix that an operator multiplies.

    As in SciPy, a vector has shape (length,) or (length, 1), a batch of vectors (…, length), and a
    matrix (…, length, n).
    """
    result = array(name, value)
    if matrix:
        fits = result.ndim >= 2 and result.shape[-2] == length
        needed = f"shape ({length}, n)"
    else:
        fits = result.ndim >= 1 and (result.shape[-1] == length or result.shape == (length, 1))
        needed = f"length {length}"
    if not fits:
        raise ValueError(
            f"dimension mismatch in {product}: {name} must have {needed}, got shape {result.shape}"
        )
    return result


# --- memory ---------------------------------------------------------------------------------------


def fits(what: str, count: int, hint: str, available: int | None = None) -> None:
    """Raise MemoryError if `count` bytes are more than `available`, before they are allocated.

    By default, `available` is the free memory of the machine.
    """
    if count < LARGE and available is None:
        return
    if available is None:
        available = machine.available_memory()
        if available is not None and count > available:
            Recycler.free_all()
            available = machine.available_memory()
    if available is not None and count > available:
        raise MemoryError(
            f"{what} would take {count} bytes ({human_bytes(count)}), and "
            f"{human_bytes(available)} are available: {hint}"
        )


def naming_its_file(
    read: Callable[Concatenate[_Path, _More], _Read],
) -> Callable[Concatenate[_Path, _More], _Read]:
    """Let a lack of memory name the file. It may be damaged, and only say that it is large."""

    @functools.wraps(read)
    def named(path: _Path, /, *more: _More.args, **options: _More.kwargs) -> _Read:
        try:
            return read(path, *more, **options)
        except unless_signalled(MemoryError) as error:
            name, words = os.fsdecode(path), str(error)
            if words.startswith(name):
                raise
            lack = "there is not enough memory for what its header announces"
            raise MemoryError(f"{name} cannot be read: {words or lack}") from None

    return named


def wrong_length(name: str, shape: tuple[Any, ...], length: int) -> ValueError:
    return ValueError(f"{name} must have shape ({length},) or ({length}, c), got {shape}")


def wrong_weights(shape: tuple[Any, ...], length: int) -> ValueError:
    return ValueError(f"w must have shape ({length},), a weight for each row of J, got {shape}")


def on_workers(what: str) -> MemoryError:
    return MemoryError(
        f"{what} would come to this process, and A is on a cluster because it does not fit here: "
        "keep it there, with builder.value, op @ v, or sparsejac.distributed.csr_blocks"
    )


def lazy(name: str) -> TypeError:
    return TypeError(
        f"{name} is a Dask collection, which would be computed in the memory of this process: pass "
        f"sparsejac.distributed.rows({name}), which keeps it on the workers"
    )


def mixed_blocks() -> ValueError:
    return ValueError(
        "the blocks of A must all be dense or all be sparse, got both: convert them to one form"
    )


def only_target_on_workers() -> ValueError:
    return ValueError(
        "Y is on the workers of a cluster, and A is not: pass sparsejac.distributed.rows(A) too"
    )


# --- the matrix -----------------------------------------------------------------------------------


def matrix(A: object, *, square: bool = True) -> Any:
    """Return A as an ndarray or SciPy sparse array or matrix, without a copy."""
    if not scipy.sparse.issparse(A):
        A = array("A", A, alternative=" or a SciPy sparse array or matrix")
    shape: tuple[int, ...] = A.shape  # type: ignore[attr-defined]  # ndarray or sparse by now
    if len(shape) != 2 or (square and shape[0] != shape[1]):
        raise wrong_shape("A", shape, square=square)
    float_dtype("A", A.dtype)  # type: ignore[attr-defined]  # as above
    return A


def lengths(name: str, shape: Any) -> tuple[int, ...]:
    """Return the shape that an object with rows says it has."""
    try:
        found = tuple(operator.index(size) for size in shape)
    except TypeError:
        found = (-1,)
    if min(found, default=0) < 0:
        raise ValueError(
            f"{name}.shape must be integers, 0 or more, got {shape!r}: pass an object that says "
            "how many rows and columns it has"
        )
    return found


def wrong_shape(name: str, shape: tuple[int, ...], *, square: bool) -> ValueError:
    kind = "square matrix" if square else "matrix with rows and columns"
    hint = ""
    if square and len(shape) == 2 and name == "A":
        hint = (
            ": where it is taken, pass bilinear=True for A ∘ (X Yᵀ), with variables for both rows "
            "and columns; row_column_scaling takes any shape"
        )
    return ValueError(f"{name} must be a {kind}, got shape {shape}{hint}")


def rectangular_matrix(A: object) -> Any:
    """Return a real A as an ndarray or SciPy sparse array or matrix of any shape."""
    result = matrix(A, square=False)
    real("A", result.dtype, "a scaling", "pass its real part, or abs(A)")
    return result


def pieces(
    values: NDArray[Any], part: Triangle | None = None, first: int = 0
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield consecutive pieces of A's values, with their first rows.

    The pieces are small, so that masks of them are small. With a triangle, values outside it are
    zeros. The values begin at row `first` of A.
    """
    step = max(1, 2**15 // max(1, values[:1].size))
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        if part is not None:
            triangle = np.triu if part == "upper" else np.tril
            piece = triangle(piece, start + first)
        if piece.size:
            yield start, piece


def finite_blocks(
    name: str, values: NDArray[Any], locate: Any, part: Triangle | None = None, first: int = 0
) -> None:
    """Refuse NaN and infinity in A or Y. The values begin at row `first`.

    `values` is scanned in pieces, so no mask of A's size is made.
    """
    if values.dtype.kind not in "fc":
        return
    for start, piece in pieces(values, part, first):
        ok = np.isfinite(piece)
        if not ok.all():
            where = np.unravel_index(int(np.argmin(ok)), ok.shape)
            raise not_finite(
                name, locate(int(where[0]) + start, *map(int, where[1:])), piece[tuple(where)]
            )


def not_finite(name: str, position: tuple[int, ...], value: Any) -> ValueError:
    hint = "pass check_finite=False to compute with it"
    if name == "Y":
        hint = (
            "leave out unknown entries of A and Y: set both to zero, or store them in neither of "
            "the two"
        )
    return ValueError(
        f"{name} must be finite, but {name}[{', '.join(map(str, position))}] = {value}: {hint}"
    )


def bad_structure(name: str, format_: str, reason: str) -> ValueError:
    return ValueError(
        f"{name} has an inconsistent {format_} structure: {reason}; build it anew, for instance "
        "from its COO triplets"
    )


def unsorted(name: str, line: int) -> ValueError:
    return ValueError(
        f"{name}, which is read from disk, must have the columns of each row in ascending order "
        f"and none twice, which fails in row {line}: call sum_duplicates(), which also sorts, and "
        "write it anew"
    )


def wrong_order(order: Order, *, columns: bool) -> ValueError:
    ours, theirs = ("columns", "rows") if columns else ("rows", "columns")
    return ValueError(
        f'A is stored by {ours}, and this needs its {theirs}: take order="{order}", with which '
        f"J's rows follow its {ours}, write A in the other order, or, if "
        "it fits, pass it in memory; products with k-vectors, costs, gradients and column norms "
        "work with the file as it is"
    )


def different_orders(*, transposed: bool) -> ValueError:
    ours, theirs = ("columns", "rows") if transposed else ("rows", "columns")
    return ValueError(
        f"Y must be stored as A is, which is read along its {ours}, but Y can be read only along "
        f"its {theirs}: write one of them in the other order, or, if it fits, pass it in memory"
    )


def vector_by_other_lines(*, transposed: bool) -> ValueError:
    ours, theirs, order = ("columns", "rows", "F") if transposed else ("rows", "columns", "C")
    return ValueError(
        f"Y must be stored as A is, which is read along its {ours}, but Y is a vector in the "
        f"order of J's rows, which follow its {theirs} here: pass Y as a "
        f'k x k matrix, or take order="{order}"'
    )


def asked_while_answering(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} was asked for rows while it was returning rows, which would wait for ever: its "
        "function must not use an operator over itself, or over a partial of itself"
    )


def small_memory(
    memory: int, needed: int, k: int, *, kept: int, rows: int, chunked: bool
) -> ValueError:
    block = "one row" if rows == 1 else f"{rows} rows" + (", as its chunks have" if chunked else "")
    return ValueError(
        f"memory must be at least {needed} bytes ({human_bytes(needed)}) for this A, of {k} "
        f"rows: {human_bytes(kept)} of k-vectors, and for each thread a block of {block}; got "
        f"{memory}: pass more, or fewer workers"
    )


def symmetry_tolerance(dtype: np.dtype[Any]) -> float:
    """How much A_ij and A_ji of a symmetric A may differ, relative to the largest of their rows.

    The tolerance is 1000 ε of A's dtype, because BLAS computes symmetric products with differences
    of some hundred ε. Integers must be equal.
    """
    return 1000 * float(np.finfo(dtype).eps) if dtype.kind in "fc" else 0.0


def not_symmetric_row(i: int, difference: float, needs: str) -> ValueError:
    return ValueError(
        f"{needs} needs a symmetric A, but the products of row {i} and of column {i} of A with "
        f"one vector differ by {difference:.2g}: write (A + A.T) / 2, or pass "
        'uplo="U" or "L" where that is taken and A holds one triangle'
    )


def target(Y: object, of: tuple[int, int], m: int) -> Any:
    """Return Y as a matrix of A's shape, or as a vector of J's m rows, without a copy."""
    if scipy.sparse.issparse(Y) and Y.ndim == 1:  # type: ignore[attr-defined]  # sparse by now
        Y = Y.toarray()  # type: ignore[attr-defined]  # as above
    if not scipy.sparse.issparse(Y):
        Y = array("Y", Y, alternative=", a SciPy sparse array or matrix")
    shape: tuple[int, ...] = Y.shape  # type: ignore[attr-defined]  # ndarray or sparse by now
    if shape not in {of, (m,)}:
        raise target_shape(shape, of, m)
    dtype: np.dtype[Any] = Y.dtype  # type: ignore[attr-defined]  # as above
    float_dtype("Y", dtype)
    return Y


def target_shape(shape: tuple[int, ...], of: tuple[int, int], m: int) -> ValueError:
    return ValueError(
        f"Y must be a {of[0]}x{of[1]} matrix as A is, or a vector of length {m} in the order of "
        f"J's rows, got shape {shape}"
    )


def target_is_triangle(held: Uplo) -> ValueError:
    side, other = ("upper", "triu(Y, 1)") if held == "U" else ("lower", "tril(Y, -1)")
    return ValueError(
        f'Y must be whole for rows="stored" and "all", but it holds its {side} triangle only: '
        f'pass Y + {other}.T, or rows="upper" for a symmetric A'
    )


def outside(count: int, where: tuple[int, int]) -> ValueError:
    return ValueError(
        f"Y has {count} entries that are not zero where A stores none, the first at "
        f"{tuple(map(int, where))}: F is zero there for every x, so they only add a constant to "
        "the cost; remove them from Y, or store entries of A at the same (i, j) (zeros will do)"
    )


def neither_symmetric_nor_upper(i: int, j: int) -> ValueError:
    return ValueError(
        'rows="upper" reads the upper triangle of Y, so Y must be symmetric or zero below its '
        f"diagonal, but Y[{i}, {j}] != Y[{j}, {i}], by more than rounding: pass (Y + Y.T) / 2 to "
        "fit its symmetric part, or scipy.sparse.triu(Y) to fit its upper triangle"
    )


def neither_symmetric_nor_upper_row(i: int, difference: float) -> ValueError:
    return ValueError(
        'rows="upper" reads the upper triangle of Y, so Y must be symmetric or zero below its '
        f"diagonal, but the products of row {i} and of column {i} of Y with one vector differ by "
        f"{difference:.2g}: write (Y + Y.T) / 2 to fit its symmetric part, or its upper triangle"
    )


def upper_is_missing() -> ValueError:
    return ValueError(
        'rows="upper" reads the upper triangle of Y, but this Y holds its lower triangle only: '
        "pass Y.T, which has the same numbers in its upper triangle"
    )


def lower_is_read() -> ValueError:
    return ValueError(
        'rows="upper" reads the lower triangles of A and Y here, as A is stored, and Y has only '
        "its upper triangle: write Y + triu(Y, 1).T, which is the whole symmetric Y"
    )


def changed_columns(name: str, row: int) -> ValueError:
    return ValueError(
        f"the column indices of {name} have changed since it was handed over, in row {row}: hand "
        "it over anew, or a copy of it"
    )


def changed_structure(name: str, before: int, now: int) -> ValueError:
    return ValueError(
        f"the structure of {name} has changed since it was handed over: it had {before} stored "
        f"entries and now has {now}; hand it over anew, or a copy of {name}"
    )


def replaced(name: str, part: str) -> ValueError:
    return ValueError(
        f"{name}.{part} is not what it was when {name} was handed over, as after "
        f"`{name}.data = ...`, `{name}.resize(...)`, or `{name}[i, j] = ...` for an entry that was "
        f"not stored: hand {name} over anew, or a copy of it"
    )


def not_symmetric(i: int, j: int, needs: str) -> ValueError:
    start, hint = "A must be symmetric", ""
    if needs.startswith("rows"):
        start, hint = f"{needs} needs a symmetric A", 'rows="stored" or "all", or '
    return ValueError(
        f"{start}, but A[{i}, {j}] != A[{j}, {i}], by more than rounding: pass (A + A.T) / 2, "
        f'or {hint}uplo="U" if A holds its upper triangle only, uplo="L" its lower one'
    )


def one_sided(name: str, line: int) -> ValueError:
    return ValueError(
        f'rows="upper" reads {name} along its columns here, so that each triangle must have the '
        f"entries of the other one, and {name} has an entry on one side of the diagonal only, in "
        f"row and column {line}: pass {name}.T, or store zeros on both sides or on none"
    )


def type_name(value: object) -> str:
    """The name of the class of `value`, with its package."""
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__.split('.')[0]}.{kind.__qualname__}"
    )


def matplotlib_is_there() -> None:
    """Say how to install matplotlib if it is missing."""
    try:
        import matplotlib.figure  # noqa: F401  # whether it is there
    except ImportError:
        raise ImportError(
            "pictures need matplotlib, which is not installed: pip install '.[plot]' in a clone of "
            "the project, or pip install matplotlib"
        ) from None
