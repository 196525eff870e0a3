"""Trajectories and arrows: what is drawn is what the run did."""

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from particles.cli import main

import particles as pt
from particles.plot import style
from particles.plot.paths import trajectories, transport
from particles.plot.projection import projection

TINY = ["-n", "30", "--target-size", "40", "--steps", "6", "--network", "8,8", "--no-figure", "-q"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one, two, three and nine columns, the last one with classes, made by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    nine = pd.DataFrame(rng.normal(size=(50, 9)) * np.arange(1, 10), columns=[f"c{i}" for i in range(9)])
    nine.assign(kind=["u", "v"] * 25).to_csv(folder / "nine.csv", index=False)
    nine[["c3"]].to_csv(folder / "one.csv", index=False)
    words = {
        "one": ["--target", folder / "one.csv"],
        "plane": ["--target", "moons"],
        "space": ["--target", "swiss-roll"],
        "nine": ["--target", folder / "nine.csv", "--label", "kind", "--carried", "5"],
    }
    for name, given in words.items():
        found = CliRunner().invoke(main, ["simulate", *map(str, given), *TINY, "-o", str(folder / name)])
        assert found.exit_code == 0, found.output
    return {name: pt.Run.open(folder / name) for name in words}


def clouds(ax):
    """The clouds of dots in a panel by the first word of their label."""
    found = [part for part in ax.collections if isinstance(part, PathCollection)]
    return {str(part.get_label()).split(" ")[0]: part for part in found if len(part.get_offsets())}


def lines(ax):
    (found,) = [part for part in ax.collections if isinstance(part, LineCollection)]
    return found


# The run that is drawn


def test_a_run_knows_the_classes_of_its_particles(runs):
    run = runs["nine"]
    ends = [pd.read_csv(run.path / name)["kind"] for name in ("particles.csv", "carried.csv")]
    assert run.label.tolist() == [*ends[0], *ends[1]]
    assert len(run.label) == 35
    rows = pd.concat([pd.DataFrame(run.target), pd.DataFrame(run.holdout)])
    table = pd.read_csv(run.path.parent / "nine.csv")
    place = [np.abs(table.drop(columns="kind") - row).sum(axis=1).argmin() for row in rows.to_numpy()]
    assert [*run.target_label, *run.holdout_label] == table["kind"][place].tolist()
    assert runs["plane"].label is None


def test_a_run_without_labels_of_an_earlier_version_opens(runs, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("spec.toml", "series.csv", "trajectory.npy", "trajectory.csv"):
        (old / name).write_bytes((runs["nine"].path / name).read_bytes())
    np.savez(old / "data.npz", target=runs["nine"].target, holdout=runs["nine"].holdout)
    run = pt.Run.open(old)
    assert run.label is None
    assert lines(trajectories(run).axes[0]).get_array() is not None


def test_snapshots_leave_the_carried_particles_out(runs):
    run = runs["nine"]
    assert run.own == 30
    assert run.snapshot(-1).shape == (30, 9)
    assert (run.snapshot(2, np.array([4, 1])) == np.load(run.path / "trajectory.npy")[2, [4, 1]]).all()


def test_nearest_snapshots(runs):
    run = runs["plane"]
    assert run.times.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert run.nearest([2.9, 0, 0.2, 1.3]).tolist() == [0, 3, 6]
    with pytest.raises(ValueError, match=r"time 4 is not in the run, which goes from 0 to 3"):
        run.nearest([4])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trajectory": np.zeros(3)}, "shape"),
        ({"trajectory": np.zeros((2, 0, 2))}, "shape"),
        ({"target": np.zeros((4, 3))}, "target"),
        ({"times": [1.0]}, "times"),
        ({"columns": ["a"]}, "columns"),
        ({"label": np.zeros(2)}, "label"),
        ({"target": np.zeros((4, 2)), "target_label": np.zeros(3)}, "target_label"),
    ],
    ids=["vector", "empty", "target", "times", "columns", "label", "target_label"],
)
def test_arrays_that_do_not_fit(given, said):
    with pytest.raises(ValueError, match=said):
        pt.Run.of(**({"trajectory": np.zeros((2, 5, 2))} | given))


# Projections


def test_principal_components_keep_what_they_say(runs):
    run = runs["nine"]
    found = projection(run)
    scaled = run.target.astype(float) / run.units
    values = np.sort(np.linalg.eigvalsh(np.cov(scaled.T)))[::-1]
    shares = values / values.sum()
    assert found.labels == tuple(f"principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in range(2))
    points = found(run.target)
    assert np.cov(points.T) == pytest.approx(np.diag(values[:2]), abs=1e-9)
    assert points.mean(0) == pytest.approx(0, abs=1e-9)
    three = projection(run, "pca3")
    assert three.axes == 3
    assert three(run.target)[:, :2] == pytest.approx(points)


def test_columns_by_name(runs):
    run = runs["nine"]
    found = projection(run, "c7, c2")
    assert found(run.target) == pytest.approx(run.target[:, [7, 2]])
    scaled = (run.target / run.units).var(0)
    assert found.labels[0] == f"c7 ({scaled[7] / scaled.sum():.0%} of the variance)"
    assert found.aspect == pytest.approx(run.units[7] / run.units[2])
    assert projection(run, ("c0", "c1", "c5")).axes == 3


def test_encoder(runs):
    def halves(points):
        return np.stack((points[:, :4].sum(1), points[:, 4:].sum(1)), 1)

    found = projection(runs["nine"], halves)
    assert found.labels == ("halves 1", "halves 2")
    assert found(runs["nine"].target) == pytest.approx(halves(runs["nine"].target))
    with pytest.raises(ValueError, match=r"\(n, 2\) or \(n, 3\)"):
        projection(runs["nine"], lambda points: points)


@pytest.mark.parametrize(
    ("name", "chosen", "said"),
    [
        ("nine", "umap", "umap"),
        ("nine", "c1,c99", "c99"),
        ("nine", "c1,c1", "different"),
        ("nine", "c1,c2,c3,c4", "two or three"),
        ("one", "pca", "2 columns"),
        ("plane", "pca3", "3 columns"),
    ],
)
def test_projections_that_there_are_not(runs, name, chosen, said):
    with pytest.raises(ValueError, match=said):
        projection(runs[name], chosen)


# Trajectories


def test_paths_are_those_of_the_run(runs):
    run = runs["plane"]
    (ax, bar) = trajectories(run, max_paths=7).axes
    rows = style.spread(30, 7)
    assert len(rows) == 7
    way = np.load(run.path / "trajectory.npy")[:, rows]
    pieces = np.array(lines(ax).get_segments())
    assert pieces.shape == (7 * 6, 2, 2)
    assert pieces[:, 0].reshape(7, 6, 2) == pytest.approx(way[:-1].transpose(1, 0, 2))
    assert pieces[:, 1].reshape(7, 6, 2) == pytest.approx(way[1:].transpose(1, 0, 2))
    assert np.array(lines(ax).get_array()) == pytest.approx(np.tile(run.times[:-1] + 0.25, 7))
    assert bar.get_ylabel() == "time"
    found = clouds(ax)
    assert np.array(found["start"].get_offsets()) == pytest.approx(way[0])
    assert np.array(found["end"].get_offsets()) == pytest.approx(way[-1])
    assert np.array(found["target"].get_offsets()) == pytest.approx(run.target)
    roles = {"start": style.SOURCE, "end": style.PARTICLES, "target": style.TARGET}
    assert {name: to_hex(found[name].get_facecolor()[0]).upper() for name in roles} == roles
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "x1")
    assert ax.get_aspect() == 1


def test_all_ends(runs):
    found = clouds(trajectories(runs["plane"], max_paths=3, all_ends=True).axes[0])
    assert len(found["end"].get_offsets()) == 30


def test_legend_says_what_is_drawn(runs):
    (found,) = trajectories(runs["plane"], max_paths=7).legends
    assert [text.get_text() for text in found.texts] == ["target (40)", "start (7 of 30)", "end (step 6)"]
    assert not trajectories(runs["plane"], key=False).legends


def test_classes_have_their_colours(runs):
    run = runs["nine"]
    figure = trajectories(run)
    (ax,) = figure.axes  # no bar of time
    colors = style.class_colors(["u", "v"])
    drawn = [to_hex(color).upper() for color in lines(ax).get_colors()]
    assert drawn == [colors[name] for name in run.label[:30]]
    project = projection(run)
    named = {tuple(map(float, np.round(project(run.snapshot(-1))[i], 4))): colors[run.label[i]] for i in range(30)}
    ends = [part for part in ax.collections if isinstance(part, PathCollection) and len(part.get_offsets()) == 30]
    shades = {
        tuple(map(float, np.round(place, 4))): to_hex(color).upper()
        for part in ends
        for place, color in zip(np.array(part.get_offsets()), np.resize(part.get_facecolor(), (30, 4)))
    }
    assert named.items() <= shades.items()
    (found,) = figure.legends
    assert [text.get_text() for text in found.texts][-2:] == ["u", "v"]


def test_one_column_is_drawn_against_time(runs):
    run = runs["one"]
    (ax,) = trajectories(run, color="none").axes
    pieces = lines(ax).get_segments()
    assert len(pieces) == 30
    assert pieces[4][:, 0] == pytest.approx(run.trajectory[:, 4, 0])
    assert pieces[4][:, 1] == pytest.approx(run.times)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c3", "time")


def test_three_columns_are_drawn_in_space(runs):
    run = runs["space"]
    ax = trajectories(run, color="none").axes[0]
    assert ax.name == "3d"
    (found,) = [part for part in ax.collections if hasattr(part, "_segments3d")]
    assert np.array(found._segments3d) == pytest.approx(run.trajectory.transpose(1, 0, 2), abs=1e-5)
    assert [axis.get_label_text() for axis in (ax.xaxis, ax.yaxis, ax.zaxis)] == ["x0", "x1", "x2"]
    low, high = ax.get_xlim()
    assert low <= run.trajectory[..., 0].min()
    assert run.trajectory[..., 0].max() <= high


def test_axes_of_ones_own(runs):
    canvas = Figure()
    left, right = canvas.subplots(1, 2)
    assert trajectories(runs["plane"], ax=left) is canvas
    assert left.collections
    assert not right.collections
    with pytest.raises(ValueError, match="projection='3d'"):
        trajectories(runs["space"], ax=right)
    with pytest.raises(ValueError, match="without"):
        trajectories(runs["plane"], ax=canvas.add_subplot(projection="3d"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"color": "blue"}, "auto, time, label, none"),
        ({"color": "label"}, "classes"),
        ({"max_paths": -1}, "max_paths"),
        ({"target": np.zeros((3, 2))}, "its own"),
    ],
    ids=["blue", "label", "max_paths", "target"],
)
def test_what_cannot_be_drawn(runs, more, said):
    with pytest.raises(ValueError, match=said):
        trajectories(runs["plane"], **more)


def test_no_run_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        trajectories(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 4, 3), (3, 1, 1), (2, 3, 7)], ids=str)
def test_arrays_of_any_shape(shape):
    given = np.random.default_rng(0).normal(size=shape)
    canvas = trajectories(given, given[-1])
    canvas.draw_without_rendering()
    found = clouds(canvas.axes[0])
    assert len(found["end"].get_offsets()) == shape[1]


def test_no_paths_leaves_the_target(runs):
    found = clouds(trajectories(runs["plane"], max_paths=0).axes[0])
    assert set(found) == {"target"}


def test_long_paths_keep_their_ends_and_become_pixels():
    way = np.cumsum(np.random.default_rng(0).normal(size=(1500, 60, 2)), 0)
    ax = trajectories(way, color="none").axes[0]
    pieces = lines(ax).get_segments()
    assert len(pieces) == 60
    assert len(pieces[0]) == 200
    assert pieces[7][0] == pytest.approx(way[0, 7])
    assert pieces[7][-1] == pytest.approx(way[-1, 7])
    assert lines(ax).get_rasterized()
    assert not lines(trajectories(way[:20], color="none").axes[0]).get_rasterized()


def test_many_dots_become_pixels(tmp_path):
    many = np.random.default_rng(0).normal(size=(10_001, 2))
    sizes = {}
    for count in (10_000, 10_001):
        trajectories(many[None, :5], many[:count], key=False).savefig(tmp_path / "picture.svg")
        sizes[count] = Path(tmp_path / "picture.svg").stat().st_size
    assert sizes[10_001] < sizes[10_000] / 3


def test_memory_does_not_grow_with_the_number_of_particles(tmp_path):
    """10,000 particles, 500 snapshots of 20 columns: 400 MB on disk, which are never all in memory."""
    shape = (500, 10_000, 20)
    way = np.lib.format.open_memmap(tmp_path / "trajectory.npy", "w+", np.float32, shape)
    way[-1] = np.random.default_rng(0).normal(size=shape[1:])
    tracemalloc.start()
    found = trajectories(way, np.array(way[-1]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert len(clouds(found.axes[0])["target"].get_offsets()) == 10_000


# Arrows


@pytest.mark.parametrize("name", ["plane", "one", "nine"])
def test_arrows_go_from_start_to_end(runs, name):
    run = runs[name]
    ax = transport(run, max_paths=9).axes[0]
    (found,) = [part for part in ax.collections if isinstance(part, Quiver)]
    rows, project = style.spread(30, 9), projection(run)
    start = project(run.snapshot(0, rows), run.times[0])
    end = project(run.snapshot(-1, rows), run.times[-1])
    assert np.array(found.XY) == pytest.approx(start)
    assert np.stack((found.U, found.V), 1) == pytest.approx(end - start)
    assert (found.scale, found.angles, found.scale_units) == (1, "xy", "xy")


def test_arrows_in_space(runs):
    run = runs["space"]
    ax = transport(run).axes[0]
    (found,) = [part for part in ax.collections if hasattr(part, "_segments3d")]
    shafts = np.array(list(found._segments3d[:30]))
    ends = {tuple(map(float, np.round(np.float64(place), 3))) for place in shafts.reshape(-1, 3)}
    assert {tuple(map(float, np.round(np.float64(place), 3))) for place in run.snapshot(-1)} <= ends
    assert {tuple(map(float, np.round(np.float64(place), 3))) for place in run.snapshot(0)} <= ends


def test_arrows_of_arrays():
    start = np.zeros((4, 2))
    ax = transport(np.stack((start, start + [3, 0]))).axes[0]
    (found,) = [part for part in ax.collections if isinstance(part, Quiver)]
    assert found.U.tolist() == [3, 3, 3, 3]
    assert "target" not in clouds(ax)


def test_arrows_refuse_none(runs):
    with pytest.raises(ValueError, match="max_paths"):
        transport(runs["plane"], max_paths=0)
