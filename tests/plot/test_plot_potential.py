"""Pictures of potentials: level sets, the downhill field, and where they come from."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver, QuiverKey
from particles.cli import main

from particles.experiment.build import build
from particles.experiment.reopen import CHUNK, landscape, rebuilt, restore
from particles.experiment.specification import Specification
from particles.plot import potential
from particles.plot.levels import HEIGHT
from particles.plot.style import PARTICLES, TARGET
from particles.run.reader import Run

TINY = ["-n", "40", "--target-size", "50", "--steps", "6", "--network", "8,8", "--no-figure", "-q"]
PLACES = np.random.default_rng(0).normal(size=(30, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where runs of this module are kept, with two tables: one of classes, in units far from each other."""
    folder = tmp_path_factory.mktemp("potential")
    rng = np.random.default_rng(1)
    low, high = (rng.normal((m, 0.01 * m), (20, 0.1), size=(30, 2)) for m in (300, 360))
    table = pd.DataFrame(np.concatenate((low, high)), columns=["weight (kg)", "height (m)"])
    table.to_csv(folder / "table.csv", index=False)
    table.assign(kind=["cat"] * 30 + ["dog"] * 30).to_csv(folder / "classes.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def simulate(folder):
    """Runs, each made once."""

    def made(*words, name=None, target="moons"):
        path = folder / (name or "-".join(word.strip("-") for word in words) or "plain")
        if not path.exists():
            target = folder / target if target.endswith(".csv") else target
            found = CliRunner().invoke(main, ["simulate", "--target", str(target), *TINY, "-o", str(path), *words])
            assert found.exit_code == 0, found.output
        return path

    return made


@pytest.fixture(scope="module")
def recorded(simulate):
    return simulate("--record")


def quiver(figure):
    return next(child for child in figure.axes[0].get_children() if isinstance(child, Quiver))


def arrow_text(figure):
    return next(child for child in figure.axes[0].get_children() if isinstance(child, QuiverKey)).text.get_text()


def dots(figure):
    """The dots of each name, without their number."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    return {label.partition(" (")[0]: handle for handle, label in zip(handles, labels)}


# Where φ comes from


FLOWS = {
    "lipschitz": [],
    "penalty": ["--constraint", "penalty"],
    "transport": ["--flow", "transport"],
    "exact": ["--flow", "w2"],
    "sinkhorn": ["--flow", "w2", "--solver", "sinkhorn"],
    "neural": ["--flow", "w2", "--solver", "neural"],
    "mmd": ["--flow", "mmd"],
    "kale": ["--flow", "kale"],
    "kernel": ["--flow", "kernel"],
    "persistent": ["--persistency", "4"],
    "minibatch": ["--persistent", "minibatch", "--minibatch", "10", "--persistency", "2"],
}
FAST = [name for name in FLOWS if name != "neural"]


@pytest.mark.parametrize("name", FAST)
def test_the_recorded_potential_is_the_one_that_a_run_to_that_step_keeps(simulate, name):
    long = simulate(*FLOWS[name], "--record", name=f"{name}-6")
    short = simulate(*FLOWS[name], "--steps", "4", name=f"{name}-4")
    for ours, its in zip(landscape(long, 4)(PLACES), landscape(short)(PLACES), strict=True):
        np.testing.assert_array_equal(ours, its)
    assert np.abs(landscape(long, 4)(PLACES)[1] - landscape(long)(PLACES)[1]).max() > 1e-6 or name == "persistent"


def test_a_persistent_potential_is_that_of_its_last_fit(simulate):
    path = simulate(*FLOWS["persistent"], "--record", name="persistent-6")
    for a, b in ((1, 4), (5, 6)):
        np.testing.assert_array_equal(landscape(path, a)(PLACES)[0], landscape(path, b)(PLACES)[0])
    assert (landscape(path, 4)(PLACES)[0] != landscape(path, 5)(PLACES)[0]).all()


@pytest.mark.parametrize("name", FAST)
def test_slopes_are_those_of_the_values(simulate, name):
    path = simulate(*FLOWS[name], "--dtype", "float64", name=f"{name}-double")
    known, h = landscape(path), 1e-6
    slopes = known(PLACES)[1]
    for i in range(2):
        shift = h * np.eye(2)[i]
        np.testing.assert_allclose(
            (known(PLACES + shift)[0] - known(PLACES - shift)[0]) / (2 * h), slopes[:, i], atol=2e-5
        )


def test_mmd_by_its_formula(simulate):
    """φ(y) = E_P k(y, ·) − E_Q k(y, ·) with k = −‖·‖ and P where the particles were one step before the end."""
    path = simulate("--flow", "mmd", "--record", name="mmd-6")
    run = Run.open(path)
    assert run.steps.tolist() == list(range(7))

    def mean(points):
        return np.linalg.norm(PLACES[:, None] - points, axis=2).mean(1)

    np.testing.assert_allclose(landscape(path)(PLACES)[0], mean(run.target) - mean(run.snapshot(5)), atol=1e-5)
    np.testing.assert_allclose(landscape(path, 0)(PLACES)[0], mean(run.target) - mean(run.snapshot(0)), atol=1e-5)


def test_a_network_by_autograd(recorded):
    simulation = rebuilt(recorded)
    restore(simulation, recorded)
    x = torch.as_tensor(PLACES, dtype=torch.float32).requires_grad_()
    values = simulation.process.flow.flow.potential.network(x, None)
    value, slope, velocity = landscape(recorded)(PLACES)
    np.testing.assert_allclose(value, values.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(slope, torch.autograd.grad(values.sum(), x)[0].numpy(), atol=1e-6)
    np.testing.assert_array_equal(velocity, -slope)
    assert np.linalg.norm(slope, axis=1).max() <= 1 + 1e-5


def test_large_grids_come_in_parts(recorded):
    many = np.random.default_rng(3).normal(size=(CHUNK + 5, 2))
    whole, parts = landscape(recorded)(many), [landscape(recorded)(rows) for rows in (many[:100], many[100:])]
    for found, (a, b) in zip(whole, zip(*parts)):
        np.testing.assert_allclose(found, np.concatenate((a, b)), atol=1e-6)


@pytest.mark.parametrize("solver", ["network", "transport"])
def test_the_value_function_of_a_proximal_flow(simulate, solver):
    """U falls along the velocity −∇U/α; by the dual it obeys ∂U/∂t = ‖∇U‖² / 2α, but for the entropy."""
    path = simulate("--flow", "proximal", "--solver", solver, "--dtype", "float64", name=f"proximal-{solver}")
    alpha, h = Run.open(path).spec["alpha"], 1e-5
    now = landscape(path, time=0.5)
    value, slope, velocity = now(PLACES)
    np.testing.assert_allclose(velocity, -slope / alpha, atol=1e-9)
    for i in range(2):
        shift = h * np.eye(2)[i]
        there = (now(PLACES + shift)[0] - now(PLACES - shift)[0]) / (2 * h)
        np.testing.assert_allclose(there, slope[:, i], atol=2e-3 * np.abs(slope).max())
    assert np.abs(landscape(path)(PLACES)[0] - value).max() > 1e-3  # the end
    np.testing.assert_array_equal(landscape(path)(PLACES)[0], landscape(path, time=1.0)(PLACES)[0])
    if solver == "transport":
        later, earlier = (landscape(path, time=0.5 + dt)(PLACES)[0] for dt in (h, -h))
        assert ((later - earlier) / (2 * h) >= np.square(slope).sum(1) / (2 * alpha) - 1e-3).all()
        assert np.linalg.norm(landscape(path)(PLACES)[1], axis=1).max() <= 1 + 1e-6  # L


def test_the_folder_is_left_as_it_was(recorded):
    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    potential(recorded, at=1.0)
    assert {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()} == before


def test_a_device_that_is_not_there(recorded, tmp_path):
    copy = shutil.copytree(recorded, tmp_path / "copy")
    text = (copy / "spec.toml").read_text()
    assert 'device = "cpu"' in text
    (copy / "spec.toml").write_text(text.replace('device = "cpu"', 'device = "cuda:63"'))
    np.testing.assert_array_equal(landscape(copy)(PLACES)[0], landscape(recorded)(PLACES)[0])
    spec, _ = Specification.load(copy / "spec.toml")
    with pytest.raises(ValueError, match="cuda:63 is not there"):
        build(spec)


# The picture


def test_what_is_drawn(recorded):
    run = Run.open(recorded)
    figure = potential(recorded)
    ax, bar = figure.axes
    assert ax.get_title() == f"potential of step 6, time {run.times[-1]:g}"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "x1")
    assert bar.get_ylabel() == "φ (nats)"
    assert ax.get_aspect() == 1
    found = dots(figure)
    assert list(found) == ["target", "particles"]
    np.testing.assert_allclose(found["target"].get_offsets(), run.target)
    np.testing.assert_allclose(found["particles"].get_offsets(), run.snapshot(-1))
    assert [to_hex(found[name].get_facecolor()[0]).upper() for name in found] == [TARGET, PARTICLES]
    arrows = quiver(figure)
    value, slope, _ = landscape(recorded)(arrows.XY)
    np.testing.assert_allclose(np.stack((arrows.U, arrows.V), 1), -slope, atol=1e-6)
    levels = ax.collections[0].levels
    assert levels[0] <= value.min()
    assert levels[-1] >= value.max()
    for points in (run.target, run.snapshot(-1), arrows.XY):
        assert (points.min(0) >= (ax.get_xlim()[0], ax.get_ylim()[0])).all()
        assert (points.max(0) <= (ax.get_xlim()[1], ax.get_ylim()[1])).all()


def test_the_key_says_the_largest_slope_which_is_at_most_l(recorded):
    figure = potential(recorded, grid=40)
    text = arrow_text(figure)
    largest = float(text.removeprefix("−∇φ, largest slope ").partition(" ")[0])
    assert text.endswith("per unit of length (L = 1)")
    drawn = np.hypot(quiver(figure).U, quiver(figure).V).max()
    assert drawn <= largest * 1.01 <= 1.01
    apart = np.diff(np.unique(quiver(figure).XY[:, 0]))[0]
    assert drawn / quiver(figure).scale <= 0.96 * apart  # arrows do not run into each other


def test_arrows_are_velocities_in_the_units_of_the_data(simulate):
    """Where the two columns have different units, arrows are steepest in flow units, in which the picture is drawn."""
    path = simulate(target="table.csv", name="table")
    run = Run.open(path)
    figure = potential(path)
    arrows = quiver(figure)
    _, slope, _ = landscape(path)(arrows.XY)
    np.testing.assert_allclose(np.stack((arrows.U, arrows.V), 1), -slope * run.units, rtol=1e-5)
    assert figure.axes[0].get_aspect() == pytest.approx(run.units[0] / run.units[1])
    assert "per flow unit (L = 1)" in arrow_text(figure)
    figure.draw_without_rendering()
    straight = -slope / np.linalg.norm(slope, axis=1, keepdims=True)
    tips = arrows.XY + np.stack((arrows.U, arrows.V), 1) / arrows.scale
    seen = np.diff([figure.axes[0].transData.transform(points) for points in (arrows.XY, tips)], axis=0)[0]
    np.testing.assert_allclose(seen / np.linalg.norm(seen, axis=1, keepdims=True), straight, atol=1e-3)


def test_times_of_a_recorded_run(recorded):
    run = Run.open(recorded)
    for at, step in ((0.0, 0), (1.1, 2), (run.times[-1], 6)):
        figure = potential(recorded, at=at)
        np.testing.assert_allclose(dots(figure)["particles"].get_offsets(), run.snapshot(step))
        slope = landscape(recorded, step)(quiver(figure).XY)[1]
        np.testing.assert_allclose(np.stack((quiver(figure).U, quiver(figure).V), 1), -slope, atol=1e-6)
        words = f"potential of step {step}, time {run.times[step]:g}"
        assert figure.axes[0].get_title() == (words if step else "first potential, fitted to the source, time 0")


def test_a_run_that_went_on_after_its_checkpoint(simulate, tmp_path):
    """Its particles are those of the checkpoint's step, not the last ones."""
    copy = shutil.copytree(simulate("--record", name="lipschitz-6"), tmp_path / "copy")
    shutil.copy(simulate("--steps", "4", name="lipschitz-4") / "checkpoint.pt", copy)
    figure = potential(copy)
    assert figure.axes[0].get_title() == "potential of step 4, time 2"
    np.testing.assert_allclose(dots(figure)["particles"].get_offsets(), Run.open(copy).snapshot(4))


def test_proximal_flows_at_any_time(simulate):
    path = simulate("--flow", "proximal", "--solver", "transport", name="proximal-plain")
    run = Run.open(path)
    figure = potential(path, at=0.5)
    assert figure.axes[0].get_title() == "U at time 0.5"
    assert figure.axes[1].get_ylabel() == "U (nats)"
    name = next(name for name in dots(figure) if name.startswith("particles"))
    assert name == "particles at time 0.4"
    np.testing.assert_allclose(dots(figure)[name].get_offsets(), run.snapshot(2))
    assert arrow_text(figure).startswith(f"−∇U/α, α = {run.spec['alpha']:.3g}, largest ")
    velocity = landscape(path, time=0.5)(quiver(figure).XY)[2]
    np.testing.assert_allclose(np.stack((quiver(figure).U, quiver(figure).V), 1), velocity, rtol=1e-4, atol=1e-6)
    assert potential(path).axes[0].get_title() == "U at time 1"


@pytest.mark.parametrize("flow", ["lipschitz", "transport"])
def test_classes(simulate, flow):
    path = simulate("--flow", flow, "--label", "kind", "-n", "48", target="classes.csv", name=f"classes-{flow}")
    run = Run.open(path)
    fields = []
    for label in ("cat", "dog"):
        figure = potential(path, label=label)
        assert figure.axes[0].get_title().endswith(f"step 6, time 3, class {label}")
        for name, points, labels in (
            ("target", run.target, run.target_label),
            ("particles", run.snapshot(-1), run.label),
        ):
            np.testing.assert_allclose(dots(figure)[name].get_offsets(), points[labels == label])
        arrows = quiver(figure)
        slope = landscape(path)(arrows.XY, label)[1]
        np.testing.assert_allclose(np.stack((arrows.U, arrows.V), 1), -slope * run.units, rtol=1e-4, atol=1e-6)
        fields.append(landscape(path)(run.target, label)[0])
    assert np.abs(fields[0] - fields[1]).max() > 1e-3
    assert potential(path).axes[0].get_title().endswith("class cat")
    with pytest.raises(ValueError, match="label 'cow' is no class of the run; choose from cat, dog"):
        potential(path, label="cow")


def test_functions_of_ones_own():
    """φ = ½‖y‖² + y₀: differences on a grid are exact inside for a parabola."""
    way = np.linspace(1, 2, 3)[:, None, None] * np.random.default_rng(0).normal(size=(20, 2))
    figure = potential(way, phi=lambda y: np.square(y).sum(1) / 2 + y[:, 0], grid=30)
    arrows = quiver(figure)
    np.testing.assert_allclose(np.stack((arrows.U, arrows.V), 1), -arrows.XY - (1, 0), atol=1e-9)
    assert figure.axes[0].get_title() == "time 2"
    assert list(dots(figure)) == ["particles"]
    figure = potential(way, phi=lambda y: y[:, 0], gradient=lambda y: np.full(y.shape, (1.0, 0.0)), at=1, arrows=True)
    assert (quiver(figure).U == -1).all()
    assert (quiver(figure).V == 0).all()
    np.testing.assert_allclose(dots(figure)["particles"].get_offsets(), way[1])


def test_a_function_beside_a_run(simulate):
    """φ = y₀ in data units falls by a unit per unit: its slope in flow units is the unit, and so is the velocity in them."""
    run = Run.open(simulate(target="table.csv", name="table"))
    arrows = quiver(potential(run, phi=lambda y: y[:, 0]))
    np.testing.assert_allclose(arrows.U, -(run.units[0] ** 2), rtol=1e-6)
    np.testing.assert_allclose(arrows.V, 0, atol=1e-6 * run.units[0] ** 2)


@pytest.mark.parametrize("count", [1, 2])
def test_flat_and_partly_unknown_functions(count):
    points = np.zeros((count, 2))
    figure = potential(points, phi=lambda y: np.ones(len(y)))
    assert not [child for child in figure.axes[0].get_children() if isinstance(child, Quiver)]
    figure = potential(points, phi=lambda y: np.where(y[:, 0] > 0, y[:, 0], np.nan))
    assert np.isfinite(quiver(figure).U).all()
    for drawn in (figure, potential(points, phi=lambda y: 1e9 + y[:, 1], key=False)):
        drawn.draw_without_rendering()
    assert len(drawn.axes) == 1


def test_on_axes_that_are_there(recorded):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert potential(recorded, ax=left, arrows=False) is figure
    assert not [child for child in left.get_children() if isinstance(child, Quiver)]
    assert not right.has_data()
    assert left.get_legend() is not None


def test_heights_are_even_in_lightness_and_lighter_than_dots():
    """Relative luminance to the lightness of CIELAB; dots have a contrast of 2 at least to nearly all heights."""

    def luminance(color):
        rgb = np.array(to_rgb(color))
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    shades = np.array([luminance(HEIGHT(t)) for t in np.linspace(0, 1, 13)])
    steps = np.diff(116 * np.cbrt(shades) - 16)
    assert (steps < 0).all()
    assert np.ptp(steps) < 0.15 * abs(steps.mean())
    for color in (TARGET, PARTICLES):
        contrast = (shades + 0.05) / (luminance(to_rgba(color)[:3]) + 0.05)
        assert (contrast[:7] > 2).all()


# What there is no picture of


def test_what_has_no_potential(simulate, tmp_path):
    plan = simulate("--flow", "proximal", "--solver", "plan")
    with pytest.raises(ValueError, match="is a plan, which knows its particles alone and no potential"):
        potential(plan)
    solid = simulate(target="swiss-roll", name="solid")
    with pytest.raises(ValueError, match="potential draws the plane, but there are 3 columns"):
        potential(solid)
    still = simulate("--steps", "0", name="still")
    with pytest.raises(ValueError, match="is at step 0, and no potential has been fitted yet"):
        potential(still)
    fresh = shutil.copytree(simulate(), tmp_path / "fresh")
    (fresh / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        potential(fresh)


def test_times_that_were_not_kept(simulate, recorded, tmp_path):
    plain = simulate()
    with pytest.raises(ValueError, match="kept the potential of its last step alone, 6, not that of step 2"):
        potential(plain, at=1.0)
    assert potential(plain, at=3.0).axes[0].get_title() == "potential of step 6, time 3"
    with pytest.raises(ValueError, match="time 50 is not in the run"):
        potential(recorded, at=50.0)
    torn = shutil.copytree(recorded, tmp_path / "torn")
    (torn / "potentials" / "00000002.pt").unlink()
    with pytest.raises(ValueError, match="has no recording of step 2"):
        potential(torn, at=1.0)


def test_other_data(folder, simulate, tmp_path):
    shutil.copy(folder / "table.csv", tmp_path / "mine.csv")
    words = ["simulate", "--target", str(tmp_path / "mine.csv"), *TINY, "-o", str(tmp_path / "run")]
    assert CliRunner().invoke(main, words).exit_code == 0
    shutil.copy(folder / "classes.csv", tmp_path / "classes.csv")
    frame = pd.read_csv(tmp_path / "mine.csv") * 2
    frame.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(ValueError, match="the data of the target are not those that the run"):
        potential(tmp_path / "run")
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        potential(tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "phi is needed beside arrays: a function from places"),
        ({"gradient": lambda y: y, "phi": None}, "phi is needed beside arrays"),
        ({"phi": lambda y: y}, r"phi answers the shape \(\d+, 2\) to \(\d+, 2\); \(\d+,\) is needed"),
        ({"phi": lambda y: y[:, 0], "gradient": lambda y: y[:, 0]}, r"gradient answers the shape \(\d+,\)"),
        ({"phi": lambda y: np.full(len(y), np.nan)}, "phi answers no finite number anywhere"),
        ({"phi": lambda y: y[:, 0], "grid": 3}, "grid must be at least 8 points, not 3"),
        ({"phi": lambda y: y[:, 0], "label": "cat"}, "label 'cat' is no class of the particles, which have none"),
        ({"phi": lambda y: y[:, 0], "at": 7.0}, "time 7 is not in the run"),
    ],
)
def test_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        potential(np.zeros((2, 5, 2)), **more)


def test_a_gradient_without_its_function(recorded):
    with pytest.raises(ValueError, match="gradient is that of a phi of your own"):
        potential(recorded, gradient=lambda y: y)
