"""What makes the mutants of `tests/mutation`, and what counts the lines of templates."""

import ast
import importlib
from pathlib import Path

import pytest

SOURCE = '''
"""A module."""
import numpy as np

def f(a: int | None, n=3):
    """A docstring with 1 < 2."""
    if a is None or n > 2:
        raise ValueError("not " + str(1 + 1))
    b = a[1:n]
    b[0] += 1
    return max(b), (
        not n)
'''


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "mutation"))
    return importlib.import_module


def test_mutants_of_a_file(load):
    found = list(load("operators").mutants(SOURCE))
    changes = [mutant.change for mutant in found]
    assert sorted(set(changes) - {"1 → 0", "1 → 2"}) == sorted(
        [
            "3 → 2",
            "3 → 4",
            "a is None or n > 2 → False",
            "a is None or n > 2 → True",
            "a is None or n > 2 → a is None and n > 2",
            "a is None or n > 2 → a is None",
            "a is None or n > 2 → n > 2",
            "a is None → a is not None",
            "n > 2 → n <= 2",
            "n > 2 → n >= 2",
            "2 → 1",
            "2 → 3",
            "1:n → :n",
            "1:n → 1:",
            "b[0] += 1 → b[0] -= 1",
            "b[0] += 1 → pass",
            "0 → -1",
            "0 → 1",
            "max(b) → min(b)",
            "max(b), ( not n) → (not n, max(b))",
            "not n → n",
        ]
    )
    texts = {mutant.source for mutant in found}
    assert len(texts) == len(found)
    for mutant in found:
        assert mutant.in_function == (mutant.line > 5)
        tree = ast.parse(mutant.source)
        assert len(mutant.source.split("\n")) == len(SOURCE.split("\n"))
        assert ast.unparse(tree.body[2].args) == "a: int | None, n=3" or mutant.line == 5


TEMPLATE = """\
def walk():
    for i in range(2):
        if FOUR:
            a = 1
        for v in VECTORS:
            b = 2
    if FALSE:
        c = 3
"""


def test_lines_of_templates(load):
    """Lines 4 and 6 were run, and 8 was not."""
    taken = {(-1, 2), (2, 4), (4, 6), (6, 6), (6, 2), (2, -1)}
    found = load("templates").with_templates(TEMPLATE, taken)
    assert {(2, 3), (3, 4), (3, 6), (5, 6), (6, 5), (5, 2), (4, 5)} <= found
    assert {line for arc in found for line in arc} == {-1, 2, 3, 4, 5, 6}
