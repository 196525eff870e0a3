"""What the examples claim, on fewer seeds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from particles import Diverged, Euler, Key, Proximal, Schema, nearest_ratio, read_table, w2

ROOT = Path(__file__).parent.parent
GENES = ROOT.parent / "shared/data/gene"


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mixture_is_as_near_to_fresh_points_as_the_mixture_itself():
    """All modes covered, and W2 to 2,000 fresh points at most 1.15 times what other samples of 200 have."""
    mixture = example("mixture")
    reached, floors = [], []
    for seed in range(3):
        key = Key.of(seed).fold("mixture")
        target, fresh = mixture.sample(200, key.fold("target")), mixture.sample(2000, key.fold("fresh"))
        end = mixture.flow(target, seed)[-1]
        assert (mixture.modes(end) >= 0.25 * mixture.modes(target)).all()
        assert w2(end, target) < 0.45  # from 3.5; the authors' code has 0.22 to 0.35
        reached.append(w2(end, fresh))
        floors += [w2(mixture.sample(200, key.fold("other", i)), fresh) for i in range(5)]
    assert np.mean(reached) <= 1.15 * np.mean(floors)


@pytest.mark.parametrize(
    ("name", "peer"),
    [  # W2 to the target of public codes on this mixture: geomloss' flow, MMD and KALE of kale-flow; our own goal for W1
        ("transport, kl", 0.33),
        ("transport, w1", 0.15),
        ("w2, exact", 1e-3),
        ("mmd, riesz", 0.26),
        ("mmd, gaussian", 0.66),
        ("kale", 0.62),
    ],
)
def test_flows_arrive_where_their_peers_do(name, peer):
    simulation, clouds = example("flows").flow(name, 0)
    assert w2(clouds[0], simulation.target) > 3
    assert w2(clouds[-1], simulation.target) <= peer


@pytest.mark.data
@pytest.mark.skipif(not GENES.exists(), reason="the gene expression data are not beside the project")
def test_one_study_is_moved_onto_another_without_copying():
    """W2 to held-out rows as small as that of the training rows, within 5 %, and no nearer to those than fresh rows."""
    held_out = example("held_out")
    source, target = read_table(GENES / "source_pca10.csv"), read_table(GENES / "target_pca10.csv")
    distances, ratios = [], []
    for split in range(3):
        order = Key.of(split).fold("split").numpy().permutation(len(target))
        holdout, rest = np.split(order, [round(0.2 * len(order))])
        schema = Schema.fit(target.take(rest), "global")
        start, held, training = (schema.encode(t) for t in (source, target.take(holdout), target.take(rest)))
        clouds = held_out.flow(start, training, 200, split, 32, 1e-3)
        chosen = clouds[held_out.last_honest(clouds, training)]
        assert w2(start, held) > 1.4 * w2(training, held)
        distances.append(w2(chosen, held) / w2(training, held))
        ratios.append(nearest_ratio(chosen, training, held))
    assert np.mean(distances) <= 1.05
    assert np.mean(ratios) >= 0.9


def test_implicit_steps_land_where_explicit_ones_rattle():
    steps = example("steps")
    assert steps.distances(Euler(), 0.0)[-5:].min() > steps.STEP / 4  # they jump by STEP, from side to side
    assert steps.distances(Euler(), steps.STEP)[-1] < 1e-6
    before, explicit = steps.after_one_step(Euler(), 30.0)
    _, implicit = steps.after_one_step(Proximal(), 30.0)
    assert explicit > 5 * before
    assert implicit < before / 10


def test_the_exact_generative_flow_is_better_than_the_published_one(monkeypatch):
    """Its half W2² on Pinwheel in 12 dimensions is 0.041, in two coordinates of them."""
    generative = example("generative")
    monkeypatch.setattr(generative, "SAMPLES", 10_000)
    monkeypatch.setattr(generative.exact, "__defaults__", (1000,))
    found, paths = generative.cell("pinwheel", 12, 0, "transport", 0)
    assert found["half W2^2"] < 0.041
    assert found["straightness"] < 1.01
    assert found["over the best"] < 1.05
    assert found["slope"] <= 1 + 1e-5
    assert paths.shape == (6, 2000, 12)


def test_without_a_bound_the_discriminator_runs_away(monkeypatch):
    generative = example("generative")
    monkeypatch.setattr(generative, "SAMPLES", 2000)
    with pytest.raises(Diverged, match=r"^step \d+: the discriminator runs away: its slope is .* constraint spectral"):
        generative.cell("pinwheel", 12, 0, "no-w1", 400)
