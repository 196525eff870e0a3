"""Laws beside laws: what densities and tails say against what is counted."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from particles.cli import main
from scipy.stats import multivariate_normal

import particles as pt
from particles.plot import density, tails
from particles.plot.bins import bandwidth, edges, heights, level, surface, window
from particles.plot.style import HOLDOUT, PARTICLES, SOURCE, TARGET

TINY = ["-n", "30", "--steps", "6", "--snapshot-every", "2", "--network", "8,8", "--no-figure", "-q"]
ROLES = {TARGET: "target", HOLDOUT: "holdout", PARTICLES: "particles", SOURCE: "source"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    pd.DataFrame({"pause": 50 + 20 * rng.standard_t(2, 300)}).to_csv(folder / "pause.csv", index=False)
    for name, words in {
        "student": ["--target", "student-t", "--target-size", "200", "--scale", "standard", "--carried", "4"],
        "pause": ["--target", str(folder / "pause.csv"), "--flow", "transport"],
        "roll": ["--target", "swiss-roll", "--target-size", "60", "--holdout", "0"],
    }.items():
        found = CliRunner().invoke(main, ["simulate", *TINY, *words, "-o", str(folder / name)])
        assert found.exit_code == 0, found.output
    return folder


def laws_of(run, index=-1):
    return {
        "target": run.target,
        "holdout": run.holdout,
        "particles": run.snapshot(index),
        "source": run.snapshot(0),
    }


def steps_of(ax):
    """The edges and values of the outlines in a panel by role."""
    found = [patch for patch in ax.patches if not patch.get_fill()]
    return {ROLES[to_hex(patch.get_edgecolor()).upper()]: patch.get_data() for patch in found}


# Tails


def test_tails_are_counted(runs):
    run = pt.Run.open(runs / "student")
    (ax,) = tails(run).axes
    clouds = laws_of(run)
    centre = np.median(run.target, axis=0)
    assert [ROLES[line.get_color()] for line in ax.lines] == ["source", "target", "holdout", "particles"]
    for line in ax.lines:
        cloud = clouds[ROLES[line.get_color()]]
        r, above = line.get_data()
        assert r.tolist()[0] == 0.0
        assert above[0] == 1.0
        expected = np.sort(np.sqrt(np.square((cloud.astype(float) - centre) / run.units).sum(1)))
        np.testing.assert_allclose(r[1:], expected, rtol=1e-6)
        n = len(cloud)
        assert above[1:].tolist() == [(n - i) / n for i in range(1, n + 1)]
        assert line.get_drawstyle() == "steps-post"
        for x in (0.3, 1.0, 2.0):  # right of the i-th point and left of the next, so many are farther out
            assert above[np.searchsorted(r, x, side="right") - 1] == pytest.approx((expected > x).mean())
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "r, distance from the target's median (flow units)"
    assert ax.get_ylabel() == "P(distance > r)"
    assert (run.units != 1).all()


def test_tails_of_a_column_are_in_its_own_unit(runs):
    run = pt.Run.open(runs / "student")
    (ax,) = tails(run, column="x1").axes
    target = next(line for line in ax.lines if line.get_color() == TARGET)
    expected = np.sort(np.abs(run.target[:, 1] - np.median(run.target[:, 1])))
    np.testing.assert_allclose(target.get_xdata()[1:], expected, rtol=1e-6)
    assert ax.get_xlabel() == "r (data units)"
    assert ax.get_ylabel() == "P(|x1 − median of target| > r)"


def test_tails_of_a_single_column(runs):
    run = pt.Run.open(runs / "pause")
    (ax,) = tails(run).axes
    assert ax.get_ylabel() == "P(|pause − median of target| > r)"
    target = next(line for line in ax.lines if line.get_color() == TARGET)
    expected = np.sort(np.abs(run.target[:, 0] - np.median(run.target)))
    np.testing.assert_allclose(target.get_xdata()[1:], expected, rtol=1e-6)


def test_a_power_law_is_a_straight_line():
    """Quantiles of P(X > r) = r^-1.5: the slope of its tail on logarithmic axes."""
    n = 4000
    above = (np.arange(n) + 0.5) / n
    target = above ** (-1 / 1.5)
    signs = np.where(np.arange(n) % 2, 1, -1)
    (ax,) = tails((signs * target)[None, :, None], (signs * target)[:, None]).axes
    r, share = ax.lines[-1].get_data()
    far = (r > 3) & (share > 1e-2)
    slope = np.polyfit(np.log(r[far]), np.log(share[far]), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.02)


def test_what_tails_refuse(runs):
    with pytest.raises(ValueError, match=r"^column 'z' is not one of x0, x1$"):
        tails(runs / "student", column="z")
    with pytest.raises(ValueError, match="not all at the target's median"):
        tails(np.ones((2, 5, 3)), np.ones((4, 3)))


def test_on_axes_of_others(runs):
    figure = Figure()
    ax = figure.subplots()
    assert tails(runs / "student", ax=ax) is figure
    assert len(ax.lines) == 4
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "source (30)", "target (200)", f"held-out target ({len(pt.Run.open(runs / 'student').holdout)})", "particles (30)",
    ]  # fmt: skip
    other = Figure()
    ax = other.subplots()
    assert density(runs / "student", ax=ax, key=False) is other
    assert len(ax.child_axes) == 2
    assert ax.get_legend() is None


# Densities


@pytest.mark.parametrize(("at", "index"), [(None, -1), (1.1, 1)])
def test_marginals_are_counted(runs, at, index):
    run = pt.Run.open(runs / "student")
    drawn = density(run, at=at)
    (ax,) = drawn.axes
    clouds = laws_of(run, index)
    for i, side in enumerate(ax.child_axes):
        found = steps_of(side)
        assert list(found) == ["target", "holdout", "particles"]
        assert len({tuple(law.edges) for law in found.values()}) == 1  # the same bins
        for role, law in found.items():
            points = clouds[role][:, i].astype(float)
            counts = np.histogram(points, law.edges)[0]
            np.testing.assert_allclose(law.values * np.diff(law.edges), counts / len(points))
    assert ax.child_axes[0].get_title() == f"step {int(run.steps[index])}, time {run.times[index]:.3g}"
    assert (ax.get_xlim(), ax.get_ylim()) == (ax.child_axes[0].get_xlim(), ax.child_axes[1].get_ylim())
    (legend,) = drawn.legends
    held = f"held-out target ({len(run.holdout)})"
    assert [text.get_text() for text in legend.get_texts()] == [f"target ({len(run.target)})", held, "particles (30)"]
    assert ax.get_aspect() == pytest.approx(run.units[0] / run.units[1])


def test_contours_hold_what_they_say():
    """Of the standard normal law the 90, 60 and 30% are within circles of radius sqrt(-2 log(1 - share))."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 2))
    (ax,) = density(points[None], points).axes
    _, lines = ax.collections
    assert to_hex(lines.get_edgecolor()[0]).upper() == PARTICLES
    for path, share in zip(lines.get_paths(), (0.9, 0.6, 0.3)):
        radius = np.linalg.norm(points, axis=1)
        mean = np.linalg.norm(path.vertices, axis=1).mean()
        assert mean == pytest.approx(np.sqrt(-2 * np.log(1 - share)), rel=0.06)
        assert (radius < mean).mean() == pytest.approx(share, abs=0.04)


def test_one_coordinate_has_one_panel(runs):
    run = pt.Run.open(runs / "pause")
    (ax,) = density(run).axes
    assert not ax.child_axes
    assert list(steps_of(ax)) == ["target", "holdout", "particles"]
    assert ax.get_xlabel().startswith("pause")
    assert ax.get_ylabel() == "density (1 / data unit)"


def test_three_columns_are_drawn_in_two_components(runs):
    run = pt.Run.open(runs / "roll")
    (ax,) = density(run).axes
    assert ax.get_xlabel().startswith("principal component 1 (")
    assert list(steps_of(ax.child_axes[0])) == ["target", "particles"]  # nothing is held out
    (ax,) = density(run, projection="x0,x2").axes
    assert ax.get_ylabel().startswith("x2 (")
    with pytest.raises(ValueError, match="density draws two coordinates, and the projection has three"):
        density(run, projection="pca3")
    with pytest.raises(ValueError, match="time 99 is not in the run"):
        density(run, at=99)


@pytest.mark.parametrize("columns", [1, 2, 3, 64])
@pytest.mark.parametrize("kind", ["one place", "a line", "one particle", "no target", "far away", "two values"])
@pytest.mark.filterwarnings("error")
def test_what_is_degenerate_is_drawn(columns, kind):
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(2, 20, columns)), rng.normal(size=(30, columns))
    x, target = {
        "one place": (1e6 + 0 * x, 1e6 + 0 * target),
        "a line": (0 * x + np.arange(20)[:, None], 0 * target + np.arange(30)[:, None]),
        "one particle": (x[:1, :1], target[:1]),
        "no target": (x, None),
        "far away": (x + 1e7, target),
        "two values": (np.sign(x), np.sign(target)),
    }[kind]
    drawn = density(x, target)
    FigureCanvasAgg(drawn).draw()
    for box in (text.get_window_extent() for ax in drawn.axes for text in (ax.xaxis.label, ax.yaxis.label)):
        assert box.x0 > -1
        assert box.y0 > -1
    if kind != "one place":
        FigureCanvasAgg(tails(x, target)).draw()


# What they are made of


def test_a_surface_is_the_smoothed_law():
    """One point becomes the kernel; shares add up to one where nothing lies beyond."""
    limits, width = [(-4.0, 4.0), (-8.0, 8.0)], np.array([0.5, 1.5])
    found = surface(np.array([[0.02, 0.04]]), limits, width)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    x, y = (np.linspace(low, high, 401)[1::2] for low, high in limits)
    expected = multivariate_normal([0.02, 0.04], np.diag(width**2)).pdf(np.dstack(np.meshgrid(x, y, indexing="ij")))
    expected *= 0.04 * 0.08
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())


def test_a_level_holds_its_share():
    grid = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert level(grid, 0.4) == 0.4
    assert level(grid, 0.69) == 0.3
    assert level(grid, 0.95) == 0.1


def test_clusters_stay_clusters():
    """Eight points of light on a circle of radius 4, each 0.2 wide: the kernel is of their width, not of the circle's."""
    rng = np.random.default_rng(0)
    angle = np.pi / 4 * rng.integers(8, size=800)
    cloud = 4 * np.stack((np.cos(angle), np.sin(angle)), 1) + 0.2 * rng.normal(size=(800, 2))
    assert (bandwidth(cloud) < 0.3).all()
    normal = rng.normal(size=(800, 2))
    scott = 800 ** (-1 / 6)
    assert (bandwidth(normal) > scott / 2).all()
    assert (bandwidth(normal) < scott * 1.2).all()


def test_a_window_holds_all_but_outliers():
    even = np.linspace(0, 1, 1001)
    low, high = window([even, even + 1])
    assert (low, high) == (pytest.approx(-0.08), pytest.approx(2.08))
    low, high = window([np.append(even, 100.0)])
    assert 0.9 < high < 1.2
    assert -0.2 < low < 0.1
    assert window([np.array([]), np.full(3, 7.0)]) == (6.5, 7.5)
    assert window([np.array([])]) == (-0.5, 0.5)


def test_heights_are_of_all_points():
    bins = np.array([0.0, 1.0, 3.0])
    assert heights(np.array([0.5, 2.0, 2.5, 10.0]), bins).tolist() == [0.25, 0.25]
    assert len(edges(np.linspace(0, 1, 10_000), (0.0, 1.0))) - 1 == 30
    assert len(edges(np.append(np.linspace(0, 1, 10_000), 5.0), (0.0, 50.0))) - 1 == 80
    assert len(edges(np.ones(4), (0.0, 1.0))) - 1 == 10
