"""The command line, from a file to a file, and what it says to bad input."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from sklearn import datasets

from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.run.folder import Folder
from particles.run.loop import simulate as loop

TINY = ["-n", "20", "--target-size", "30", "--steps", "4", "--network", "8,8", "--no-figure"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, with some files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(3, 2, 40), "k": rng.integers(0, 50, 40)})
    data.to_csv("data.csv", index=False)
    data.assign(z=rng.normal(size=40)).to_csv("wide.csv", index=False)
    data[:10].to_csv("short.csv", index=False)
    data[:30].to_csv("thirty.csv", index=False)
    data[:1].to_csv("one.csv", index=False)
    data.assign(flag=data.k > 20, c=7, kind=rng.choice(["u", "v"], 40)).to_csv("mixed.csv", index=False)
    Path("text.csv").write_text("a,k\n1,2\n3,four\n5,6\n")
    Path("missing.csv").write_text("a,k\n1,2\n3,4\n,6\n")
    Path("huge.csv").write_text("a,k\n1e200,2\n3e200,4\n2e200,6\n")
    Path("a-file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    return tmp_path


def run(*words, code=0):
    """A command in this process, with everything it wrote."""
    found = CliRunner().invoke(main, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found


def simulate(*words, output="run", code=0):
    return run("simulate", *TINY, "--output", output, *words, code=code)


def refusal(*words, code=2):
    """The one sentence that a command ends in."""
    found = run("simulate", *words, code=code)
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    *usage, sentence = found.stderr.splitlines()
    assert all(not line or line.startswith(("Usage: ", "Try ")) for line in usage)
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


# Results


def test_csv_in_csv_out():
    simulate("--target", "mixed.csv", "--label", "kind")
    given, found = pd.read_csv("mixed.csv"), pd.read_csv("run/particles.csv")
    assert list(found.columns) == list(given.columns)
    assert found.dtypes.tolist() == given.dtypes.tolist()
    assert len(found) == 20
    assert (found.c == 7).all()
    shares = given.kind.value_counts(normalize=True) * 20
    assert all(abs(found.kind.value_counts()[kind] - share) < 1.5 for kind, share in shares.items())
    assert found.a.mean() == pytest.approx(given.a.mean(), abs=5 * given.a.std() / np.sqrt(20))  # in its own unit
    assert not Path("run/carried.csv").exists()


def test_no_header_in_no_header_out():
    pd.read_csv("data.csv").to_csv("bare.csv", index=False, header=False)
    simulate("--target", "bare.csv")
    found = pd.read_csv("run/particles.csv", header=None)
    assert found.shape == (20, 2)
    assert found.dtypes.tolist() == pd.read_csv("bare.csv", header=None).dtypes.tolist()


@pytest.mark.parametrize("kind", ["parquet", "npy", "npz"])
def test_other_files(kind):
    frame = pd.read_csv("data.csv")
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet("data.parquet")
    else:
        getattr(np, "save" if kind == "npy" else "savez")(f"data.{kind}", frame.to_numpy())
    simulate("--target", f"data.{kind}")
    assert list(pd.read_csv("run/particles.csv")) == (["a", "k"] if kind == "parquet" else ["x0", "x1"])


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_real_data(name):
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    frame.to_csv("real.csv", index=False)
    simulate("--target", "real.csv", "--label", "target", "--steps", 2)
    given, found = pd.read_csv("real.csv"), pd.read_csv("run/particles.csv")
    assert list(found.columns) == list(frame.columns)
    assert found.dtypes.tolist() == given.dtypes.tolist()
    assert set(found.target) == set(frame.target)
    constant = frame.columns[frame.nunique() == 1]
    assert len(constant) == (3 if name == "digits" else 0)
    assert (found[constant] == 0).all(axis=None)


def test_json_is_all_there_is_on_standard_output():
    found = simulate("--target", "moons", "--json")
    assert found.stdout.count("\n") == 1
    summary = json.loads(found.stdout)
    assert summary == json.loads(Path("run/summary.json").read_text())
    assert (summary["run"], summary["step"], summary["particles"]) == ("run", 4, 20)
    assert summary["time"] == pytest.approx(4 * 0.5)
    assert summary["flow_units"]["w2_target"] > summary["flow_units"]["w2_floor"] > 0
    assert "data_units" not in summary
    assert found.stderr == ""


def test_quiet_prints_nothing():
    assert simulate("--target", "moons", "--quiet").output == ""
    assert json.loads(simulate("--target", "moons", "--quiet", "--json", output="other").output)["run"] == "other"


def test_a_constant_column_is_warned_of_on_standard_error():
    pd.read_csv("mixed.csv").drop(columns="kind").to_csv("constant.csv", index=False)
    words = [*TINY, "--target", "constant.csv", "--output", "run", "--json"]
    found = subprocess.run(  # a process of its own: nothing else may have set up logging, or write to its streams
        [sys.executable, "-m", "particles.cli", "simulate", *words], capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout)["step"] == 4
    assert found.stdout.count("\n") == 1
    (warning,) = found.stderr.splitlines()
    assert "constant.csv" in warning
    assert "constant: column 'c'" in warning
    assert pd.read_csv("run/particles.csv").c.tolist() == [7] * 20


@pytest.mark.parametrize(
    "settings",
    [
        ["--target", "moons"],
        ["--target", "moons", "--source", "uniform"],
        ["--target", "data.csv", "--source", "bootstrap"],
        ["--target", "mixed.csv", "--label", "kind"],
        ["--target", "data.csv", "--source", "thirty.csv"],
        ["--target", "moons", "--source", "circles"],
        ["--target", "moons", "--batch-size", "8"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("carried", [1, 10])
def test_carried_particles_change_nothing(settings, carried):
    simulate(*settings, output="alone")
    simulate(*settings, "--carried", carried)
    found = pd.read_csv("run/carried.csv")
    assert len(found) == carried
    assert list(found.columns) == list(pd.read_csv("alone/particles.csv").columns)
    assert Path("run/particles.csv").read_bytes() == Path("alone/particles.csv").read_bytes()
    assert not Path("alone/carried.csv").exists()
    assert np.load("run/trajectory.npy").shape[:2] == (5, 20 + carried)


@pytest.mark.parametrize(
    "settings",
    [
        ["--target", "moons"],
        ["--target", "moons", "--batch-size", "8", "--stepper", "heun", "--momentum", "0.5", "--decay", "3"],
        ["--target", "mixed.csv", "--label", "kind", "--carried", "5", "--constraint", "penalty"],
        ["--target", "moons", "--log-every", "2", "--checkpoint-every", "3", "--dtype", "float64"],
    ],
    ids=" ".join,
)
def test_resumed_is_uninterrupted(settings):
    simulate(*settings, "--steps", 9, output="whole")
    simulate(*settings, "--steps", 5)
    first = Path("run/particles.csv").read_bytes()
    run("simulate", "--resume", "run", "--steps", 9, "--no-figure")
    whole, resumed = contents("whole"), contents("run")
    assert whole.keys() == resumed.keys()
    for name in ("particles.csv", "series.csv", "trajectory.npy", "trajectory.csv", "data.npz", "spec.toml"):
        assert resumed[name] == whole[name], name
    assert first != resumed["particles.csv"]


@pytest.mark.parametrize("log_every", [1, 2])
def test_resuming_at_the_end_changes_nothing(log_every):
    simulate("--target", "moons", "--steps", 5, "--log-every", log_every)
    before = contents("run")
    run("simulate", "--resume", "run", "--no-figure")
    after = contents("run")
    assert [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)] == []


def test_seeds():
    for output, seed in (("one", 1), ("again", 1), ("two", 2)):
        simulate("--target", "data.csv", "--seed", seed, output=output)
    particles = [Path(output, "particles.csv").read_bytes() for output in ("one", "again", "two")]
    assert particles[0] == particles[1]
    assert particles[0] != particles[2]


def test_overwrite_leaves_nothing_of_the_old_run():
    simulate("--target", "mixed.csv", "--label", "kind", "--carried", 3)
    simulate("--target", "moons", "--overwrite")
    assert not Path("run/carried.csv").exists()
    assert list(pd.read_csv("run/particles.csv").columns) == ["x0", "x1"]


@pytest.mark.parametrize(
    "settings", [["--step-size", 1e38], ["--constraint", "none", "--step-size", 1e30]], ids=["spectral", "none"]
)
def test_divergence_leaves_the_last_good_particles(settings):
    found = simulate("--target", "moons", "--steps", 50, *settings, code=3)
    assert found.stdout == ""
    *_, sentence = found.stderr.splitlines()
    assert sentence.startswith("Diverged: step ")
    assert "run/diverged.csv" in sentence
    good = pd.read_csv("run/diverged.csv").to_numpy()
    assert good.shape == (20, 2)
    assert np.isfinite(good).all()
    assert not Path("run/particles.csv").exists()


def test_figure():
    simulate("--target", "moons", "--figure")
    assert Path("run/figure.png").read_bytes().startswith(b"\x89PNG")


# Flows


METHODS = [["--flow", flow] for flow in ("lipschitz", "transport", "mmd", "kale", "kernel")]
METHODS += [["--flow", "w2", "--solver", solver] for solver in ("exact", "sinkhorn", "neural")]
METHODS[-2] += ["--epsilon", "0.1"]  # large, for fewer iterations


def settings_of(path="run"):
    return tomllib.loads(Path(path, "spec.toml").read_text())


def snapshots(path="run"):
    """Snapshots and target of a run, in flow units and double precision."""
    units = np.array(settings_of(path)["data"]["units"])
    with np.load(f"{path}/data.npz") as data:
        target = np.asarray(data["target"], dtype=float) / units
    return np.load(f"{path}/trajectory.npy").astype(float) / units, target


def assigned(x, y):
    """The distances between partners of the best assignment."""
    squared = cdist(x, y, "sqeuclidean")
    return np.sqrt(squared[linear_sum_assignment(squared)])


@pytest.mark.parametrize("method", METHODS, ids=" ".join)
def test_every_flow_comes_nearer_and_repeats_itself(method):
    trained = [
        "--inner-steps",
        20,
        "--learning-rate",
        0.02,
    ]  # of networks, which otherwise know nothing after four steps
    simulate("--target", "mixed.csv", "--label", "kind", *method, "--step-size", 0.1, *trained)
    given, found = pd.read_csv("mixed.csv"), pd.read_csv("run/particles.csv")
    assert list(found.columns) == list(given.columns)
    assert found.dtypes.tolist() == given.dtypes.tolist()
    assert set(found.kind) == {"u", "v"}
    series = pd.read_csv("run/series.csv")
    assert json.loads(Path("run/summary.json").read_text())["flow_units"]["w2_target"] < series.w2[0]
    assert series.step_size[1:].tolist() == pytest.approx([0.1] * 4)
    spec, _ = Specification.load(Path("run/spec.toml"))
    simulation = build(spec)  # a specification repeats its run
    assert simulation.spec == spec
    loop(simulation.process, spec.steps, simulation.store(Path("again")), simulation.observers)
    for name in ("particles.csv", "series.csv", "trajectory.npy", "spec.toml"):
        assert Path("again", name).read_bytes() == Path("run", name).read_bytes(), name


NOISE = ["--target", "mixed.csv", "--label", "kind", "--noise", 0.3, "--noise-halving", 1, "--stepper", "heun"]
POTENTIAL = ["--target", "moons", "--persistency", 3, "--carried", 2]
MINIBATCH = [
    "--target",
    "moons",
    "--persistent",
    "minibatch",
    "--minibatch",
    6,
    "--persistency",
    3,
    "--dtype",
    "float64",
]
KILLED = [(METHODS[2], more) for more in (NOISE, POTENTIAL, MINIBATCH)]
KILLED += zip([*METHODS[:2], *METHODS[3:]], [MINIBATCH, POTENTIAL, NOISE, POTENTIAL, NOISE, MINIBATCH, POTENTIAL])


@pytest.mark.parametrize(("method", "more"), KILLED, ids=lambda words: " ".join(map(str, words)))
def test_killed_and_resumed_is_uninterrupted(monkeypatch, method, more):
    """Step 8 is logged but not saved; the last checkpoint is that of step 5, within a persistency."""

    class Killed(BaseException):
        pass

    def log(self, path, row):
        whole(self, path, row)
        if path[-1].k == 8:
            raise Killed

    words = [*method, *more, "--steps", 11, "--checkpoint-every", 5, "--log-every", 2]
    simulate(*words, output="whole")
    whole = Folder.log
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "log", log)
        with pytest.raises(Killed):
            simulate(*words)
    assert not Path("run/particles.csv").exists()
    run("simulate", "--resume", "run", "--no-figure", "-q")
    before, after = contents("whole"), contents("run")
    assert before.keys() == after.keys()
    for name in before.keys() - {"summary.json", "checkpoint.pt"}:
        assert after[name] == before[name], name


@pytest.mark.parametrize("method", METHODS[1:6], ids=" ".join)
def test_carried_particles_change_no_flow(method):
    words = ["--target", "mixed.csv", "--label", "kind", "--noise", 0.1, "--persistency", 2, *method]
    simulate(*words, output="alone")
    simulate(*words, "--carried", 3)
    assert Path("run/particles.csv").read_bytes() == Path("alone/particles.csv").read_bytes()
    assert len(pd.read_csv("run/carried.csv")) == 3


@pytest.mark.parametrize(("solver", "error"), [("exact", 1e-5), ("sinkhorn", 2e-2)])
def test_w2_goes_a_tenth_of_the_way(solver, error):
    simulate("--target", "moons", "--holdout", 10, "--target-size", 20, "--flow", "w2", "--solver", solver)
    paths, target = snapshots()
    start = np.sqrt((assigned(paths[0], target) ** 2).mean())
    for k, particles in enumerate(paths):
        left = np.sqrt((assigned(particles, target) ** 2).mean())
        assert left == pytest.approx(0.9**k * start, rel=error)
    assert pd.read_csv("run/series.csv").w2[0] == pytest.approx(start, rel=1e-5)


def test_mmd_measures_a_quarter_of_the_energy_distance_and_goes_down_its_gradient():
    simulate("--target", "data.csv", "--flow", "mmd", "--steps", 1, "--step-size", 1, "--dtype", "float64")
    (x, moved), target = snapshots()
    distances = [cdist(a, b) for a, b in ((x, target), (x, x), (target, target))]
    energy = 2 * distances[0].mean() - distances[1].mean() - distances[2].mean()
    series = pd.read_csv("run/series.csv")
    assert series.divergence[1] == pytest.approx(energy / 2, rel=1e-6)
    velocity = np.zeros_like(x)
    for points, table, sign in ((target, distances[0], -1), (x, distances[1], 1)):
        away = (x[:, None] - points[None]) / np.maximum(table, 1e-300)[..., None]
        velocity += sign * away.mean(1)
    np.testing.assert_allclose(moved - x, velocity, atol=1e-6)
    assert series.kinetic_energy[1] == pytest.approx((velocity**2).sum(1).mean() / 2, rel=1e-6)


@pytest.mark.parametrize("method", [["--flow", "transport", "--no-debias"], ["--flow", "kernel"]], ids=" ".join)
@pytest.mark.parametrize("bound", [0.3, 2.0])
def test_the_bound_on_the_slope_is_kept(method, bound):
    simulate("--target", "data.csv", *method, "--lipschitz", bound, "--source-mean", 4)
    series = pd.read_csv("run/series.csv")
    assert series.max_gradient[1:].max() <= bound * (1 + 1e-4)
    assert series.max_speed[1:].tolist() == pytest.approx(series.max_gradient[1:].tolist(), rel=1e-4)
    if "transport" in method:  # far away, it is the slope itself
        assert series.max_gradient[1] == pytest.approx(bound, rel=1e-2)


def test_what_is_found_out_is_in_the_specification():
    simulate("--target", "data.csv", "--flow", "transport", "--lipschitz", 2, "--step-size", 0.3, output="transport")
    _, target = snapshots("transport")
    radius = np.sqrt(((target - target.mean(0)) ** 2).sum(1).mean())
    median = np.median(pdist(target))
    found = settings_of("transport")
    assert found["epsilon"] == pytest.approx(0.03 * 2 * radius, rel=1e-5)
    assert found["radius"] == pytest.approx(0.3 * 2)
    assert "bandwidth" not in found
    simulate("--target", "data.csv", "--flow", "w2", "--solver", "sinkhorn", output="w2")
    assert settings_of("w2")["epsilon"] == pytest.approx((0.05 * radius) ** 2, rel=1e-5)
    for flow in ("kale", "kernel"):
        simulate("--target", "data.csv", "--flow", flow, output=flow)
        assert settings_of(flow)["bandwidth"] == pytest.approx(median, rel=0.02)  # of an even number, the lower one
        assert settings_of(flow)["kernel"] == "gaussian"
    simulate("--target", "data.csv", "--flow", "mmd", output="mmd")
    assert settings_of("mmd")["kernel"] == "riesz"
    assert settings_of("mmd")["step_size"] == pytest.approx(radius, rel=1e-5)


def test_a_given_number_is_used():
    words = ["--flow", "kale", "--bandwidth", 0.7, "--regularisation", 3, "--kernel", "inverse_multiquadric"]
    simulate("--target", "moons", *words)
    found = settings_of()
    assert (found["bandwidth"], found["regularisation"], found["kernel"]) == (0.7, 3, "inverse-multiquadric")
    simulate("--target", "moons", *words, "--bandwidth", 0.8, output="other")
    assert Path("run/particles.csv").read_bytes() != Path("other/particles.csv").read_bytes()


def test_persistent_potential():
    """What is measured of the potential stays for as long as it does."""
    simulate("--target", "moons", "--flow", "mmd", "--persistency", 3, "--steps", 9)
    divergence = pd.read_csv("run/series.csv").divergence[1:].tolist()
    assert [divergence[i] == divergence[i - 1] for i in range(1, 9)] == [i % 3 != 0 for i in range(1, 9)]


@pytest.mark.parametrize("method", METHODS[1:6], ids=" ".join)
def test_persistent_minibatch(method):
    """Five particles move for three steps; the others rest, and carried ones always move."""
    words = ["--persistent", "minibatch", "--minibatch", 5, "--persistency", 3, "--carried", 2, "--steps", 6]
    simulate("--target", "moons", *method, *words)
    moves = (np.diff(np.load("run/trajectory.npy"), axis=0) != 0).any(axis=2)
    assert moves[:, :20].sum(1).tolist() == [5] * 6
    assert (moves[[0, 3]] == moves[[1, 4]]).all()
    assert (moves[[0, 3]] == moves[[2, 5]]).all()
    assert (moves[0] != moves[3]).any()
    assert moves[:, 20:].all()


def test_noise_stops():
    """Noise of the first step alone: later gradients are taken at the particles."""
    words = ["--target", "moons", "--flow", "mmd", "--dtype", "float64", "--step-size", 0.5]
    simulate(*words, output="none")
    simulate(*words, "--noise", 0.5, "--noise-halving", 1e-3)
    paths, target = snapshots()
    assert not np.allclose(paths[1], snapshots("none")[0][1], atol=1e-3)
    x = paths[1]
    velocity = np.zeros_like(x)
    for points, sign in ((target, -1), (x, 1)):
        away = x[:, None] - points[None]
        velocity += sign * (away / np.maximum(np.linalg.norm(away, axis=2, keepdims=True), 1e-300)).mean(1)
    np.testing.assert_allclose(paths[2] - x, 0.5 * velocity, atol=1e-6)


def test_a_minibatch_may_lack_a_class():
    words = ["--flow", "w2", "--persistent", "minibatch", "--minibatch", 2, "--steps", 12]
    simulate("--target", "mixed.csv", "--label", "kind", *words)


def test_sinkhorn_with_a_class_of_one_point():
    frame = pd.read_csv("mixed.csv")
    frame.assign(kind=["rare"] + ["u"] * 39).to_csv("rare.csv", index=False)
    simulate("--target", "rare.csv", "--label", "kind", "--flow", "w2", "--solver", "sinkhorn", "--holdout", 0)


def test_a_bandwidth_is_nothing_to_a_kernel_without():
    simulate("--target", "moons", "--flow", "mmd", output="none")
    simulate("--target", "moons", "--flow", "mmd", "--bandwidth", 5)
    assert Path("run/particles.csv").read_bytes() == Path("none/particles.csv").read_bytes()


# Help


def test_info():
    found = json.loads(run("info", "--json").stdout)
    assert {"moons", "8-gaussians", "digits"} <= set(found["names"]["targets"])
    assert {"kl", "alpha", "w1"} <= set(found["names"]["divergences"])
    assert found["versions"]["lipschitz-particles"] == "0.1.0"
    assert "threads" in found["devices"]["cpu"]
    assert "moons" in run("info").stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["simulate", "--help"]], ids=" ".join)
def test_help_imports_no_torch(words):
    program = (
        "import sys; from particles.cli import main\n"
        f"main({words}, standalone_mode=False)\n"
        "print([name for name in ('torch', 'pandas', 'sklearn', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    text, _, imported = found.stdout.rstrip().rpartition("\n")
    assert imported == "[]"
    assert ("0.1.0" in text) if words == ["--version"] else ("simulate" in text)


def test_help_of_simulate_names_defaults():
    text = " ".join(run("simulate", "--help").stdout.split())
    for part in ("--step-size", "default: 0.5", "8-gaussians", "jensen-shannon", "64,64,64"):
        assert part in text


# Bad input

BAD = [
    (["--target", "nowhere.csv"], ["nowhere.csv", "no such file"]),
    (["--target", "nowhere/data"], ["nowhere/data", "no such file"]),
    (["--target", "mons"], ["--target", "'mons'", "did you mean moons?"]),
    (["--target", "mine"], ["mine is a folder"]),
    (["--target", "text.csv"], ["text.csv, line 3, column 'k'", "'four'"]),
    (["--target", "missing.csv"], ["missing.csv, line 4, column 'a'", "missing"]),
    (["--target", "one.csv"], ["one.csv has 1 row;"]),
    (["--target", "huge.csv"], ["huge.csv", "'a'"]),
    (["--target", "huge.csv", "--scale", "none"], ["huge.csv", "'a'"]),
    (["--target", "mixed.csv"], ["mixed.csv, line 2, column 'kind'", "--label"]),
    (["--target", "data.csv", "--label", "kin"], ["data.csv", "'kin'", "'a', 'k'"]),
    (["--target", "moons", "--label", "kind"], ["moons", "'kind'"]),
    (["--target", "wine", "--label", "kind"], ["wine", "'kind'", "'target'"]),
    (["--target", "moons", "--divergence", "lk"], ["--divergence", "'lk'", "did you mean kl?"]),
    (["--target", "moons", "--stepper", "huen"], ["--stepper", "'huen'", "did you mean heun?"]),
    (["--target", "moons", "--constraint", "spectre"], ["--constraint", "did you mean spectral?"]),
    (["--target", "moons", "--activation", "grupsort"], ["--activation", "did you mean groupsort?"]),
    (["--target", "moons", "--scale", "globl"], ["--scale", "did you mean global?"]),
    (["--target", "moons", "--scale", "xyz"], ["--scale", "'xyz'", "standard, global, none"]),
    (["--target", "moons", "--dtype", "int8"], ["--dtype", "'int8'", "float32, float64"]),
    (["--target", "moons", "--device", "nonsense"], ["--device", "'nonsense'", "auto, cpu, cuda, cuda:N"]),
    (["--target", "moons", "--device", "cuda:99"], ["--device cuda:99"]),
    (["--target", "moons", "--step-size", "-1"], ["--step-size", "positive", "-1"]),
    (["--target", "moons", "--step-size", "nan"], ["--step-size", "nan"]),
    (["--target", "moons", "--lipschitz", "0"], ["--lipschitz", "positive", "0"]),
    (["--target", "moons", "--lipschitz", "one"], ["--lipschitz", "'one'"]),
    (["--target", "moons", "--order", "1", "--divergence", "alpha"], ["--order", "above 1"]),
    (["--target", "moons", "--decay", "0"], ["--decay", "positive"]),
    (["--target", "moons", "--momentum", "1"], ["--momentum"]),
    (["--target", "moons", "--learning-rate", "0"], ["--learning-rate", "positive"]),
    (["--target", "moons", "--penalty", "-1", "--constraint", "penalty"], ["--penalty must be at least 0, not -1"]),
    (["--target", "moons", "--tolerance", "0"], ["--tolerance", "positive"]),
    (["--target", "moons", "--inner-steps", "0"], ["--inner-steps", "at least 1"]),
    (["--target", "moons", "--batch-size", "1"], ["--batch-size", "at least 2"]),
    (["--target", "moons", "--chunk-size", "0"], ["--chunk-size", "at least 1"]),
    (["--target", "moons", "-n", "1"], ["--particles", "at least 2"]),
    (["--target", "moons", "--carried", "-1"], ["--carried", "at least 0"]),
    (["--target", "moons", "--steps", "-1"], ["--steps", "at least 0"]),
    (["--target", "moons", "--seed", "-1"], ["--seed", "at least 0"]),
    (["--target", "moons", "--network", "8,x"], ["--network", "'8,x'", "64,64,64"]),
    (["--target", "moons", "--network", ""], ["--network"]),
    (["--target", "moons", "--network", "8,0"], ["--network"]),
    (["--target", "moons", "--network", "8,7", "--activation", "groupsort"], ["groupsort", "even"]),
    (["--target", "moons", "--log-every", "2", "--snapshot-every", "3"], ["--snapshot-every", "--log-every", "3"]),
    (["--target", "data.csv", "--holdout", "39"], ["--holdout 39", "data.csv"]),
    (["--target", "data.csv", "--holdout", "0.99"], ["--holdout 0.99", "data.csv"]),
    (["--target", "data.csv", "--holdout", "-1"], ["--holdout", "at least 0"]),
    (["--target", "data.csv", "--holdout", "inf"], ["--holdout", "inf"]),
    (["--target", "data.csv", "--source", "wide.csv"], ["wide.csv has 3 columns", "data.csv has 2"]),
    (["--target", "data.csv", "--source", "short.csv"], ["short.csv has 10 rows", "--particles cannot be 20"]),
    (["--target", "data.csv", "--source", "thirty.csv", "--carried", "11"], ["thirty.csv has 30 rows", "11 carried"]),
    (["--target", "data.csv", "--source", "gausian"], ["--source", "'gausian'", "did you mean gaussian?"]),
    (["--target", "data.csv", "--source", "nowhere.csv"], ["nowhere.csv", "no such file"]),
    (["--target", "mixed.csv", "--label", "kind", "--source", "wide.csv"], ["wide.csv", "'kind'"]),
    (["--target", "moons", "--flow", "mdm"], ["--flow", "'mdm'", "did you mean mmd?"]),
    (["--target", "moons", "--flow", ""], ["--flow", "''", "lipschitz, transport, w2, mmd, kale, kernel"]),
    (["--target", "moons", "--flow", "mmd", "--solver", "exact"], ["--solver exact", "w2", "mmd"]),
    (["--target", "moons", "--solver", "sinkhorn"], ["--solver sinkhorn", "w2", "lipschitz"]),
    (["--target", "moons", "--flow", "w2", "--solver", "sinkhron"], ["--solver", "did you mean sinkhorn?"]),
    (["--target", "moons", "--kernel", "gausian"], ["--kernel", "did you mean gaussian?"]),
    (["--target", "moons", "--backend", "numpy"], ["--backend", "auto, tiled, keops"]),
    (["--target", "moons", "--persistent", "batch"], ["--persistent", "'batch'", "minibatch"]),
    (["--target", "moons", "--persistent", "minibatch"], ["minibatch", "number of particles"]),
    (["--target", "moons", "--minibatch", "5"], ["minibatch", "persistent"]),
    (["--target", "moons", "--minibatch", "1", "--persistent", "minibatch"], ["--minibatch", "at least 2, not 1"]),
    (["--target", "moons", "--persistency", "0"], ["--persistency", "at least 1, not 0"]),
    (["--target", "moons", "--persistency", "1.5"], ["--persistency", "'1.5'"]),
    (["--target", "moons", "--flow", "kale", "--kernel", "riesz"], ["positive definite", "Riesz"]),
    (["--target", "moons", "--flow", "kale", "--kernel", "multiquadric"], ["positive definite", "Multiquadric"]),
    (["--target", "moons", "--flow", "kernel", "--kernel", "riesz"], ["bounded slope", "Riesz", "Gaussian"]),
    (["--target", "moons", "--flow", "kernel", "--kernel", "laplacian"], ["bounded slope", "Laplacian"]),
    (["--target", "moons", "--flow", "mmd", "--exponent", "0"], ["--exponent", "between 0 and 2"]),
    (["--target", "moons", "--flow", "mmd", "--exponent", "2"], ["--exponent", "between 0 and 2"]),
    (["--target", "moons", "--flow", "transport", "--epsilon", "inf"], ["--epsilon", "finite", "inf"]),
    (["--target", "moons", "--flow", "transport", "--halving", "inf"], ["--halving", "finite", "inf"]),
    (["--target", "moons", "--flow", "transport", "--radius", "inf"], ["--radius", "finite", "inf"]),
    (["--target", "moons", "--radius", "-1"], ["--radius", "at least 0"]),
    (["--target", "moons", "--epsilon-start", "-1"], ["--epsilon-start", "at least 0"]),
    (["--target", "moons", "--noise", "-1"], ["--noise", "at least 0"]),
    (["--target", "moons", "--noise", "inf"], ["--noise", "finite"]),
    (["--target", "moons", "--epsilon", "small"], ["--epsilon", "'small'"]),
    (["--steps", "3"], ["--target"]),
    (["--target", "moons", "--step-sise", "3"], ["--step-sise", "--step-size"]),
]
BAD += [
    (["--target", "moons", option, value], [option, "positive", value])
    for option in ("--epsilon", "--halving", "--bandwidth", "--regularisation", "--noise-halving")
    for value in ("0", "-1", "nan")
]
BAD += [
    (words, says)
    for words, says in [
        (["--target", "moons", "--flow", "mmd", "--exponent", "1e30"], ["--exponent", "between 0 and 2"]),
        (["--target", "moons", "--flow", "kale", "--regularisation", "inf"], ["--regularisation", "inf"]),
        (["--target", "moons", "--flow", "mmd", "--kernel", "gaussian", "--bandwidth", "inf"], ["--bandwidth", "inf"]),
        (["--target", "moons", "--flow", "transport", "--lipschitz", "inf"], ["--lipschitz", "inf"]),
        (
            ["--target", "moons", "--flow", "mmd", "--persistent", "minibatch", "--minibatch", "21"],
            ["--minibatch", "20"],
        ),
    ]
]
BAD = [given if hasattr(given, "marks") else pytest.param(*given, id=" ".join(given[0])) for given in BAD]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_bad_input(words, says):
    message = refusal(*TINY, "--output", "run", *words)
    for part in says:
        assert part in message
    assert "np." not in message
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("output", "more", "says"),
    [
        ("mine", [], ["mine is not empty", "--overwrite"]),
        ("mine", ["--overwrite"], ["mine", "not a run", "--output"]),
        ("a-file", [], ["--output a-file is a file"]),
        ("a-file", ["--overwrite"], ["--output a-file is a file"]),
        ("a-file/run", [], ["a-file"]),
    ],
)
def test_folders_that_are_not_runs_survive(output, more, says):
    before = contents(".")
    message = refusal(*TINY, "--target", "moons", "--output", output, *more)
    for part in says:
        assert part in message
    assert contents(".") == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--overwrite", "--target", "mons"],
        ["--overwrite", "--lipschitz", "0"],
        ["--overwrite", "--network", "8,0"],
        ["--overwrite", "--log-every", "2", "--snapshot-every", "3"],
    ],
    ids=" ".join,
)
def test_bad_input_leaves_the_old_run_alone(words):
    simulate("--target", "moons")
    before = contents("run")
    refusal(*TINY, "--output", "run", "--target", "moons", *words)
    assert contents("run") == before


@pytest.mark.parametrize(
    ("resumed", "more", "says"),
    [
        ("mine", [], ["mine is not a run folder", "spec.toml"]),
        ("nowhere", [], ["nowhere is not a run folder"]),
        ("a-file", [], ["a-file is not a run folder"]),
        ("run", ["--seed", "1"], ["--seed cannot be changed"]),
        ("run", ["--network", "64,64,64"], ["--network cannot be changed"]),
        ("run", ["-n", "20"], ["--particles cannot be changed"]),
        ("run", ["--target", "moons"], ["--target cannot be changed"]),
        ("run", ["--output", "other"], ["--output cannot be changed"]),
        ("run", ["--overwrite"], ["--overwrite cannot be changed"]),
        ("run", ["--steps", "-1"], ["--steps", "at least 0"]),
    ],
)
def test_resume_refuses(resumed, more, says):
    simulate("--target", "moons")
    before = contents(".")
    message = refusal("--resume", resumed, *more)
    for part in says:
        assert part in message
    assert contents(".") == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("target", None), ("steps", "many"), ("steps", 2.5), ("steps", True), ("seed", 10**30), ("flow", 3)),
        *(
            ("lipschitz", "a"),
            ("lipschitz", 10**400),
            ("debias", 1),
            ("network", 3),
            ("network", [8, "a"]),
            ("kernel", b"x"),
        ),
    ],
)
def test_settings_of_another_type(name, value):
    """Whoever calls the library is told as clearly."""
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        Specification(**{"target": "moons", name: value})


def test_settings_in_numbers_of_numpy():
    spec = Specification("moons", steps=np.int64(5), lipschitz=np.float32(0.5), network=[np.int32(8)], holdout=3)
    assert spec == Specification("moons", steps=5, lipschitz=0.5, network=(8,), holdout=3.0)
    assert tomllib.loads(spec.dump({}))["network"] == [8]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"target = [", "TOML"),
        (b"\xff\xfe\x00", "spec.toml"),
        (b'target = "moons"\nstepsise = 1\n', "'stepsise'"),
        (b"steps = 4\n", "target"),
        (b'target = "moons"\nsteps = "many"\n', "steps"),
        (b"target = 3\n", "target"),
        (b'target = "moons"\nnetwork = 3\n', "network"),
        (b'target = "moons"\nlipschitz = "a"\n', "lipschitz"),
        (b'target = "moons"\ndivergence = 1\n', "divergence"),
        (b"target = " + b"[" * 100_000, "TOML"),
        (b'target = "moons"\nseed = 99999999999999999999\n', "2^63"),
    ],
)
def test_corrupt_specification(text, says):
    simulate("--target", "moons")
    Path("run/spec.toml").write_bytes(text)
    before = contents("run")
    message = refusal("--resume", "run")
    assert "run/spec.toml" in message
    assert says in message
    assert contents("run") == before


def test_corrupt_checkpoint():
    simulate("--target", "moons")
    Path("run/checkpoint.pt").write_bytes(Path("run/checkpoint.pt").read_bytes()[:500])
    assert "run/checkpoint.pt" in refusal("--resume", "run", "--steps", 8)


@pytest.mark.parametrize("change", ["target", "holdout", "one more row", "no file", "source"])
def test_resume_refuses_other_data(change):
    pd.read_csv("thirty.csv").assign(a=lambda frame: frame.a + 1).to_csv("source.csv", index=False)
    pd.read_csv("data.csv").assign(k=range(40)).to_csv("target.csv", index=False)
    simulate("--target", "target.csv", "--source", "source.csv", "--scale", "none")
    before = contents("run")
    if change == "source":
        pd.read_csv("source.csv").assign(k=3).to_csv("source.csv", index=False)
    elif change == "no file":
        Path("target.csv").unlink()
    else:
        frame = pd.read_csv("target.csv").astype({"a": float})
        with np.load("run/data.npz") as data:
            row = len(frame) if change == "one more row" else int(np.rint(data[change][0, 1]))
        frame.loc[row] = [12.5, frame.k.get(row, 40)]
        frame.astype({"k": int}).to_csv("target.csv", index=False)
    message = refusal("--resume", "run", "--steps", 8)
    assert ("source" if change == "source" else "target") in message
    assert contents("run") == before


def test_the_same_data_elsewhere_in_the_file_system():
    simulate("--target", "data.csv")
    Path("elsewhere").mkdir()
    Path("run").rename("elsewhere/run")
    run("simulate", "--resume", "elsewhere/run", "--steps", 6, "--no-figure")
    assert pd.read_csv("elsewhere/run/series.csv").step.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_overwrite_takes_away_only_a_run():
    simulate("--target", "data.csv")
    Path("run/notes.txt").write_text("mine")
    Path("run/input.csv").write_text(Path("data.csv").read_text())
    simulate("--target", "data.csv", "--overwrite", "--seed", "1")
    assert Path("run/notes.txt").read_text() == "mine"
    before = contents("run")
    for option, name in (("--target", "run/input.csv"), ("--source", "run/particles.csv")):
        words = ["--target", "data.csv", "--output", "run", "--overwrite", option, name]
        assert f"{option} " in (message := refusal(*TINY, *words))
        assert "--overwrite would replace" in message
    assert contents("run") == before


def test_refused_resume_changes_nothing():
    simulate("--target", "data.csv")
    before = contents("run")
    assert "at step 4 already" in refusal("--resume", "run", "--steps", "2")
    assert contents("run") == before
    Path("run/trajectory.npy").unlink()
    assert "does not fit" in refusal("--resume", "run", "--steps", "8")


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("PARTICLES_SIMULATE_SEED", "5")
    monkeypatch.setenv("PARTICLES_SIMULATE_JSON", "1")
    found = CliRunner().invoke(
        main, ["simulate", *TINY, "--target", "data.csv", "-o", "run"], auto_envvar_prefix="PARTICLES"
    )
    assert json.loads(found.stdout)["step"] == 4
    assert "seed = 5\n" in Path("run/spec.toml").read_text()
    run("simulate", "--resume", "run", "--steps", "6", "-q")  # a variable is no option given beside --resume
