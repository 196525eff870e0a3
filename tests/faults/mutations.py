"""What is changed in a program, one thing at a time: the mutants of a file."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE,),
    ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE,),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
OPPOSITE = {
    a: b for pair in (("min", "max"), ("minimum", "maximum"), ("argmin", "argmax")) for a, b in (pair, pair[::-1])
}


def places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every part of a program that runs, and where it is: the part above, its field and the number in it."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(part, ast.AST) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)):
                continue
            yield node, field, i if isinstance(value, list) else None, part
            if not isinstance(part, ast.Raise):  # that there is an error counts, and the tests look for its words
                yield from places(part)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a part of a program may be exchanged for."""
    if type(node) in OPERATORS:
        yield from (other() for other in OPERATORS[type(node)])
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(value + "XX")
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=other):
            yield from (body, other)
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield from (ast.Continue(), ast.Pass())
        case ast.Continue():
            yield from (ast.Break(), ast.Pass())
        case ast.Raise() | ast.AugAssign() | ast.Expr():
            yield ast.Pass()
        case ast.Subscript(value=value, slice=ast.Slice()):
            yield value
        case ast.Call():
            yield from calls(node)


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """Smallest for largest, without one keyword, and what the function was called with instead of what it answers."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in OPPOSITE:
        other = OPPOSITE[name]
        func = (
            ast.Attribute(node.func.value, other, ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(other, ast.Load())
        )
        yield ast.Call(func, node.args, node.keywords)
    for i in range(len(node.keywords)):
        yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in (
        "torch",
        "math",
        "np",
        "self",
        "super()",
        "torch.nn.functional",
    ):
        yield node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred) and name != "bool":
        yield node.args[0]


def mutants(path: Path, root: Path) -> Iterator[tuple[str, CodeType, bool]]:
    """The name of every mutant of a file, which is called as seen from ``root``, unique and the same in every run; its code, and
    whether objects are born with it."""
    tree = ast.parse(path.read_text())
    early: set[int] = set()  # parts whose change is seen by what is made afterwards alone
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__post_init__"):
            early |= set(map(id, ast.walk(node)))
        if isinstance(node, ast.ClassDef):
            early |= {id(part) for line in node.body if isinstance(line, ast.AnnAssign) for part in ast.walk(line)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.args.args:
            early |= set(map(id, ast.walk(node)))
    scope = dict(scopes(tree))  # operators, which trees share, are where the part above is
    seen: Counter[str] = Counter()
    for above, field, i, part in list(places(tree)):
        found = list(changes(part))
        if field == "test":
            found += [ast.Constant(value) for value in (True, False)]
        for new in found:
            inside = isinstance(part, (ast.operator, ast.cmpop, ast.boolop))
            before = ast.unparse(above if inside else part)
            ast.copy_location(new, above if inside else part)
            put(above, field, i, new)
            after = ast.unparse(above if inside else new)
            name = f"{path.relative_to(root)}: {scope[id(above if inside else part)]}: {before} -> {after}"
            seen[name] += 1
            name += f" ({seen[name]})" if seen[name] > 1 else ""
            try:
                code = compile(ast.fix_missing_locations(tree), str(path), "exec") if before != after else None
            except (SyntaxError, ValueError, TypeError):  # such as a break outside of a loop
                code = None
            put(above, field, i, part)
            if code is not None:
                yield name, code, id(above) in early or id(part) in early


def scopes(node: ast.AST, name: str = "") -> Iterator[tuple[int, str]]:
    """Every part of a program, and the function or class that it is in: names of mutants outlive lines that move."""
    for part in ast.iter_child_nodes(node):
        inner = isinstance(part, (ast.FunctionDef, ast.ClassDef))
        below = f"{name}.{part.name}".lstrip(".") if inner else name
        yield id(part), below
        yield from scopes(part, below)


def put(above: ast.AST, field: str, i: int | None, part: ast.AST) -> None:
    if i is None:
        setattr(above, field, part)
    else:
        getattr(above, field)[i] = part
