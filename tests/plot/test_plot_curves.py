"""The curves of a run: what is drawn against what the series says, and the units."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.colors import to_hex
from particles.cli import main

import particles as pt
from particles.plot import diagnostics, figure
from particles.plot.curves import length_power
from particles.plot.style import HOLDOUT, PARTICLES, TARGET

TINY = ["-n", "20", "--target-size", "40", "--network", "8,8", "--no-figure", "-q", "--log-every", "1"]
RUNS = {
    "plain": ["--flow", "lipschitz", "--lipschitz", "2", "--decay", "5"],
    "unbounded": ["--flow", "lipschitz", "--constraint", "none"],
    "w1": ["--flow", "transport", "--divergence", "w1"],
    "w2": ["--flow", "w2"],
    "mmd": ["--flow", "mmd", "--exponent", "1.5"],
    "gaussian": ["--flow", "mmd", "--kernel", "gaussian"],
    "kale": ["--flow", "kale"],
    "learnt": ["--flow", "proximal"],
    "plan": ["--flow", "proximal", "--solver", "plan"],
}
KINETIC = "kinetic energy\n(flow units / time)²"
PER_LENGTH = "largest slope\n(1 / flow unit)"
TAIL = ["W2\n(flow units)", "step size\n(time)"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        found = CliRunner().invoke(
            main, ["simulate", "--target", "moons", "--steps", "6", *TINY, *words, "-o", str(folder / name)]
        )
        assert found.exit_code == 0, found.output
    return folder


def panels(drawn):
    return {ax.get_ylabel(): ax for ax in drawn.axes}


LABELS = {
    "plain": ["divergence\n(nats)", KINETIC, PER_LENGTH, *TAIL],
    "unbounded": ["divergence\n(nats)", KINETIC, PER_LENGTH, *TAIL],
    "w1": ["divergence", KINETIC, PER_LENGTH, *TAIL],
    "w2": ["divergence\n(flow units²)", KINETIC, "largest slope\n(flow units)", *TAIL],
    "mmd": ["divergence\n(flow units$^{1.5}$)", KINETIC, "largest slope\n(flow units$^{0.5}$)", *TAIL],
    "gaussian": ["divergence", KINETIC, PER_LENGTH, *TAIL],
    "kale": ["divergence\n(nats)", KINETIC, PER_LENGTH, *TAIL],
    "learnt": [
        "divergence\n(nats)", KINETIC, PER_LENGTH, "W2\n(flow units)", "Hamilton–Jacobi\nresidual\n(nats / time)",
        "terminal residual\n(1 / flow unit)",
    ],
    "plan": ["divergence and\nprice of the way\n(nats)", KINETIC, PER_LENGTH, *TAIL],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RUNS))
def test_every_curve_has_its_unit(runs, name):
    assert list(panels(diagnostics(runs / name))) == LABELS[name]


def test_curves_are_those_of_the_series(runs):
    drawn = panels(diagnostics(runs / "plain"))
    series = pd.read_csv(runs / "plain" / "series.csv")
    for label, columns in {
        "divergence\n(nats)": {"divergence": PARTICLES},
        KINETIC: {"kinetic_energy": PARTICLES},
        PER_LENGTH: {"max_gradient": PARTICLES},
        "W2\n(flow units)": {"w2": TARGET, "w2_holdout": HOLDOUT},
        "step size\n(time)": {"step_size": PARTICLES},
    }.items():
        for line, (column, color) in zip(drawn[label].lines, columns.items()):
            rows = series[["step", column]].dropna()
            assert line.get_xdata().tolist() == rows["step"].tolist()
            assert line.get_ydata().tolist() == rows[column].tolist()
            assert to_hex(line.get_color()).upper() == color
    texts = [text.get_text() for text in drawn["W2\n(flow units)"].get_legend().get_texts()]
    assert texts == ["to target", "to held-out target"]
    assert len(drawn["step size\n(time)"].lines[0].get_ydata()) == 6
    assert drawn[KINETIC].get_yscale() == "log"
    assert [ax.get_xlabel() for ax in drawn.values()] == [""] * 4 + ["step"]
    assert len({ax.get_xlim() for ax in drawn.values()}) == 1


def test_the_bound_of_the_slope(runs):
    ax = panels(diagnostics(runs / "plain"))[PER_LENGTH]
    realised, bound = ax.lines
    assert set(bound.get_ydata()) == {2.0}
    assert bound.get_linestyle() == "--"
    assert bound.get_label() == "L = 2"
    assert (np.array(realised.get_ydata()) <= 2 * (1 + 1e-4)).all()
    for name in ("unbounded", "w2", "mmd"):
        (ax,) = [ax for label, ax in panels(diagnostics(runs / name)).items() if label.startswith("largest slope")]
        assert len(ax.lines) == 1


def test_a_flow_that_is_learnt_has_the_steps_of_its_training(runs):
    drawn = panels(diagnostics(runs / "learnt"))
    series = pd.read_csv(runs / "learnt" / "series.csv")
    divergence, objective = drawn["divergence\n(nats)"].lines
    np.testing.assert_allclose(divergence.get_ydata(), series["divergence"].dropna())
    np.testing.assert_allclose(objective.get_ydata(), series["objective"].dropna())
    assert [ax.get_xlabel() for ax in drawn.values()][-1] == "step of training"


def test_the_power_of_a_length():
    """½ W2² is a length², −‖x − y‖^β a length^β, f-divergences and bounded kernels have none."""
    assert length_power({"flow": "w2"}) == 2
    assert length_power({"flow": "mmd", "kernel": "riesz", "exponent": 1.25}) == 1.25
    assert length_power({"flow": "mmd", "kernel": "laplacian"}) == 0
    assert length_power({"divergence": "alpha"}) == 0


def test_what_was_not_measured_has_no_panel(runs, tmp_path):
    words = ["compare", "--target", "moons", "--flows", "w2", "--steps", "3", *TINY[:6], "--no-figure", "-q"]
    assert CliRunner().invoke(main, [*words, "-o", str(tmp_path / "c")]).exit_code == 0
    labels = list(panels(diagnostics(tmp_path / "c" / "w2")))
    assert not any(label.startswith("W2") for label in labels)
    assert len(labels) == 4
    assert len(figure(tmp_path / "c" / "w2").axes) == 3  # where particles went, and two curves


def test_a_line_of_one_point_is_seen(tmp_path):
    words = ["simulate", "--target", "moons", "--steps", "1", *TINY, "-o", str(tmp_path / "one")]
    assert CliRunner().invoke(main, words).exit_code == 0
    ax = panels(diagnostics(tmp_path / "one"))[KINETIC]
    assert [len(line.get_xdata()) for line in ax.lines] == [1]
    assert [line.get_marker() for line in ax.lines] == ["o"]


def test_arrays_have_no_measurements(tmp_path):
    with pytest.raises(ValueError, match=r"^diagnostics needs a run with measurements, and arrays have none"):
        diagnostics(np.zeros((3, 4, 2)))
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        diagnostics(tmp_path)


def test_the_overview_is_made_of_the_same_curves(runs):
    drawn = figure(pt.Run.open(runs / "plain"))
    where, *curves = drawn.axes
    assert [ax.get_ylabel() for ax in curves] == ["divergence\n(nats)", KINETIC, "W2\n(flow units)"]
    assert where.get_xlabel() == "x0"
    title = diagnostics(runs / "plain").get_suptitle()
    assert drawn.get_suptitle().split() == title.split()  # where lines end is another matter


def test_a_long_title_is_in_lines(runs):
    lines = diagnostics(runs / "learnt").get_suptitle().split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 60
