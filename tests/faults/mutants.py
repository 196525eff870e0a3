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
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from equivalent import EQUIVALENT
from mutations import mutants

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "particles"
STEPS = ("steppers/test_steppers.py", "laws/test_closed_forms.py")
TESTS = {  # those that fail first come first
    "divergences.py": ("test_divergences.py", "laws/test_closed_forms.py"),
    "steppers/base.py": STEPS,
    "steppers/euler.py": STEPS,
    "steppers/runge_kutta.py": STEPS,
    "steppers/adams.py": STEPS,
    "steppers/adaptive.py": STEPS,
    "steppers/bundle.py": ("steppers/test_bundle.py",),
    "steppers/jko.py": ("steppers/test_jko.py", "laws/test_closed_forms.py"),
}
MEMORY = 8 * 2**30
"""Bytes of address space of a mutant, so that one that never ends does not fill the machine."""


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
        for name, code, early in mutants(self.path, PACKAGE):
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
    stale = EQUIVALENT.keys() - {name for module in TESTS for name, _, _ in mutants(PACKAGE / module, PACKAGE)}
    if stale:
        parser.error(f"equivalent.py has no such mutant any more: {min(stale)}")
    return chosen


def main() -> int:
    chosen = options()
    if chosen.list:
        for module in chosen.modules:
            print(*(name for name, _, _ in mutants(PACKAGE / module, PACKAGE)), sep="\n")
        return 0
    log = chosen.log or Path(tempfile.mkdtemp()) / "log.jsonl"
    wanted = (
        None if chosen.again is None else {row["mutant"] for row in rows(chosen.again) if row["fate"] == "survived"}
    )
    begin = len(rows(log))
    preload()
    sys.path[:0] = [str(ROOT)]
    for module in chosen.modules:
        path = PACKAGE / module
        words = [str(ROOT / "tests" / name) for name in TESTS[module]]
        all_of_it = list(mutants(path, PACKAGE))
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
