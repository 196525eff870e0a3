"""Scales and shapes of data: what theory says of runs on data that is tiny, huge, far away, repeated, flat, wide or few.

At d = 50,000 nothing is left out but the reading of files: clouds are made in memory, as 50,000 columns take seconds to be read.
"""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from problems import normal
from test_laws import FLOW_SETTINGS

from particles import Cloud, GradientFlow, Key, Memory, simulate, w2
from particles.experiment import assemble, proximal
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.names import DIVERGENCES
from particles.proximal.network import TimedNetwork
from particles.run.process import Evolve
from particles.steppers.euler import Euler

pytestmark = pytest.mark.slow

TARGET = normal(24, 3, "target").numpy() @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
SOURCE = 0.7 * normal(16, 3, "source").numpy() + 1
SMALL = {"network": (8, 8), "inner_steps": 2, "holdout": 0, "steps": 5, "log_every": 1, "metric_every": 5}
FLOWS = FLOW_SETTINGS | {
    f"transport, {divergence}": {"flow": "transport", "divergence": divergence}
    for divergence in DIVERGENCES
    if divergence != "kl"
}
FLOWS |= {
    "transport, proximal stepper": {"flow": "transport", "stepper": "proximal"},
    "kernel, adaptive": {"flow": "kernel", "stepper": "adaptive"},
    "mmd, ab3": {"flow": "mmd", "stepper": "ab3"},
}
ALL = pytest.mark.parametrize("flow", FLOWS)
TYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

SENSITIVE = {"w2, sinkhorn": 0.08, "transport, all": 1e-3}
"""Solvers whose last digits decide where their accelerated iterations end, within their tolerance."""
IN_FLOAT32 = {"transport, proximal stepper": 0.05, "proximal, transport": 2e-3}
"""Those to which this happens in float32: iterations that end within a tolerance end elsewhere."""
BY_CHANCE = ("lipschitz", "w2, neural", "mmd, noise", "proximal", "proximal, all")
"""Flows with random weights or noise, which know one column from another."""
SOLVED = [flow for flow in FLOWS if flow not in BY_CHANCE and not flow.startswith("w2, sinkhorn")]


def close(a, b, flow, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=max(tolerance, SENSITIVE.get(flow, 0)))


def settings_of(flow, **more):
    """Those of a flow; with whole batches, as the drawing of even ones depends on which axis is widest, a tie after scaling."""
    known = dict(FLOWS[flow])
    if known["flow"] == "proximal":
        known.pop("batch_size", None)
    return SMALL | known | more


def run(folder, target, source, flow, stop=5, **more):
    np.save(folder / "target.npy", target)
    np.save(folder / "source.npy", source)
    spec = Specification(
        **{"target": str(folder / "target.npy"), "source": str(folder / "source.npy")} | settings_of(flow, **more)
    )
    simulation, store = build(spec), Memory()
    if flow == "w2, neural":
        simulation.process.flow.potential.warmup = 50
    end = simulate(simulation.process, min(stop, simulation.spec.steps), store, simulation.observers)
    return simulation, end.cloud, store.rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run on the data as they are, done once for each flow, type and scale."""
    done = {}

    def of(flow, dtype, scale="standard"):
        known = (flow, dtype, scale)
        if known not in done:
            done[known] = run(tmp_path_factory.mktemp("plain"), TARGET, SOURCE, flow, dtype=dtype, scale=scale)
        return done[known]

    return of


# Equivariance: a run on a·x + b is the run on x, mapped


@ALL
@pytest.mark.parametrize(("dtype", "scale"), [("float32", "standard"), ("float64", "global")])
def test_a_power_of_two_changes_no_bit(tmp_path, plain, flow, dtype, scale):
    if flow == "w2, neural" and scale == "global":
        pytest.skip("one case of the slow one")
    simulation, end, _ = plain(flow, dtype, scale)
    for factor in (2.0**-40, 2.0**40):  # about 1e-12 and 1e12
        other, there, _ = run(tmp_path, factor * TARGET, factor * SOURCE, flow, dtype=dtype, scale=scale)
        assert torch.equal(end.x, there.x)
        in_file = other.schema.decode(there).to_numpy(float)
        np.testing.assert_allclose(in_file, factor * simulation.schema.decode(end).to_numpy(float), rtol=1e-6)


@pytest.mark.parametrize("flow", FLOW_SETTINGS)
@pytest.mark.parametrize(
    ("factor", "shift", "tolerance"),
    [(1e-12, 0, 1e-11), (1, 1e6, 1e-8), (-1e12, 1e18, 1e-8), (1, 1e9, 1e-5)],
)
def test_units_and_offsets_do_not_matter(tmp_path, plain, flow, factor, shift, tolerance):
    """To the rounding of the file's own numbers, times 1,000."""
    if flow == "w2, neural":
        pytest.skip("slow; it sees scaled numbers as all others do")
    if factor < 0 and flow in BY_CHANCE:
        pytest.skip("random weights know left from right")
    simulation, end, _ = plain(flow, "float64")
    other, there, _ = run(tmp_path, factor * TARGET + shift, factor * SOURCE + shift, flow, dtype="float64")
    close(there.x, np.sign(factor) * end.x, flow, 1e3 * tolerance if flow.startswith("transport, all") else tolerance)
    in_file = other.schema.decode(there).to_numpy(float)
    back = (in_file - shift) / factor
    spread = TARGET.std(0).max()
    off = max(tolerance, SENSITIVE.get(flow, 0)) * spread + 1e-6 * spread
    np.testing.assert_allclose(back, simulation.schema.decode(end).to_numpy(float), rtol=0, atol=off)


@pytest.mark.parametrize(("flow", "dtype"), [*((flow, "float64") for flow in SOLVED), ("transport", "float32")])
def test_columns_may_be_permuted(tmp_path, plain, flow, dtype):
    order = [2, 0, 1]
    _, end, _ = plain(flow, dtype)
    _, there, _ = run(tmp_path, TARGET[:, order], SOURCE[:, order], flow, dtype=dtype)
    close(there.x, end.x[:, order], flow, 1e-5 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("flow", SOLVED)
def test_columns_of_very_different_units_are_columns_of_one(tmp_path, plain, flow):
    """Powers of two in each column: --scale standard sees the same bits."""
    units = np.array([2.0**-30, 1, 2.0**30])
    _, end, _ = plain(flow, "float32")
    _, there, _ = run(tmp_path, TARGET * units, SOURCE * units, flow)
    assert torch.equal(end.x, there.x)


@ALL
def test_float32_tells_what_float64_tells(plain, flow):
    """The objective to 1e-4 of itself (3e-2 where the solver ends within its tolerance), particles to 1e-4."""
    if flow in ("mmd, noise", "proximal, all"):
        pytest.skip("noise is drawn in each type by itself")
    if flow == "w2, neural":
        pytest.skip("slow, and 1,000 steps of Adam on both sides of a kink")
    (_, single, few), (_, double, many) = (plain(flow, dtype) for dtype in ("float32", "float64"))
    close(single.x.double(), double.x, flow, IN_FLOAT32.get(flow, 1e-4))
    for a, b in zip(few[1:], many[1:]):
        rough = flow in SENSITIVE or flow in IN_FLOAT32
        assert a["divergence"] == pytest.approx(b["divergence"], rel=3e-2 if rough else 1e-4, abs=1e-5)


# Repeated, flat, few and wide


@pytest.mark.parametrize("flow", SOLVED)
def test_repeated_rows_are_weights(tmp_path, plain, flow):
    """A target with every row twice is the target: bandwidths and steps that are found from it are too."""
    first, end, rows = plain(flow, "float64")
    second, there, again = run(tmp_path, np.repeat(TARGET, 2, 0), SOURCE, flow, dtype="float64")
    if second.spec.bandwidth is not None:
        assert first.spec.bandwidth == pytest.approx(second.spec.bandwidth, rel=1e-12)
    close(there.x, end.x, flow, 1e-4 if flow == "proximal, plan" else 1e-9)
    assert again[-1]["divergence"] == pytest.approx(rows[-1]["divergence"], rel=1e-3 if "plan" in flow else 1e-8)


CASES = {
    "one place but for one": np.concatenate((np.repeat(TARGET[:1], 30, 0), TARGET[1:2])),
    "two rows": TARGET[:2],
    "an outlier": np.concatenate((TARGET, [[1e8, 1e8, 1e8]])),
    "a line": TARGET[:, :1] * [1, 2, -3],
    "one column": TARGET[:, :1],
    "many more particles": TARGET[:3],
    "many more rows": np.tile(TARGET, (20, 1)) + 0.1 * normal(480, 3, "more").numpy(),
}


@pytest.mark.parametrize(
    ("flow", "case", "dtype"),
    [
        *itertools.product(["lipschitz", "transport", "w2", "mmd"], CASES, ["float32"]),
        *((flow, "an outlier", "float64") for flow in FLOWS),
    ],
)
def test_no_particle_is_faster_than_its_limit(tmp_path, case, flow, dtype):
    """Whatever the data: L where there is a bound, and nowhere out of sight. On a line everything stays on it."""
    if case != {"w2, neural": "a line", "kernel, adaptive": "two rows"}.get(flow, case):
        pytest.skip("one case of the slow ones")
    target = CASES[case]
    start = SOURCE[:, :1] * [1, 2, -3] if case == "a line" else SOURCE[:, : target.shape[1]]
    if case == "many more particles":
        start = np.concatenate((SOURCE, SOURCE + 0.5, SOURCE - 1, 2 * SOURCE))
    simulation, end, rows = run(tmp_path, target, start, flow, dtype=dtype)
    spec, source = simulation.spec, simulation.process.source
    assert bool(torch.isfinite(end.x).all())
    fastest = max(row.get("max_speed", 0) for row in rows)
    if spec.flow == "proximal":
        limit = math.inf
        if spec.solver in ("transport", "plan"):
            limit = (spec.lipschitz / spec.alpha) ** (1 / (spec.power - 1))
    else:
        reach = {"ab3": 11 / 3}.get(spec.stepper, 1)
        limit = reach * spec.lipschitz * (2 if spec.flow == "transport" and spec.debias else 1)
        if not spec.bounded:  # w2 goes a part of the way; kernels are steep at most on their own length
            limit = math.inf
    assert fastest <= limit * (1 + 1e-4)
    way = float(torch.cdist(source.x.double(), simulation.target.x.double()).max())
    assert float((end.x - source.x).norm(dim=1).max()) <= 3 * way + 10
    if case == "a line" and flow in SOLVED:  # of all columns in standard units: x, x, −x
        close(end.x[:, 1], end.x[:, 0], flow, 1e-4)
        close(end.x[:, 2], -end.x[:, 0], flow, 1e-4)


@pytest.mark.parametrize("flow", ["w2", "transport, w1", "mmd", "proximal, plan"])
def test_many_particles_come_to_few_target_points(tmp_path, flow):
    """M ≫ N: 48 particles share 3 points, and end near them; a third at each, unless other shares have their price (KL)."""
    start = np.concatenate((SOURCE, SOURCE + 0.5, SOURCE - 1))
    more = {"steps": 60} | ({"decay": 10.0} if flow == "mmd" else {"halving": 3.0} if "w1" in flow else {})
    simulation, end, _ = run(tmp_path, TARGET[:3], start, flow, stop=60, **more)
    apart = torch.cdist(end.x, simulation.target.x)
    spacing = float(torch.pdist(simulation.target.x).min())
    before = w2(simulation.process.source, simulation.target)
    if flow == "mmd":
        assert w2(end, simulation.target) < 0.4 * before
        return
    assert float(apart.min(1).values.max()) < 0.05 * spacing
    if flow == "proximal, plan":
        return
    assert torch.bincount(apart.argmin(1), minlength=3).tolist() == [16, 16, 16]


@TYPES
@pytest.mark.parametrize("flow", ["w2", "w2, sinkhorn"])
def test_one_particle_goes_straight_to_the_mean(tmp_path, flow, dtype):
    """W2 of a single point: each step goes the part h of the way to the target's mean."""
    simulation, _, _ = run(tmp_path, TARGET, SOURCE, flow, stop=0, dtype=dtype)
    process = simulation.process
    process.source = process.source.take(slice(0, 1))
    end = simulate(process, 5).cloud
    mean = simulation.target.x.mean(0)
    expected = mean + (1 - 0.1) ** 5 * (process.source.x - mean)
    torch.testing.assert_close(end.x, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-9)


ONE_POINT = [
    flow
    for flow in SOLVED
    if FLOWS[flow]["flow"] != "proximal" and "minibatch" not in FLOWS[flow] and "stepper" not in FLOWS[flow]
]


@TYPES
@pytest.mark.parametrize("flow", [*ONE_POINT, "w2, sinkhorn"])
def test_one_particle_and_one_target_point_are_a_line(tmp_path, flow, dtype):
    """It goes straight, never beyond by more than a step, and no faster than L."""
    simulation, _, _ = run(tmp_path, TARGET, SOURCE, flow, stop=0, dtype=dtype)
    process = simulation.process
    inner = getattr(process.flow, "flow", process.flow)
    assert isinstance(inner, GradientFlow)
    inner.target = simulation.target.take(slice(0, 1))
    process.source = process.source.take(slice(0, 1))
    store = Memory()
    end = simulate(process, 5, store).cloud
    start, goal = process.source.x[0].double(), inner.target.x[0].double()
    way = goal - start
    part = float((end.x[0].double() - start) @ way / way.square().sum())
    beside = end.x[0].double() - start - part * way
    assert part > 0
    assert float(beside.norm()) < 1e-4 * float(way.norm())
    if flow == "w2":
        assert part == pytest.approx(1 - 0.9**5, rel=1e-5)
    if simulation.spec.bounded:  # a frozen potential also pushes a particle away from where it was
        assert max(row["max_speed"] for row in store.rows[1:]) <= (2 if "persistent" in flow else 1) * (1 + 1e-5)


@TYPES
@pytest.mark.parametrize("flow", ["w2", "proximal, transport", "proximal, plan", "transport, w1"])
def test_every_particle_comes_to_the_only_target_point(flow, dtype):
    """In the API a target may be one point; a plan within reach ends there, to the last digits or the blur of what ε was."""
    kind = getattr(torch, dtype)
    source, target = Cloud(torch.as_tensor(SOURCE, dtype=kind)), Cloud(torch.as_tensor(TARGET[:1], dtype=kind))
    spec = Specification(target="x", dtype=dtype, **SMALL | FLOWS[flow] | {"steps": 80, "halving": 2.0})
    if spec.flow == "proximal":
        settled = proximal.settled(
            Specification(target="x", **SMALL | FLOWS[flow] | {"alpha": 0.05}), source, target, Key.of(0)
        )
        end = simulate(proximal.process(settled, source, target, Key.of(0)), settled.time_steps).cloud
    else:
        spec = assemble.settled(spec, target, Key.of(0))
        end = simulate(assemble.process(spec, source, target, Key.of(0)), 80).cloud
    far = float((source.x - target.x).norm(dim=1).max())
    left = (1 - 0.1) ** 80 * far if flow == "w2" else spec.epsilon or 0.0
    assert float((end.x - target.x).norm(dim=1).max()) <= left * (1 + 1e-3) + 1e-3 * far


def test_w2_shrinks_by_a_tenth_of_itself_wherever_the_data_is(tmp_path):
    """M = N: (1 − h)^k, at 1e-12, at 1e12 and 1e6 away."""
    for factor, shift in ((1.0, 0.0), (1e-12, 0.0), (1e12, 0.0), (1.0, 1e6)):
        simulation, end, rows = run(
            tmp_path, factor * TARGET[:16] + shift, factor * SOURCE + shift, "w2", dtype="float64"
        )
        assert w2(end, simulation.target) == pytest.approx(
            0.9**5 * w2(simulation.process.source, simulation.target), rel=1e-6
        )
        assert rows[-1]["w2"] == pytest.approx(0.9**5 * rows[0]["w2"], rel=1e-6)


# Wide


WIDE = 50_000


def wide(flow):
    q, p = (Cloud(normal(6, WIDE, name, torch.float32)) for name in ("wide target", "wide source"))
    known = Specification(target="x", **SMALL | {"network": (4, 4), "steps": 2} | FLOWS[flow])
    maker = proximal if known.flow == "proximal" else assemble
    spec = proximal.settled(known, p, q, Key.of(0)) if maker is proximal else assemble.settled(known, q, Key.of(0))
    return spec, p, q, maker.process(spec, p, q, Key.of(0))


@pytest.mark.parametrize("flow", ["lipschitz", "w2", "proximal", "proximal, plan", "proximal, transport"])
def test_50_000_columns(flow):
    """Exact W2 matches orthogonal points; nothing has a matrix of 50,000 × 50,000."""
    spec, p, q, process = wide(flow)
    store = Memory()
    end = simulate(process, 1, store).cloud
    assert bool(torch.isfinite(end.x).all())
    if flow == "w2":
        assert w2(end, q) == pytest.approx(0.9 * w2(p, q), rel=1e-4)
    if spec.bounded:
        assert store.rows[-1]["max_gradient"] <= 1 + 1e-4
    trained = getattr(process, "learner", None) or getattr(process.flow, "potential", None)
    if isinstance(trained, TimedNetwork):
        assert sum(weight.numel() for weight in trained.parameters()) < 200 * WIDE


def test_the_quadratic_part_of_many_columns():
    """Above 1,024 dimensions A has rank 64 beside its diagonal, and its slopes are those of U all the same."""
    network = TimedNetwork(1100, (4, 4), key=Key.of(1)).double()
    with torch.no_grad():
        for weight in (network.last, network.slant, network.bend, network.fold):
            weight.copy_(normal(*weight.shape, f"weight {weight.shape}"))
    x = normal(3, 1100, "points").requires_grad_()
    found = network.slopes(x, 0.3)
    (by_autograd,) = torch.autograd.grad(found.value.sum(), x)
    torch.testing.assert_close(found.in_x, by_autograd, rtol=1e-10, atol=1e-10)
    a = torch.diag(network.bend[:, 0]) + (network.plane @ network.fold.mT + network.fold @ network.plane.mT) / 2
    torch.testing.assert_close(network._bent(x), x @ a, rtol=1e-9, atol=1e-9)


# At the door, and said aloud


@pytest.mark.parametrize("flow", ["transport", "w2", "kale"])
@pytest.mark.parametrize(("factor", "word"), [(1e-25, "multiply"), (1e25, "divide")])
def test_squares_that_float32_cannot_hold_are_refused(tmp_path, flow, factor, word):
    with pytest.raises(ValueError, match=rf"column 'x0': its values are too .* {word} the column by a power of ten"):
        run(tmp_path, factor * TARGET, factor * SOURCE, flow, scale="none")
    _, end, _ = run(tmp_path, factor * TARGET, factor * SOURCE, flow)  # scaled, they are numbers like others
    assert bool(torch.isfinite(end.x).all())


def test_an_epsilon_that_has_no_inverse_is_refused(tmp_path):
    for flow in ("transport", "w2, sinkhorn", "proximal, transport"):
        with pytest.raises(ValueError, match=r"epsilon 1e-42 is too small for float32; scale the target"):
            run(tmp_path, TARGET, SOURCE, flow, epsilon=1e-42)


def test_steps_that_are_lost_in_rounding_are_said(tmp_path, caplog):
    """A step of 0.5 at coordinates of 1e12 is nothing to float32, and something to float64."""
    with caplog.at_level(logging.WARNING, "particles"):
        simulation, end, _ = run(tmp_path, 1e12 * TARGET, 3e12 * SOURCE, "transport", scale="none")
        assert torch.equal(end.x, simulation.process.source.x)
        assert [record.getMessage()[:26] for record in caplog.records] == ["step 1: no particle moves,"]
        caplog.clear()
        run(tmp_path, 1e12 * TARGET, 3e12 * SOURCE, "transport", scale="none", dtype="float64")
        run(tmp_path, TARGET, SOURCE, "transport")
        assert not caplog.records


def test_particles_stay_in_sight_of_a_narrow_kernel(tmp_path):
    """Beside an outlier the other rows are 1e-8 apart, and so long are the kernel and the steps of KALE."""
    simulation, end, _ = run(tmp_path, CASES["an outlier"], SOURCE, "kale")
    assert simulation.spec.bandwidth < 1e-6
    assert simulation.spec.step_size == simulation.spec.bandwidth**2 / 2
    assert float((end.x - simulation.process.source.x).norm(dim=1).max()) < 20 * simulation.spec.bandwidth


def test_particles_of_huge_data_are_numbers_in_files(tmp_path):
    """Near the end of float32's range rows are written in double precision; beyond that of float64 nothing begins."""
    simulation, end, _ = run(tmp_path, 1e38 * TARGET, 1e38 * SOURCE, "mmd", scale="standard")
    frame = simulation.schema.decode(end)
    assert simulation.schema.points(end.x).dtype == np.float64
    assert np.isfinite(frame.to_numpy()).all()
    wide, end, _ = run(tmp_path, 1e140 * TARGET, 1e140 * SOURCE, "mmd", dtype="float64")
    with pytest.raises(FloatingPointError, match=r"column 'x0': 16 of 16 points are too large to be written"):
        wide.schema.points(1e170 * end.x)


def test_a_potential_of_one_point_and_one_point():
    """D of two Diracs with KL is the least of L·r, in every type; the particle rests on the point in the end."""
    for kind in (torch.float32, torch.float64):
        target = Cloud(torch.zeros(1, 2, dtype=kind))
        source = Cloud(torch.tensor([[3.0, 4.0]], dtype=kind))
        spec = assemble.settled(Specification(target="x", flow="transport", radius=0.0), target, Key.of(0))
        potential = assemble.transport(spec, target, Key.of(0))
        info = potential.fit(source, target, Key.of(0))
        assert float(info["divergence"]) == pytest.approx(5.0, rel=1e-5)
        torch.testing.assert_close(potential.grad(source), torch.tensor([[0.6, 0.8]], dtype=kind), rtol=1e-5, atol=1e-5)
        process = Evolve(GradientFlow(potential, target), Euler(), source, step_size=0.5)
        assert float(simulate(process, 10).cloud.x.norm()) < 1e-3
