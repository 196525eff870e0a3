"""Keys and clouds."""

import math

import pytest
import torch
from problems import cloud, normal

from particles import Cloud, Key, keys


def test_keys_are_paths():
    root = Key.of(0)
    assert root.fold(1).fold(2) == root.fold(1, 2)
    seeds = {
        key.seed
        for key in (root, root.fold(0), root.fold(0, 0), root.fold(1, 0), root.fold(0, 1), root.fold("0"), Key.of(1))
    }
    assert len(seeds) == 7  # trailing zeros, order and types count
    draws = [torch.randn(3, generator=root.fold(5).generator()) for _ in range(2)]
    assert torch.equal(*draws)
    assert root.fold(5).numpy().random() == root.fold(5).numpy().random()


def test_keys_spread_evenly():
    """The means of many keys' first draws are those of independent uniforms."""
    draws = torch.tensor([Key.of(0).fold(k).numpy().random() for k in range(4000)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000))
    assert abs(float(torch.corrcoef(torch.stack((draws[1:], draws[:-1])))[0, 1])) < 4 / math.sqrt(4000)


@pytest.mark.parametrize(("total", "size"), [(10, 10), (50_000, 3000), (50_000, 40_000), (10**7, 512), (10**15, 4096)])
def test_a_choice_is_of_different_numbers_below_the_total(total, size):
    chosen = Key.of(3).choice(total, size)
    assert chosen.shape == (size,)
    assert len(chosen.unique()) == size
    assert chosen.min() >= 0
    assert chosen.max() < total
    assert torch.equal(chosen, Key.of(3).choice(total, size))


def test_every_number_is_as_likely_in_a_choice_and_every_pair(monkeypatch):
    """Of 40 numbers 2 at a time, by the way for few of many: counts within 5 standard deviations of their binomial means."""
    monkeypatch.setattr(keys, "SHUFFLED", 0)
    draws = 20_000
    chosen = torch.stack([Key.of(0).fold(i).choice(40, 2) for i in range(draws)])
    for counts, p in (
        (chosen.flatten().bincount(minlength=40), 2 / 40),
        (chosen[:, 0].bincount(minlength=40), 1 / 40),
        (torch.bincount(40 * chosen.min(1).values + chosen.max(1).values)[1:40], 2 / (40 * 39)),
    ):
        assert float((counts - draws * p).abs().max()) < 5 * (draws * p) ** 0.5


def test_expectations_with_and_without_weights():
    x = normal(7, 2, "x")
    weight = torch.softmax(normal(7, 1, "w")[:, 0], 0)
    values = normal(7, 1, "v")[:, 0] * 300  # exp of them overflows
    for c, mass in ((Cloud(x), torch.full((7,), 1 / 7, dtype=x.dtype)), (Cloud(x, weight=weight), weight)):
        torch.testing.assert_close(c.mass, mass)
        torch.testing.assert_close(c.mean(values), values @ mass)
        shifted = values - values.max()
        torch.testing.assert_close(c.logmeanexp(values), torch.log(shifted.exp() @ mass) + values.max())


def test_weights_are_repetitions():
    x, values = normal(3, 2, "x"), normal(3, 1, "v")[:, 0]
    repeated = torch.tensor([0, 0, 1, 2, 2, 2])
    weighted = Cloud(x, weight=torch.tensor([2, 1, 3], dtype=x.dtype) / 6)
    torch.testing.assert_close(weighted.mean(values), Cloud(x[repeated]).mean(values[repeated]))
    torch.testing.assert_close(weighted.logmeanexp(values), Cloud(x[repeated]).logmeanexp(values[repeated]))


def test_minibatches():
    c = Cloud(torch.arange(10.0)[:, None], torch.arange(10))
    batch = c.draw(4, Key.of(0))
    assert len(set(batch.x[:, 0].tolist())) == 4
    assert torch.equal(batch.x[:, 0].long(), batch.label)
    assert torch.equal(batch.x, c.draw(4, Key.of(0)).x)
    assert c.draw(10, Key.of(0)) is c.draw(None, Key.of(0)) is c
    counts = torch.zeros(10)
    for k in range(2000):
        counts[c.draw(4, Key.of(k)).label] += 1
    assert float((counts - 800).abs().max()) < 5 * math.sqrt(2000 * 0.4 * 0.6)


def test_weighted_minibatches_follow_the_weights():
    c = Cloud(torch.arange(3.0)[:, None], weight=torch.tensor([0.7, 0.2, 0.1]))
    draws = torch.cat([c.draw(2, Key.of(k)).x[:, 0] for k in range(2000)])
    assert c.draw(2, Key.of(0)).weight is None
    for value, share in enumerate((0.7, 0.2, 0.1)):
        assert float((draws == value).double().mean()) == pytest.approx(share, abs=5 * math.sqrt(share / 4000))


def test_carried_points():
    own, riders = cloud(4, 2, "a"), cloud(3, 2, "b")
    both = own.join(riders)
    assert (len(both), both.carried) == (7, 3)
    assert torch.equal(both.active.x, own.x)
    assert torch.equal(both.riders.x, riders.x)
    assert own.active is own
    assert own.riders is None
    assert both.at(2 * both.x).carried == 3
    weighted = Cloud(own.x, weight=torch.full((4,), 0.25, dtype=own.x.dtype)).join(riders)
    assert weighted.active.weight is weighted.weight
    assert weighted.riders.weight is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cloud(torch.zeros(3)), r"shape \(n, d\)"),
        (lambda: Cloud(torch.zeros(3, 2, dtype=torch.long)), "in float32 or float64"),
        (lambda: Cloud(torch.zeros(0, 2)), "no point of its own"),
        (lambda: Cloud(torch.zeros(3, 2), carried=3), "no point of its own"),
        (lambda: Cloud(torch.zeros(3, 2), label=torch.zeros(2)), r"label needs shape \(3,\)"),
        (lambda: Cloud(torch.zeros(3, 2), weight=torch.zeros(3, 1)), r"weight needs shape \(3,\)"),
        (lambda: Cloud(torch.zeros(3, 2)).join(Cloud(torch.zeros(1, 2), torch.zeros(1))), "labels exactly if"),
    ],
)
def test_bad_clouds(make, message):
    with pytest.raises(ValueError, match=message):
        make()
