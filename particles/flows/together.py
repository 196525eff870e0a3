"""Several runs' trained discriminators in one batched network: their velocities together, in about the time of one where points are few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.flows.captured import obstacle
from particles.flows.gradient import GradientFlow
from particles.keys import Key
from particles.networks.adam import Adam
from particles.networks.dense import DenseNetwork
from particles.networks.stacked import StackedNetwork
from particles.potentials.base import Info
from particles.potentials.neural import NeuralPotential


class Together(Flow):
    """The velocities of several gradient flows that know nothing of each other, as the velocity of one cloud.

    That cloud has the particles of the first flow, then those of the second, and so on. Every flow keeps its own potential, which is what
    it would be alone, but for rounding: weights, moments and power iterations of all are slices of common stacks, so that what is loaded
    into one of them is loaded into its slice, and what is learnt there can be saved as its own.

    Arguments:
        flows: The flows, alike in everything but what they have learnt and what they see; ``discord`` says what they may be.

    Raises:
        ValueError: If they cannot go together.
    """

    def __init__(self, flows: Sequence[GradientFlow]):
        if (reason := discord(flows)) is not None:
            raise ValueError(f"these flows cannot go together: {reason}")
        self.flows = list(flows)
        self.potentials: list[NeuralPotential] = [flow.potential for flow in flows]  # type: ignore[misc]
        first = self.potentials[0]
        self.inner_steps = first.inner_steps
        self.divergence = first.divergence
        self.target = torch.stack([flow.target.x for flow in flows])  # (B, N, d)
        self.network = _stacked([potential.network for potential in self.potentials])
        self.optimizer = _shared([potential.optimizer for potential in self.potentials], self.network)

    def settle(self) -> None:
        """To be called after something was loaded into a potential."""
        self.network.eval()

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        particles = cloud.x.view(len(self.flows), -1, cloud.dimension)
        value = self._fit(particles)
        velocity, info = self.field(t, cloud, key)
        return velocity, {"divergence": value, "inner_steps": float(self.inner_steps), **info}

    @torch.no_grad()
    def _fit(self, particles: Tensor) -> Tensor:
        """Fits all potentials to particles with shape (B, M, d), and answers their divergences, with shape (B,)."""
        for potential in self.potentials:
            potential.advance()
        self.optimizer.learning_rate = self.potentials[0].optimizer.learning_rate
        both, count = torch.cat((particles, self.target), 1), particles.shape[1]
        p, q = Cloud(particles[0]), self.flows[0].target
        density = torch.func.vmap(lambda values: self.divergence.density(values, q))
        objective = torch.func.vmap(lambda on_p, on_q: self.divergence.objective(on_p, on_q, p, q))
        self.network.train()
        for _ in range(self.inner_steps):
            values, pull = self.network.push(both)
            up, down = p.mass.expand(len(values), -1), density(values[:, count:]) * -q.mass
            self.optimizer.ascend(pull(torch.cat((up, down), 1), True, False)[0])
        self.network.eval()
        values, _ = self.network.push(both)
        found: Tensor = objective(values[:, :count], values[:, count:])
        return found

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        gradient = self._landscape(cloud)[1]
        speed = gradient.square().sum(2)
        info: Info = {"kinetic_energy": speed.mean(1) / 2, "max_gradient": speed.amax(1).sqrt()}
        return -gradient.flatten(0, 1), info

    def phi(self, cloud: Cloud) -> Tensor:
        return self.landscape(0.0, cloud)[0]

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        values, gradient = self._landscape(cloud)
        return values.flatten(), gradient.flatten(0, 1)

    def _landscape(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        values, pull = self.network.push(cloud.x.view(len(self.flows), -1, cloud.dimension))
        _, gradient = pull(torch.ones_like(values), False, True)
        assert gradient is not None
        return values, gradient

    def state_dict(self) -> dict[str, Any]:
        return {str(i): flow.state_dict() for i, flow in enumerate(self.flows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, flow in enumerate(self.flows):
            flow.load_state_dict(state[str(i)])
        self.settle()


def discord(flows: Sequence[Flow]) -> str | None:
    """Why some flows cannot go together; ``None`` if they can."""
    for flow in flows:
        if (reason := obstacle(flow)) is not None:
            return reason
        assert isinstance(flow, GradientFlow)
        assert isinstance(flow.potential, NeuralPotential)
        network = flow.potential.network
        if flow.target.label is not None:
            return "classes have outputs of their own"
        if flow.target.weight is not None:
            return "weights differ from one to the next"
        if not isinstance(network, DenseNetwork) or not all(matrix.bounded for matrix in network.matrices):
            return "only dense networks with bounded weights can be stacked"
    if len({flow.target.x.shape for flow in flows}) > 1:  # type: ignore[attr-defined]
        return "their targets have different shapes"
    return None


def _stacked(networks: Sequence[DenseNetwork]) -> StackedNetwork:
    """One batched network of which the given ones become the slices."""
    first = networks[0]
    weights = [matrix.weight for matrix in first.matrices]
    widths = [len(weight) for weight in weights[:-1]]
    stack = StackedNetwork(len(networks), weights[0].shape[1], widths)
    stack.to(device=weights[0].device, dtype=weights[0].dtype)
    stack.activation = first.activation
    stack.bound = float(next(first.matrices).bound)
    with torch.no_grad():
        for b, network in enumerate(networks):
            for i, matrix in enumerate(network.matrices):
                _join(matrix, "weight", stack.weights[i].data[b])
                if hasattr(matrix, "left"):
                    _join(matrix, "left", getattr(stack, f"left{i}")[b, :, 0])
            for i in range(len(network.biases)):
                slot = stack.biases[i].data[b, 0]
                network.biases[i].data = slot.copy_(network.biases[i].data)
    return stack.eval()


def _join(module: torch.nn.Module, name: str, slot: Tensor) -> None:
    """Moves a tensor of a module into a slot, which takes its place."""
    tensor = getattr(module, name)
    slot.copy_(tensor)
    if isinstance(tensor, torch.nn.Parameter):
        tensor.data = slot
    else:
        setattr(module, name, slot)


def _shared(parts: Sequence[Adam], network: StackedNetwork) -> Adam:
    """One optimiser of a batched network of which the given ones become the slices, in the order of the network's parameters."""
    whole = Adam(list(network.parameters()), parts[0].learning_rate, parts[0].momentum)
    for b, part in enumerate(parts):
        for own, stacks in ((part.first, whole.first), (part.second, whole.second)):
            for i, stack in enumerate(stacks):
                own[i] = stack[b].view_as(own[i]).copy_(own[i])
        part.step = whole.step.copy_(part.step)  # they are all as old
    return whole
