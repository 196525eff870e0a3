"""What is there is lost to nothing but a run that begins: not to one that is refused, nor to a kill on the way, nor to names alike."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main

from particles.run import folder as folders
from particles.run.lock import busy

SMALL = ["-n", 12, "--target-size", 15, "--network", "4,4", "--inner-steps", 1, "--steps", 2, "--no-figure", "-q"]
RUN = ["simulate", "--target", "moons", *SMALL, "-o", "there"]
KINDS = {
    "simulate": ["simulate"],
    "repeats": ["simulate", "--repeats", 2],
    "compare": ["compare", "--flows", "mmd,kale"],
}


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    large = pd.DataFrame(draws.normal(size=(30, 2)) * 1e20, columns=["a", "b"])
    large.to_csv("large.csv", index=False)
    far = large * 1e19  # numbers, but none in the units of the target and single precision
    far.to_csv("far.csv", index=False)


def done(*words, code=0):
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == code, (found.output, found.exception)
    assert "Traceback" not in found.output
    return found


def contents(path="there"):
    return {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "target",
    [["large.csv", "--source", "far.csv"], ["large.csv", "--source-std", "1e38"], [os.fsdecode(b"caf\xe9.csv")]],
)
def test_a_run_that_is_refused_replaces_nothing(kind, target):
    words = KINDS[kind]
    Path(os.fsdecode(b"caf\xe9.csv")).write_bytes(Path("large.csv").read_bytes())
    done(*words, "--target", "moons", *SMALL, "-o", "there")
    before = contents()
    found = done(*words, "--target", *target, *SMALL, "-o", "there", "--overwrite", code=2)
    assert any(
        says in found.stderr for says in ("the run cannot begin", "cannot be written as UTF-8", "too large for float32")
    )
    assert contents() == before
    done(*words, "--target", *target, *SMALL, "-o", "new", code=2)
    assert not contents("new")


def test_a_folder_whose_name_is_no_text_is_refused_at_once():
    name = os.fsdecode(b"r\xe9sultats")
    found = done("simulate", "--target", "moons", *SMALL, "-o", name, code=2)
    assert "the folder's name cannot be written as UTF-8" in found.stderr
    assert contents(name) == {}


@pytest.mark.parametrize("after", range(1, 7))
def test_a_kill_while_a_run_makes_way_leaves_what_can_be_replaced(monkeypatch, after):
    done(*RUN)
    unlink, count = Path.unlink, [0]

    def killed(path, missing_ok=False):
        if path.exists() and path.parent.name == "there" and path.name != ".lock":
            if count[0] == after:
                raise KeyboardInterrupt
            count[0] += 1
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            folders.clear(Path("there"))
    assert Path("there/spec.toml").exists()
    done(*RUN, "--overwrite")


def test_names_like_those_of_repeats_are_left_alone():
    words = ["simulate", "--target", "moons", *SMALL, "--repeats", 2, "-o", "there"]
    done(*words)
    Path("there/repeat-notes.txt").write_text("mine")
    Path("there/repeat-0-backup").mkdir()
    Path("there/repeat-0-backup/particles.csv").write_text("mine, too")
    done(*words, "--overwrite", "--seed", 5)
    assert Path("there/repeat-notes.txt").read_text() == "mine"
    assert Path("there/repeat-0-backup/particles.csv").read_text() == "mine, too"


def test_the_environment_does_not_lengthen_repeats(monkeypatch):
    done("simulate", "--target", "moons", *SMALL, "--repeats", 2, "-o", "there")
    before = contents()
    monkeypatch.setenv("PARTICLES_SIMULATE_STEPS", "7")
    done("simulate", "--resume", "there", "-q", "--no-figure")
    assert pd.read_csv("there/repeat-0/series.csv")["step"].max() == 2
    assert contents()[Path("there/repeat-0/particles.csv")] == before[Path("there/repeat-0/particles.csv")]


def test_a_lock_of_another_machine_counts_while_it_is_held():
    done(*RUN)
    lock = Path("there/.lock")
    lock.write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "then"}))
    assert not busy(Path("there"))
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert busy(Path("there"))


def test_standard_output_is_no_file_to_replace():
    """Though it is one where a shell has sent it to one."""
    done("simulate", "--target", "moons", *SMALL, "--record", "-o", "there")
    pd.DataFrame({"x0": [0.1], "x1": [0.2]}).to_csv("new.csv", index=False)
    command = "import sys; from particles.cli import main; main(['transport', 'there', '--input', 'new.csv', '--output', '/dev/stdout', '--overwrite', '-q'])"  # fmt: skip
    with open("all.txt", "w") as file:
        file.write("before\n")
        file.flush()
        ended = subprocess.run([sys.executable, "-c", command], stdout=file, stderr=subprocess.PIPE, text=True)
        file.write("after\n")
    assert ended.returncode == 2
    assert "/dev/stdout: this is a folder, a device or a pipe; name a file" in ended.stderr
    assert Path("all.txt").read_text() == "before\nafter\n"


@pytest.mark.parametrize("name", ["series.csv", "spec.toml", "summary.json", "checkpoint.pt"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(name):
    done(*RUN)
    Path("there", name).unlink()
    os.mkfifo(Path("there", name))
    for words in (
        ["simulate", "--resume", "there", "--steps", 3],
        ["report", "there", "-o", "x.html"],
        ["plot", "there", "-o", "x.png"],
    ):
        assert f"there/{name} is no ordinary file; put the run's own back" in done(*words, code=2).stderr


# What is read


def test_very_wide_tables():
    Path("wide.csv").write_text("," * 10**6 + "\n" + "," * 10**6 + "\n")
    found = done("simulate", "--target", "wide.csv", "-o", "x", code=2)
    assert (
        "wide.csv has 1000001 columns, and at most 200000 are read from text; give it as npy or Parquet" in found.stderr
    )


@pytest.mark.parametrize("name", ["~nobodyatall/data.csv", "~nobodyatall.csv"])
def test_homes_of_nobody(name):
    assert "there is no such file" in done("simulate", "--target", name, *SMALL, "-o", "x", code=2).stderr


def test_archives_of_other_things():
    import zipfile

    with zipfile.ZipFile("text.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    assert "'readme.txt' in it is no array" in done("simulate", "--target", "text.npz", "-o", "x", code=2).stderr
    x = np.zeros((6, 2))
    np.savez("labels.npz", x=x, a=np.zeros(6, dtype="i4,f8"), b=np.zeros(6, dtype="V1"), c=np.zeros(6) * 1j)
    for label in "abc":
        found = done("simulate", "--target", "labels.npz", "--label", label, "-o", "x", code=2)
        assert "labels must be numbers, text or dates, not " in found.stderr
        assert not Path("x/spec.toml").exists()


@pytest.mark.parametrize("entry", [[1, 2], {"a": 1}, b"\xfe"])
def test_labels_of_no_plain_type(entry):
    pd.DataFrame({"x": np.arange(6.0), "k": [entry] * 6}).to_parquet("rows.parquet")
    for command in (["simulate", "--target", "rows.parquet", "-o", "x"], ["augment", "rows.parquet", "-o", "x.csv"]):
        assert (
            "labels must be numbers, text or dates, and 'k' holds a " in done(*command, "--label", "k", code=2).stderr
        )


@pytest.mark.parametrize("entry", ["1" + "0" * 400, "1" + "0" * 20, "9007199254740993"])
def test_integers_of_any_length(entry):
    Path("long.csv").write_text("a,b\n" + f"{entry},1\n2,3\n" * 9)
    for command in (
        ["simulate", "--target", "long.csv", "-o", "x"],
        ["augment", "long.csv", "-o", "x.csv"],
        ["evaluate", "long.csv", "long.csv"],
    ):
        assert "beyond 2^53" in done(*command, code=2).stderr


def test_classes_are_called_as_they_are_written():
    draws = np.random.default_rng(0)
    rows = [f"{draws.normal():.3f},{name}" for name in ("01", "1", "007") * 6]
    Path("codes.csv").write_text("\n".join(["x,c", *rows]) + "\n")
    done("simulate", "--target", "codes.csv", "--label", "c", *SMALL, "--holdout", 0, "-o", "x")
    assert set(np.load("x/data.npz")["target_label"]) == {"01", "1", "007"}
    assert {line.rsplit(",", 1)[1] for line in Path("x/particles.csv").read_text().split()[1:]} <= {"01", "1", "007"}


def test_a_hold_out_that_is_one_of_the_tables():
    for real, synthetic in (("large.csv", "far.csv"), ("far.csv", "large.csv")):
        found = done("evaluate", real, synthetic, "--holdout", "large.csv", code=2)
        assert "--holdout large.csv is one of the tables that it is to judge" in found.stderr


@pytest.mark.parametrize("value", [1.5, 2.25])
def test_a_part_of_a_row(value):
    assert (
        "--holdout must be a part of the rows below 1, or a whole number of them"
        in done(*RUN, "--holdout", value, code=2).stderr
    )


def test_pictures_of_no_number():
    done(*RUN)
    assert "--dpi must be a number" in done("plot", "there", "--dpi", "nan", "-o", "x.png", code=2).stderr
    words = ["plot", "there", "--kind", "animation", "-o", "x.gif", "--fps"]
    assert "fps must be at least 0.1, not 1e-300" in done(*words, "1e-300", code=2).stderr


def test_what_is_guessed_is_told(caplog):
    Path("years.csv").write_text("2019;2020;2021\n" + "1,5;2,5;3\n2;3,5;4\n4;1;0\n" * 4)
    done("augment", "years.csv", "-o", "x.csv", "--method", "gaussian", "-q")
    assert "line 1 counts on from 2019 and is taken for a row; --header if it names the columns" in caplog.text
    assert "taken for a decimal one" not in caplog.text
    done("augment", "years.csv", "-o", "x.csv", "--overwrite", "--method", "gaussian", "-q", code=0)
    caplog.clear()
    Path("towns.csv").write_text("pop;area\n" + "23,653;69,444\n12,100;10,250\n1,000;99,123\n" * 3)
    done("augment", "towns.csv", "-o", "x.csv", "--overwrite", "--method", "gaussian", "-q")
    assert "the comma in '23,653' is taken for a decimal one, as semicolons are between the columns" in caplog.text


def test_a_named_index_is_told_of(caplog):
    frame = pd.DataFrame({"a": np.arange(9.0), "b": np.arange(9.0) ** 2}, index=pd.Index(range(9), name="id"))
    frame.to_parquet("indexed.parquet")
    done("augment", "indexed.parquet", "-o", "x.csv", "--method", "gaussian", "-q")
    assert "the index 'id' is no column and is left out; write the file after reset_index() to keep it" in caplog.text


# What is spoilt


def test_columns_that_few_rows_have_are_kept():
    """Neither the first rows nor the last one have a distance to held-out rows."""
    done(*RUN, "--holdout", 5, "--log-every", 1, "--metric-every", 1, "--steps", 5)
    path = Path("there/series.csv")
    series = pd.read_csv(path)
    series.loc[[0, 1, 5], "w2_holdout"] = np.nan
    series.to_csv(path, index=False)
    done("simulate", "--resume", "there", "--steps", 7, "-q", "--no-figure")
    after = pd.read_csv(path)
    assert after["step"].tolist() == list(range(8))
    assert after["w2_holdout"].notna().tolist() == [False, False, True, True, True, False, True, True]
    assert after["w2_holdout"][2:5].tolist() == pytest.approx(series["w2_holdout"][2:5].tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["target", "flow", "seed"])
def test_specifications_that_lack_a_word(name):
    done(*RUN)
    path = Path("there/spec.toml")
    path.write_text("\n".join(line for line in path.read_text().split("\n") if not line.startswith(f"{name} = ")))
    for words in (["plot", "there", "--kind", "diagnostics", "-o", "x.png"], ["report", "there", "-o", "x.html"]):
        assert f"spec.toml does not say its {name}" in done(*words, code=2).stderr
