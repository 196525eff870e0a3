"""The README's library examples run as they stand."""

import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": range(40), "b": [i**2 / 7 for i in range(40)]})
    for name in ("data.csv", "before.csv", "after.csv", "new.csv"):
        frame.to_csv(name, index=False)
    for name in ("labelled.csv", "train.csv"):
        frame.assign(**{"class": ["u", "v"] * 20}).to_csv(name, index=False)
    frame.assign(a=frame["a"] + 0.5, **{"class": ["u", "v"] * 20}).to_csv("test.csv", index=False)


def test_library_examples_run(capsys):
    assert len(BLOCKS) == 6
    names: dict = {}
    for block in BLOCKS:
        exec(block.replace("300)", "20)").replace("300,", "20,"), names)
    distance, divergence = map(float, capsys.readouterr().out.split())
    assert 0 < distance < 2.5  # from 4 or so at the start
    assert abs(divergence) < 1
    assert list(names["frame"].columns) == ["a", "b", "class"]
    assert len(names["more"]) == 40
    assert [row["class"] for row in names["evidence"]] == [0, 1]
    assert names["run"].trajectory.shape[2] == 2
    assert names["figure"].legends
    assert Path("run.gif").read_bytes().startswith(b"GIF89a")


def test_commands_run_one_after_the_other():
    """As they stand, but for fewer steps and smaller networks by environment variables."""
    block = re.search(r"## The command line\n+```\n(.*?)```", TEXT, flags=re.DOTALL).group(1)
    small = {"STEPS": "6", "NETWORK": "8,8", "TARGET_SIZE": "60", "FIGURE": "0"}
    environment = {
        f"PARTICLES_{command}_{name}": value for command in ("SIMULATE", "COMPARE") for name, value in small.items()
    }
    commands = [line.partition("#")[0].partition("|")[0].split() for line in block.splitlines()]
    assert len(commands) == 20
    for words in commands:
        found = CliRunner().invoke(main, words[1:], env=environment, auto_envvar_prefix="PARTICLES")
        assert found.exit_code == 0, (words, found.output)
    assert pd.read_csv("runs/data/series.csv")["step"].iloc[-1] == 800
    assert len(pd.read_csv("runs/more/carried.csv")) == 500
    assert len(pd.read_csv("runs/labelled/particles.csv")) == 200
    assert len(pd.read_csv("moved.csv")) == 40
    assert pd.read_csv("augmented.csv")["synthetic"].sum() == 80


def test_options_that_are_named_exist():
    from particles.cli import augment, compare, evaluate, info, plot, report, simulate, transport

    modules = (augment, compare, evaluate, info, plot, report, simulate, transport)
    commands = (module.command for module in modules)
    parameters = [parameter for command in commands for parameter in command.params]
    options = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    usage, _, _ = TEXT.partition("## What was measured")  # the examples have options of their own
    for name in set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", usage)):
        assert name in options | {"--help", "--nproc-per-node"}, name  # the latter of torchrun


def test_files_that_are_named_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:examples|tests)/[\w./]*)`", TEXT):
        assert (root / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (root / name).exists(), name


@pytest.mark.parametrize("name", ["TODO", "FIXME"])
def test_nothing_is_left_open(name):
    assert name not in TEXT
