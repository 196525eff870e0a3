"""The weights of planes: optimal by duality, and as convex programs say; whatever the planes, and however many points there are."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from problems import DOUBLE, normal

from particles.steppers import bundle
from particles.steppers.bundle import balanced

SCALES = {"steep": 1e2, "steepest": 1e8}


def problem(n, count, d, kind="random", dtype=DOUBLE):
    """Slopes, levels and a first guess: all mass on the first plane."""
    slopes, levels = normal(n * count, d, "slopes").reshape(n, count, d), normal(n, count, "levels")
    if kind == "round":  # many of them equal, in slope or in all
        slopes, levels = slopes.round(), levels.round()
    if kind in SCALES:  # of the slopes within each problem
        slopes = slopes * SCALES[kind] ** normal(n, count, "scale")[:, :, None]
    if kind == "far":  # from the origin, and near each other
        slopes = 1e6 + 1e-6 * slopes
    if kind in ("near", "level"):
        slopes = slopes[:, :1] + 1e-9 * slopes
    if kind == "level":  # nearly, too
        levels = 1e-9 * levels
    first = torch.zeros_like(levels)
    first[:, 0] = 1
    return slopes.to(dtype), levels.to(dtype), first.to(dtype)


def gaps(slopes, levels, weights, h):
    """What the dual maximum lacks at most, as a part of the terms in it, to which each plane adds at least its mass' rounding."""
    slopes, levels, weights = slopes.double(), levels.double(), weights.double()
    gram = h * slopes @ slopes.transpose(1, 2)
    worth = levels - torch.einsum("njk,nk->nj", gram, weights)
    terms = levels.abs() + torch.einsum("njk,nk->nj", gram.abs(), weights.clamp(min=2**-52))
    found = worth.amax(1) - (worth * weights).sum(1)
    best = terms.gather(1, worth.argmax(1, keepdim=True))[:, 0]
    return found / (best + (weights * terms).sum(1)).clamp(min=1e-300)


SIZES = [(1, 4, 1.0), (2, 4, 0.1), (3, 4, 1.0), (6, 4, 10.0), (12, 1, 10.0), (20, 5, 1e3)]
KINDS = ["random", "round", *SCALES, "far", "near", "level"]


@pytest.mark.parametrize(("count", "d", "h"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_of_duality_is_closed(kind, count, d, h):
    slopes, levels, first = problem(300, count, d, kind)
    found = balanced(slopes, levels, first, h)
    assert first[:, 0].eq(1).all()  # the guess is left as it was
    torch.testing.assert_close(found.sum(1), torch.ones(300, dtype=DOUBLE))
    assert bool((found >= 0).all())
    gap = gaps(slopes, levels, found, h)
    assert float(gap.min()) > -1e-13
    assert float(gap.max()) < 1e-12


@pytest.mark.parametrize(("count", "d", "h"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_few_steps_are_enough(kind, count, d, h, monkeypatch):
    """It ends by itself, after three steps per plane at most, and no step is made once all is done."""
    steps, newton = [], bundle._newton

    def counted(curvature, *others):
        steps.append(len(curvature))
        return newton(curvature, *others)

    monkeypatch.setattr(bundle, "_newton", counted)
    balanced(*problem(300, count, d, kind), h)
    assert len(steps) <= 3 * count
    assert all(steps)


@pytest.mark.parametrize("h", [0.1, 10.0])
@pytest.mark.parametrize(("count", "d"), [(6, 4), (10, 2)])
def test_value_and_place_are_those_of_a_convex_program(count, d, h):
    """The program in z, of which the weights are the dual."""
    slopes, levels, first = problem(4, count, d)
    found = balanced(slopes, levels, first, h)
    pull = torch.einsum("nj,njd->nd", found, slopes)
    dual = (found * levels).sum(1) - h / 2 * pull.square().sum(1)
    for g, e, value, way in zip(slopes.numpy(), levels.numpy(), dual.tolist(), (-h * pull).numpy()):
        z = cp.Variable(d)
        program = cp.Problem(cp.Minimize(cp.max(e + g @ z) + cp.sum_squares(z) / (2 * h)))
        assert value == pytest.approx(program.solve(solver=cp.CLARABEL), rel=1e-7)
        np.testing.assert_allclose(way, z.value, rtol=1e-4, atol=1e-4)


def test_three_planes_by_hand():
    """The highest of −z, z and 1/2 is lowest where it is level; that of 1 + 2z and 1/2, with the way there, at their kink."""
    slopes = torch.tensor([[[-1.0], [1.0], [0.0]], [[2.0], [0.0], [-2.0]]], dtype=DOUBLE)
    levels = torch.tensor([[0.0, 0.0, 0.5], [1.0, 0.5, -5.0]], dtype=DOUBLE)
    first = torch.full((2, 3), 1 / 3, dtype=DOUBLE)
    found = balanced(slopes, levels, first, 10.0)
    # Where 1 + 2z meets 1/2, z = −1/4 = −10 · 2λ.
    expected = torch.tensor([[0.0, 0.0, 1.0], [1 / 80, 79 / 80, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(found, expected)


def test_what_all_levels_have_in_common_leaves_no_trace():
    slopes, levels, first = problem(20, 6, 4)
    levels = (levels * 2**20).round() / 2**20  # so that nothing is rounded where 2²⁰ is added
    assert torch.equal(balanced(slopes, levels + 2**20, first, 1.0), balanced(slopes, levels, first, 1.0))


def test_flat_planes_of_one_level():
    """The differences between the first two are 0 in slope and in level."""
    slopes, levels = torch.zeros(1, 3, 2, dtype=DOUBLE), torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE)
    first = torch.tensor([[0.5, 0.5, 0.0]], dtype=DOUBLE)
    assert torch.equal(balanced(slopes, levels, first, 1.0), torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE))


def test_single_precision_comes_back_as_it_went_in():
    slopes, levels, first = problem(50, 8, 3, dtype=torch.float32)
    found = balanced(slopes, levels, first, 10.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, balanced(*problem(50, 8, 3), 10.0).float(), rtol=1e-4, atol=1e-4)
    assert float(gaps(slopes, levels, found, 10.0).max()) < 1e-6


def test_every_point_has_a_problem_of_its_own(monkeypatch):
    """However many others there are, at once or not."""
    slopes, levels, first = problem(7, 6, 4)
    found = balanced(slopes, levels, first, 10.0)
    for k in range(7):
        alone = balanced(slopes[k : k + 1], levels[k : k + 1], first[k : k + 1], 10.0)
        torch.testing.assert_close(alone[0], found[k], rtol=0, atol=1e-12)
    monkeypatch.setattr(bundle, "ROWS", 3)
    torch.testing.assert_close(balanced(slopes, levels, first, 10.0), found, rtol=0, atol=1e-12)


def test_good_weights_stay():
    slopes, levels, first = problem(20, 6, 4)
    found = balanced(slopes, levels, first, 1.0)
    assert torch.equal(balanced(slopes, levels, found, 1.0), found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, 1e-200])
def test_spoilt_and_flat_planes_leave_the_others_alone(value):
    """Not finite, or of no slope and one level: whatever the weights are then, they are in the simplex."""
    slopes, levels, first = problem(5, 4, 3)
    good = balanced(slopes, levels, first, 1.0)
    slopes[2], levels[2] = value, value
    found = balanced(slopes, levels, first, 1.0)
    torch.testing.assert_close(found[2].sum(), torch.ones((), dtype=DOUBLE))
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found[others], good[others], rtol=0, atol=1e-12)
