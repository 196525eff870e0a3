"""The README's library examples run as they stand."""

import re
from pathlib import Path

import pandas as pd
import pytest

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": range(40), "b": [i**2 / 7 for i in range(40)], "class": ["u", "v"] * 20})
    frame.to_csv("data.csv", index=False)
    assert len(BLOCKS) == 2
    names: dict = {}
    for block in BLOCKS:
        exec(block.replace("300)", "20)").replace("300,", "20,"), names)
    distance, divergence = map(float, capsys.readouterr().out.split())
    assert 0 < distance < 2.5  # from 4 or so at the start
    assert abs(divergence) < 1
    assert list(names["frame"].columns) == ["a", "b", "class"]
    assert names["run"].trajectory.shape[2] == 2


def test_options_that_are_named_exist():
    from particles.cli.simulate import command

    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for name in set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", TEXT)):
        assert name in options | {"--help"}, name


def test_files_that_are_named_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:examples|tests)/[\w./]*)`", TEXT):
        assert (root / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (root / name).exists(), name


@pytest.mark.parametrize("name", ["TODO", "FIXME"])
def test_nothing_is_left_open(name):
    assert name not in TEXT
