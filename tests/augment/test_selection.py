"""Which start and how many steps: the measures, the splits, the rule, and what an augmentation makes of them."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem
from sklearn.datasets import make_moons

from particles.augment import generator, selection
from particles.augment.block_flow import FlowSettings
from particles.augment.generator import COPYING, FEW, Augmentation, Recipe
from particles.augment.marginals import Marginals
from particles.augment.selection import (
    EVIDENCE,
    LEAST,
    PLENTY,
    SAFE,
    SOON,
    SPLITS,
    STEPS,
    TRIED,
    energy,
    ratio,
    settled,
    try_out,
    wide_enough,
)
from particles.augment.starts import STARTS, Mixture, Start, fit_start
from particles.keys import Key

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


def test_settled_points_have_the_distributions_of_the_rows():
    x, y = rows(60, 2), 3 * rows(90, 2, "points") + 5
    assert settled(y, x, False) is y
    np.testing.assert_array_equal(settled(y, x, True), Marginals.fit(y, x)(y))
    assert np.abs(np.sort(settled(y, x, True), 0)[45] - np.median(x, 0)).max() < 0.2
    few = rows(5, 2)
    assert settled(y, few, True) is y  # too few to tell


@pytest.mark.parametrize("least", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", ["kde", "bootstrap", "mixed"])
def test_a_start_is_widened_until_it_keeps_the_ratio(least, name):
    x = rows(60, 4)
    fitted = fit_start(name, x)
    narrow = (
        Mixture(replace(fitted.first, bandwidth=0.05), fitted.second)
        if name == "mixed"
        else replace(fitted, bandwidth=0.05)
    )

    def near(points):
        return ratio(points, x)

    wide = wide_enough(narrow, least, near, KEY)
    reached = {law.bandwidth: near(law.draw(200, KEY)) for law in narrow.wider}
    assert reached[0.05] < least
    enough = [bandwidth for bandwidth, value in reached.items() if value >= least]
    assert wide.bandwidth == (min(enough) if enough else max(reached))  # no wider than needed; the widest if none does
    assert wide_enough(wide, least, near, KEY).bandwidth == wide.bandwidth or not enough
    if name == "kde" and least < 1:
        assert 0.1 < wide.bandwidth < 1


def test_a_start_is_never_narrowed_and_ends_at_the_gaussian():
    x = rows(30, 2)
    kde = Start(x, fit_start("kde", x).spread, 0.5)
    assert wide_enough(fit_start("gaussian", x), 0.7, lambda y: 0.0, KEY).bandwidth == 1
    assert wide_enough(kde, 0.7, lambda y: 0.0, KEY).bandwidth == 1
    assert wide_enough(kde, 0.7, lambda y: 0.7, KEY).bandwidth == 0.5  # the least ratio is kept if it is met exactly
    assert wide_enough(kde, 0.7, lambda y: math.nan, KEY).bandwidth == 0.5  # a single row has no ratio to keep
    jitter = fit_start("bootstrap", x)
    assert wide_enough(jitter, 0.7, lambda y: 0.0, KEY).bandwidth == 2 * jitter.bandwidth


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


@dataclass(frozen=True)
class Named:
    """A start whose draws tell its name, so that it can be seen which one a flow is run from."""

    name: str
    rows: np.ndarray

    def draw(self, count, key):
        return np.full((count, 2), float(STARTS.index(self.name)))

    @property
    def wider(self):
        return iter([self])


def choose(monkeypatch, curve, sizes, methods=("gaussian", "flow"), start="gaussian", flow_settings=SMALL):
    """What is chosen if block b, started from a law, has the energy ``curve(law, step, b)`` to the rows left out.

    Returns:
        The trial, and of each flow that was run its start, its number of blocks and its steps.
    """
    called = []

    def fake(starts, targets, steps, settings, key):
        (name,) = {STARTS[int(x[0, 0])] for x in starts}
        called.append((name, len(starts), tuple(steps)))
        return SimpleNamespace(at=lambda step, block: np.array(curve(name, step, block)))

    monkeypatch.setattr(selection, "flow", fake)
    monkeypatch.setattr(selection, "energy", lambda x, held: float(x))
    monkeypatch.setattr(selection, "fit_start", lambda name, rows, others: Named(name, rows))
    classes = [rows(n, 2, f"c{c}") for c, n in enumerate(sizes)]
    return try_out(classes, methods, start, 0.7, flow_settings, False, KEY), called


@pytest.mark.parametrize("classes", [1, 3, 4, 7, 8, 30])
def test_number_of_splits(monkeypatch, classes):
    """At least 16 classes on splits, but from 2 to ``SPLITS`` of each; no two splits leave out the same rows."""
    held = []
    monkeypatch.setattr(selection, "_along", lambda points, tried, steps, *rest: (held.extend(tried), noise)[1])
    noise = np.arange(1.0, 400.0)[None] * np.ones((9, 1))
    trial = try_out([rows(12, 2, f"c{c}") for c in range(classes)], ("gaussian",), "auto", 0.0, SMALL, False, KEY)
    assert trial.splits == min(SPLITS, max(2, next(k for k in range(1, 20) if k * classes >= 16)))
    assert len(held) == trial.splits * classes
    left_out = [tuple(map(tuple, sorted(part.held.tolist()))) for part in held]
    assert len(set(left_out)) == len(left_out)


@pytest.mark.parametrize("shared", [False, True])
def test_blocks_that_share_a_network_are_flowed_split_by_split(monkeypatch, shared):
    """Else what one split leaves out would teach the others."""
    flow_settings = FlowSettings(widths=(16, 16), conditional=shared)
    noise = np.random.default_rng(0).normal(size=64)
    trial, called = choose(monkeypatch, lambda name, k, b: noise[b] * k, (12, 12, 12, 12), flow_settings=flow_settings)
    assert trial.splits == 4
    once = [4] * 4 if shared else [16]
    assert [blocks for _, blocks, steps in called if steps == (0,)] == once
    assert [blocks for _, blocks, steps in called if steps != (0,)][: len(once)] == once


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("methods", [("gaussian", "flow"), ("flow",)])
def test_the_fewest_steps_within_one_standard_error_of_the_best(monkeypatch, seed, methods):
    generator = np.random.default_rng(seed)
    noise = dict(zip(STEPS, generator.normal(size=(len(STEPS), 64)) * generator.choice([0.01, 0.1])))
    bottom = generator.choice(STEPS)
    depth = generator.uniform(0, 0.3)

    def curve(name, step, block):
        return depth * abs(step - bottom) / 100 + noise[step][block]

    trial, called = choose(monkeypatch, curve, (20,) * 4, methods)
    blocks = called[0][1]
    assert blocks == 4 * trial.splits
    table = np.array([[curve("gaussian", step, b) for b in range(blocks)] for step in STEPS])
    soon = [i for i, step in enumerate(STEPS) if step <= SOON]
    if table[soon].mean(1).argmin() < len(soon) - 2:  # best well before the end of the first stage: there is no second
        table = table[soon]
    first = 1 if methods == ("flow",) else 0  # who asks for the flow alone gets one
    best = min(range(first, len(table)), key=lambda i: table[i].mean())
    within = [
        i
        for i in range(first, len(table))
        if i == best or table[i].mean() - table[best].mean() <= sem(table[i] - table[best])
    ]
    assert trial.steps == STEPS[within[0]]
    assert trial.energies["flow"] == pytest.approx(table[1:].mean(1).min())
    assert trial.energies["gaussian"] == pytest.approx(table[0].mean())
    gained = table[0] - table[within[0]]
    assert trial.gain == pytest.approx(gained.mean() / sem(gained) if within[0] else 0.0)


def paired(t, count=16, seed=0):
    """Paired differences whose mean is ``t`` standard errors."""
    z = np.random.default_rng(seed).normal(size=count)
    z = (z - z.mean()) / z.std(ddof=1)
    return z + t / math.sqrt(count)


@pytest.mark.parametrize(("t", "steps"), [(0.98, 5), (1.02, 10)])
def test_one_standard_error_is_that_of_the_paired_differences(monkeypatch, t, steps):
    """However much classes differ from each other, what counts is by how much one step is better than another one in each."""
    apart, differences = 100 * np.arange(16.0), paired(t)
    level = {0: 10.0, 5: 0.0, 10: 0.0}

    def curve(name, step, block):
        return apart[block] + level.get(step, 20.0) + (differences[block] if step == 5 else 0.0)

    trial, _ = choose(monkeypatch, curve, (20,) * 4)
    assert trial.steps == steps


@pytest.mark.parametrize("bottom", STEPS)
def test_flows_that_are_best_early_are_left_early(monkeypatch, bottom):
    noise = np.random.default_rng(0).normal(size=64)
    wiggle = np.random.default_rng(1).normal(size=(101, 64)) * 1e-6

    def curve(name, k, b):
        return noise[b] + 0.01 * abs(k - bottom) + wiggle[k, b]

    trial, called = choose(monkeypatch, curve, (20,) * 3)
    assert trial.steps == bottom
    assert (trial.gain > 100) == (bottom > 0)
    soon = tuple(step for step in STEPS if step <= SOON)
    far = bottom >= soon[-2]  # best at one of the last two steps of the first stage, or after it
    assert [steps for _, _, steps in called] == [(0,), soon, *[STEPS] * far]


@pytest.mark.parametrize("best", TRIED)
def test_flows_are_run_from_the_best_start_alone(monkeypatch, best):
    def curve(name, step, block):
        return (0.0 if name == best else 5.0) + 1e-3 * block + (0.1 if step else 0.0)

    trial, called = choose(monkeypatch, curve, (60, 60), ("gaussian", "kde", "flow"), "auto")
    assert (trial.start, trial.steps) == (best, 0)
    assert {name for name, _, steps in called if steps == (0,)} == set(TRIED)
    assert {name for name, _, steps in called if steps != (0,)} == {best}
    assert set(trial.energies) == {*TRIED, "flow"}
    assert trial.energies[best] == min(trial.energies.values())


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_was_asked_for_is_the_one_a_flow_alone_has(monkeypatch, name):
    def curve(start, step, block):
        return (5.0 if start == name else 0.0) + 1e-3 * block - 0.1 * step

    trial, called = choose(monkeypatch, curve, (20, 20), ("flow",), name)
    assert trial.start == name
    assert {start for start, _, _ in called} == {name}


@pytest.mark.parametrize("methods", [("gaussian", "kde", "flow"), TRIED])
@pytest.mark.parametrize(
    ("sizes", "t", "start"),
    [
        ((20, 20, 20, 20), 0.98 * EVIDENCE, SAFE),
        ((20, 20, 20, 20), 1.02 * EVIDENCE, "kde"),
        ((PLENTY - 1, 80, 80, 80), 0.98 * EVIDENCE, SAFE),  # the smallest class decides
        ((PLENTY, 80, 80, 80), 0.02 * EVIDENCE, "kde"),  # many rows left out are to be believed
        ((20, 20, 20, 20), -0.1, SAFE),
    ],
)
def test_small_classes_start_safely_unless_another_start_is_clearly_better(monkeypatch, sizes, t, start, methods):
    apart, differences = np.arange(16.0), paired(t)
    differences = {"kde": 0.0 * apart, SAFE: differences}

    def curve(name, step, block):
        return apart[block] + differences.get(name, 50 + apart)[block] + (50 if step else 0)

    trial, called = choose(monkeypatch, curve, sizes, methods, "auto")
    assert (trial.start, trial.steps) == (start, 0)
    if "flow" in methods:
        assert {name for name, _, steps in called if steps != (0,)} == {start}


def test_without_the_safe_start_the_best_is_taken(monkeypatch):
    trial, _ = choose(
        monkeypatch, lambda name, k, b: {"gaussian": 0.01, "kde": 0.0}[name] + b, (20, 20), ("gaussian", "kde"), "auto"
    )
    assert (trial.start, trial.steps) == ("kde", 0)


def test_without_a_flow_nothing_moves():
    trial = tried([rows(30, 2)], ("gaussian", "kde"))
    assert trial.steps == 0
    assert set(trial.energies) == {"gaussian", "kde"}
    assert trial.start == min(trial.energies, key=trial.energies.get)
    assert math.isnan(trial.gain)


@pytest.mark.parametrize("seed", [0, 1])
def test_normal_rows_ask_for_no_more_than_their_law(seed, monkeypatch):
    """The best that can be done is the Gaussian itself: what other methods seem to gain is noise, here of some 0.02."""
    monkeypatch.setattr(selection, "STEPS", (0, 5, 15, 35))
    generator = np.random.default_rng(seed)
    classes = [generator.normal(size=(48, 3)) * scale for scale in ((1, 1, 1), (1, 2, 0.5))]
    trial = tried(classes, key=Key.of(seed))
    apart = np.mean([np.linalg.norm(x[:24] - x[24:], axis=1).mean() for x in classes])
    assert trial.energies["gaussian"] < 0.05 * apart
    assert trial.energies["gaussian"] - min(trial.energies.values()) < 0.03 * apart
    assert trial.gain < 2.5


@pytest.mark.parametrize("seed", [0, 1])
def test_moons_are_no_gaussians(seed, monkeypatch):
    monkeypatch.setattr(selection, "STEPS", (0, 5, 15, 30))
    x, y = make_moons(200, noise=0.05, random_state=seed)
    classes = [x[y == c] / x.std(0) for c in range(2)]
    trial = tried(classes, key=Key.of(seed))
    assert trial.start != "gaussian" or trial.steps > 0
    assert min(trial.energies, key=trial.energies.get) in (trial.start, "flow")
    # The distance of a moon to its Gaussian is known from many rows.
    many, label = make_moons(3_000, noise=0.05, random_state=seed + 10)
    exact = []
    for c in range(2):
        moon = many[label == c] / x.std(0)
        exact.append(energy(fit_start("gaussian", moon[:750]).draw(750, KEY), moon[750:]))
    assert trial.energies["gaussian"] == pytest.approx(np.mean(exact), abs=0.03)
    assert min(trial.energies[trial.start], trial.energies["flow"]) < 0.5 * np.mean(exact)


def test_the_key_decides_the_trial(monkeypatch):
    monkeypatch.setattr(selection, "STEPS", (0, 2, 4))
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
        ({"start": "zero"}, "start 'zero' is not one of auto, gaussian, kde, bootstrap, mixed, normal"),
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

    monkeypatch.setattr(generator, "try_out", spy)
    table, group = frame((15, 12))
    twice = np.repeat(np.arange(27), 3)
    Augmentation(table.iloc[twice], group[twice], [5, 5], Recipe(method="kde", settings=SMALL), KEY)
    assert sorted(map(len, seen)) == [12, 15]
    assert all(len(np.unique(x, axis=0)) == len(x) for x in seen)


def finished_ratio(made, c, points):
    """The leave-one-out ratio of points of the flow as rows of the table, of columns of numbers without marginal maps."""
    rows = made.columns.decode(points, KEY)
    return ratio(made.columns.encode(rows), made.training[made.members[c]])


def test_the_ratio_is_that_of_finished_rows():
    """Points beside rows of whole numbers become copies of them, and points elsewhere get the distribution of the rows."""
    whole = np.stack([np.arange(60), 7 * np.arange(60) % 60], 1) * 1.0
    options = {"method": "gaussian", "settings": SMALL}
    group = np.zeros(60, int)
    made = Augmentation(pd.DataFrame(whole).astype(int), group, [5], Recipe(**options, marginals=False), KEY)
    (x,) = made.classes
    beside = x + 0.4 / 60 / x.std(0)
    assert ratio(beside, x) > 0.005
    assert made._near(0, beside) == 0
    dense = pd.DataFrame(rows(60, 2, "dense"))
    for marginals in (False, True):
        made = Augmentation(dense, group, [5], Recipe(**options, marginals=marginals), KEY)
        (x,) = made.classes
        inside = 0.5 * x + 0.01
        found = made._near(0, inside)
        if marginals:  # maps take the points back to where the rows are
            assert found < 0.5 * ratio(inside, x)
            np.testing.assert_allclose(found, ratio(Marginals.fit(inside, x)(inside), x), rtol=1e-9)
        else:
            np.testing.assert_allclose(found, ratio(inside, x), rtol=1e-9)


@pytest.mark.parametrize("min_ratio", [0.85, 0.95])
def test_a_flow_stops_before_the_ratio_falls_below_its_floor(min_ratio):
    made = augmented((30, 40), (60, 60), 2, method="flow", start="gaussian", stop="ratio", min_ratio=min_ratio)
    kept = made.flowed.steps
    for block, c in enumerate(made.moving):
        near = [finished_ratio(made, c, made.flowed.at(step, block)) for step in kept]
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
            assert finished_ratio(made, c, made.flowed.at(made.steps[c], block)) >= 1
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
    monkeypatch.setattr(generator, "MOST", 110)
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


def test_nothing_to_make_and_nothing_to_keep_is_refused():
    recipe = Recipe(method="gaussian", settings=SMALL)
    with pytest.raises(ValueError, match=r"^counts are all 0, so there is nothing to make: ask for at least one row"):
        Augmentation(*frame((20, 12)), [0, 0], recipe, KEY)
    kept = Augmentation(*frame((20, 12)), [0, 0], recipe, KEY, record=True)  # to sample from later
    assert len(kept.rows) == 0
    assert len(kept.sample([3, 0], KEY)[0]) == 3


def test_the_key_decides_the_rows():
    first, again = (augmented((20, 12), (9, 9), method="flow", start="gaussian", stop=5) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert first.report == again.report
    table, group = frame((20, 12))
    other = Augmentation(
        table, group, [9, 9], Recipe(method="flow", start="gaussian", stop=5, settings=SMALL), Key.of(1)
    )
    assert not (first.rows == other.rows).any(axis=None)
