"""The mutants of a file: the same file with one small change, as programmers make them.

Each change replaces an expression or a statement. Annotations, docstrings, messages of exceptions
and of the log are left alone.

cosmic-ray and mutmut have such operators as well. cosmic-ray makes 26 000 mutants of the files that
`mutate` is for, most of which any test would notice, such as ``a << b`` in place of ``a * b``, or
change an annotation; it deletes no statement, swaps no results and moves no bounds. mutmut
runs a mutant as another function beside the first one, and knows nothing of templates.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

_COMPARISONS = {  # the opposite, and the other side of the boundary
    ast.Lt: (ast.GtE, ast.LtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: None,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_CALLS = {  # functions of which one is easily taken for the other
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "conj": "real",
    "triu": "tril",
    "tril": "triu",
}
_SAID = {"warning", "info", "debug", "error", "warn"}  # methods that tell a reader something


class Mutant(NamedTuple):
    line: int  # the first line that is changed
    last: int  # and the last one
    change: str  # "before → after", in one line each
    source: str  # of the whole file
    in_function: bool  # it changes nothing that is run when the file is imported


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a file, from its first line to its last one. Those that do not compile, and
    those that are the same code, are left out.
    """
    lines = source.encode().splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))
    whole = source.encode()
    same = ast.dump(ast.parse(source))
    known = set()
    bodies = [
        (each.body[0].lineno, each.end_lineno)
        for each in ast.walk(ast.parse(source))
        if isinstance(each, ast.FunctionDef)
    ]
    for node, replacement in sorted(_changes(ast.parse(source)), key=lambda each: each[0].lineno):
        first = begins[node.lineno - 1] + node.col_offset
        end = begins[node.end_lineno - 1] + node.end_col_offset
        text = replacement if isinstance(replacement, str) else ast.unparse(replacement)
        text = _on_as_many_lines(node, text)
        changed = (whole[:first] + text.encode() + whole[end:]).decode()
        try:
            tree = ast.dump(ast.parse(changed))
        except SyntaxError:
            continue
        if tree == same or tree in known:
            continue
        known.add(tree)
        before = " ".join(whole[first:end].decode().split())
        inside = any(begin <= node.lineno <= end for begin, end in bodies)
        change = f"{before} → {_shown(text)}"
        yield Mutant(node.lineno, node.end_lineno, change, changed, inside)


def _shown(text):
    text = " ".join(text.split())
    return text[1:-1].strip() if text.startswith("(") else text


def _on_as_many_lines(node, text):
    """What replaces a node, so that the lines below it keep their numbers."""
    breaks = "\n" * (node.end_lineno - node.lineno)
    if isinstance(node, (ast.stmt, ast.Slice)):
        return text + breaks
    return f"({text}{breaks})"


def _changes(tree):
    """Pairs of a node and what replaces it: another node, or text."""
    tests = {id(node.test) for node in ast.walk(tree) if isinstance(node, (ast.If, ast.IfExp))}
    for node in _executed(tree):
        # A condition is replaced by True and by False, so its opposite shows nothing more.
        yield from _of_expression(node, id(node) in tests)
        yield from _of_statement(node)


def _executed(node):
    """The nodes below this one, without what only tells something to a reader."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_said(child):
                continue
            yield child
            yield from _executed(child)


def _is_said(node):
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr)):
        return True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    called = isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)
    return isinstance(value, ast.Constant) or (called and value.func.attr in _SAID)


def _with(node, **fields):
    """A copy of a node with other fields; the rest is shared."""
    values = {name: getattr(node, name, None) for name in node._fields}
    return type(node)(**(values | fields))


def _of_expression(node, decided):
    match node:
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(value) | float(value)):
            for other in {value + 1, value - 1} if isinstance(value, int) else {value * 2, -value}:
                yield node, repr(other)
        case ast.Constant(value=None):
            pass
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                for other in _COMPARISONS[type(op)][decided:]:
                    yield node, _with(node, ops=[*ops[:at], other(), *ops[at + 1 :]])
        case ast.BoolOp(op=op, values=values):
            yield node, _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for at in range(len(values)):
                rest = [*values[:at], *values[at + 1 :]]
                yield node, rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            if not (decided and isinstance(node.op, ast.Not)):
                yield node, operand
        case ast.BinOp(op=op):
            if other := _ARITHMETIC[type(op)]:
                yield node, _with(node, op=other())
        case ast.IfExp(body=body, orelse=orelse):
            yield node, body
            yield node, orelse
        case ast.Slice(lower=lower, upper=upper, step=step):
            for name, bound in (("lower", lower), ("upper", upper), ("step", step)):
                if bound is not None:
                    yield node, _slice(_with(node, **{name: None}))
        case ast.Call():
            yield from _of_call(node)


def _slice(node):
    parts = ["" if part is None else ast.unparse(part) for part in (node.lower, node.upper)]
    return ":".join([*parts, *([] if node.step is None else [ast.unparse(node.step)])])


def _of_call(node):
    """Another function, a conjugate or the like left out, a keyword left out."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if other := _CALLS.get(name):
        if isinstance(node.func, ast.Attribute):
            yield node, _with(node, func=_with(node.func, attr=other))
        else:
            yield node, _with(node, func=ast.Name(other))
    if name in ("conj", "conjugate", "abs", "copy", "sqrt"):
        taken = node.args[0] if node.args else getattr(node.func, "value", None)
        if taken is not None:
            yield node, taken
    if name == "range" and len(node.args) > 1:
        yield node, _with(node, args=[ast.Constant(0), *node.args[1:]])
    for at, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield node, _with(node, keywords=[*node.keywords[:at], *node.keywords[at + 1 :]])


def _of_statement(node):
    match node:
        case ast.If(test=test) | ast.While(test=test):
            yield test, "False"
            if isinstance(node, ast.If):
                yield test, "True"
        case ast.Return(value=ast.Tuple(elts=[_, _, *_] as elements)):
            for at in range(len(elements) - 1):
                swapped = [*elements[:at], elements[at + 1], elements[at], *elements[at + 2 :]]
                yield node.value, ast.Tuple(swapped, ast.Load())
        case ast.Return(value=ast.Name() | ast.Call() | ast.Attribute()):
            yield node, "return None"
        case ast.Break():
            yield node, "continue"
        case ast.Continue():
            yield node, "break"
        case ast.AugAssign(op=op):
            if other := _ARITHMETIC[type(op)]:
                yield node, ast.unparse(_with(node, op=other()))
            yield node, "pass"
        case ast.Assign() | ast.Expr() | ast.Delete():
            if _is_deleted(node):
                yield node, "pass"
        case ast.For(body=[first, *_]):
            yield first, f"break; {ast.unparse(first)}" if _is_simple(first) else "break"


def _is_deleted(node):
    """Without its only assignment a name does not exist, which any test notices."""
    if isinstance(node, ast.Assign):
        return not all(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
    return True


def _is_simple(node):
    return not hasattr(node, "body")
