"""Animations: what their frames show, how long, and how much memory they take."""

import shutil
import subprocess
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from particles.plot import film
from particles.plot.movie import Movie, animate
from particles.plot.scene import Scene, metric, moment
from particles.plot.style import CLASSES, PARTICLES, SOURCE, TARGET, TIME
from particles.run.reader import Run

SMALL = {"fps": 10, "seconds": 1.0, "size": (3.0, 3.4), "dpi": 80}


def straight(snapshots=11, particles=5, columns=2, **more):
    """Particles on straight lines from near 0 to near 10, and a target there."""
    start = np.random.default_rng(0).uniform(-1, 1, (particles, columns))
    share = np.linspace(0, 1, snapshots)[:, None, None]
    return Run.of(start + 10 * share, start + 10, times=np.arange(snapshots) / 2, **more)


def scene(run, places, **more):
    settings = {"chosen": "auto", "color": "none", "inset": None, "trail": 3, "pixels": (300, 340), "dpi": 80}
    return Scene(run, np.asarray(places, float), **settings | more)


def rgb(color):
    return np.round(255 * np.array(to_rgb(color)))


def pixel(view, point):
    """The row and the column of a point in the picture of a scene."""
    x, y = view.ax.transData.transform(point)
    return int(view.figure.bbox.height - y), int(x)


def frames(path):
    """The frames of a GIF, and how long each is shown, in hundredths of a second."""
    with Image.open(path) as image:
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            found.append((np.array(image.convert("RGB")), image.info["duration"] // 10))
        return found, image.info.get("loop")


@pytest.fixture(scope="module")
def gif(tmp_path_factory):
    path = tmp_path_factory.mktemp("gif") / "way.gif"
    return animate(straight(), path, **SMALL)


def test_a_gif_has_the_frames_that_were_asked_for_and_holds_the_last(gif):
    found, loop = frames(gif.path)
    assert len(found) == gif.frames == 10
    assert [duration for _, duration in found] == [10] * 9 + [150]
    assert loop == 0  # for ever
    assert gif == Movie(gif.path, 10, pytest.approx(0.9 + 1.5), gif.path.stat().st_size)
    assert found[0][0].shape == (272, 240, 3)


@pytest.mark.parametrize(("fps", "frames"), [(20, 161), (30, 91), (12.5, 40), (50, 7), (7, 700)])
def test_durations_add_up_to_the_time_and_are_never_half_a_unit_off(fps, frames):
    found = film.durations(frames, fps)
    ends = np.cumsum(found)[:-1]
    assert len(found) == frames
    assert found[-1] == 150
    assert min(found) >= 2
    assert np.abs(ends - 100 * np.arange(1, frames) / fps).max() <= 0.5


def test_a_gif_shows_what_was_drawn_though_only_changes_are_written(gif):
    run = straight()
    places = np.linspace(0, 10, 10).round()
    view = scene(run, places, trail=8, pixels=(240, 272))
    for place, (shown, _) in zip(places, frames(gif.path)[0]):
        drawn = view.draw(place)
        assert (shown[(drawn == 255).all(-1)] == 255).all()  # white is white
        assert np.abs(shown.astype(int) - drawn).max() <= 40
        assert np.abs(shown.astype(int) - drawn).mean() < 0.3


@pytest.mark.parametrize("place", [0, 3, 10])
def test_particles_have_their_colour_where_they_are(place):
    run = straight()
    view = scene(run, [0, 3, 10])
    picture = view.draw(place)
    for point in run.snapshot(place):
        assert np.abs(picture[pixel(view, point)] - rgb(PARTICLES)).max() < 40
    assert np.array_equal(view.particles.get_offsets(), run.snapshot(place))
    assert view.clock.get_text() == f"time {place / 2:.3g}, step {place}"


def test_source_and_target_stay_where_they_are_in_their_colours():
    run = straight()
    view = scene(run, np.arange(11), trail=0)
    picture = view.draw(5)
    for color, points, alpha in ((SOURCE, run.snapshot(0), 0.5), (TARGET, run.target, 0.3)):
        found = [picture[pixel(view, point)] for point in points]
        assert np.abs(np.mean(found, 0) - (alpha * rgb(color) + (1 - alpha) * 255)).max() < 45


def test_between_snapshots_particles_are_on_straight_lines_only_if_smooth(tmp_path):
    run = straight(snapshots=3)
    rows = np.arange(5)
    assert moment(run, 1.25, rows).points == pytest.approx(0.75 * run.snapshot(1) + 0.25 * run.snapshot(2))
    assert moment(run, 1.25, rows).time == pytest.approx(0.625)
    steps = animate(run, tmp_path / "steps.gif", smooth=False, **SMALL)
    assert steps.frames == 10
    different = {frame.tobytes() for frame, _ in frames(steps.path)[0]}
    assert len(different) == 3  # nothing but snapshots
    smooth = animate(run, tmp_path / "smooth.gif", **SMALL)
    assert len({frame.tobytes() for frame, _ in frames(smooth.path)[0]}) == 10


def test_tails_reach_back_over_snapshots_and_fade():
    run = straight()
    view = scene(run, np.arange(11), trail=3)
    view.draw(6)
    pieces = np.stack(view.tails.get_segments()).reshape(5, 3, 2, 2)
    way = np.stack([run.snapshot(i) for i in (3, 4, 5, 6)], 1)
    assert pieces[:, :, 0] == pytest.approx(way[:, :-1])
    assert pieces[:, :, 1] == pytest.approx(way[:, 1:])
    alpha = view.tails.get_colors()[:, 3].reshape(5, 3)
    assert (np.diff(alpha, axis=1) > 0).all()
    view.draw(0)
    assert not view.tails.get_visible()


def test_classes_and_time_give_particles_their_colours():
    run = straight(label=np.array(list("aabbb")), target_label=np.array(list("ababa")))
    view = scene(run, [0, 10], color="label")
    found = view.particles.get_facecolor()[:, :3]
    assert found == pytest.approx(np.array([to_rgb(CLASSES[i]) for i in (0, 0, 1, 1, 1)]))
    view = scene(straight(), [0, 10], color="time")
    for place, share in ((0, 0.0), (10, 1.0)):
        view.draw(place)
        assert view.particles.get_facecolor()[0, :3] == pytest.approx(TIME(share)[:3])


def test_three_columns_move_in_space():
    run = straight(columns=3)
    view = scene(run, np.arange(11))
    view.draw(7)
    assert np.stack(view.particles._offsets3d, 1) == pytest.approx(run.snapshot(7))
    assert view.ax.get_zlabel() == "x2"


def test_one_column_is_shown_by_its_density():
    run = straight(particles=40, columns=1)
    view = scene(run, np.arange(11))
    view.draw(4)
    heights, edges = np.histogram(run.snapshot(4)[:, 0], view.edges, density=True)
    assert view.steps[0].get_data().values == pytest.approx(heights)
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    assert view.ax.get_ylabel() == "density (1 / x0)"


def test_many_columns_are_drawn_in_principal_components():
    run = straight(columns=5)
    view = scene(run, np.arange(11))
    assert view.ax.get_xlabel().startswith("principal component 1 (")
    view.draw(10)
    assert view.particles.get_offsets() == pytest.approx(view.project(run.target))


def measured(tmp_path, **columns):
    """A run whose series has some columns."""
    run = straight()
    series = pd.DataFrame({"step": np.arange(11), "time": run.times} | columns)
    return Run(**{**run.__dict__, "series": series})


def test_the_inset_has_the_rows_of_the_series_and_a_dot_that_moves(tmp_path):
    values = np.where(np.arange(11) % 5 == 0, 3.0 - np.arange(11) / 5, np.nan)
    run = measured(tmp_path, w2=values)
    assert metric(run, "auto") == "w2"
    view = scene(run, [0, 2.5, 10], inset="auto")
    line = view.figure.axes[1].lines[0]
    assert line.get_xdata().tolist() == [0, 5, 10]
    assert line.get_ydata().tolist() == [3, 2, 1]
    view.draw(2.5)
    assert [float(value[0]) for value in view.dot.get_data()] == [2.5, 2.5]
    view.draw(10)
    assert [float(value[0]) for value in view.dot.get_data()] == [10, 1]


def test_the_inset_is_the_best_that_was_measured(tmp_path):
    line = np.linspace(2, 1, 11)
    assert metric(measured(tmp_path, w2=line, w2_holdout=line, divergence=line), "auto") == "w2_holdout"
    assert metric(measured(tmp_path, divergence=line), "auto") == "divergence"
    assert metric(measured(tmp_path), "auto") is None
    assert metric(measured(tmp_path, w2=line), None) is None
    with pytest.raises(ValueError, match="inset 'speed' was not measured; choose one of w2"):
        metric(measured(tmp_path, w2=line), "speed")


def test_the_palette_has_the_colours_of_roles():
    keep = np.array([[213, 94, 0], [0, 114, 178]])
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    found = film.palette([noise], keep)
    assert found.shape == (256, 3)
    assert found[:4].tolist() == [[255, 255, 255], [0, 0, 0], [213, 94, 0], [0, 114, 178]]


def program():
    try:
        return film.ffmpeg()
    except ValueError as error:
        pytest.skip(str(error))


def probe(path):
    """What ffmpeg says of a film, and its frames."""
    words = subprocess.run([program(), "-hide_banner", "-i", str(path)], capture_output=True, text=True).stderr
    raw = subprocess.run(
        [program(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
    ).stdout
    return words, raw


def test_an_mp4_plays_everywhere(tmp_path):
    run = straight()
    movie = animate(run, tmp_path / "way.mp4", fps=10, seconds=1, size=(3.013, 3.4), dpi=80)
    words, raw = probe(movie.path)
    assert "h264" in words
    assert "yuv420p" in words
    assert "242x272" in words or "240x272" in words
    width = 242 if "242x272" in words else 240
    shown = np.frombuffer(raw, np.uint8).reshape(-1, 272, width, 3)
    assert len(shown) == 10 + 15 - 1
    assert movie.seconds == pytest.approx(len(shown) / 10)
    assert (shown[-1] == shown[-2]).mean() > 0.99  # held
    data = movie.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is there as a whole
    view = scene(run, [0, 10], trail=8, pixels=(width, 272))
    view.draw(10)
    for point in run.snapshot(10):
        row, column = pixel(view, point)
        assert np.abs(shown[-1][row, column].astype(int) - rgb(PARTICLES)).max() < 60


def test_without_ffmpeg_one_sentence_says_what_to_do_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(film, "_bundled", lambda: None)
    with pytest.raises(
        ValueError, match=r"MP4 needs ffmpeg; install ffmpeg, or `pip install imageio-ffmpeg`, or name a \.gif file"
    ):
        animate(straight(), tmp_path / "way.mp4", progress=lambda *_: pytest.fail("drawn"))
    assert not list(tmp_path.iterdir())


def test_the_ffmpeg_of_the_package_is_taken_where_there_is_no_other(monkeypatch):
    package = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert film.ffmpeg() == package.get_ffmpeg_exe()


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_what_is_interrupted_leaves_the_file_that_was_there(tmp_path, kind):
    path = tmp_path / f"way.{kind}"
    path.write_text("before")
    if kind == "mp4":
        program()

    def stop(count, of):
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        animate(straight(), path, progress=stop, **SMALL)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("count", [1, 200], ids=["at the end", "on the way"])
def test_an_ffmpeg_that_fails_says_so(tmp_path, count):
    def write(mp4):
        for _ in range(count):
            mp4.add(np.zeros((256, 256, 3), np.uint8))
        mp4.close()

    with film.Mp4(tmp_path / "no" / "x.mp4", program(), (256, 256), 10) as mp4:
        with pytest.raises(OSError, match=r"ffmpeg failed: .*x\.mp4"):
            write(mp4)
        assert mp4.process.returncode


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fps": 60}, "fps of a GIF is at most 50, not 60; choose fewer, or an .mp4 file"),
        ({"fps": 0}, "fps must be above 0"),
        ({"seconds": -1}, "seconds must be above 0"),
        ({"trail": -1}, "trail must be at least 0"),
        ({"color": "label"}, "color label needs particles with classes"),
        ({"color": "blue"}, "color 'blue' is not one of"),
        ({"projection": "x0,x9"}, "projection 'x9' is not a column"),
        ({"output": "way.webm"}, r"an animation is a \.gif or a \.mp4 file, not way\.webm"),
        ({"run": straight(snapshots=1)}, "an animation needs two snapshots at least, and there is one"),
    ],
    ids=["fast", "fps", "seconds", "trail", "label", "color", "projection", "ending", "snapshot"],
)
def test_what_does_not_fit_is_named(tmp_path, more, message):
    output = tmp_path / more.pop("output", "way.gif")
    with pytest.raises(ValueError, match=message):
        animate(more.pop("run", straight()), output, **more)
    assert not list(tmp_path.iterdir())


def test_the_same_run_gives_the_same_file(tmp_path):
    for name in ("a.gif", "b.gif"):
        animate(straight(), tmp_path / name, **SMALL)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def peak(run, path, seconds):
    tracemalloc.start()
    try:
        animate(run, path, **SMALL | {"seconds": seconds})
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_frames_and_snapshots(tmp_path):
    np.save(tmp_path / "way.npy", np.zeros((400, 2000, 2)) + np.linspace(0, 1, 400)[:, None, None])
    whole = np.load(tmp_path / "way.npy", mmap_mode="r")
    animate(Run.of(whole[:4]), tmp_path / "warm.gif", **SMALL)  # fonts and the like are loaded once
    few = peak(Run.of(whole[:4]), tmp_path / "few.gif", 0.5)
    many = peak(Run.of(whole), tmp_path / "many.gif", 5)
    assert frames(tmp_path / "many.gif")[0][0][0].nbytes * 45 > 8e6  # what the further frames would take
    assert whole.nbytes > 12e6  # and the further snapshots
    assert many < few + 2e6


def test_progress_counts_the_frames(tmp_path):
    found = []
    animate(straight(), tmp_path / "way.gif", progress=lambda *pair: found.append(pair), **SMALL)
    assert found == [(i + 1, 10) for i in range(10)]
