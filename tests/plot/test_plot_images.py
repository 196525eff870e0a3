"""Pictures of particles that are images, and their nearest neighbours."""

import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from particles.cli import main
from scipy.spatial.distance import cdist

from particles.plot import image_grid, images
from particles.run.reader import Run

TINY = ["--steps", "4", "--network", "8,8", "--no-figure", "-q"]


def simulate(target, output, *words):
    found = CliRunner().invoke(main, ["simulate", "--target", str(target), *TINY, "-o", str(output), *words])
    assert found.exit_code == 0, found.output
    return output


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run onto digits, whose columns in the corners are constant: 60 of 64 take part."""
    folder = tmp_path_factory.mktemp("images") / "digits"
    return simulate("digits", folder, "--label", "target", "--holdout", "0.2", "-n", "60")


def table(count=40, height=4, width=4, seed=0):
    """Images with a constant frame: left column 7, the rest noise."""
    found = np.random.default_rng(seed).integers(0, 200, (count, height, width))
    found[:, :, 0] = 7
    return found.reshape(count, -1)


def lines(figure, columns):
    """The images of each line, from above: (left edge, values)."""
    drawn = sorted(figure.axes[0].images, key=lambda image: (image.get_extent()[3], image.get_extent()[0]))
    tops = sorted({round(image.get_extent()[3], 6) for image in drawn})
    found = [[image for image in drawn if round(image.get_extent()[3], 6) == top] for top in tops]
    assert all(len(line) <= columns for line in found)
    return [np.stack([np.asarray(image.get_array()) for image in line]) for line in found]


def names(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


# What is drawn


def test_digits(digits):
    run = Run.open(digits)
    figure = images(digits)
    assert names(figure) == ["particles", "nearest\ntarget row"] * 2
    assert len(figure.axes[0].images) == 48
    first, its, second, their = lines(figure, 12)
    particles, near = np.concatenate((first, second)), np.concatenate((its, their))
    rows = image_grid.chosen(run, 24)
    end = pd.read_csv(digits / "particles.csv").drop(columns="target").to_numpy().reshape(-1, 8, 8)
    assert np.abs(particles - end[rows]).max() <= 0.5 + 1e-3  # the file has whole numbers
    assert (particles[:, [0, 4, 4, 7], [0, 0, 7, 0]] == 0).all()
    np.testing.assert_allclose(run.table(run.snapshot(-1, rows)).reshape(-1, 8, 8), particles)
    nearest = cdist(run.snapshot(-1, rows) / run.units, run.target / run.units).argmin(1)
    np.testing.assert_allclose(near, run.table(run.target[nearest]).reshape(-1, 8, 8))
    for image in figure.axes[0].images:
        assert image.get_clim() == pytest.approx((0, 16), abs=1e-5)
        assert image.get_cmap().name == "gray_r"  # ink on paper


def test_classes_are_in_order_and_equally_many(digits):
    run = Run.open(digits)
    rows = image_grid.chosen(run, 24)
    assert run.label[rows].tolist() == sorted(run.label[rows].tolist())
    assert np.unique(run.label[rows], return_counts=True)[1].tolist() == [3] * 4 + [2] * 6
    assert len(set(rows.tolist())) == 24
    texts = [text.get_text() for text in images(digits).axes[0].texts]
    assert texts == [str(i) for i in range(10)]
    assert image_grid.chosen(run, 3).tolist() == [np.flatnonzero(run.label == name)[0] for name in "012"]


def test_the_caption_tells_copies_from_fresh_rows(digits):
    run = Run.open(digits)
    caption = images(digits).axes[0].get_xlabel()
    rows = image_grid.chosen(run, 24)
    near = np.median(cdist(run.snapshot(-1, rows) / run.units, run.target / run.units).min(1))
    some = run.holdout[np.linspace(0, len(run.holdout) - 1, 200).astype(int)]
    fresh = np.median(cdist(some / run.units, run.target / run.units).min(1))
    assert caption == (
        f"nearest target row: median distance {near:.3g} flow units, {near / fresh:.2f} of that of held-out rows (0: copies)"
    )
    target = table().astype(float)
    copies = images(target[:5], target).axes[0].get_xlabel().replace("\n", ", ")
    assert copies == "nearest target row: median distance 0, 0.00 of that from one target row to the next (0: copies)"


def test_times(digits):
    run = Run.open(digits)
    figure = images(digits, times=[0, 1, run.times[-1]], count=5, columns=5)
    assert names(figure) == ["time 0", "time 1", "time 2", "nearest\ntarget row"]
    rows = image_grid.chosen(run, 5)
    found = lines(figure, 5)
    for line, step in zip(found, (0, 2, 4), strict=False):
        np.testing.assert_allclose(line, run.table(run.snapshot(step, rows)).reshape(-1, 8, 8))
    nearest = cdist(run.snapshot(4, rows) / run.units, run.target / run.units).argmin(1)
    np.testing.assert_allclose(found[3], run.table(run.target[nearest]).reshape(-1, 8, 8))
    assert figure.axes[0].get_title() == "5 of 60 particles"
    (line,) = lines(images(digits, at=1.1, count=7, nearest=False), 12)
    np.testing.assert_allclose(line, run.table(run.snapshot(2, image_grid.chosen(run, 7))).reshape(-1, 8, 8))
    assert images(digits, at=1.1, count=7).axes[0].get_title() == "7 of 60 particles, step 2, time 1"


def test_photographs_are_light_where_values_are_high_and_carried_ones_are_not_shown(tmp_path):
    rows = 255 - table(60)
    np.save(tmp_path / "rows.npy", rows)
    path = simulate(tmp_path / "rows.npy", tmp_path / "run", "-n", "5", "--carried", "9")
    figure = images(path)
    assert {image.get_cmap().name for image in figure.axes[0].images} == {"gray"}
    assert figure.axes[0].get_title() == "5 particles, step 4, time 2"
    found = lines(figure, 12)
    assert [len(line) for line in found] == [5, 5]
    assert (found[0][:, :, 0] == 248).all()  # the constant column is back where it was


def test_the_end_of_a_line(digits):
    found = lines(images(digits, count=11, columns=4), 4)
    assert [len(line) for line in found] == [4, 4, 4, 4, 3, 3]


def test_one_particle_and_no_target():
    figure = images(np.arange(16.0)[None])
    assert names(figure) == ["particles"]
    assert figure.axes[0].get_xlabel() == ""
    np.testing.assert_array_equal(lines(figure, 1)[0][0], np.arange(16).reshape(4, 4))
    assert images(np.ones((2, 3, 16)), np.ones((1, 16))).axes[0].get_xlabel().endswith("median distance 0")


def test_on_axes_that_are_there(digits):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert images(digits, count=4, columns=2, ax=left) is figure
    assert len(left.images) == 8
    assert not right.images


# The shape


def run_of(columns, constant=None):
    run = Run.of(np.zeros((1, 2, len(columns))), columns=columns)
    return run if constant is None else Run(**{**vars(run), "constant": constant})


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["pixel_{}_{}", "{}x{}", "p{},{}"])
def test_shapes_by_the_names_of_columns(form, first):
    """Names tell 3 × 12 from a square of 36, also where columns are constant."""
    every = [form.format(i + first, j + first) for i in range(3) for j in range(12)]
    assert image_grid.image_shape(run_of(every)) == (3, 12)
    gone = {0: 0.0, 11: 0.0, 23: 1.0, 35: 0.0}
    kept = [name for place, name in enumerate(every) if place not in gone]
    assert image_grid.image_shape(run_of(kept, gone)) == (3, 12)


def test_names_that_are_no_places():
    assert image_grid.image_shape(run_of([f"gene_{i}_{7 * i % 5}" for i in range(25)])) == (5, 5)
    assert image_grid.image_shape(run_of([f"x{i}" for i in range(784)])) == (28, 28)


def test_constant_columns_of_a_file(tmp_path):
    """2 × 8 pixels by their names, a third of them constant; and the same without names."""
    rows = table(40, 2, 8)
    rows[:, 5] = 9
    named = pd.DataFrame(rows, columns=[f"{i}x{j}" for i in (1, 2) for j in range(1, 9)])
    named.assign(kind=["a", "b"] * 20)[["1x1", "kind", *named.columns[1:]]].to_csv(tmp_path / "named.csv", index=False)
    path = simulate(tmp_path / "named.csv", tmp_path / "run", "--label", "kind", "-n", "10")
    run = Run.open(path)
    assert run.constant == {0: 7.0, 5: 9.0, 8: 7.0}
    assert image_grid.image_shape(run) == (2, 8)
    np.testing.assert_allclose(run.table(run.target)[:, sorted(run.constant)], [[7, 9, 7]] * len(run.target))
    assert {tuple(row) for row in run.table(run.target).round().astype(int)} <= {tuple(row) for row in rows}
    named.to_csv(tmp_path / "plain.csv", index=False, header=False)
    plain = Run.open(simulate(tmp_path / "plain.csv", tmp_path / "plain", "-n", "10"))
    assert plain.constant == run.constant
    assert image_grid.image_shape(plain) == (4, 4)
    assert image_grid.image_shape(plain, (2, 8)) == (2, 8)


def test_colours():
    rows = np.random.default_rng(0).uniform(10, 20, (6, 48))
    figure = images(rows[:2] + 100, rows, shape=(4, 4, 3), count=2)
    particles, near = lines(figure, 2)
    assert particles.shape == (2, 4, 4, 3)
    assert (particles == 1).all()  # beyond the target's limits
    low, high = rows.min(), rows.max()
    index = cdist(rows[:2] + 100, rows).argmin(1)
    np.testing.assert_allclose(near, ((rows[index] - low) / (high - low)).reshape(2, 4, 4, 3))
    assert lines(images(rows[:, :16], shape=(4, 4, 1)), 12)[0].shape == (6, 4, 4)


@pytest.mark.parametrize(
    ("columns", "shape", "message"),
    [
        (50, None, "images needs rows that are images, and these of 50 columns are no square of at least 4 × 4 pixels; shape says"),
        (9, None, "these of 9 columns are no square of at least 4 × 4"),
        (1, None, "these of 1 column are no square"),
        (16, (3, 5), "shape 3 × 5 has 15 values, but rows have 16"),
        (16, (16,), "shape must be height and width, with 3 behind them for colours, not 16"),
        (16, (2, 4, 2), "shape must be height and width"),
        (16, (-4, -4), "shape must be height and width"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(columns, shape, message):
    with pytest.raises(ValueError, match=message):
        images(np.zeros((2, 3, columns)), shape=shape)
    assert image_grid.image_shape(run_of([f"x{i}" for i in range(9)]), (3, 3)) == (3, 3)


def test_runs_of_older_versions_say_what_to_do(digits, tmp_path):
    old = shutil.copytree(digits, tmp_path / "old")
    text = (old / "spec.toml").read_text()
    start, end = text.index("constant_at = "), text.index("target_rows = ")
    (old / "spec.toml").write_text(text[:start] + text[end:])
    assert Run.open(old).constant is None
    for shape in (None, (8, 8)):
        with pytest.raises(
            ValueError, match="older version does not say which columns were constant and left out: bring it"
        ):
            images(old, shape=shape)
    assert CliRunner().invoke(main, ["simulate", "--resume", str(old), "-q", "--no-figure"]).exit_code == 0
    assert Run.open(old).constant == {0: 0.0, 32: 0.0, 39: 0.0, 56: 0.0}
    np.testing.assert_array_equal(lines(images(old), 12)[0], lines(images(digits), 12)[0])


# Neighbours and arguments


@pytest.mark.parametrize("chunk", [7, 4096])
def test_nearest_rows(monkeypatch, chunk):
    monkeypatch.setattr(image_grid, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    points, target, units = rng.normal(size=(20, 3)), rng.normal(size=(45, 3)), np.array([1.0, 10.0, 0.1])
    every = cdist(points / units, target / units)
    index, distance = image_grid.nearest_rows(points, target, units)
    assert index.tolist() == every.argmin(1).tolist()
    np.testing.assert_allclose(distance, every.min(1))
    own = np.arange(3, 23)
    index, distance = image_grid.nearest_rows(target[own], target, units, own)
    among = cdist(target / units, target / units)
    np.fill_diagonal(among, np.inf)
    assert index.tolist() == among[own].argmin(1).tolist()
    np.testing.assert_allclose(distance, among[own].min(1))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"columns": 0}, "columns must be at least 1, not 0"),
        ({"at": 0, "times": [0]}, "at is one time and times are several"),
        ({"times": []}, "times needs at least one time"),
        ({"at": 9}, "time 9 is not in the run, which goes from 0 to 1"),
    ],
)
def test_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        images(np.zeros((2, 3, 16)), **more)
