"""Particle gradient flows without a generator.

A potential is fitted to two clouds, a flow is its downhill velocity, a stepper moves the first cloud along it, and
one loop repeats that and tells its observers. Names are imported when they are first used, so that
``import particles`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from particles import plot as plot
    from particles.augmenter import ParticleAugmenter as ParticleAugmenter
    from particles.build import Simulation as Simulation
    from particles.cloud import Cloud as Cloud
    from particles.data.autoencoder import AutoencoderLatent as AutoencoderLatent
    from particles.data.autoencoder import ConvAutoencoderLatent as ConvAutoencoderLatent
    from particles.data.columns import Columns as Columns
    from particles.data.latent import Latent as Latent
    from particles.data.latent import PCALatent as PCALatent
    from particles.data.latent import UserLatent as UserLatent
    from particles.data.tables import Schema as Schema
    from particles.data.tables import Table as Table
    from particles.data.tables import read_frame as read_frame
    from particles.data.tables import read_table as read_table
    from particles.divergences import KL as KL
    from particles.divergences import W1 as W1
    from particles.divergences import Alpha as Alpha
    from particles.divergences import Divergence as Divergence
    from particles.divergences import JensenShannon as JensenShannon
    from particles.divergences import ReverseKL as ReverseKL
    from particles.flows.base import Flow as Flow
    from particles.flows.gradient import GradientFlow as GradientFlow
    from particles.flows.hopf_lax import HopfLaxFlow as HopfLaxFlow
    from particles.flows.hopf_lax import PlannedFlow as PlannedFlow
    from particles.flows.persistent import PersistentBatch as PersistentBatch
    from particles.flows.persistent import PersistentPotential as PersistentPotential
    from particles.flows.proximal import ProximalFlow as ProximalFlow
    from particles.flows.proximal import RunningCost as RunningCost
    from particles.flows.recording import Recorder as Recorder
    from particles.flows.recording import Replay as Replay
    from particles.kernels import Gaussian as Gaussian
    from particles.kernels import InverseMultiquadric as InverseMultiquadric
    from particles.kernels import Laplacian as Laplacian
    from particles.kernels import Multiquadric as Multiquadric
    from particles.kernels import Riesz as Riesz
    from particles.keys import Key as Key
    from particles.metrics.energy import energy_distance as energy_distance
    from particles.metrics.findings import Quality as Quality
    from particles.metrics.manifold import manifold_distance as manifold_distance
    from particles.metrics.memorisation import nearest_ratio as nearest_ratio
    from particles.metrics.paths import path_length as path_length
    from particles.metrics.paths import straightness as straightness
    from particles.metrics.summary import summarise as summarise
    from particles.metrics.transport import sinkhorn as sinkhorn
    from particles.metrics.transport import w2 as w2
    from particles.networks.conv import ConvNetwork as ConvNetwork
    from particles.networks.dense import DenseNetwork as DenseNetwork
    from particles.networks.timed import TimedNetwork as TimedNetwork
    from particles.potentials.base import Potential as Potential
    from particles.potentials.kantorovich import ExactKantorovich as ExactKantorovich
    from particles.potentials.kantorovich import NeuralKantorovich as NeuralKantorovich
    from particles.potentials.kantorovich import SinkhornKantorovich as SinkhornKantorovich
    from particles.potentials.kernel import KernelPotential as KernelPotential
    from particles.potentials.kernel import kale as kale
    from particles.potentials.kernel import mmd as mmd
    from particles.potentials.neural import NeuralPotential as NeuralPotential
    from particles.potentials.per_class import PerClass as PerClass
    from particles.potentials.plan import Plan as Plan
    from particles.potentials.plan import proximal_plan as proximal_plan
    from particles.potentials.slope import realised_lipschitz as realised_lipschitz
    from particles.potentials.transport import TransportPotential as TransportPotential
    from particles.processes import Evolve as Evolve
    from particles.processes import State as State
    from particles.processes import Train as Train
    from particles.quality import evaluate as evaluate
    from particles.run.folder import Folder as Folder
    from particles.run.loop import Diverged as Diverged
    from particles.run.loop import Interrupted as Interrupted
    from particles.run.loop import simulate as simulate
    from particles.run.observers import AtRest as AtRest
    from particles.run.observers import Distance as Distance
    from particles.run.reader import Run as Run
    from particles.run.recording import Recording as Recording
    from particles.run.store import Memory as Memory
    from particles.run.transport import transport as transport
    from particles.specification import Specification as Specification
    from particles.steppers.adams import AdamsBashforth as AdamsBashforth
    from particles.steppers.adaptive import Adaptive as Adaptive
    from particles.steppers.base import Stepper as Stepper
    from particles.steppers.cfl import cfl as cfl
    from particles.steppers.euler import Euler as Euler
    from particles.steppers.proximal import Proximal as Proximal
    from particles.steppers.runge_kutta import RungeKutta as RungeKutta
    from particles.steppers.runge_kutta import heun as heun
    from particles.steppers.runge_kutta import rk4 as rk4

_HOMES = {
    "build": ["Simulation"],
    "specification": ["Specification"],
    "cloud": ["Cloud"],
    "data.tables": ["Schema", "Table", "read_frame", "read_table"],
    "augmenter": ["ParticleAugmenter"],
    "quality": ["evaluate"],
    "metrics.findings": ["Quality"],
    "data.columns": ["Columns"],
    "networks.conv": ["ConvNetwork"],
    "data.latent": ["Latent", "PCALatent", "UserLatent"],
    "data.autoencoder": ["AutoencoderLatent", "ConvAutoencoderLatent"],
    "divergences": ["Alpha", "Divergence", "JensenShannon", "KL", "ReverseKL", "W1"],
    "flows.base": ["Flow"],
    "flows.gradient": ["GradientFlow"],
    "flows.hopf_lax": ["HopfLaxFlow", "PlannedFlow"],
    "flows.proximal": ["ProximalFlow", "RunningCost"],
    "networks.timed": ["TimedNetwork"],
    "flows.persistent": ["PersistentBatch", "PersistentPotential"],
    "flows.recording": ["Recorder", "Replay"],
    "kernels": ["Gaussian", "InverseMultiquadric", "Laplacian", "Multiquadric", "Riesz"],
    "metrics.paths": ["path_length", "straightness"],
    "potentials.kantorovich": ["ExactKantorovich", "NeuralKantorovich", "SinkhornKantorovich"],
    "potentials.kernel": ["KernelPotential", "kale", "mmd"],
    "potentials.per_class": ["PerClass"],
    "potentials.plan": ["Plan", "proximal_plan"],
    "potentials.slope": ["realised_lipschitz"],
    "potentials.transport": ["TransportPotential"],
    "keys": ["Key"],
    "metrics.energy": ["energy_distance"],
    "metrics.manifold": ["manifold_distance"],
    "metrics.memorisation": ["nearest_ratio"],
    "metrics.summary": ["summarise"],
    "metrics.transport": ["sinkhorn", "w2"],
    "networks.dense": ["DenseNetwork"],
    "potentials.base": ["Potential"],
    "potentials.neural": ["NeuralPotential"],
    "processes": ["Evolve", "State", "Train"],
    "run.loop": ["Diverged", "Interrupted", "simulate"],
    "run.observers": ["AtRest", "Distance"],
    "run.reader": ["Run"],
    "run.recording": ["Recording"],
    "run.folder": ["Folder"],
    "run.store": ["Memory"],
    "run.transport": ["transport"],
    "steppers.adams": ["AdamsBashforth"],
    "steppers.adaptive": ["Adaptive"],
    "steppers.base": ["Stepper"],
    "steppers.cfl": ["cfl"],
    "steppers.euler": ["Euler"],
    "steppers.proximal": ["Proximal"],
    "steppers.runge_kutta": ["RungeKutta", "heun", "rk4"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME, "plot"])


def __getattr__(name: str) -> Any:
    if name == "plot":
        return importlib.import_module("particles.plot")
    if name not in _HOME:
        raise AttributeError(f"module 'particles' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"particles.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
