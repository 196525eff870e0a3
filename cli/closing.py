"""What a command says when a run has ended, and while it goes on."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from particles.cli.options import say, spelt


def close(
    folder: Path,
    simulation: Any,
    state: Any,
    row: dict[str, float],
    apart: dict[str, float] | None = None,
    *,
    figure: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from particles.files import replacing

    found = measure(folder, simulation, state, row, apart)
    if figure:
        from particles.plot.overview import figure as draw
        from particles.run.reader import Run

        with replacing(folder / "figure.png") as draft:
            draw(Run.open(folder)).savefig(draft, format="png", dpi=130)
    if as_json:
        say(json.dumps(found))
    elif not quiet:
        say(_table(found))


def measure(
    folder: Path, simulation: Any, state: Any, row: dict[str, float], apart: dict[str, float] | None = None
) -> dict[str, Any]:
    """What the closing table says of a run that has ended, written to ``summary.json``."""
    from particles.files import replacing
    from particles.keys import Key
    from particles.metrics.summary import SIZE, summarise

    key = Key.of(simulation.spec.seed).fold("summary")
    clouds = state.cloud.active.draw(SIZE, key.fold("particles")), simulation.target, simulation.holdout
    bound = float(simulation.spec.lipschitz) if simulation.spec.bounded else math.inf
    found = {
        "run": str(folder),
        "step": state.k,
        "time": state.t,
        "particles": len(state.cloud.active),
        "lipschitz": bound if math.isfinite(bound) else None,
        "max_gradient": row.get("max_gradient"),
        "divergence": row.get("divergence"),
        "kinetic_energy": row.get("kinetic_energy"),
        "flow_units": summarise(*clouds, key),
    }
    if simulation.advice:
        found["advice"] = simulation.advice
    if apart is not None:
        found["precision"] = apart
    if simulation.spec.flow == "proximal":
        found["flow"] = _flow(simulation, key)
    unit = simulation.schema.unit
    if (unit != 1).any() and math.isfinite(bound):
        found["lipschitz_data_units"] = sorted({bound / float(unit.max()), bound / float(unit.min())})
    if (unit != 1).any():
        particles, target, *held = (_in_data_units(simulation.schema, c) for c in clouds if c is not None)
        found["data_units"] = summarise(particles, target, held[0] if held else None, key)
    with replacing(folder / "summary.json") as draft:
        draft.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def _flow(simulation: Any, key: Any) -> dict[str, float]:
    """How straight, how dear and how independent of its steps a generative flow is, on its own particles."""
    from particles.metrics.distances import w2
    from particles.metrics.memorisation import manifold_distance

    spec, process = simulation.spec, simulation.process
    cloud = process.source.active
    if spec.solver != "plan":  # which knows all of its particles together alone
        cloud = cloud.draw(2000, key.fold("flow"))
    end = process.flow.transport(cloud, spec.time_steps)
    found: dict[str, float] = process.flow.diagnose(cloud, spec.time_steps, getattr(process, "discriminator", None))
    found["manifold_distance"] = manifold_distance(end, simulation.target)
    found = {name: value for name, value in found.items() if math.isfinite(value)}  # nothing moves yet: no straightness
    if spec.power == 2 and not spec.noise and "straightness" in found:
        few = [c.take(slice(0, 2000)) for c in (cloud, end)]
        best = w2(*few) ** 2 / (2 * process.flow.horizon**2)
        found["kinetic_over_best"] = found["kinetic_energy"] / best if best else 1.0
    return found


def _in_data_units(schema: Any, cloud: Any) -> Any:
    import torch

    return cloud.at(torch.as_tensor(schema.points(cloud.x.double())))


def _flow_lines(flow: dict[str, float]) -> list[str]:
    over = f" ({flow['kinetic_over_best']:.3f} of the best)" if "kinetic_over_best" in flow else ""
    far = flow.get("kinetic_over_best", 1.0) > 1.2
    warned = [
        "note: particles take detours: a larger alpha, more steps, or kinetic energy (--kinetic) where it is left out"
    ]
    lines = [
        (f"path length over displacement {flow['straightness']:.4g}, " if "straightness" in flow else "nothing moves, ")
        + f"kinetic energy {flow['kinetic_energy']:.4g}{over}"
    ]
    lines += warned if far else []
    if "shift_32" in flow:
        lines += [f"ends move by {flow['shift_2']:.3g} with 2 times the steps, by {flow['shift_32']:.3g} with 32 times"]
    if "hj_residual" in flow:
        lines += [
            f"Hamilton-Jacobi residual {flow['hj_residual']:.3g}; slope of U at the end to the discriminator's: "
            f"{flow['terminal_residual']:.3g} apart (rms), cosine {flow['terminal_cosine']:.3f}"
        ]
    return lines


def _table(found: dict[str, Any]) -> str:
    from particles.metrics.summary import QUALITY

    flow, data = found["flow_units"], found.get("data_units")
    lines = [f"{found['run']}: step {found['step']}, time {found['time']:g}, {found['particles']} particles"]
    bound = "unbounded" if found["lipschitz"] is None else f"{found['lipschitz']:g} / flow unit"
    if "lipschitz_data_units" in found:
        bound += " = " + " to ".join(f"{value:.3g}" for value in found["lipschitz_data_units"]) + " / data unit"
    realised = "" if found["max_gradient"] is None else f"; largest slope at a particle {found['max_gradient']:.3g}"
    lines += [f"lipschitz L = {bound}{realised}"]
    if found["divergence"] is not None and "flow" in found:  # its kinetic energy follows, that of the whole way
        whole = "hj_residual" not in found["flow"]
        lines += [f"divergence {'and price of the way together ' if whole else ''}{found['divergence']:.4g}"]
    elif found["divergence"] is not None:
        lines += [f"divergence {found['divergence']:.4g}, kinetic energy {found['kinetic_energy']:.3g}"]
    if "advice" in found:
        lines += [f"note: {spelt(found['advice'])}"]
    if "flow" in found:
        lines += _flow_lines(found["flow"])
    if "precision" in found:
        lines += [_rounding(found["precision"])]
    lines += [f"{'':<52}{'flow units':>12}" + ("" if data is None else f"{'data units':>12}")]
    lines += [
        f"{title:<52}{flow[name]:>12.4g}" + ("" if data is None else f"{data[name]:>12.4g}")
        for name, (title, _) in QUALITY.items()
        if name in flow
    ]
    return "\n".join(lines)


def _rounding(apart: dict[str, float]) -> str:
    text = f"float32 against float64: velocities differ by at most {apart['largest']:.2g} flow units / time"
    parts = {"velocity": "by {:.2g} of their size (rms)", "divergence": "the divergence by {:.2g} of its size"}
    return ", ".join([text, *(words.format(apart[name]) for name, words in parts.items() if name in apart)])


class Progress:
    """A bar on standard error: step, divergence, kinetic energy, time left; nothing where that is no terminal."""

    def __init__(self, steps: int, quiet: bool):
        from tqdm import tqdm

        quiet = quiet or sys.stderr is None
        self.bar = tqdm(total=steps, disable=True if quiet else None, unit="step", dynamic_ncols=True, file=sys.stderr)

    def __call__(self, k: int, row: dict[str, float]) -> None:
        self.bar.n = k
        shown = {name: row[name] for name in ("divergence", "kinetic_energy") if name in row}
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items() if math.isfinite(value)})

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
