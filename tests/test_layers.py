"""Who may import whom: imports point left only, and heavy packages stay where they are needed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    "keys shards names files machine kernels",
    "cloud",
    "pairwise networks",
    "divergences metrics data",
    "potentials quality",
    "flows",
    "steppers",
    "run",
    "proximal augment",
    "experiment",
    "plot",
    "report",
    "cli examples",
]
LEVEL = {room: i for i, rooms in enumerate(ORDER) for room in rooms.split()}
ONLY = {
    "pykeops": "pairwise/keops cli/info",
    "geomloss": "potentials metrics",
    "ot": "pairwise metrics potentials",
    "matplotlib": "plot report examples",
    "jinja2": "report",
    "click": "cli",
    "tqdm": "cli",
    "torch.distributed": "shards",
}


def modules():
    """Every module: its place (``data/tables``), its room (``data``) and the dotted names that it imports."""
    for path in sorted([*ROOT.glob("particles/**/*.py"), *ROOT.glob("cli/*.py"), *ROOT.glob("examples/*.py")]):
        place = str(path.relative_to(ROOT).with_suffix("")).removeprefix("particles/")
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if place != "__init__":
            yield place, place.split("/")[0], names


def test_imports_point_left():
    for place, room, names in modules():
        there = {name.split(".")[1] for name in names if name.startswith("particles.")} & LEVEL.keys()
        wrong = {other for other in there if LEVEL[other] >= LEVEL[room] and other != room}
        assert not wrong, f"{place} imports {wrong}"


def test_heavy_packages_stay_in_their_rooms():
    for place, room, names in modules():
        for package, rooms in ONLY.items():
            if any(f"{name}.".startswith(f"{package}.") for name in names):
                assert {room, place} & set(rooms.split()), f"{place} imports {package}"


def test_public_names_have_a_home():
    import particles

    assert all(getattr(particles, name).__name__.removeprefix("particles.") == name for name in particles.__all__)
    with pytest.raises(AttributeError, match="No particles attribute nonsense"):
        particles.nonsense  # noqa: B018
