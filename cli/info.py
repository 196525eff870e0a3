"""``particles info``"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click

from particles import names


@click.command("info")
@click.option("--json", "as_json", is_flag=True, envvar="PARTICLES_INFO_JSON", help="Print one JSON object.")
@click.option(
    "--benchmark",
    is_flag=True,
    envvar="PARTICLES_INFO_BENCHMARK",
    help="Measure tiles against KeOps for about a minute per device, and keep for this machine which of them --backend auto takes.",
)
def command(as_json: bool, benchmark: bool) -> None:
    """Print versions, devices, the state of KeOps, and all names that can be chosen."""
    if benchmark:
        _benchmark(as_json)
        return
    found = {"versions": _versions(), "devices": _devices(), "keops": _keops(), "names": _names()}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for title, section in found.items():
        click.echo(title)
        for name, value in section.items():
            click.echo(f"  {name:<18} {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")


def _benchmark(as_json: bool) -> None:
    import torch

    from particles.pairwise import backend
    from particles.pairwise.calibration import timings

    rules: dict[str, backend.Rule] = {}
    rows: list[backend.Timing] = []
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        found = []
        for row in timings(device):
            if not (rows or as_json):
                click.echo("device  dimensions  points  tiles (s)  KeOps (s)")
            if not as_json:
                counts = f"{row.device:<6}  {row.dimension:>10}  {row.points:>6}"
                click.echo(f"{counts}  {row.tiled:>9.4f}  {row.keops:>9.4f}")
            found.append(row)
            rows.append(row)
        if found:
            rules[device] = backend.derived(found)
    try:
        stored = f"kept in {backend.store(rules)}" if rules else "nothing is kept: KeOps does not work here"
    except (OSError, RuntimeError) as error:
        stored = f"they could not be kept, so the next process does not know them: {error}"
    if as_json:
        said = {"timings": [vars(row) for row in rows], "rules": {name: str(rule) for name, rule in rules.items()}}
        click.echo(json.dumps(said | {"stored": stored}, indent=2))
        return
    for name, rule in rules.items():
        click.echo(f"--backend auto on {name}: {rule}")
    click.echo(stored)


def _versions() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    packages = "lipschitz-particles torch numpy scipy pandas scikit-learn POT geomloss pykeops matplotlib click pyarrow"
    for package in packages.split():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _devices() -> dict[str, Any]:
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": f"{torch.get_num_threads()} threads", "cuda": cards or "none"}


def _keops() -> dict[str, Any]:
    compiler = shutil.which("g++") or shutil.which("c++")
    state: dict[str, Any] = {"compiler": compiler or "none: KeOps formulas cannot be compiled"}
    try:
        import pykeops

        folder = Path(pykeops.get_build_folder())
    except Exception as error:  # whatever a broken installation raises is the answer here
        return state | {"cache": f"KeOps cannot be imported: {error}"}
    formulas = len(list(folder.glob("*.so")))
    from particles.pairwise import backend

    state["auto"] = "; ".join(f"{name}: {backend.rule(name)}" for name in backend.BUILT_IN)
    writable = "writable" if os.access(folder, os.W_OK) else "not writable: KeOps formulas cannot be compiled"
    return state | {"cache": str(folder), "cache state": f"{writable}, {formulas} compiled files"}


def _names() -> dict[str, Any]:
    return {
        "targets": [*names.TOYS, *names.REAL],
        "sources": [*names.SOURCES, *names.TOYS, *names.REAL],
        "flows": list(names.FLOWS),
        "solvers": [name for solvers in names.SOLVERS.values() for name in solvers],
        "divergences": list(names.DIVERGENCES),
        "kernels": list(names.KERNELS),
        "steppers": list(names.STEPPERS),
        "activations": list(names.ACTIVATIONS),
        "constraints": list(names.CONSTRAINTS),
        "scales": list(names.SCALES),
        "backends": list(names.BACKENDS),
    }
