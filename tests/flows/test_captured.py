"""The captured velocity against the plain one: the same bits, step by step, with decay, riders, classes and a resume in the middle."""

import logging
import math

import pytest
import torch
from problems import cloud, normal

from particles import KL, Cloud, DenseNetwork, Evolve, GradientFlow, Key, NeuralPotential
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.flows.captured import Captured, obstacle
from particles.names import DIVERGENCES, STEPPERS, make
from particles.run.folder import Folder
from particles.run.loop import simulate
from particles.run.store import Memory

SMALL = {"target": "moons", "target_size": 40, "particles": 20, "network": (8, 8), "inner_steps": 2, "log_every": 1}


def potential(divergence=None, d=2, classes=0, decay=3.0, device="cpu", **settings):
    network = DenseNetwork(d, (16, 16), classes=classes, key=Key.of(0)).to(device)
    return NeuralPotential(divergence or KL(), network, decay=decay, learning_rate=1e-2, momentum=0.5, **settings)


def process(captured, source, target, stepper="euler", device="cpu", **settings):
    flow = GradientFlow(potential(device=device, **settings), target)
    stepper = make("stepper", stepper, STEPPERS)
    return Evolve(Captured(flow) if captured else flow, stepper, source, step_size=0.3, decay=5, key=Key.of(1))


def problem(device="cpu", classes=0, carried=0):
    source, target = (
        Cloud(
            normal(n, 2, name, torch.float32).to(device), torch.arange(n, device=device) % classes if classes else None
        )
        for n, name in ((30, "p"), (40, "q"))
    )
    return source.join(source.take(slice(0, carried))) if carried else source, target


def same(a, b):
    (rows_a, clouds_a), (rows_b, clouds_b) = a, b
    assert [list(row) for row in rows_a] == [list(row) for row in rows_b]
    assert rows_a == rows_b
    assert all(torch.equal(x.x, y.x) for x, y in zip(clouds_a, clouds_b, strict=True))


def run(process, steps=10):
    store = Memory()
    simulate(process, steps, store)
    return store.rows, store.clouds


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_same_bits_for_every_divergence(name):
    a, b = (
        run(process(captured, *problem(), divergence=make("divergence", name, DIVERGENCES)))
        for captured in (True, False)
    )
    same(a, b)


@pytest.mark.parametrize("stepper", ["heun", "rk4", "ab3", "adaptive", "proximal"])
def test_the_same_bits_for_every_stepper(stepper):
    same(*(run(process(captured, *problem(), stepper=stepper), 5) for captured in (True, False)))


@pytest.mark.parametrize(("classes", "carried"), [(2, 0), (0, 7), (3, 5)])
def test_the_same_bits_with_classes_and_riders(classes, carried):
    clouds = problem(classes=classes, carried=carried)
    same(*(run(process(captured, *clouds, classes=classes)) for captured in (True, False)))


def test_the_learning_rate_falls_under_replay():
    captured = process(True, *problem(), decay=2.0)
    run(captured)
    assert captured.flow.potential.optimizer.learning_rate == pytest.approx(1e-2 / (1 + 9 / 2))
    assert float(captured.flow.potential.optimizer.step) == 30  # three ascents in each of ten fits


def test_buffers_stay_where_they_are_and_loading_reaches_them():
    """A graph reads and writes addresses: a loaded potential must be found at them."""
    captured = process(True, *problem())
    state, _ = captured.step(captured.init())
    own = captured.flow.potential
    tensors = [*own.weights, *own.network.buffers(), *own.optimizer.first, *own.optimizer.second]
    tensors += [own.optimizer.step, own.optimizer.rate, captured.flow.particles.x]
    places = [tensor.data_ptr() for tensor in tensors]
    saved = {name: value.clone() for name, value in own.network.state_dict().items()}
    captured.step(state)
    captured.load_state_dict(captured.state_dict() | {"network": saved})
    captured.step(state)
    assert [tensor.data_ptr() for tensor in tensors] == places


@pytest.mark.parametrize(("first", "then"), [("none", "full"), ("full", "none")])
def test_a_checkpoint_is_the_same_either_way(tmp_path, first, then, monkeypatch):
    """Ten steps plainly, and five of either kind after five of the other, end at the same bits; spec.toml alone tells which was which."""
    monkeypatch.setattr(NeuralPotential, "fuse", lambda self: None)  # it changes last digits, and takes a compiler
    schema = build(Specification(**SMALL))
    for name, kinds in (("whole", ("none", "none")), ("parts", (first, then))):
        for steps, kind in zip((5, 10), kinds):
            simulation = build(Specification(**SMALL, compile=kind, steps=steps))
            assert isinstance(simulation.process.flow, Captured) == (kind == "full")
            folder = Folder(tmp_path / name, schema.schema, log_every=1, snapshot_every=1)
            simulate(simulation.process, steps, folder)
    for file in ("checkpoint.pt", "series.csv", "particles.csv", "trajectory.npy"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 8}, "batch_size draws"),
        ({"tolerance": 1e-3}, "tolerance reads"),
        ({"constraint": "penalty"}, "penalty draws"),
        ({"noise": 0.1}, "noise draws"),
        ({"persistency": 2}, "persistency decides"),
        ({"flow": "transport"}, "transport is not compiled"),
        ({"flow": "proximal"}, "proximal is not compiled"),
    ],
)
def test_what_cannot_be_captured_runs_plainly_and_says_so(settings, reason, caplog):
    with caplog.at_level(logging.WARNING, logger="particles"):
        simulation = build(Specification(**SMALL, **settings, compile="full"))
        assert not isinstance(getattr(simulation.process, "flow", None), Captured)
        assert [reason in record.getMessage() for record in caplog.records if "compile" in record.getMessage()] == [
            True
        ]
        caplog.clear()
        build(Specification(**SMALL, **settings))  # auto, on the CPU, asks for nothing
        build(Specification(**SMALL, **settings, compile="full"), to_run=False)
        assert not [record for record in caplog.records if "compile" in record.getMessage()]


def test_a_compiler_that_fails_leaves_the_plain_path(monkeypatch, caplog):
    def broken(*_, **__):
        def fail(*_):
            raise RuntimeError("no compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    p, q = cloud(20, 2, "p", torch.float32), cloud(30, 2, "q", torch.float32)
    plain, fused = potential(), potential()
    fused.fuse()
    with caplog.at_level(logging.WARNING, logger="particles"):
        for _ in range(2):
            assert torch.equal(plain.fit(p, q, Key.of(0))["divergence"], fused.fit(p, q, Key.of(0))["divergence"])
    assert [record.getMessage() for record in caplog.records] == [
        "compile: torch.compile cannot fuse the ascents (no compiler); they run plainly"
    ]


def test_only_flows_that_can_be_captured_are():
    flow = GradientFlow(potential(batch_size=5), cloud(10, 2, "q", torch.float32))
    assert "batch_size" in obstacle(flow)
    with pytest.raises(ValueError, match="cannot be captured: batch_size"):
        Captured(flow)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_a_graph_is_the_plain_velocity(name):
    """On the device: ten steps with decay, and a resume of the potential in the middle, replayed and plain."""
    clouds = problem("cuda")
    ends = []
    for captured in (True, False):
        own = process(captured, *clouds, device="cuda", divergence=make("divergence", name, DIVERGENCES))
        state = own.init()
        for _ in range(5):
            state, _ = own.step(state)
        saved = {part: value.clone() for part, value in own.flow.state_dict()["network"].items()}
        own.step(state)
        own.load_state_dict(own.state_dict() | {"network": saved})
        for _ in range(5):
            state, info = own.step(state)
        assert math.isfinite(float(info["divergence"]))
        ends.append(state.cloud.x)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_replay_does_not_wait_for_the_device():
    own = process(True, *problem("cuda"), device="cuda")
    state, _ = own.step(own.init())
    torch.cuda.set_sync_debug_mode("error")
    try:
        own.step(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert own.flow.replay.__name__ == "replay"
