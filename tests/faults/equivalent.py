"""The mutants that no test can tell from the program, or that are not worth a test, by why."""

WHY = {
    "a bound that is not reached, or a tolerance's or bracket's last digit": (
        "divergences.py: _Bracketed.marginal: 100 -> 101",
        "divergences.py: _Bracketed.marginal: 1 -> 2",
        "divergences.py: _Bracketed._drop: 1 -> 2 (3)",
        "divergences.py: _Bracketed._drop: 13 -> 14",
        "steppers/base.py: cfl: 2000 -> 2001",
        "steppers/bundle.py: : 64 -> 65",
        "steppers/bundle.py: : 4096 -> 4097",
        "steppers/bundle.py: _balanced: 10 -> 11",
        "steppers/bundle.py: _balanced: 2 -> 3 (2)",
    ),
    "differs where two numbers are equal to the last bit, and is as right there": (
        "divergences.py: _Bracketed.marginal: step.abs() <= 1e-13 * (1 + u.abs()) -> step.abs() < 1e-13 * (1 + u.abs())",
        "divergences.py: _Bracketed._drop: mass < 1 -> mass <= 1",
        "steppers/jko.py: Proximal._fitted: flow.steer(_longest(cloud, left)) > self.tolerance * fast -> "
        "flow.steer(_longest(cloud, left)) >= self.tolerance * fast",
        "steppers/adaptive.py: Adaptive.step: planned >= left * (1 - 1e-09) -> planned > left * (1 - 1e-09)",
        "steppers/bundle.py: _balanced: more > gap[todo] / 2 -> more >= gap[todo] / 2",
        "steppers/jko.py: Proximal._descent: fallen >= ARMIJO * a * slope -> fallen > ARMIJO * a * slope",
        "steppers/jko.py: Proximal._descent: fallen < ARMIJO * a * slope -> fallen <= ARMIJO * a * slope",
        "steppers/jko.py: Proximal._frozen: flow.steer(_longest(cloud, z - best)) <= self.tolerance * flow.steer(_longest(cloud, best - y)) -> flow.steer(_longest(cloud, z - best)) < self.tolerance * flow.steer(_longest(cloud, best - y))",
        "steppers/jko.py: Proximal._fitted: flow.steer(_longest(cloud, moved)) <= self.tolerance * flow.steer(_longest(cloud, here.x - y)) -> flow.steer(_longest(cloud, moved)) < self.tolerance * flow.steer(_longest(cloud, here.x - y))",
    ),
    "both branches are 0 there, or an outer branch decides": (
        "divergences.py: ReverseKL._beside: s > 0 -> s >= 0",
        "divergences.py: JensenShannon._beside: s > 0 -> s >= 0",
        "divergences.py: Alpha._beside: s > 0 -> s >= 0",
        "divergences.py: W1.derivative: x > 1 -> x >= 1",
    ),
    "keeps NaN out of a branch that is not taken": (
        "divergences.py: ReverseKL._beside: s.clamp(min=0) -> s",
        "divergences.py: JensenShannon._beside: s.clamp(min=0) -> s",
    ),
    "the gradient through the shift is E (f*)' - 1, which is 0 at the root": (
        "divergences.py: _Bracketed.objective: on_q.detach() -> on_q",
    ),
    "seen on a GPU alone": (
        "divergences.py: _Bracketed._drop: torch.arange(1, 16, device=below.device) -> torch.arange(1, 16)",
        "steppers/bundle.py: _balanced: torch.arange(len(levels), device=levels.device) -> torch.arange(len(levels))",
    ),
    "the same number as another type": (
        "steppers/adams.py: AdamsBashforth.step: memory[-1].tolist() -> memory[-1]",
        "steppers/adams.py: coefficients: float(integral(1.0) / np.prod(node - others)) -> integral(1.0) / np.prod(node - others)",
        "steppers/adaptive.py: Adaptive.step: float(size) -> size",
        "steppers/adaptive.py: Adaptive.step: float(substeps) -> substeps",
        "steppers/adaptive.py: Adaptive.step: float(rejected) -> rejected",
        "steppers/jko.py: Proximal.init: torch.ones((), dtype=torch.double) -> torch.ones(())",
        "steppers/jko.py: Proximal.step: float(memory[0]) -> memory[0]",
        "steppers/jko.py: Proximal._frozen: float(inner) -> inner",
        "steppers/jko.py: Proximal._fitted: float(inner) -> inner",
    ),
    "the best weights are the same, whatever the first guess": (
        "steppers/jko.py: Proximal._frozen: torch.zeros_like(level[:, None]) -> level[:, None]",
    ),
    "the length that is tried first: each ends in a descent, after more trials or fewer": (
        "steppers/jko.py: Proximal._fitted: "
        "max(_length(flow, cloud, moved, before - left), _length(flow, cloud, moved, frozen - left)) -> "
        "min(_length(flow, cloud, moved, before - left), _length(flow, cloud, moved, frozen - left))",
        "steppers/jko.py: Proximal._fitted: "
        "max(_length(flow, cloud, moved, before - left), _length(flow, cloud, moved, frozen - left)) -> "
        "_length(flow, cloud, moved, before - left)",
    ),
    "spares work of which nothing is left": ("steppers/runge_kutta.py: _moved: weight -> True",),
    "nothing is left to be done in the rounds that follow": ("steppers/bundle.py: _balanced: break -> continue",),
    "overwritten in the first round": ("steppers/jko.py: Proximal._descent: 0.0 -> 1.0",),
    "a mass that rounding takes below 0 is seldom, and none of those here": (
        "steppers/bundle.py: _balanced: torch.where(reach <= part, 0, mass + part * step).clamp(min=0) -> torch.where(reach <= part, 0, mass + part * step)",
    ),
    "rounding is guessed otherwise: either of two ridges is enough in nearly all problems": (
        "steppers/bundle.py: _newton: curvature.diagonal(dim1=1, dim2=2) + row.take_along_dim(heaviest[:, :, None], 2)[:, 0] -> curvature.diagonal(dim1=1, dim2=2) - row.take_along_dim(heaviest[:, :, None], 2)[:, 0]",
        "steppers/bundle.py: _newton: row.take_along_dim(heaviest[:, :, None], 2) -> row (2)",
        "steppers/bundle.py: _newton: gain.abs() -> gain",
    ),
    "the equation of a plane that is left out, whose mass is to change by 0": (
        "steppers/bundle.py: _newton: 1 -> 2 (8)",
    ),
}
EQUIVALENT = {name: why for why, names in WHY.items() for name in names}
