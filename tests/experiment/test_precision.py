"""How far float32 is from float64, on request."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

from particles.experiment.build import build
from particles.experiment.precision import rounding
from particles.experiment.specification import Specification
from particles.run.loop import simulate

FLOWS = {
    "lipschitz": {},
    "batches": {"batch_size": 20, "carried": 5, "decay": 3.0},
    "heun": {"stepper": "heun", "record": True},
    "transport": {"flow": "transport"},
    "exact": {"flow": "w2"},
    "sinkhorn": {"flow": "w2", "solver": "sinkhorn"},
    "trained": {"flow": "w2", "solver": "neural"},
    "mmd": {"flow": "mmd"},
    "kale": {"flow": "kale"},
    "kernel": {"flow": "kernel"},
    "persistent": {"persistent": "minibatch", "minibatch": 20, "persistency": 2},
}


@pytest.mark.parametrize("settings", FLOWS.values(), ids=FLOWS)
def test_rounding_is_small_and_changes_nothing(settings):
    """Far below a thousandth in every flow, but where iterations end at a tolerance; the process and its particles are left as they were, bit for bit."""
    spec = Specification("moons", particles=60, target_size=50, steps=3, holdout=0, network=(16, 16), **settings)
    simulation, other = build(spec), build(spec)
    state, same = (simulate(each.process, 3) for each in (simulation, other))
    apart = rounding(simulation, state)
    assert apart["velocity"] < (1e-2 if settings.get("solver") == "sinkhorn" else 1e-3)
    assert apart["divergence"] < 1e-3
    (after, _), (wanted, _) = (each.process.step(state) for each in (simulation, other))
    assert torch.equal(after.cloud.x, wanted.cloud.x)
    assert torch.equal(state.cloud.x, same.cloud.x)


def test_rounding_of_the_energy_distance_is_that_of_its_formula():
    """Beside the gradient of E|x - y| - E|x - x'| in plain NumPy; the masses 1/50 are those that float32 has, which is a part of it."""
    spec = Specification("moons", particles=60, target_size=50, steps=3, holdout=0, flow="mmd")
    simulation = build(spec)
    state = simulate(simulation.process, 3)
    x, y = state.cloud.x.double().numpy(), simulation.target.x.double().numpy()

    def pull(b):
        apart = x[:, None] - b[None]
        length = np.linalg.norm(apart, axis=2, keepdims=True)
        return np.divide(apart, length, out=np.zeros_like(apart), where=length > 0).mean(1)

    exact = pull(x) - pull(y)
    single = simulation.process.flow.velocity(state.t, state.cloud, simulation.process.key.fold(3))[0].double().numpy()
    apart = np.sqrt(np.square(single - exact).sum() / np.square(exact).sum())
    assert apart / 2 < rounding(simulation, state)["velocity"] < 2 * apart


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dtype", "float64"], "compares float32 with float64, but --dtype = float64"),
        (["--flow", "proximal"], "not for the flow proximal"),
        (["--flow", "mmd", "--noise", "0.1"], "the same random numbers in both precisions; --noise = 0.1"),
        (["--constraint", "penalty"], "constraint penalty has not"),
    ],
    ids=["double", "proximal", "noise", "penalty"],
)
def test_what_cannot_be_compared_is_refused_at_once(tmp_path, words, told):
    found = CliRunner().invoke(
        main, ["simulate", "--target", "moons", *words, "--check-precision", "-o", str(tmp_path / "run")]
    )
    assert found.exit_code == 2
    assert told in found.output
    assert not (tmp_path / "run").exists()


def test_the_closing_table_says_it_and_the_run_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--target", "moons", "-n", "40", "--target-size", "50", "--steps", "4", "--network", "8", "--no-figure"]
    said = CliRunner().invoke(main, ["simulate", *words, "--check-precision", "-o", "one"]).output
    assert "float32 against float64: velocities differ by at most" in said
    assert CliRunner().invoke(main, ["simulate", *words, "-q", "-o", "two"]).exit_code == 0
    for name in ("particles.csv", "series.csv", "trajectory.npy", "spec.toml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    later = CliRunner().invoke(main, ["simulate", "--resume", "two", "--check-precision", "--json", "--no-figure"])
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert one["precision"] == two["precision"] == json.loads(later.stdout)["precision"]
