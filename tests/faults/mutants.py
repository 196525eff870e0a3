"""Changes one thing at a time in ``divergences.py`` and ``steppers/``, and looks whether a test notices: mutation testing.

    python tests/faults/mutants.py                          # all of them: about half an hour on one core
    python tests/faults/mutants.py steppers/adams.py        # one module
    python tests/faults/mutants.py --log first.jsonl        # keep what was found,
    python tests/faults/mutants.py --again first.jsonl      # and try those again that survived, after new tests

Exchanged are operators, comparisons that take in their bounds or do not, numbers (one more), truth values, names in quotes, branches, smallest and
largest; left out are statements, keyword arguments, calls, slices and what a function returns. Defaults are numbers like all others.
A mutant is killed if a test fails, or takes more than ``--limit`` seconds of a processor. Every mutant has a process of its own, forked from one
that has imported what the project needs but not the project; the files on disk are never changed.

The exit code is 1 if a mutant survives that is not in ``equivalent.py``, where it says why no test tells it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import mmap
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from equivalent import EQUIVALENT

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("test_steppers.py", "test_closed_forms.py")
TESTS = {  # those that fail first come first
    "divergences.py": ("test_divergences.py", "test_closed_forms.py"),
    "steppers/base.py": STEPS,
    "steppers/euler.py": STEPS,
    "steppers/runge_kutta.py": STEPS,
    "steppers/adams.py": STEPS,
    "steppers/adaptive.py": STEPS,
    "steppers/cfl.py": ("test_steppers.py",),
    "steppers/planes.py": ("test_planes.py",),
    "steppers/proximal.py": ("test_proximal.py", "test_closed_forms.py"),
}
MEMORY = 8 * 2**30
"""Bytes of address space of a mutant, so that one that never ends does not fill the machine."""
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


def mutants(path: Path) -> Iterator[tuple[str, CodeType, bool]]:
    """The name of every mutant of a file, unique and the same in every run, its code, and whether objects are born with it."""
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
            name = (
                f"{path.relative_to(ROOT / 'particles')}: {scope[id(above if inside else part)]}: {before} -> {after}"
            )
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


class Mutated(MetaPathFinder, SourceFileLoader):
    """Finds one module, as the code that it is given."""

    def __init__(self, name: str, path: Path, code: object):
        super().__init__(name, str(path))
        self.code = code

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname):  # type: ignore[no-untyped-def]
        return self.code


def fate(act: Callable[[], bool]) -> str:
    """``killed``, ``slow`` (killed by the limit) or ``survived``, as ``act`` answers whether all tests passed, in a process of its own."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            status = 0 if act() else 1
        finally:
            os._exit(status)
    _, answer = os.waitpid(child, 0)
    return "slow" if os.WIFSIGNALED(answer) else "killed" if answer else "survived"


def imported(path: Path, code: CodeType, words: list[str], limit: float) -> bool:
    """Whether all tests pass where the module is imported as this code."""
    sys.meta_path.insert(0, Mutated(dotted(path), path, code))
    return tested(words, Limit(limit)) == 0


class Limit:
    """Ends the process, by a signal, in which a test takes longer than so many seconds of the processor."""

    def __init__(self, limit: float):
        self.limit = limit

    def pytest_runtest_setup(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self.limit)


def tested(words: list[str], *plugins: object) -> int:
    import hypothesis
    import pytest

    # That there is a counterexample is enough, it need not be the shortest; and every mutant meets the same examples.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    return int(
        pytest.main(
            ["-x", "-q", "-s", "--no-header", "--disable-warnings", "-p", "no:cacheprovider", *words],
            plugins=list(plugins),
        )
    )


class Loop:
    """In place of running the tests that pytest has collected: runs them for one mutant after the other."""

    def __init__(self, path: Path, names: set[str], limit: float, log: Path):
        self.path, self.names, self.limit, self.log = path, names, limit, log

    def pytest_runtestloop(self, session: Any) -> bool:
        module, items = sys.modules[dotted(self.path)], list(session.items)
        noticed = mmap.mmap(-1, 8)  # the number of the test that failed, seen by parent and child

        def passed(code: CodeType | None) -> bool:
            if code is not None:
                replace(module, code)
            for i, (item, following) in enumerate(zip(items, [*items[1:], None])):
                noticed[:] = i.to_bytes(8)
                signal.setitimer(signal.ITIMER_PROF, self.limit if code else 0)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    return False
            return True

        note(self.log, "", fate(partial(passed, None)))
        for name, code, early in mutants(self.path):
            if name in self.names and not early:
                found = fate(partial(passed, code))
                note(self.log, name, found)
                if found != "survived":  # the next mutant, which is nearby, is probably noticed by the same test
                    items.insert(0, items.pop(int.from_bytes(noticed[:])))
        return True


def replace(module: ModuleType, code: CodeType) -> None:
    """Takes over functions, class attributes and constants from code, in place, so that what was made of them has them too."""
    fresh: dict[str, Any] = {"__name__": module.__name__}
    exec(code, fresh)
    for name, old in list(vars(module).items()):
        new = fresh.get(name)
        if getattr(old, "__module__", None) != module.__name__:
            if not name.startswith("__") and not isinstance(old, ModuleType) and not callable(old):
                setattr(module, name, new)  # a number or a tuple
        elif isinstance(old, type):
            for attribute, value in list(vars(old).items()):
                other = vars(new).get(attribute)
                if isinstance(value, FunctionType):
                    take(value, other)
                elif not attribute.startswith("_"):
                    setattr(old, attribute, other)
        elif isinstance(old, FunctionType):
            take(old, new)
        elif is_dataclass(old):
            for field in vars(new):
                object.__setattr__(old, field, getattr(new, field))


def take(old: Any, new: Any) -> None:
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def note(log: Path, name: str, found: str) -> None:
    found = "equivalent" if found == "survived" and name in EQUIVALENT else found
    if found == "survived" and name:
        sys.__stdout__.write(name + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]
    with log.open("a") as file:
        print(json.dumps({"mutant": name, "fate": found}), file=file)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS), metavar="MODULE", help=f"of {', '.join(TESTS)}; all")
    parser.add_argument(
        "--limit", type=float, default=10, metavar="SECONDS", help="the most processor time that a test may take; 10"
    )
    parser.add_argument("--log", type=Path, help="where the fate of each mutant is appended, one JSON object per line")
    parser.add_argument("--again", type=Path, metavar="LOG", help="only those that survived in this log")
    parser.add_argument("--list", action="store_true", help="show the mutants and try none")
    chosen = parser.parse_args()
    if unknown := [module for module in chosen.modules if module not in TESTS]:
        parser.error(f"unknown module {unknown[0]}: one of {', '.join(TESTS)}")
    stale = EQUIVALENT.keys() - {name for module in TESTS for name, _, _ in mutants(ROOT / "particles" / module)}
    if stale:
        parser.error(f"equivalent.py has no such mutant any more: {min(stale)}")
    return chosen


def main() -> int:
    chosen = options()
    if chosen.list:
        for module in chosen.modules:
            print(*(name for name, _, _ in mutants(ROOT / "particles" / module)), sep="\n")
        return 0
    log = chosen.log or Path(tempfile.mkdtemp()) / "log.jsonl"
    wanted = (
        None if chosen.again is None else {row["mutant"] for row in rows(chosen.again) if row["fate"] == "survived"}
    )
    begin = len(rows(log))
    preload()
    sys.path[:0] = [str(ROOT)]
    for module in chosen.modules:
        path = ROOT / "particles" / module
        words = [str(ROOT / "tests" / name) for name in TESTS[module]]
        all_of_it = list(mutants(path))
        names = {name for name, _, _ in all_of_it if wanted is None or name in wanted}
        if not names:
            continue
        # The project is imported in a process of its own: mutants that have to be imported begin without.
        if (child := os.fork()) == 0:
            os._exit(tested(words, Loop(path, names, chosen.limit, log)))
        os.waitpid(child, 0)
        if not any(row == {"mutant": "", "fate": "survived"} for row in rows(log)[begin:]):
            sys.exit(f"the tests of {module} fail without any change: {' '.join(words)}")
        for name, code, early in all_of_it:
            if name in names and early:
                note(log, name, fate(partial(imported, path, code, words, chosen.limit)))
    fates = Counter(row["fate"] for row in rows(log)[begin:] if row["mutant"])
    print(", ".join(f"{count} {found}" for found, count in sorted(fates.items())) or "none")
    return int(fates["survived"] > 0)


def rows(log: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def preload() -> None:
    """Imports what takes long, but nothing of the project."""
    for name in (
        "torch",
        "scipy.optimize",
        "scipy.spatial",
        "pandas",
        "ot",
        "geomloss",
        "cvxpy",
        "hypothesis",
        "pytest",
        "matplotlib.pyplot",
    ):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
