"""Flows in one batched network against each of them alone."""

import pytest
import torch
from problems import normal

from particles import KL, Cloud, DenseNetwork, Evolve, GradientFlow, Key, NeuralPotential
from particles.flows.together import Together
from particles.names import DIVERGENCES, STEPPERS, make

D, M, N = 3, 12, 17


def flows(count=3, divergence=None, activation="relu", lipschitz=2.0, classes=0, **settings):
    settings = {"learning_rate": 1e-2, "decay": 4.0, "momentum": 0.3, "inner_steps": 3} | settings
    made = []
    for b in range(count):
        network = DenseNetwork(D, (8, 6), lipschitz, activation, classes, Key.of(b)).double()
        target = Cloud(normal(N, D, f"q{b}") + b, torch.arange(N) % classes if classes else None)
        made.append(GradientFlow(NeuralPotential(divergence or KL(), network, **settings), target))
    return made


def sources(count=3):
    return [normal(M, D, f"p{b}") for b in range(count)]


@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "softplus", "groupsort"])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_each_is_what_it_is_alone(name, activation):
    """Ten steps with momentum and a falling learning rate, in double precision: velocities, divergences, and what is saved."""
    divergence = make("divergence", name, DIVERGENCES)
    alone, joined = (flows(divergence=divergence, activation=activation) for _ in range(2))
    together, parts = Together(joined), sources()
    for step in range(10):
        cloud = Cloud(torch.cat(parts))
        velocity, info = together.velocity(0.0, cloud, Key.of(step))
        for b, (flow, part, moved) in enumerate(zip(alone, list(parts), velocity.split(M))):
            own, measured = flow.velocity(0.0, Cloud(part), Key.of(step))
            torch.testing.assert_close(moved, own, rtol=1e-8, atol=1e-9)
            for number in ("divergence", "kinetic_energy", "max_gradient"):
                torch.testing.assert_close(info[number][b], measured[number], rtol=1e-8, atol=1e-9)
            parts[b] = part + 0.3 * moved
    for flow, twin in zip(alone, joined):
        a, b = flow.state_dict(), twin.state_dict()
        assert a["fits"] == b["fits"] == 10
        weights = [name for name in a["network"] if not name.endswith("right")]  # which is found anew from the left
        for mine, theirs in (
            *((a["network"][name], b["network"][name]) for name in weights),
            *zip(
                a["optimizer"]["first"] + a["optimizer"]["second"], b["optimizer"]["first"] + b["optimizer"]["second"]
            ),
            *zip(a["optimizer"]["steps"], b["optimizer"]["steps"]),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


def test_what_is_loaded_into_one_is_loaded_into_its_slice():
    joined, fresh = flows(), flows()
    together, cloud = Together(joined), Cloud(torch.cat(sources()))
    for step in range(3):
        together.velocity(0.0, cloud, Key.of(step))
    again = Together(fresh)
    again.load_state_dict(together.state_dict())
    assert torch.equal(again.landscape(0.0, cloud)[1], together.landscape(0.0, cloud)[1])
    assert torch.equal(again.velocity(0.0, cloud, Key.of(3))[0], together.velocity(0.0, cloud, Key.of(3))[0])


def test_values_and_gradients_are_those_of_each():
    joined = flows()
    together, parts = Together(joined), sources()
    together.velocity(0.0, Cloud(torch.cat(parts)), Key.of(0))
    values, gradient = together.landscape(0.0, Cloud(torch.cat(parts)))
    for b, flow in enumerate(joined):
        flow.load_state_dict(flow.state_dict())  # what it would be were it loaded from a checkpoint
        torch.testing.assert_close(values.split(M)[b], flow.phi(Cloud(parts[b])))
        torch.testing.assert_close(gradient.split(M)[b], flow.landscape(0.0, Cloud(parts[b]))[1])


@pytest.mark.parametrize("stepper", ["euler", "heun", "rk4", "ab2", "ab4"])
def test_one_has_no_part_in_another(stepper):
    """The bits of one do not change with what the others see."""
    ends = []
    for shift in (0.0, 5.0):
        parts, own = sources(), flows()
        parts[1] = parts[1] + shift
        process = Evolve(
            Together(own), make("stepper", stepper, STEPPERS), Cloud(torch.cat(parts)), step_size=0.2, key=Key.of(0)
        )
        state = process.init()
        for _ in range(5):
            state, _ = process.step(state)
        ends.append(state.cloud.x.split(M))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][2], ends[1][2])
    assert not torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 5}, "batch_size draws"),
        ({"tolerance": 1e-3}, "tolerance reads"),
        ({"lipschitz": float("inf")}, "only dense networks with bounded weights"),
        ({"classes": 2}, "classes have outputs"),
    ],
)
def test_what_cannot_go_together(settings, reason):
    with pytest.raises(ValueError, match=f"cannot go together: {reason}"):
        Together(flows(**settings))
    ragged = flows()
    ragged[0].target = ragged[0].target.take(slice(0, 5))
    with pytest.raises(ValueError, match="different shapes"):
        Together(ragged)
