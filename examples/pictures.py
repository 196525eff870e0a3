"""Every kind of picture, made from real runs; those in the README among them.

    python examples/pictures.py [--output pictures] [--source before.csv --target after.csv]

Eight Gaussians (two columns, every potential recorded), a Swiss roll in space, 8 × 8 digits with their classes, and, if two files are
given, one data set moved onto another of many columns. It takes about a minute.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from particles import Run, Specification, plot, simulate
from particles.experiment.build import build
from particles.report.page import report

RUNS: dict[str, dict[str, Any]] = {
    "mixture": {
        "target": "8-gaussians",
        "particles": 500,
        "target_size": 500,
        "decay": 200.0,
        "steps": 400,
        "record": True,
    },
    "roll": {"target": "swiss-roll", "particles": 600, "steps": 400, "snapshot_every": 4},
    "digits": {"target": "digits", "label": "target", "particles": 300, "steps": 300},
}
ALL = ("trajectories", "snapshots", "density", "diagnostics", "transport", "tails", "figure")


def make(folder: Path, **settings: Any) -> Run:
    """A run, if it is not there yet."""
    if not (folder / "particles.csv").exists():
        simulation = build(Specification(**settings))
        store = simulation.store(folder)
        simulate(simulation.process, simulation.spec.steps, store, simulation.observers)
    return Run.open(folder)


def draw(run: Run, folder: Path) -> list[Path]:
    """All pictures of a run that make sense for it."""
    made = []
    figures = {name: getattr(plot, name)(run) for name in ALL}
    if len(run.columns) == 2:
        figures["potential"] = plot.potential(run, at=0.2 * float(run.times[-1]))
    if run.label is not None:
        figures["images"] = plot.images(run)
    for name, figure in figures.items():
        made.append(folder / f"{run.name}-{name}.png")
        figure.savefig(made[-1], dpi=80)
    made.append(plot.animate(run, folder / f"{run.name}.gif", seconds=7.0, fps=15, dpi=80).path)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("pictures"))
    parser.add_argument("--source", type=Path, help="a file of rows to begin with")
    parser.add_argument("--target", type=Path, help="a file of rows to move them to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = dict(RUNS)
    if options.target:
        pair = {"source": str(options.source or "gaussian"), "target": str(options.target)}
        settings["pair"] = pair | {"scale": "global", "decay": 100.0, "steps": 300}
    for name, chosen in settings.items():
        run = make(options.output / "runs" / name, **chosen)
        for path in draw(run, options.output):
            print(path)
        page = options.output / f"{name}.html"
        report(run, page)
        print(page)


if __name__ == "__main__":
    main()
