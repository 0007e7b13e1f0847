"""Lines of templates, which coverage cannot see.

`sparsejac._kernels.generate` writes out the walks. What it unrolls or decides is no code: a loop
over VECTORS, or a condition on ALIGNED. Such a line counts as run if a line in it was run, and it
is entered and left as that is.
"""

import ast

NAMES = r"\b[A-Z][A-Z_]+\b"


def with_templates(source, arcs):
    """The arcs (from line, to line) that were taken in a file, and those of its templates."""
    tree, arcs = ast.parse(source), set(arcs)
    blocks = [node for node in ast.walk(tree) if _is_template(node)]
    for node in reversed(blocks):  # the inner ones first
        inside = set(range(node.body[0].lineno, node.end_lineno + 1))
        for a, b in list(arcs):
            if a not in inside and b in inside:
                arcs |= {(a, node.lineno), (node.lineno, b)}
            elif a in inside and b not in inside:
                arcs.add((node.lineno, b))
                if isinstance(node, ast.For):  # the last copy is left as the others are
                    arcs.add((a, node.lineno))
    seen = {line for arc in arcs for line in arc}
    for node in ast.walk(tree):  # a condition that does not hold is not entered
        if not isinstance(node, (ast.For, ast.If, ast.While)) or node.lineno not in seen:
            continue
        if _is_template(node.body[0]) and seen & _lines(node.body):
            arcs.add((node.lineno, node.body[0].lineno))
    return arcs


def _lines(statements):
    return set(range(statements[0].lineno, statements[-1].end_lineno + 1))


def _is_template(node):
    """Whether a statement is a loop over, or a condition on, a name in capitals."""
    of = getattr(node, "iter", None) if isinstance(node, ast.For) else getattr(node, "test", None)
    return isinstance(node, (ast.For, ast.If)) and isinstance(of, ast.Name) and of.id.isupper()
