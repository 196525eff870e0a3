"""Who may import whom: imports point left only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    {"keys", "shards", "names"},
    {"cloud"},
    {"kernels", "batches", "networks"},
    {"cells", "choice"},
    {"tiles", "lazy"},
    {"kept"},
    {"divergences", "pairwise", "data", "metrics"},
    {"potentials", "calibration"},
    {"flows"},
    {"steppers"},
    {"processes"},
    {"run"},
    {"specification"},
    {"inputs", "methods", "demand"},
    {"generative", "repetition", "room"},
    {"blockwise", "containers"},
    {"selection", "strategies"},
    {"build", "quality", "augmentation"},
    {"restored", "precision", "repeats"},
    {"augmenter", "plot"},
    {"report"},
    {"cli", "examples"},
]
ONLY = {
    "pykeops": {"lazy", "cli/info"},
    "geomloss": {"potentials", "metrics"},
    "ot": {"potentials", "metrics"},
    "matplotlib": {"plot", "examples"},
    "jinja2": {"report"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "torch.distributed": {"shards"},
}
FILES = [*ROOT.glob("particles/**/*.py"), *ROOT.glob("cli/*.py"), *ROOT.glob("examples/*.py")]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    place = path.relative_to(ROOT).with_suffix("").parts
    return place[1] if place[0] == "particles" else place[0]


def level(name):
    return next((i for i, rooms in enumerate(ORDER) if name in rooms), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left(path):
    if path == ROOT / "particles/__init__.py":
        return
    assert level(room(path)) is not None, f"{path} is in no room"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "particles" and len(parts) > 1 and (there := level(parts[1])) is not None:
            assert there < level(room(path)) or parts[1] == room(path), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path):
    for name in imports(path):
        for package, rooms in ONLY.items():
            if name == package or name.startswith(package + "."):
                place = str(path.relative_to(ROOT).with_suffix("")).removeprefix("particles/")
                assert room(path) in rooms or place in rooms, f"{path} imports {name}"


def test_public_names_have_a_home():
    import particles

    for name in particles.__all__:
        assert getattr(particles, name).__name__.removeprefix("particles.") == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        particles.nonsense  # noqa: B018


def test_public_names_are_those_that_type_checkers_see():
    import particles

    tree = ast.parse((ROOT / "particles/__init__.py").read_text())
    seen = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(set(seen) - {"TYPE_CHECKING", "Any", "annotations"}) == particles.__all__
