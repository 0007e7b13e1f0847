"""Adapts messages to the shell: options as users type them, and only hints that apply."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from .._validation import REPLACE

# names of arguments that messages may tell users to pass
_ARGUMENTS = frozenset({
    "bed", "bilinear", "blacklist", "check_finite", "cis_only", "dtype", "f_scale", "groups",
    "ignore_diags", "loss", "mad_max", "mask", "max_iter", "max_products", "memory", "min_count",
    "min_nnz", "order",
    "overwrite", "pairs", "rank", "region", "regularization", "rescale", "rows", "support",
    "target", "tol", "trans_only", "uplo", "workers", "x0",
})  # fmt: skip
# `adapted` might change a text that matches this
_SPOILED = re.compile(r"[=,;:(]| must |^pass |\b(?:workers|check_finite)\b")


def adapted(
    message: str, taken: Collection[str], *, shell: bool = False, given: Iterable[str] = ()
) -> str:
    """Adapt a message to a function that takes the arguments `taken`.

    A hint follows the last colon. Commas and semicolons separate its alternatives. Alternatives
    that name an argument which the function does not take are removed. For the shell, options are
    written as users type them. The texts in `given`, such as names of files, and texts between
    single quotes stay unchanged.
    """
    message, hidden = _hidden(message, given)
    if shell:
        message = message.replace(REPLACE, "choose another name (--name), or pass --force")
    what, colon, hint = message.rpartition(": ")
    pieces = re.split(r"(, or |; |, )", hint)

    def possible(part: str) -> bool:
        named = {
            *re.findall(r"\b([a-z][a-z_0-9]*)=", part),
            *re.findall(r"\b(workers|check_finite)\b", part),
        }
        return (named & _ARGUMENTS) <= set(taken)

    parts = [
        (mark, part)
        for mark, part in zip(["", *pieces[1::2]], pieces[::2], strict=True)
        if possible(part)
    ]
    if colon and len(parts) < len(pieces[::2]):
        hint = "".join(mark + part for mark, part in parts)
        hint = re.sub(r"^(, or |; |, )", "", hint)
        message = f"{what}{colon}{hint}" if hint else what
    if shell:
        # The value of an option cannot be an expression of Python.
        message = re.sub(r"\bpass (?=[\w.(]*[(])", "write ", message)
        message = re.sub(
            r'\b([a-z][a-z_0-9]*)=(?:"(\w+)"|([\w.]+))?',
            lambda found: (
                f"--{found[1].replace('_', '-')} {_value(found[2] or found[3])}".strip()
                if found[1] in _ARGUMENTS & set(taken)
                else found[0]
            ),
            message,
        )
        message = re.sub(
            r"^([a-z][a-z_0-9]*)( must | = (?=\S+ was reached))",
            lambda found: (
                f"--{found[1].replace('_', '-')}{found[2].replace(' = ', ' ')}"
                if found[1] in _ARGUMENTS & set(taken)
                else found[0]
            ),
            message,
        )
    return message.translate(hidden)


def _hidden(message: str, given: Iterable[str]) -> tuple[str, dict[int, str]]:
    """Replace each text that must stay unchanged by one private character.

    The dict maps each character to its text.
    """
    free = (number for number in range(0xF0000, 0xFFFFE) if chr(number) not in message)
    hidden: dict[int, str] = {}

    def hide(text: str) -> str:
        number = next(free)
        hidden[number] = text.translate(hidden)
        return chr(number)

    for text in sorted(filter(_SPOILED.search, given), key=len, reverse=True):
        if text in message:
            message = message.replace(text, hide(text))
    message = re.sub(r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)", lambda found: hide(found[0]), message)
    return message, hidden


def _value(given: str | None) -> str:
    """The value of an option. One that is on or off has none."""
    return "" if given in (None, "True") else given
