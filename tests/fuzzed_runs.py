"""A folder with tables and finished runs, commands tried in it with any words, and copies of the runs with one file spoilt."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from fuzzing import limited, spoilt
from hypothesis import strategies as st
from particles.cli import main

SMALL = [
    "-n",
    "12",
    "--target-size",
    "15",
    "--holdout",
    "5",
    "--network",
    "4,4",
    "--no-figure",
    "-q",
    "--log-every",
    "1",
]
BASES = {
    "recorded": ["--target", "moons", "--steps", "3", "--record", "--carried", "2", "--checkpoint-every", "2"],
    "labelled": ["--target", "rows.csv", "--label", "k", "--steps", "3", "--flow", "transport"],
    "learnt": ["--target", "moons", "--steps", "3", "--flow", "proximal", "--time-steps", "3"],
}


def ended(*words):
    """What a command answers; it ends in time, with a code of its own, and one sentence if it does not do as it is told."""
    with limited():
        found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exception is None or isinstance(found.exception, SystemExit), (words, found.exc_info)
    assert found.exit_code in (0, 2, 3, 4), (words, found.exit_code, found.stderr)
    assert "Traceback" not in found.output
    if found.exit_code:
        assert found.stderr.strip(), words
        assert found.stderr.strip().splitlines()[-1].startswith(("Error: ", "Diverged: ")), (words, found.stderr)
    return found


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Makes a folder, with some tables and the finished runs, the working directory."""
    before = os.getcwd()
    os.chdir(path)
    draws = np.random.default_rng(0)
    rows = pd.DataFrame(draws.normal(size=(24, 2)), columns=["x0", "x1"])
    rows.to_csv("plain.csv", index=False)
    rows.assign(k=["u", "v"] * 12).to_csv("rows.csv", index=False)
    rows.head(3).to_csv("new.csv", index=False)
    rows.head(3).assign(k=["u", "v", "u"]).to_csv("new-labelled.csv", index=False)
    for name, words in BASES.items():
        assert ended("simulate", *SMALL, *words, "-o", f"whole/{name}").exit_code == 0
    try:
        yield path
    finally:
        os.chdir(before)


def contents(path):
    return {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file() and file.name != ".lock"}


@st.composite
def spoilt_runs(draw):
    """Copies a finished run and spoils one of its files, or takes it away; its name and that of the file."""
    name = draw(st.sampled_from(list(BASES)))
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree(f"whole/{name}", "run")
    files = sorted(path for path in Path("run").rglob("*") if path.is_file())
    path = draw(st.sampled_from(files))
    if not draw(st.integers(0, 9)):
        path.unlink()
    else:
        path.write_bytes(draw(spoilt(path.read_bytes(), 2)))
    return name


NUMBER = st.one_of(
    st.sampled_from(
        [
            "0",
            "1",
            "-1",
            "0.5",
            "2",
            "1e-300",
            "1e-12",
            "1e12",
            "1e300",
            "inf",
            "-inf",
            "nan",
            "",
            "x",
            "1,5",
            "0x1",
            "1e400",
            "²",
        ]
    ),
    st.floats(0, 3).map(str),
    st.integers(0, 20).map(str),
)
WHOLE = st.sampled_from(["0", "1", "2", "3", "5", "-1", "1.5", "", "x", "nan", "9" * 30])
