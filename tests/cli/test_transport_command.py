"""Recorded runs: new points go where they would have gone as carried particles, by the library and by the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main
from test_laws import FLOW_SETTINGS, SMALL

from particles import (
    Cloud,
    Euler,
    Evolve,
    ExactKantorovich,
    GradientFlow,
    Memory,
    PerClass,
    Recorder,
    Recording,
    Replay,
    Specification,
    simulate,
    transport,
)
from particles.data.export import write
from particles.experiment.build import build
from particles.names import STEPPERS
from particles.run.store import RunError

STEPS = 7
RECORDED = {name: flow for name, flow in FLOW_SETTINGS.items() if flow["flow"] != "proximal"}
"""A generative flow needs no recording."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(**settings):
    return build(Specification(**SMALL | {"steps": STEPS, "carried": 5} | settings))


def recorded(path="run", **settings):
    simulation = made(record=True, **settings)
    return simulation, simulate(simulation.process, STEPS, simulation.store(Path(path)))


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


# The library


def follow(settings):
    """New points equal to riders end where those ended, one alone and all together; particles end as themselves."""
    _, end = recorded(**settings)
    source, recording = made(**settings).process.source, Recording("run")
    assert list(recording) == list(range(1, STEPS + 1))
    process = made(**settings).process
    moved = transport(process, recording, source.riders)
    assert float((moved.x - source.riders.x).norm(dim=1).min()) > 0
    assert torch.equal(moved.x, end.cloud.riders.x)
    if "noise" not in settings:
        one = transport(process, recording, source.riders.take(slice(2, 3)))
        torch.testing.assert_close(one.x, end.cloud.riders.x[2:3], rtol=1e-5, atol=1e-5)
    if "noise" not in settings and "minibatch" not in settings:
        again = transport(process, recording, Cloud(source.active.x, source.active.label))
        torch.testing.assert_close(again.x, end.cloud.active.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("label", [None, "target"])
@pytest.mark.parametrize("flow", RECORDED.values(), ids=list(RECORDED))
def test_new_points_follow_any_flow(flow, label):
    follow(flow | {"target": "iris", "label": label})


@pytest.mark.parametrize("flow", ["transport", "lipschitz"])
@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_new_points_follow_with_any_stepper(flow, stepper):
    follow({"flow": flow, "stepper": stepper})


@pytest.mark.parametrize("flow", RECORDED.values(), ids=list(RECORDED))
def test_recording_changes_no_bit_of_a_run(flow):
    recorded("with", **flow)
    simulation = made(**flow)
    simulate(simulation.process, STEPS, simulation.store(Path("without")))
    a, b = contents("with"), contents("without")
    for name in ("particles.csv", "carried.csv", "series.csv", "trajectory.npy", "checkpoint.pt"):
        assert a[name] == b[name], name


@pytest.mark.parametrize("flow", RECORDED.values(), ids=list(RECORDED))
def test_a_resumed_run_keeps_the_same_potentials(flow):
    recorded("whole", **flow, checkpoint_every=3)

    class Cut(Exception):
        pass

    simulation = made(record=True, **flow, checkpoint_every=3)
    step = simulation.process.step

    def failing(state):
        if state.k == 5:
            raise Cut
        return step(state)

    simulation.process.step = failing
    with pytest.raises(Cut):
        simulate(simulation.process, STEPS, simulation.store(Path("parts")))
    assert list(Recording("parts")) == [1, 2, 3, 4, 5]
    Recording("parts").write(5, {"potentials": [], "numbers": []})  # what comes after the checkpoint is done again
    recorded("parts", **flow, checkpoint_every=3)
    whole, parts = contents("whole/potentials"), contents("parts/potentials")
    assert whole == parts
    assert len(whole) == STEPS


def test_a_run_in_memory():
    simulation, store = made(record=True, flow="transport"), Memory()
    end = simulate(simulation.process, STEPS, store)
    moved = transport(simulation.process, store.tapes, simulation.process.source.riders, 3)
    assert not torch.equal(moved.x, end.cloud.riders.x)
    moved = transport(simulation.process, store.tapes, simulation.process.source.riders)
    assert torch.equal(moved.x, end.cloud.riders.x)


def test_towards_one_point_by_the_part_of_a_step():
    """The W2 loss to one point: every point goes the part h of its way at every step."""
    point = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    target = Cloud(point.expand(2, 2))
    source = Cloud(torch.tensor([[0.0, 0.0], [1.0, 5.0]], dtype=torch.float64))
    process = Evolve(Recorder(GradientFlow(ExactKantorovich(), target)), Euler(), source, step_size=0.1)
    store = Memory()
    simulate(process, 12, store)
    new = torch.tensor([[-7.0, 2.0], [3.0, -1.0], [40.0, 0.0]], dtype=torch.float64)
    moved = transport(process, store.tapes, Cloud(new))
    torch.testing.assert_close(moved.x, point + 0.9**12 * (new - point), rtol=1e-12, atol=1e-12)


def test_exact_w2_takes_new_points_to_target_points():
    """Between particles the exact potential is the least of finitely many parabolas: there is one target point for each place."""
    settings = {"flow": "w2", "step_size": 1.0}
    simulation, _ = recorded(**settings)
    new = Cloud(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    moved = transport(simulation.process, Recording("run"), new, 1)
    assert float(torch.cdist(moved.x.double(), simulation.target.x.double()).min(1).values.max()) < 1e-6


def test_a_potential_that_stays_is_kept_once():
    recorded(flow="transport", persistency=4)
    fitted = [[record is not None for record in Recording("run")[k]["potentials"]] for k in range(1, STEPS + 1)]
    assert fitted == [[True], [False], [False], [False], [True], [False], [False]]


def test_records_have_no_target_and_no_optimiser():
    recorded(target_size=400, flow="transport", carried=0)
    large = Recording("run")[3]["potentials"][0]
    assert large["duals"].keys() == {"g", "own_p"}
    recorded("trained")
    assert Recording("trained")[3]["potentials"][0].keys() == {"network"}


def test_a_class_that_the_recording_knows_nothing_of_rests():
    potential = PerClass(ExactKantorovich, 2)
    target = Cloud(torch.randn(4, 2), torch.tensor([0, 0, 0, 0]))
    flow = Recorder(GradientFlow(potential, target))
    process = Evolve(flow, Euler(), Cloud(torch.randn(4, 2), torch.tensor([0, 0, 0, 0])), step_size=0.1)
    store = Memory()
    simulate(process, 2, store)
    new = Cloud(torch.randn(2, 2), torch.tensor([0, 1]))
    moved = transport(process, store.tapes, new)
    assert torch.equal(moved.x[1], new.x[1])
    assert not torch.equal(moved.x[0], new.x[0])


def test_decisions_are_those_of_the_run():
    recorder = Recorder(made().process.flow)
    assert recorder.steer(torch.tensor(0.25)) == 0.25
    replay = Replay(recorder.flow, recorder.take())
    assert replay.steer(7.0) == 0.25
    with pytest.raises(ValueError, match="fewer decisions"):
        replay.steer(7.0)


def test_bad_recordings():
    simulation, _ = recorded()
    riders, tapes = simulation.process.source.riders, dict(Recording("run"))

    def refused(tapes, cloud=riders, stop=None):
        with pytest.raises(ValueError, match=r"\w") as found:
            transport(made().process, tapes, cloud, stop)
        return str(found.value)

    assert "step 8 was not recorded; the recording goes from step 0 to 7" in refused(tapes, stop=8)
    assert "step -1 was not recorded" in refused(tapes, stop=-1)
    assert "step 3 is missing" in refused({k: tape for k, tape in tapes.items() if k != 3})
    assert "fewer velocities" in refused(tapes | {2: {"potentials": [], "numbers": []}})
    assert "more in it" in refused(tapes | {2: {"potentials": [None, None], "numbers": []}})
    assert "step 2 does not fit the run" in refused(tapes | {2: {"potentials": [{"x": 1}], "numbers": []}})
    shapes = {"network": {name: x[:1] for name, x in tapes[2]["potentials"][0]["network"].items()}}
    assert "is not of this flow" in refused(tapes | {2: {"potentials": [shapes], "numbers": []}})
    assert "dimension 2" in refused(tapes, Cloud(torch.zeros(3, 5)))
    assert "labels" in refused(tapes, Cloud(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)))
    with pytest.raises(RunError):
        transport(made().process, {}, riders, 1)


# The command line

TINY = ["-n", "20", "--steps", "6", "--network", "8,8", "--no-figure", "-q"]


def run(*words, code=0):
    found = CliRunner().invoke(main, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.stderr
    return found


def refusal(*words):
    found = run("transport", *words, code=2)
    assert found.stdout == ""
    return found.stderr.splitlines()[-1].removeprefix("Error: ")


@pytest.fixture
def data():
    """Data in units of their own, with a column of integers, a constant one and classes; and a source of the same kind."""
    rng = np.random.default_rng(0)

    def frame(rows, mean):
        columns = {"a": rng.normal(mean, 30, rows), "kind": rng.permutation(["u", "v"] * (rows // 2)), "c": 7}
        return pd.DataFrame(columns | {"b": rng.integers(100, 200, rows)})

    frame(40, 300).to_csv("data.csv", index=False)
    frame(20, 200).to_csv("source.csv", index=False)
    frame(6, 200).to_csv("new.csv", index=False)


def labelled(*words, output="run"):
    run("simulate", "--target", "data.csv", "--label", "kind", "--source", "source.csv", *TINY, "-o", output, *words)


@pytest.mark.parametrize("flow", ["lipschitz", "transport", "w2"])
def test_a_source_file_ends_at_the_particles(data, flow):
    labelled("--record", "--flow", flow)
    run("transport", "run", "--input", "source.csv", "--output", "moved.csv")
    moved, end = pd.read_csv("moved.csv"), pd.read_csv("run/particles.csv")
    assert list(moved) == list(end) == ["a", "kind", "c", "b"]
    assert moved.dtypes.tolist() == end.dtypes.tolist()
    assert (moved.c == 7).all()
    # Particles are the source's rows in another order.
    moved, end = (frame.sort_values(["kind", "a"]).reset_index(drop=True) for frame in (moved, end))
    assert (moved.kind == end.kind).all()
    np.testing.assert_allclose(moved.a, end.a, rtol=1e-4)
    assert (moved.b - end.b).abs().max() <= 1  # rounded
    assert (moved.a.to_numpy() != pd.read_csv("source.csv").sort_values(["kind", "a"]).a.to_numpy()).all()


def test_new_points_end_where_carried_ones_did():
    run("simulate", "--target", "moons", "--target-size", 30, "--carried", 8, *TINY, "--record", "-o", "run")
    simulation = build(Specification.load(Path("run/spec.toml"))[0])
    write(simulation.schema, simulation.process.source.riders, Path("new.csv"))
    found = run("transport", "run", "-i", "new.csv", "-o", "moved.csv", "--trajectory", "paths.npy")
    assert found.stdout == "moved.csv: 8 points at step 6\n"
    assert Path("moved.csv").read_bytes() == Path("run/carried.csv").read_bytes()
    paths = np.load("paths.npy")
    np.testing.assert_array_equal(paths, np.load("run/trajectory.npy")[:, -8:])


def test_stopping_on_the_way(data):
    labelled("--record", "--log-every", 2, "--snapshot-every", 4)
    run("transport", "run", "-i", "new.csv", "-o", "start.csv", "--to", 0)
    given, start = pd.read_csv("new.csv"), pd.read_csv("start.csv")
    np.testing.assert_allclose(start.a, given.a, rtol=1e-5)
    assert start.b.tolist() == given.b.tolist()
    assert start.kind.tolist() == given.kind.tolist()
    run("transport", "run", "-i", "new.csv", "-o", "half.csv", "--to", 5, "--trajectory", "paths.npy", "-q")
    paths = np.load("paths.npy")
    assert paths.shape == (3, 6, 2)  # steps 0, 4 and 5; the constant column is no coordinate
    np.testing.assert_allclose(paths[-1, :, 0], pd.read_csv("half.csv").a, rtol=1e-5)
    labelled("--record", "--steps", 5, output="short")
    run("transport", "short", "-i", "new.csv", "-o", "short.csv")
    assert Path("short.csv").read_bytes() == Path("half.csv").read_bytes()


def test_one_row_is_enough(data):
    labelled("--record", "--flow", "w2")
    pd.read_csv("new.csv")[3:4].to_csv("one.csv", index=False)
    run("transport", "run", "-i", "one.csv", "-o", "one-moved.csv")
    run("transport", "run", "-i", "new.csv", "-o", "moved.csv")
    np.testing.assert_allclose(pd.read_csv("one-moved.csv").a, pd.read_csv("moved.csv").a[3:4], rtol=1e-5)


def test_other_files_and_no_header():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)))
    frame.to_csv("bare.csv", index=False, header=False)
    run("simulate", "--target", "bare.csv", *TINY, "--record", "-o", "run")
    np.save("new.npy", frame.to_numpy()[:1])
    frame[:1].to_csv("new.csv", index=False, header=False)
    for name in ("new.npy", "new.csv"):
        run("transport", "run", "-i", name, "-o", f"{name}-moved.csv")
    assert Path("new.npy-moved.csv").read_bytes() == Path("new.csv-moved.csv").read_bytes()
    assert pd.read_csv("new.csv-moved.csv", header=None).shape == (1, 2)


def test_a_run_that_was_overwritten_keeps_nothing(data):
    labelled("--record")
    (Path("run/potentials") / "notes.txt").write_text("mine")
    labelled("--overwrite")
    assert [path.name for path in Path("run/potentials").iterdir()] == ["notes.txt"]
    Path("run/potentials/notes.txt").unlink()
    labelled("--record", "--overwrite")
    labelled("--overwrite")
    assert not Path("run/potentials").exists()


def test_a_resumed_run_goes_on_recording(data):
    labelled("--record", "--steps", 4)
    run("simulate", "--resume", "run", "--steps", 6, "-q", "--no-figure")
    labelled("--record", output="whole")
    assert contents("run/potentials") == contents("whole/potentials")


def test_nothing_new_is_said(data):
    labelled("--record")
    labelled(output="plain")
    with_it, without = (json.loads(Path(name, "summary.json").read_text()) for name in ("run", "plain"))
    assert with_it | {"run": ""} == without | {"run": ""}


def test_refusals(data):
    labelled("--record")
    labelled(output="plain")
    before = contents("run")
    go = ["-i", "new.csv", "-o", "moved.csv"]
    assert refusal("nowhere", *go) == "nowhere is not a run folder: it has no spec.toml"
    assert refusal("plain", *go) == (
        "plain kept no potentials; repeat the run with --record, or let new points ride along with --carried"
    )
    assert refusal("run", "-i", "none.csv", "-o", "moved.csv") == "none.csv: there is no such file"
    assert "is the input, or a file of the run" in refusal("run", "-i", "new.csv", "-o", "./new.csv", "--overwrite")
    assert "a file of the run" in refusal("run", "-i", "new.csv", "-o", "run/particles.csv", "--overwrite")
    assert "a file of the run" in refusal("run", "-i", "new.csv", "-o", "data.csv", "--overwrite")
    assert "would hold CSV" in refusal("run", "-i", "new.csv", "-o", "moved.npy")
    assert "there is no folder" in refusal("run", "-i", "new.csv", "-o", "no/moved.csv")
    assert "is a folder" in refusal("run", "-i", "new.csv", "-o", "plain")
    assert "the same file" in refusal("run", *go, "--trajectory", "moved.csv")
    assert refusal("run", *go, "--to", 9) == "step 9 was not recorded; the recording goes from step 0 to 6"
    Path("moved.csv").write_text("mine")
    assert "is there already; replace it (--overwrite)" in refusal("run", *go)
    assert Path("moved.csv").read_text() == "mine"
    run("transport", "run", *go, "--overwrite")
    assert len(pd.read_csv("moved.csv")) == 6
    frame = pd.read_csv("new.csv")
    bad = {
        "renamed": (frame.rename(columns={"b": "z"}), "column 'z'"),
        "narrow": (frame.drop(columns="b"), "2 columns of numbers"),
        "unlabelled": (frame.drop(columns="kind"), "no column 'kind'"),
        "strange": (frame.assign(kind="w"), "the class 'w'"),
        "missing": (frame.assign(b=[1, None, 3, 4, 5, 6]), "line 3, column 'b'"),
        "empty": (frame[:0], "has 0 rows; at least 1 is needed"),
    }
    for name, (rows, words) in bad.items():
        rows.to_csv(f"{name}.csv", index=False)
        assert words in refusal("run", "-i", f"{name}.csv", "-o", "out.csv"), name
    Path("nothing.csv").write_text("")
    assert "is empty" in refusal("run", "-i", "nothing.csv", "-o", "out.csv")
    assert not Path("out.csv").exists()
    assert contents("run") == before


def test_damaged_recordings(data):
    labelled("--record")
    go = ["-i", "new.csv", "-o", "moved.csv"]
    shutil.copytree("run", "spare")
    Path("run/potentials/00000006.pt").unlink()
    assert refusal("run", *go) == "step 6 was not recorded; the recording goes from step 0 to 5"
    run("transport", "run", "-i", "new.csv", "-o", "five.csv", "--to", 5)
    Path("run/potentials/00000003.pt").unlink()
    assert "the recording of step 3 is missing" in refusal("run", *go, "--to", 5)
    for damage in (b"", b"nonsense", Path("spare/potentials/00000003.pt").read_bytes()[:2000]):
        Path("run/potentials/00000003.pt").write_bytes(damage)
        sentence = refusal("run", *go, "--to", 5)
        assert sentence.startswith("run/potentials/00000003.pt cannot be read"), sentence
    torch.save({"other": 1}, "run/potentials/00000003.pt")
    assert "it is not a recorded step" in refusal("run", *go, "--to", 5)
    shutil.rmtree("run/potentials")
    assert refusal("run", *go).startswith("step 6 was not recorded")
    frame = pd.read_csv("data.csv")
    frame.assign(a=frame.a + 1).to_csv("data.csv", index=False)
    assert "the data of the target are not those" in refusal("spare", *go)
    Path("data.csv").unlink()
    assert "data.csv" in refusal("spare", *go)
    assert not Path("moved.csv").exists()
