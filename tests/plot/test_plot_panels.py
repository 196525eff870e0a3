"""Panels: one run at several times, several runs on the same axes."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from particles.cli import main

import particles as pt
from particles.plot import compare, snapshots
from particles.plot.style import CLASSES, PARTICLES, SOURCE, TARGET

TINY = ["-n", "20", "--target-size", "40", "--steps", "8", "--snapshot-every", "1", "--network", "8,8"]


def simulate(folder, *words):
    found = CliRunner().invoke(
        main, ["simulate", *TINY, "--no-figure", "-q", "-o", str(folder), *map(str, words)], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    simulate(folder / "moons", "--target", "moons", "--carried", 5)
    simulate(folder / "far" / "moons", "--target", "moons", "--flow", "w2", "--seed", 3)
    simulate(folder / "circles", "--target", "circles", "--flow", "w2", "--steps", 4)
    simulate(folder / "roll", "--target", "swiss-roll", "--decay", 5)
    simulate(folder / "iris", "--target", "iris", "--label", "target")
    pd.DataFrame({"pause": np.random.default_rng(0).standard_cauchy(600)}).to_csv(folder / "one.csv", index=False)
    simulate(folder / "one", "--target", folder / "one.csv", "--flow", "transport", "--target-size", 600)
    return folder


def clouds(ax):
    """The points of a panel by their place in its legend."""
    found = dict(zip(ax.get_legend_handles_labels()[1], ax.get_legend_handles_labels()[0]))
    return {label.split(" (")[0]: handle for label, handle in found.items()}


def inside(figure, boxes):
    for box in boxes:
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < figure.bbox.x1 + 1
        assert box.y1 < figure.bbox.y1 + 1


def texts(figure):
    """What is written about the panels."""
    found = [text for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label) if text.get_text()]
    for part in figure.subfigs:
        found += [text for text in (part._supxlabel, part._supylabel) if text is not None]
    return found


# Snapshots


def test_panels_are_the_snapshots(runs):
    run = pt.Run.open(runs / "moons")
    drawn = snapshots(runs / "moons")
    chosen = [0, 2, 4, 6, 8]
    assert [ax.get_title() for ax in drawn.axes] == [f"step {i}, time {run.times[i]:.3g}" for i in chosen]
    for ax, i in zip(drawn.axes, chosen):
        found = clouds(ax)
        np.testing.assert_allclose(found["target"].get_offsets(), run.target)
        np.testing.assert_allclose(found["particles"].get_offsets(), run.trajectory[i, :20])  # without the carried ones
        assert to_hex(found["target"].get_facecolor()[0]).upper() == TARGET
        assert to_hex(found["particles"].get_facecolor()[0]).upper() == PARTICLES
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in drawn.axes}) == 1
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["target (40)", "particles (20)"]


def test_times_are_the_nearest_snapshots(runs):
    run = pt.Run.open(runs / "moons")
    drawn = snapshots(run, times=[0.6, 3.9])
    assert [ax.get_title() for ax in drawn.axes] == ["step 1, time 0.5", "step 8, time 4"]
    drawn = snapshots(run, times=run.times, columns=4)
    assert len(drawn.axes) == 9
    rows = sorted({round(ax.get_position().y0, 6) for ax in drawn.axes})
    assert len(rows) == 3
    assert len({round(ax.get_position().x0, 6) for ax in drawn.axes}) == 4


def test_the_names_of_the_axes_are_written_once(runs):
    drawn = snapshots(runs / "iris")
    assert all(not ax.get_xlabel() and not ax.get_ylabel() for ax in drawn.axes)
    (part,) = drawn.subfigs
    assert part.get_supxlabel().startswith("principal component 1 (")
    assert part.get_supylabel().startswith("principal component 2\n(")
    assert part.get_supylabel().endswith("% of the variance)")


def test_classes_have_their_colours(runs):
    run = pt.Run.open(runs / "iris")
    names = sorted(set(run.label))
    ax = snapshots(run).axes[-1]
    _, particles = [dots for dots in ax.collections if len(dots.get_offsets())]
    shades = [to_hex(color).upper() for color in particles.get_facecolor()]
    assert shades == [CLASSES[names.index(name)] for name in run.label[: run.own]]
    (legend,) = snapshots(run).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"target ({len(run.target)}), faint",
        "particles (20)",
        *names,
    ]
    plain = clouds(snapshots(run, color="none").axes[0])
    assert list(plain) == ["target", "particles"]


def test_space(runs):
    run = pt.Run.open(runs / "roll")
    drawn = snapshots(run)
    for ax, i in zip(drawn.axes, (0, 2, 4, 6, 8)):
        assert ax.name == "3d"
        np.testing.assert_allclose(np.transpose(clouds(ax)["particles"]._offsets3d), run.trajectory[i])
    assert len({(ax.get_xlim(), ax.get_ylim(), ax.get_zlim()) for ax in drawn.axes}) == 1
    assert {ax.name for ax in snapshots(run, projection="pca").axes} == {"rectilinear"}


def test_one_coordinate_is_drawn_as_densities(runs):
    run = pt.Run.open(runs / "one")
    drawn = snapshots(run)
    for ax, i in zip(drawn.axes, (0, 2, 4, 6, 8)):
        target, particles = [patch.get_data() for patch in ax.patches if isinstance(patch, StepPatch)]
        assert target.edges.tolist() == particles.edges.tolist()
        width = np.diff(target.edges)
        for law, points in ((target, run.target), (particles, run.trajectory[i])):
            counts = np.histogram(points[:, 0].astype(float), target.edges)[0]
            np.testing.assert_allclose(law.values * width, counts / len(points))
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in drawn.axes}) == 1
    (part,) = drawn.subfigs
    assert part.get_supylabel() == "density\n(1 / data unit)"
    name = part.get_supxlabel()
    assert name.startswith("pause\n(")  # the tails of this law would rule the axis
    beyond = max(
        np.mean((points < target.edges[0]) | (points > target.edges[-1]))
        for points in (run.target, *(run.trajectory[i] for i in (0, 2, 4, 6, 8)))
    )
    assert name == f"pause\n({beyond:.1%} or less beyond)"


@pytest.mark.parametrize("name", ["moons", "iris", "one", "circles"])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_nothing_is_cut_off_and_nothing_overlaps(runs, name, count):
    run = pt.Run.open(runs / name)
    drawn = snapshots(run, times=run.times[:count])
    drawn.dpi = 120
    FigureCanvasAgg(drawn).draw()
    written = [text.get_window_extent() for text in texts(drawn)] + [drawn.legends[0].get_window_extent()]
    inside(drawn, written)
    for i, one in enumerate(written):
        assert not any(one.overlaps(other) for other in written[i + 1 :])


@pytest.mark.parametrize(
    ("trajectory", "target"),
    [
        (np.ones((1, 1, 2)), None),
        (np.ones((3, 5, 2)), np.ones((4, 2))),
        (np.ones((3, 5, 1)), np.ones((4, 1))),
        (np.ones((2, 3, 64)), None),
        (np.zeros((2, 3, 3)), np.zeros((1, 3))),
    ],
    ids=["one particle", "one place", "one number", "64 columns", "space"],
)
@pytest.mark.filterwarnings("error")
def test_what_there_is_little_of(trajectory, target):
    drawn = snapshots(trajectory, target)
    FigureCanvasAgg(drawn).draw()
    assert len(drawn.axes) == len(trajectory)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"times": [99]}, "time 99 is not in the run"),
        ({"times": []}, "times needs at least one time"),
        ({"columns": 0}, "columns must be at least 1"),
        ({"color": "time"}, "color 'time' is not one of auto, label, none"),
        ({"color": "label"}, "color label needs particles with classes"),
        ({"projection": "z"}, "projection 'z' is not a column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit(runs, settings, says):
    with pytest.raises(ValueError, match=says):
        snapshots(runs / "moons", **settings)


# Several runs


def test_runs_side_by_side(runs):
    names = [runs / "moons", str(runs / "circles")]
    drawn = compare(names, {"moons": "a caption"})
    opened = [pt.Run.open(name) for name in names]
    titles = [ax.get_title() for ax in drawn.axes]
    assert titles == ["moons, step 8\ntarget moons (40)\na caption", "circles, step 4\ntarget circles (40)"]
    for ax, run in zip(drawn.axes, opened):
        paths = [found for found in ax.collections if isinstance(found, LineCollection)]
        np.testing.assert_allclose(paths[0].get_segments()[7], run.trajectory[:, 7])
        target, start, end = [found for found in ax.collections if not isinstance(found, LineCollection)]
        for dots, points, color in (
            (target, run.target, TARGET),
            (start, run.trajectory[0, :20], SOURCE),
            (end, run.trajectory[-1, :20], PARTICLES),
        ):
            np.testing.assert_allclose(dots.get_offsets(), points)
            assert to_hex(dots.get_facecolor()[0]).upper() == color
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in drawn.axes}) == 1
    x, y = (np.concatenate([run.snapshot(i)[:, k] for run in opened for i in range(len(run.times))]) for k in (0, 1))
    (low, high), (bottom, top) = drawn.axes[0].get_xlim(), drawn.axes[0].get_ylim()
    assert low <= x.min() <= x.max() <= high
    assert bottom <= y.min() <= y.max() <= top
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["target (40)", "start (20)", "end"]


def test_one_projection_for_all(runs):
    """The first run's: the same points are at the same place, whatever the other target is."""
    run = pt.Run.open(runs / "iris")
    other = pt.Run.of(np.array(run.trajectory), run.target * [1, 0, 0, 0], columns=run.columns)
    drawn = compare({"one": run, "two": other})
    ends = [ax.collections[-1].get_offsets() for ax in drawn.axes]
    np.testing.assert_allclose(ends[0], ends[1])
    alone = compare({"two": other}).axes[0].collections[-1].get_offsets()
    assert np.abs(alone - ends[1]).max() > 0.1


def test_names_are_different(runs):
    def named(*paths):
        return [ax.get_title().split(", step")[0] for ax in compare(list(paths)).axes]

    assert named(runs / "moons", runs / "far" / "moons") == [f"{runs.name}/moons", "far/moons"]
    assert named(runs / "moons", runs / "moons") == ["moons (1)", "moons (2)"]
    assert named(np.zeros((2, 3, 2)), np.ones((2, 3, 2))) == ["run (1)", "run (2)"]


def test_other_rows_of_the_same_target_are_said(runs):
    titles = [ax.get_title() for ax in compare({"a": runs / "moons", "b": runs / "far" / "moons"}).axes]
    assert titles == ["a, step 8\ntarget moons (40)", "b, step 8\ntarget moons (40), other rows"]
    titles = [ax.get_title() for ax in compare({"a": runs / "moons", "b": runs / "moons"}).axes]
    assert titles == ["a, step 8", "b, step 8"]


def test_runs_in_space(runs):
    drawn = compare({"a": runs / "roll", "b": runs / "roll"})
    assert {ax.name for ax in drawn.axes} == {"3d"}
    assert sum(isinstance(found, Line3DCollection) for ax in drawn.axes for found in ax.collections) == 2
    assert len({(ax.get_xlim(), ax.get_ylim(), ax.get_zlim()) for ax in drawn.axes}) == 1


def test_a_caption_in_more_lines_is_not_cut_off(runs):
    drawn = compare({"a": runs / "moons", "b": runs / "circles"}, {"a": "one\ntwo\nthree"}, columns=1)
    FigureCanvasAgg(drawn).draw()
    inside(drawn, [text.get_window_extent() for text in texts(drawn)] + [drawn.legends[0].get_window_extent()])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "runs needs at least one run"),
        (["moons", "iris"], r"same columns: moons has x0, x1, and iris sepal length \(cm\), .* petal width"),
        ("moons", "runs needs several runs, in a list"),
    ],
    ids=["none", "other columns", "one path"],
)
def test_runs_that_do_not_fit(runs, given, says):
    with pytest.raises(ValueError, match=says):
        compare(given if isinstance(given, str) else [runs / name for name in given])


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        compare([tmp_path])
