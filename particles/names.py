"""Names: the only place that knows strings.

The tables hold dotted names, not classes, so that a command line can list them without importing torch. To add a
divergence, a flow, a stepper, a law: write it, and add a row here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

DIVERGENCES = {
    "kl": "divergences.KL",
    "reverse-kl": "divergences.ReverseKL",
    "jensen-shannon": "divergences.JensenShannon",
    "alpha": "divergences.Alpha",
    "w1": "divergences.W1",
}
FLOWS = {
    "lipschitz": "experiment.assemble.lipschitz",
    "transport": "experiment.assemble.transport",
    "w2": "experiment.assemble.w2",
    "mmd": "experiment.assemble.mmd",
    "kale": "experiment.assemble.kale",
    "kernel": "experiment.assemble.kernel",
    "proximal": "experiment.proximal.process",
}
KERNELS = {
    "gaussian": "kernels.Gaussian",
    "laplacian": "kernels.Laplacian",
    "inverse-multiquadric": "kernels.InverseMultiquadric",
    "multiquadric": "kernels.Multiquadric",
    "riesz": "kernels.Riesz",
}
STEPPERS = {
    "euler": "steppers.euler.Euler",
    "heun": "steppers.runge_kutta.heun",
    "rk4": "steppers.runge_kutta.rk4",
    "ab2": "steppers.adams.ab2",
    "ab3": "steppers.adams.ab3",
    "ab4": "steppers.adams.ab4",
    "adaptive": "steppers.adaptive.Adaptive",
    "proximal": "steppers.jko.Proximal",
}
TOYS = {
    "moons": "data.toy.moons",
    "circles": "data.toy.circles",
    "pinwheel": "data.toy.pinwheel",
    "8-gaussians": "data.toy.eight_gaussians",
    "4-gaussians": "data.toy.four_gaussians",
    "swiss-roll": "data.toy.swiss_roll",
    "swiss-roll-2d": "data.toy.swiss_roll_2d",
    "checkerboard": "data.toy.checkerboard",
    "spirals": "data.toy.spirals",
    "student-t": "data.toy.student_t",
    "s-curve": "data.toy.s_curve",
    "sierpinski-carpet": "data.toy.sierpinski_carpet",
}
REAL = {
    "digits": "data.real.digits",
    "breast-cancer": "data.real.breast_cancer",
    "wine": "data.real.wine",
    "iris": "data.real.iris",
}
SOURCES = {
    "gaussian": "data.sources.gaussian",
    "uniform": "data.sources.uniform",
    "bootstrap": "data.sources.bootstrap",
}
ACTIVATIONS = ("relu", "leaky-relu", "softplus", "groupsort")
CONSTRAINTS = ("spectral", "penalty", "none")
SCALES = ("standard", "global", "none")
SOLVERS = {"w2": ("exact", "sinkhorn", "neural"), "proximal": ("network", "transport", "plan")}
MODES = ("implicit", "semi-implicit", "explicit")
BACKENDS = ("auto", "tiled", "keops")
COMPILE = ("auto", "none", "full")
PERSISTENT = ("potential", "minibatch")
DTYPES = ("float32", "float64")
EXPORTS = ("csv", "npy", "parquet")


def choose(what: str, name: str, names: Mapping[str, Any] | tuple[str, ...]) -> str:
    """The name itself, if it is one of ``names`` (``_`` and capitals are forgiven).

    Raises:
        ValueError: Otherwise, with the nearest match.
    """
    plain = plain_name(name)
    if plain in names:
        return plain
    near = difflib.get_close_matches(plain, list(names), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")


def find(what: str, name: str, table: Mapping[str, str]) -> Callable[..., Any]:
    """What a row of a table stands for.

    Raises:
        ValueError: If there is no such row, with the nearest match.
    """
    module, _, attribute = table[choose(what, name, table)].rpartition(".")
    return getattr(importlib.import_module(f"particles.{module}"), attribute)  # type: ignore[no-any-return]


def make(what: str, name: str, table: Mapping[str, str], **settings: Any) -> Any:
    """What a row of a table makes of some settings.

    Raises:
        ValueError: If there is no such row, or it has no such setting.
    """
    maker = find(what, name, table)
    known = inspect.signature(maker).parameters
    for setting in settings.keys() - known.keys():
        near = difflib.get_close_matches(setting, list(known), n=1, cutoff=0.5)
        raise ValueError(f"{what} {name} has no setting {setting!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return maker(**settings)


def plain_name(name: str) -> str:
    """A name as the tables have it."""
    return name.strip().lower().replace("_", "-")
