"""A run in a few words."""

from __future__ import annotations

from typing import Any

from particles.run.reader import Run


def title(run: Run) -> str:
    """From where to where, by which method, in how many steps; the empty text for arrays."""
    spec = run.spec
    return f"{short(spec['source'])} → {short(spec['target'])}: {method(spec)}, {steps(run)}" if spec else ""


def steps(run: Run) -> str:
    """How many steps, and of what."""
    spec = run.spec
    if spec.get("flow") == "proximal":
        trained = f", {int(run.series['step'].iloc[-1])} steps of training" if spec.get("solver") == "network" else ""
        return f"{int(run.steps[-1])} steps of {spec['horizon'] / spec['time_steps']:g}{trained}"
    return f"{int(run.steps[-1])} steps of {spec['step_size']:g}"


def method(spec: dict[str, Any]) -> str:
    """What particles descended."""
    flow = spec.get("flow", "lipschitz")
    bound = (
        "no bound"
        if spec["constraint"] == "none" and flow in ("lipschitz", "proximal")
        else f"L = {spec['lipschitz']:g}"
    )
    return {
        "lipschitz": f"{spec['divergence']}, {bound}",
        "transport": f"transport, {spec['divergence']}, {bound}",
        "w2": f"W2 loss, {spec.get('solver')}",
        "mmd": f"MMD, {spec.get('kernel')}",
        "kale": f"KALE, {spec.get('kernel')}",
        "proximal": f"W1 ⊕ W2 by {spec.get('solver')}, {spec['divergence']}, {bound}, α = {spec.get('alpha', 0):.3g}",
        "kernel": f"{spec.get('kernel')} kernel, {spec['divergence']}, {bound}",
    }[flow]


def trains(run: Run) -> bool:
    """Whether the steps of the series are those of a training, and not those of the particles."""
    return run.spec.get("flow") == "proximal" and run.spec.get("solver") == "network"


def short(name: str) -> str:
    """A file's name without its folders."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]
