"""Which start and how many steps: the measures, the splits, the rule, and what an augmentation makes of them."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem
from sklearn.datasets import make_moons

from particles import augmentation, selection
from particles.augmentation import COPYING, FEW, Augmentation, Recipe
from particles.blockwise import FlowSettings
from particles.data.starts import Spread, Start, fit_start
from particles.keys import Key
from particles.selection import LEAST, energy, grid, make_start, ratio, settled, try_out, wide_enough

KEY = Key.of(0)
SMALL = FlowSettings(widths=(16, 16))


def rows(n, d, name="rows"):
    return KEY.fold(name, n, d).numpy().normal(size=(n, d))


def length(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def tried(classes, methods=("gaussian", "kde", "flow"), start="auto", key=KEY):
    return try_out(classes, methods, start, 0.7, SMALL, False, key)


# Measures


@pytest.mark.parametrize(("n", "m", "d"), [(6, 9, 2), (15, 4, 7), (2, 2, 1)])
def test_ratio_is_that_of_medians_of_nearest_distances(n, m, d):
    x, y = rows(n, d), rows(m, d, "points")
    near = [min(length(p, r) for r in x) for p in y]
    among = [min(length(x[i], x[j]) for j in range(n) if j != i) for i in range(n)]
    assert ratio(y, x) == pytest.approx(np.median(near) / np.median(among), rel=1e-12)
    assert ratio(x, x) == 0
    assert ratio(y, np.repeat(x, 2, 0)) == pytest.approx(ratio(y, x))  # repeated rows are not near to each other
    assert ratio(3 * y + 5, 3 * x + 5) == pytest.approx(ratio(y, x))
    assert math.isnan(ratio(y, x[:1]))


def test_fresh_rows_of_the_same_law_have_ratio_1():
    assert ratio(rows(2_000, 3, "fresh"), rows(2_000, 3)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("n", "m", "d"), [(6, 9, 2), (5, 3, 8)])
def test_energy_is_the_unbiased_distance(n, m, d):
    x, y = rows(n, d), rows(m, d, "points") + 0.5
    between = sum(length(a, b) for a in x for b in y) / (n * m)
    in_x = sum(length(a, b) for a in x for b in x) / (n * (n - 1))
    in_y = sum(length(a, b) for a in y for b in y) / (m * (m - 1))
    assert energy(x, y) == pytest.approx(2 * between - in_x - in_y, rel=1e-12)


def test_grid_of_steps_grows_with_the_class():
    grids = [grid(n) for n in (LEAST, 20, 49, 50, 100, 1_000)]
    for steps in grids:
        assert list(steps) == sorted(set(steps))
        assert steps[0] > 0  # the start itself is always among the choices, and is no step
    assert all(set(fewer) <= set(more) for fewer, more in itertools.pairwise(grids))


@pytest.mark.parametrize("marginals", [False, True])
@pytest.mark.parametrize("least", [0.3, 0.7, 1.0])
def test_a_start_is_widened_until_it_keeps_the_ratio(least, marginals):
    x = rows(60, 4)
    narrow = Start(x, fit_start("kde", x).spread, 0.05)

    def reached(start):
        return ratio(settled(start.draw(256, KEY), x, marginals), x)

    assert reached(narrow) < least
    wide = wide_enough(narrow, least, marginals, KEY)
    assert 0.1 < wide.bandwidth <= 1
    assert reached(wide) >= least or wide.bandwidth == 1
    assert reached(narrow.widened(wide.bandwidth - 0.1)) < least  # no wider than needed
    assert wide_enough(wide, least, marginals, KEY).bandwidth == wide.bandwidth


def test_a_start_is_never_narrowed_and_ends_at_the_gaussian():
    x = rows(30, 2)
    assert wide_enough(fit_start("gaussian", x), 0.7, False, KEY).bandwidth == 1
    assert wide_enough(Start(x, fit_start("kde", x).spread, 0.5), 0.0, False, KEY).bandwidth == 0.5
    still = Start(x, Spread(np.zeros((1, 2)), 1e-9), 0.9)  # noise that takes no draw away from its row
    assert wide_enough(Start(x, still.spread, 0.9, shrinks=False), 0.7, False, KEY).bandwidth == 1
    assert make_start("kde", x, [], 0.7, False, KEY).bandwidth >= fit_start("kde", x).bandwidth
    assert make_start("gaussian", x, [], 1.0, False, KEY).bandwidth == 1


# Splits and the rule


@pytest.mark.parametrize("sizes", [(8, 9, 15), (40,), (101, 130)])
def test_splits_lose_no_row_and_share_none(sizes):
    classes = [rows(n, 2, f"class{c}") for c, n in enumerate(sizes)]
    split = selection._splits(classes, 0, KEY)
    for c, (part, whole) in enumerate(zip(split, classes, strict=True)):
        everything = np.concatenate((part.fit, part.held))
        assert sorted(map(tuple, everything)) == sorted(map(tuple, whole))  # distinct rows: each on one side, once
        assert len(part.held) == max(2, round(len(whole) / 4))
        for other, rest in zip(part.others, [s.fit for i, s in enumerate(split) if i != c], strict=True):
            np.testing.assert_array_equal(other, rest)  # of other classes too, nothing that is left out is seen
    again, different = selection._splits(classes, 0, KEY), selection._splits(classes, 0, KEY.fold(1))
    np.testing.assert_array_equal(split[0].held, again[0].held)
    assert set(map(tuple, split[0].held)) != set(map(tuple, different[0].held))


def choose(monkeypatch, curve, classes, methods=("gaussian", "flow")):
    """What is chosen if block b has the energy ``curve(step, b)`` to the rows that are left out."""
    called = []

    def fake(starts, targets, steps, settings, key, **options):
        called.append((len(starts), tuple(steps)))
        return SimpleNamespace(steps=list(steps), at=lambda step, block: np.array(curve(step, block)))

    monkeypatch.setattr(selection, "flow", fake)
    monkeypatch.setattr(selection, "energy", lambda x, held: float(x) if x.ndim == 0 else energy(x, held))
    trial = tried([rows(20, 2, f"c{c}") for c in range(classes)], methods, "gaussian")
    return trial, called


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("methods", [("gaussian", "flow"), ("flow",)])
def test_the_fewest_steps_within_one_standard_error_of_the_best(monkeypatch, seed, methods):
    generator = np.random.default_rng(seed)
    steps = (0, *grid(20))
    noise = dict(zip(steps, generator.normal(size=(len(steps), 64)) * generator.choice([0.01, 0.1])))
    bottom = generator.choice(steps)
    depth = generator.uniform(0, 0.3)

    def curve(step, block):
        return depth * abs(step - bottom) / 100 + noise[step][block]

    trial, called = choose(monkeypatch, curve, 4, methods)
    blocks = called[0][0]
    assert blocks == 4 * trial.splits
    table = np.array([[curve(step, b) for b in range(blocks)] for step in steps])
    first = 1 if methods == ("flow",) else 0  # who asks for the flow alone gets one
    best = min(range(first, len(steps)), key=lambda i: table[i].mean())
    within = [
        i
        for i in range(first, len(steps))
        if i == best or table[i].mean() - table[best].mean() <= sem(table[i] - table[best])
    ]
    assert trial.steps == steps[within[0]]
    assert trial.energies["flow"] == pytest.approx(table[1:].mean(1).min())
    gained = table[0] - table[within[0]]
    assert trial.gain == pytest.approx(gained.mean() / sem(gained) if within[0] else 0.0)


def test_steps_of_clear_curves(monkeypatch):
    """With the same noise everywhere differences are exact."""
    noise = np.random.default_rng(0).normal(size=64)
    wiggle = np.random.default_rng(1).normal(size=(201, 64)) * 1e-6
    falling, _ = choose(monkeypatch, lambda k, b: noise[b] - 0.01 * k + wiggle[k, b], 3)
    assert falling.steps == grid(20)[-1]
    assert falling.gain > 100
    rising, _ = choose(monkeypatch, lambda k, b: noise[b] + 0.01 * k + wiggle[k, b], 3)
    assert (rising.steps, rising.gain) == (0, 0.0)
    valley, _ = choose(monkeypatch, lambda k, b: noise[b] + 0.01 * abs(k - 25) + wiggle[k, b], 3)
    assert valley.steps == 25


def test_without_a_flow_nothing_moves():
    trial = tried([rows(30, 2)], ("gaussian", "kde"))
    assert trial.steps == 0
    assert set(trial.energies) == {"gaussian", "kde"}
    assert trial.start == min(trial.energies, key=trial.energies.get)
    assert math.isnan(trial.gain)


@pytest.mark.parametrize("seed", [0, 1])
def test_normal_rows_ask_for_no_more_than_their_law(seed):
    """The best that can be done is the Gaussian itself: what other methods seem to gain is noise, here of some 0.02."""
    generator = np.random.default_rng(seed)
    classes = [generator.normal(size=(48, 3)) * scale for scale in ((1, 1, 1), (1, 2, 0.5))]
    trial = tried(classes, key=Key.of(seed))
    apart = np.mean([np.linalg.norm(x[:24] - x[24:], axis=1).mean() for x in classes])
    assert trial.energies["gaussian"] < 0.05 * apart
    assert trial.energies["gaussian"] - min(trial.energies.values()) < 0.03 * apart
    assert trial.gain < 2.5
    assert trial.steps <= 50


@pytest.mark.parametrize("seed", [0, 1])
def test_moons_are_no_gaussians(seed, monkeypatch):
    monkeypatch.setattr(selection, "grid", lambda n: (5, 15, 30))
    x, y = make_moons(200, noise=0.05, random_state=seed)
    classes = [x[y == c] / x.std(0) for c in range(2)]
    trial = tried(classes, key=Key.of(seed))
    assert trial.start == "kde" or trial.steps > 0
    best = min(trial.energies["kde"], trial.energies["flow"])
    # The distance of a moon to its Gaussian is known from many rows.
    many, label = make_moons(3_000, noise=0.05, random_state=seed + 10)
    exact = []
    for c in range(2):
        moon = many[label == c] / x.std(0)
        exact.append(energy(fit_start("gaussian", moon[:750]).draw(750, KEY), moon[750:]))
    assert trial.energies["gaussian"] == pytest.approx(np.mean(exact), abs=0.03)
    assert best < 0.5 * np.mean(exact)


def test_the_key_decides_the_trial(monkeypatch):
    monkeypatch.setattr(selection, "grid", lambda n: (2, 4))
    classes = [rows(20, 2), rows(24, 2, "other")]
    first, again, other = (tried(classes, ("gaussian", "flow"), "gaussian", key) for key in (KEY, Key.of(0), Key.of(1)))
    assert first == again
    assert first.energies != other.energies


# What an augmentation makes of it


def frame(sizes, d=3):
    group = np.repeat(np.arange(len(sizes)), sizes)
    x = np.concatenate([rows(n, d, f"frame{c}") + 2 * c for c, n in enumerate(sizes)])
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(d)]), group


def augmented(sizes, counts, d=3, **options):
    options = {"settings": SMALL, "marginals": False, **options}
    return Augmentation(*frame(sizes, d), counts, Recipe(**options), KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"method": name}, f"'{name}' drives particles onto the training rows themselves") for name in COPYING),
        ({"method": "smote"}, "method 'smote' is not one of auto, flow, gaussian, kde"),
        ({"start": "zero"}, "start 'zero' is not one of auto, gaussian, kde, bootstrap, normal"),
        ({"stop": "late"}, "stop must be auto, ratio or a number of steps"),
        ({"stop": -1}, "stop must be"),
        ({"stop": True}, "stop must be"),
        ({"stop": 2.5}, "stop must be"),
        ({"min_ratio": 1.5}, "min_ratio must be from 0 to 1, not 1.5"),
        ({"min_ratio": math.nan}, "min_ratio must be from 0 to 1"),
    ],
)
def test_recipes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


@pytest.mark.parametrize("counts", [(13, 0, 40), (1, 1, 1)])
@pytest.mark.parametrize("stop", [0, 5])
def test_as_many_rows_as_asked_for(counts, stop):
    made = augmented((20, 12, 9), counts, method="flow", start="gaussian", stop=stop)
    assert np.bincount(made.group, minlength=3).tolist() == list(counts)
    assert list(made.rows.columns) == ["x0", "x1", "x2"]
    assert made.rows.index.equals(pd.RangeIndex(sum(counts)))
    asked = [c for c, count in enumerate(counts) if count]
    assert [line["class"] for line in made.report["classes"]] == asked
    for line, c in zip(made.report["classes"], asked):
        assert (line["rows"], line["made"], line["steps"]) == ((20, 12, 9)[c], counts[c], stop)
        own = made.columns.encode(made.rows)[made.group == c]
        assert line["nearest_ratio"] == pytest.approx(ratio(own, made.training[made.members[c]]))
        assert line["copies"] == 0


def test_rows_tried_out_are_distinct(monkeypatch):
    """Of a repeated row no copy is left out while another one is learnt from."""
    seen = []

    def spy(classes, *rest):
        seen.extend(classes)
        return try_out(classes, *rest)

    monkeypatch.setattr(augmentation, "try_out", spy)
    table, group = frame((15, 12))
    twice = np.repeat(np.arange(27), 3)
    Augmentation(table.iloc[twice], group[twice], [5, 5], Recipe(method="kde", settings=SMALL), KEY)
    assert sorted(map(len, seen)) == [12, 15]
    assert all(len(np.unique(x, axis=0)) == len(x) for x in seen)


@pytest.mark.parametrize("min_ratio", [0.85, 0.95])
def test_a_flow_stops_before_the_ratio_falls_below_its_floor(min_ratio):
    made = augmented((30, 40), (60, 60), 2, method="flow", start="gaussian", stop="ratio", min_ratio=min_ratio)
    kept = made.flowed.steps
    for block, c in enumerate(made.moving):
        near = [ratio(made.flowed.at(step, block), made.classes[c]) for step in kept]
        end = kept.index(made.steps[c])
        assert all(value >= min_ratio for value in near[: end + 1]) or made.steps[c] == 0
        assert end == len(kept) - 1 or near[end + 1] < min_ratio
    assert any(0 < made.steps[c] < kept[-1] for c in made.moving)


def test_small_classes_move_little_and_never_nearer_than_rows_are():
    made = augmented((2, 5, LEAST - 1, 30), (20, 20, 20, 20), 2, method="flow", start="gaussian")
    assert made.steps[0] == 0  # two rows tell nothing about where to go
    for c in (1, 2):
        assert made.steps[c] <= FEW
        if made.steps[c]:
            block = made.moving.index(c)
            assert ratio(made.flowed.at(made.steps[c], block), made.classes[c]) >= 1
    few = [line for line in made.report["warnings"] if "too few to be augmented honestly" in line]
    assert len(few) == 3
    assert "class 0 has 2 different rows" in few[0]


def test_copies_are_passed_over_where_there_are_others():
    """Three bits have eight values: draws that are training rows come last, and are counted."""
    bits = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 0, 1]] * 5)
    table = pd.DataFrame(bits, columns=list("abc")).astype(int)
    group = np.zeros(30, int)
    made = Augmentation(table, group, [4], Recipe(method="gaussian", settings=SMALL), KEY)
    training = set(map(tuple, bits))
    assert not training & set(map(tuple, made.rows.to_numpy()))
    more = Augmentation(table, group, [200], Recipe(method="gaussian", settings=SMALL), KEY)
    copies = sum(tuple(row) in training for row in more.rows.to_numpy())
    assert more.report["classes"][0]["copies"] == copies > 0
    assert any(f"{copies} of 200 new rows are equal to training rows" in line for line in more.report["warnings"])


def test_more_particles_than_a_discriminator_sees_are_carried(monkeypatch):
    monkeypatch.setattr(augmentation, "MOST", 110)
    made = augmented((20, 12), (300, 50), method="flow", start="gaussian", stop=10)
    assert [len(x) for x in made.flowed.points[0]] == [110, 100]
    assert np.bincount(made.group).tolist() == [300, 50]
    assert not made.rows.duplicated().any()
    # They have the law of those that took part: the energy distance of the two is 0 within its noise.
    own = made.flowed.at(10, 0)
    carried = made._carried([400, 1], Key.of(5))[0]
    noise = energy(fit_start("gaussian", own).draw(400, KEY), own)
    assert energy(carried, own) < max(2 * abs(noise), 0.05)
    assert energy(carried + 1, own) > 0.3


def test_sampling_fits_nothing_again():
    table, group = frame((20, 12))
    recipe = Recipe(method="flow", start="gaussian", stop=10, settings=SMALL)
    made = Augmentation(table, group, [5, 5], recipe, KEY, record=True)
    before = made.rows.copy()
    first, label = made.sample([30, 7], Key.of(1))
    again, _ = made.sample([30, 7], Key.of(1))
    other, _ = made.sample([30, 7], Key.of(2))
    assert np.bincount(label).tolist() == [30, 7]
    pd.testing.assert_frame_equal(first, again)
    assert not (first == other).any(axis=None)
    pd.testing.assert_frame_equal(made.rows, before)


def test_the_key_decides_the_rows():
    first, again = (augmented((20, 12), (9, 9), method="flow", start="gaussian", stop=5) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert first.report == again.report
    table, group = frame((20, 12))
    other = Augmentation(
        table, group, [9, 9], Recipe(method="flow", start="gaussian", stop=5, settings=SMALL), Key.of(1)
    )
    assert not (first.rows == other.rows).any(axis=None)
