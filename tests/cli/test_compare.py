"""``particles compare``: its table against the run folders, and what it does to other folders."""

import json
import os
import signal
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from particles.cli import compare as command
from particles.cli import main
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import particles as pt
from particles.plot.panels import compare as draw_compare

FLOWS = ["lipschitz", "transport", "w2", "mmd", "kale", "kernel"]
COLUMNS = [
    "flow", "w2_holdout", "w2_target", "sinkhorn", "energy_distance", "path_length", "straightness", "kinetic_energy",
    "seconds",
]  # fmt: skip
TINY = ["--target-size", 40, "--steps", 6, "--network", "8,8"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, with some files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {"a": rng.normal(1e4, 300, 40), "b": rng.normal(0, 1e-3, 40), "kind": rng.choice(["u", "v"], 40)}
    )
    data.to_csv("labelled.csv", index=False)
    data.drop(columns="kind").to_csv("data.csv", index=False)
    data[["a"]].to_csv("one.csv", index=False)
    data.assign(**{f"c{i}": rng.normal(size=40) for i in range(8)}).drop(columns="kind").to_csv("ten.csv", index=False)
    Path("a-file").write_text("mine")
    Path("mine/w2").mkdir(parents=True)
    Path("mine/w2/notes.txt").write_text("mine")
    return tmp_path


def run(*words, code=0):
    """A command in this process, with everything it wrote."""
    found = CliRunner().invoke(main, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found


def compare(*words, output="out", figure=False, code=0):
    return run("compare", *TINY, *([] if figure else ["--no-figure"]), "--output", output, *words, code=code)


def refusal(*words):
    """The one sentence that a command ends in."""
    found = compare(*words, code=2)
    assert found.stdout == ""
    *usage, sentence = found.stderr.splitlines()
    assert all(not line or line.startswith(("Usage: ", "Try ")) for line in usage)
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


def table(path="out"):
    return pd.read_csv(f"{path}/comparison.csv").set_index("flow")


def in_flow_units(path):
    """Snapshots, target and held-out rows of a run, in double precision."""
    units = np.array(tomllib.loads(Path(path, "spec.toml").read_text())["data"]["units"])
    with np.load(f"{path}/data.npz") as data:
        target, holdout = (np.asarray(data[name], dtype=float) / units for name in ("target", "holdout"))
    return np.load(f"{path}/trajectory.npy").astype(float) / units, target, holdout


def energy_distance(x, y):
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


def transport_cost(x, y):
    """W2 between as many points as points, by assignment."""
    squared = cdist(x, y, "sqeuclidean")
    return np.sqrt(squared[linear_sum_assignment(squared)].mean())


# The table


@pytest.mark.parametrize(
    "settings",
    [["--target", "moons"], ["--target", "data.csv", "--carried", 7], ["--target", "moons", "--holdout", 0]],
    ids=lambda words: " ".join(map(str, words)),
)
def test_the_table_says_what_the_run_folders_say(settings):
    compare(*settings, "--flows", ",".join(FLOWS))
    found = table()
    assert found.index.tolist() == ["target", *FLOWS]
    assert [found.index.name, *found.columns] == COLUMNS
    for flow in FLOWS:
        row = found.loc[flow]
        paths, target, holdout = in_flow_units(f"out/{flow}")
        assert len(paths) == 7
        paths = paths[:, : len(target)]  # as many particles as target rows, and then those that are carried
        end = paths[-1]
        reference = holdout if len(holdout) else target
        assert row.w2_target == pytest.approx(transport_cost(end, target), rel=1e-4)
        if len(holdout):
            cloud, fresh = (pt.Cloud(torch.as_tensor(x - target.mean(0)).float()) for x in (end, holdout))
            assert row.w2_holdout == pytest.approx(float(pt.w2(cloud, fresh)), rel=1e-4)
        else:
            assert np.isnan(row.w2_holdout)
        assert row.energy_distance == pytest.approx(energy_distance(end, reference), rel=1e-3, abs=1e-5)
        assert row.energy_distance >= 0
        assert row.sinkhorn > 0
        length = np.linalg.norm(np.diff(paths, axis=0), axis=-1).sum(0).mean()
        displacement = np.linalg.norm(end - paths[0], axis=-1).mean()
        assert row.path_length == pytest.approx(length, rel=1e-4)
        assert row.straightness == pytest.approx(length / displacement, rel=1e-4)
        assert row.straightness >= 1 - 1e-6
        assert row.kinetic_energy == pytest.approx(pd.read_csv(f"out/{flow}/series.csv").kinetic_energy.iloc[-1])
        assert row.seconds > 0


def test_the_first_row_is_the_targets_own():
    compare("--target", "data.csv", "--flows", "w2")
    _, target, holdout = in_flow_units("out/w2")
    row = table().loc["target"]
    clouds = (pt.Cloud(torch.as_tensor(x - target.mean(0)).float()) for x in (target, holdout))
    assert row.w2_holdout == pytest.approx(float(pt.w2(*clouds)), rel=1e-4)
    assert row.w2_target == 0
    assert row.energy_distance == pytest.approx(energy_distance(target, holdout), rel=1e-3)
    assert row[["path_length", "straightness", "kinetic_energy", "seconds"]].isna().all()


@pytest.mark.parametrize("target", ["moons", "data.csv"])
def test_exact_w2_descends_along_straight_lines(target):
    """Every Euler step of 0.1 goes a tenth of what is left, to the partner found at the start."""
    compare("--target", target, "--flows", "w2", "--dtype", "float64")
    paths, points, _ = in_flow_units("out/w2")
    start = transport_cost(paths[0], points)
    row = table().loc["w2"]
    assert row.w2_target == pytest.approx(start * 0.9**6, rel=1e-5)
    assert row.straightness == pytest.approx(1, rel=1e-5)
    squared = cdist(paths[0], points, "sqeuclidean")
    mean = np.sqrt(squared[linear_sum_assignment(squared)]).mean()
    assert row.path_length == pytest.approx(mean * (1 - 0.9**6), rel=1e-5)
    assert row.kinetic_energy == pytest.approx((start * 0.9**5) ** 2 / 2, rel=1e-4)  # of the step that led there


def test_csv_and_markdown_and_json_and_the_screen_agree():
    shown = compare("--target", "moons", "--flows", "mmd,w2").stdout
    assert shown == Path("out/comparison.md").read_text()
    head, rule, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert head[:3] == ["flow", "W2 to held-out", "W2 to target"]
    assert all(set(cell) == {"-"} for cell in rule)
    assert len(set(map(len, shown.splitlines()))) == 1
    found = table()
    assert [line[0] for line in lines] == found.index.tolist() == ["target", "mmd", "w2"]
    assert [line[1:] for line in lines] == [
        ["" if np.isnan(value) else f"{value:.4g}" for value in row] for row in found.to_numpy()
    ]
    rows = json.loads(compare("--target", "moons", "--flows", "mmd,w2", "--json", "-q", output="json").stdout)
    assert all(list(row) == COLUMNS for row in rows)
    again = table("json")
    for row in rows:
        values = again.loc[row.pop("flow")]
        assert [None if np.isnan(value) else value for value in values] == [row[name] for name in again.columns]
    measured = [name for name in COLUMNS[1:] if name != "seconds"]
    pd.testing.assert_frame_equal(found[measured], again[measured], check_exact=True)  # and so does a second run


def test_quiet_prints_nothing():
    assert compare("--target", "moons", "--flows", "w2", "--quiet").output == ""


def test_all_flows_start_from_the_same_source_to_the_same_target():
    compare("--target", "labelled.csv", "--label", "kind", "--carried", 3, "--flows", ",".join(FLOWS), "--seed", 4)
    firsts = [np.load(f"out/{flow}/trajectory.npy")[0] for flow in FLOWS]
    ends = [np.load(f"out/{flow}/trajectory.npy")[-1] for flow in FLOWS]
    data = [Path(f"out/{flow}/data.npz").read_bytes() for flow in FLOWS]
    for i in range(1, len(FLOWS)):
        assert (firsts[i] == firsts[0]).all()
        assert not (ends[i] == ends[0]).any()
        assert data[i] == data[0]
    kinds = [pd.read_csv(f"out/{flow}/particles.csv").kind.tolist() for flow in FLOWS]
    assert all(kind == kinds[0] for kind in kinds)


@pytest.mark.parametrize("flow", ["lipschitz", "transport", "w2", "mmd", "kale", "kernel"])
def test_a_run_of_a_comparison_is_one_of_simulate(flow):
    words = ["--target", "data.csv", "--seed", 3, "--noise", 0.1]
    compare(*words, "--flows", f"w2,{flow}" if flow != "w2" else "w2,mmd")
    run("simulate", *TINY, "--no-figure", "--output", "alone", "--flow", flow, *words)
    for name in ("particles.csv", "trajectory.npy", "spec.toml"):
        assert Path("out", flow, name).read_bytes() == Path("alone", name).read_bytes(), name
    run("simulate", "--resume", f"out/{flow}", "--steps", 8, "--no-figure", "-q")
    run("simulate", "--resume", "alone", "--steps", 8, "--no-figure", "-q")
    assert Path("out", flow, "particles.csv").read_bytes() == Path("alone/particles.csv").read_bytes()


def test_options_reach_the_flows_that_know_them():
    compare("--target", "moons", "--flows", "w2,mmd,transport", "--solver", "sinkhorn", "--epsilon", 0.2)
    specs = {flow: tomllib.loads(Path(f"out/{flow}/spec.toml").read_text()) for flow in ("w2", "mmd", "transport")}
    assert specs["w2"]["solver"] == "sinkhorn"
    assert "solver" not in specs["mmd"]
    assert specs["transport"]["epsilon"] == specs["w2"]["epsilon"] == 0.2
    assert specs["transport"]["radius"] == specs["transport"]["step_size"] == 0.5
    assert specs["w2"]["step_size"] == 0.1
    compare("--target", "moons", "--flows", "w2,transport", "--step-size", 0.25, output="same")
    assert [tomllib.loads(Path(f"same/{flow}/spec.toml").read_text())["step_size"] for flow in ("w2", "transport")] == [
        0.25,
        0.25,
    ]


def test_no_steps():
    compare("--target", "moons", "--steps", 0, "--flows", "w2,mmd")
    found = table()
    paths, target, _ = in_flow_units("out/w2")
    assert len(paths) == 1
    for flow in ("w2", "mmd"):
        assert found.loc[flow].w2_target == pytest.approx(transport_cost(paths[0], target), rel=1e-4)
        assert found.loc[flow].path_length == 0
        assert np.isnan(found.loc[flow].straightness)


# Diverging, being interrupted


def test_a_diverged_flow_leaves_the_others_their_rows():
    """Steps of 1e6 let W2 explode; the gradients of the others are bounded, and they only go to and fro."""
    words = ["--target", "moons", "--flows", "mmd,w2,transport", "--step-size", 1e6, "--steps", 40]
    found = compare(*words, "--json", figure=True, code=3)
    (sentence,) = found.stderr.splitlines()
    assert sentence.startswith("w2 diverged: step ")
    assert "out/w2/diverged.csv" in sentence
    rows = {row["flow"]: row for row in json.loads(found.stdout)}
    assert list(rows) == ["target", "mmd", "w2", "transport"]
    assert set(rows["w2"].values()) == {"w2", None}
    for flow in ("mmd", "transport"):
        assert all(value is not None for value in rows[flow].values())
        paths, target, _ = in_flow_units(f"out/{flow}")
        assert rows[flow]["w2_target"] == pytest.approx(transport_cost(paths[-1], target), rel=1e-3)
        assert Path(f"out/{flow}/particles.csv").exists()
    assert table().loc["w2"].isna().all()
    assert np.isfinite(pd.read_csv("out/w2/diverged.csv").to_numpy()).all()
    assert not Path("out/w2/particles.csv").exists()
    assert Path("out/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_all_diverged():
    compare("--target", "moons", "--flows", "mmd", "--step-size", 1e30, figure=True, code=3)
    assert table().index.tolist() == ["target", "mmd"]
    assert table().loc["target"].w2_holdout > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(monkeypatch, number):
    """A signal during the second flow: the first is whole, nothing is measured, and the folder can be overwritten."""
    seen = []

    class Progress(command.Progress):
        def __call__(self, k, row):
            super().__call__(k, row)
            seen.append(k)
            if len(seen) == 10:
                os.kill(os.getpid(), number)

    words = ["--target", "moons", "--flows", "w2,mmd,kale"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "Progress", Progress)
        found = compare(*words, code=128 + number)
    assert found.stdout == ""
    (sentence,) = found.stderr.splitlines()
    assert sentence.startswith("Interrupted: ")
    assert "--overwrite" in sentence
    assert Path("out/w2/particles.csv").exists()
    assert not Path("out/mmd/particles.csv").exists()
    assert table().index.tolist() == ["target", "w2"]  # what was finished
    compare(*words, "--overwrite")
    compare(*words, output="other")
    for flow in ("w2", "mmd", "kale"):
        assert contents(f"out/{flow}").keys() == contents(f"other/{flow}").keys()
        assert Path(f"out/{flow}/particles.csv").read_bytes() == Path(f"other/{flow}/particles.csv").read_bytes()


def test_interrupted_while_writing(monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_write", interrupted)
    compare("--target", "moons", "--flows", "w2", code=130)


# The figure


@pytest.mark.parametrize("target", ["moons", "one.csv", "ten.csv"])
@pytest.mark.parametrize("flows", [["w2"], ["kernel", "w2", "mmd", "kale"]], ids=len)
def test_the_figure_has_a_panel_per_flow(target, flows):
    compare("--target", target, "--flows", ",".join(flows), figure=True)
    assert Path("out/comparison.png").read_bytes().startswith(b"\x89PNG")
    figure = draw_compare({flow: pt.Run.open(f"out/{flow}") for flow in flows}, {flows[0]: "a caption"})
    panels = [ax for ax in figure.axes if ax.get_visible()]
    titles = [f"{flow}, step {int(pt.Run.open(f'out/{flow}').steps[-1])}" for flow in flows]
    assert [panel.get_title() for panel in panels] == [f"{titles[0]}\na caption", *titles[1:]]
    assert len({panel.get_xlim() for panel in panels}) == 1
    if target != "one.csv":  # a single column is drawn against the flow's own time
        assert len({panel.get_ylim() for panel in panels}) == 1


@pytest.mark.parametrize(
    ("flows", "height"),
    [
        (1, 1.3),
        (2, 0.5),
        (3, 0.5),
        (3, 2.0),
        (3, 1.0),
        (4, 1.3),
    ],
)
def test_nothing_is_cut_off(flows, height):
    """The particles fill a rectangle of width 1, in a picture as it is saved."""
    x, y = np.meshgrid(np.linspace(0, 1, 8), np.linspace(0, height, 8))
    pd.DataFrame({"x": x.ravel(), "y": y.ravel()}).to_csv("grid.csv", index=False)
    names = FLOWS[-flows:]
    compare(
        "--target", "grid.csv", "--source", "grid.csv", "-n", 40, "--scale", "global", "--steps", 1,
        "--flows", ",".join(names),
    )  # fmt: skip
    figure = draw_compare({flow: pt.Run.open(f"out/{flow}") for flow in names}, dict.fromkeys(names, "W2 0.123"))
    figure.dpi = 130
    FigureCanvasAgg(figure).draw()
    panels = [ax for ax in figure.axes if ax.get_visible()]
    texts = [text for ax in panels for text in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    for box in (found.get_window_extent() for found in [*figure.legends, *texts]):
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < figure.bbox.x1 + 1
        assert box.y1 < figure.bbox.y1 + 1


def test_the_figure_says_where_each_flow_ended():
    compare("--target", "moons", "--flows", "transport,w2", "--stop-energy", 0.02, "--patience", 2, "--steps", 100)
    runs = {flow: pt.Run.open(f"out/{flow}") for flow in ("transport", "w2")}
    ends = [int(run.series["step"].iloc[-1]) for run in runs.values()]
    assert ends[0] < ends[1] < 100
    figure = draw_compare(runs)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    texts += [ax.get_title() for ax in figure.axes]
    assert all(any(str(end) in text for text in texts) for end in ends)


def test_no_figure():
    compare("--target", "moons", "--flows", "w2")
    assert not Path("out/comparison.png").exists()


# Bad input, other folders


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--flows", "w2,mdm"], ["--flow", "'mdm'", "did you mean mmd?"]),
        (["--flows", "w2,W2"], ["flows", "different names", "'w2,W2'"]),
        (["--flows", ""], ["flows", "''"]),
        (["--flows", ","], ["flows", "','"]),
        (["--flows", "w2", "--solver", "exakt"], ["--solver", "did you mean exact?"]),
        (["--flows", "mmd,kale", "--kernel", "riesz"], ["Riesz", "positive definite"]),
        (["--flows", "mmd,kernel", "--kernel", "laplacian"], ["Laplacian", "Gaussian"]),
        (["--flows", "mmd", "--exponent", "2"], ["--exponent", "between 0 and 2"]),
        (["--log-every", "2", "--snapshot-every", "3"], ["--snapshot-every", "--log-every", "3"]),
        (["--step-size", "nan"], ["--step-size", "nan"]),
        (["--target", "data.csv", "--holdout", "39"], ["--holdout 39", "data.csv"]),
        (["--target", "nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["--flow", "w2"], ["--flow"]),
        (["--resume", "out"], ["--resume"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_bad_input(words, says):
    message = refusal("--target", "moons", *words)
    for part in says:
        assert part in message
    assert not Path("out").exists()


def test_a_target_is_needed():
    found = run("compare", "--output", "out", code=2)
    assert "--target" in found.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("output", "more", "says"),
    [
        ("mine", [], ["mine is not empty", "--overwrite"]),
        ("mine", ["--overwrite"], ["mine", "not a comparison", "--output"]),
        ("a-file", [], ["--output a-file is a file"]),
        ("a-file", ["--overwrite"], ["--output a-file is a file"]),
        ("a-file/out", [], ["a-file"]),
    ],
)
def test_folders_that_are_no_comparisons_survive(output, more, says):
    before = contents(".")
    message = refusal("--target", "moons", "--flows", "w2", "--output", output, *more)
    for part in says:
        assert part in message
    assert contents(".") == before


def test_a_run_is_no_comparison():
    run("simulate", *TINY, "--no-figure", "--output", "out", "--target", "moons")
    before = contents("out")
    refusal("--target", "moons", "--flows", "w2", "--overwrite")
    assert contents("out") == before


def test_overwriting_leaves_nothing_of_the_old_comparison_and_all_else():
    compare("--target", "labelled.csv", "--label", "kind", "--carried", 3, "--flows", "w2,mmd", figure=True)
    Path("out/notes.txt").write_text("mine")
    Path("out/mmd/notes.txt").write_text("mine")
    before = contents("out")
    refusal("--target", "moons", "--flows", "w2")
    for words in (["--step-size", "0"], ["--flows", "nothing"], ["--target", "nowhere.csv"]):
        refusal("--target", "moons", "--flows", "w2", "--overwrite", *words)
    for option in ("--target", "--source"):
        words = ["--target", "labelled.csv", "--label", "kind", "--flows", "w2", "--overwrite"]
        assert "--overwrite would replace" in refusal(*words, option, "out/w2/particles.csv")
    assert contents("out") == before
    compare("--target", "moons", "--flows", "kale", "--overwrite")
    found = contents("out")
    assert {name for name in found if not name.startswith("kale/")} == {
        "comparison.csv", "comparison.md", "notes.txt", "mmd/notes.txt",
    }  # fmt: skip
    assert table().index.tolist() == ["target", "kale"]


def test_help_names_every_flow_and_where_things_go():
    text = " ".join(run("compare", "--help").stdout.split())
    for part in (*FLOWS, "comparison.csv", "comparison.md", "comparison.png", "straightness", "runs/compare-"):
        assert part in text


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("PARTICLES_COMPARE_SEED", "5")
    monkeypatch.setenv("PARTICLES_COMPARE_JSON", "1")
    words = [*map(str, TINY), "--no-figure", "--target", "data.csv", "-o", "out", "--flows", "w2"]
    found = CliRunner().invoke(main, ["compare", *words], auto_envvar_prefix="PARTICLES")
    assert [row["flow"] for row in json.loads(found.stdout)] == ["target", "w2"]
    assert "seed = 5\n" in Path("out/w2/spec.toml").read_text()
