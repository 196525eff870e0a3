"""What float32, cells and kept weights change in a softmin, against the full sum in float64, and the bounds that are stated."""

import math

import pytest
import torch
from problems import DOUBLE, normal

from particles.kernels import Distance, Gaussian, Huber, Squared
from particles.pairwise import cached, pruning, tiled
from particles.pairwise.sums import Pairs, kernel_product, softmin, softmin_gradient

pytestmark = pytest.mark.slow

UNIT = 2.0**-24
"""The rounding of a number in float32."""
COSTS = [Distance(2.0), Squared(), Huber(2.0, 0.5)]


def full(x, y, g, cost, epsilon):
    """The softmin, its gradient and its weights, from all pairs in float64."""
    difference = x.double()[:, None] - y.double()
    s = difference.square().sum(2)
    scores = (g.double() - cost.value(s)) / epsilon
    weight = torch.softmax(scores, 1)
    gradient = ((weight * cost.slope(s))[:, :, None] * difference).sum(1)
    return -epsilon * torch.logsumexp(scores, 1), gradient, weight, cost.value(s)


def hard(kind, d, m, n):
    """Rows and columns in float32 that are hard on rounding."""
    x, y = normal(m, d, f"x {kind}"), normal(n, d, f"y {kind}")
    if kind == "offset":
        x, y = x + 1000, y + 1000
    if kind == "near":
        x = y[:m] + 1e-4 * x
    if kind == "apart":  # two heaps, at a distance of 10,000 times their size
        x, y = 1e-3 * x, 1e-3 * y
        x[::2] += 10
        y[::2] += 10
    if kind == "spread":
        y = y * torch.logspace(-3, 3, n, dtype=DOUBLE)[:, None]
    return x.float(), y.float()


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("epsilon", [0.003, 1.0])
@pytest.mark.parametrize("kind", ["cloud", "offset", "near", "apart", "spread"])
@pytest.mark.parametrize("d", [1, 2, 10, 50])
def test_the_bound_on_rounding(d, kind, epsilon, cost):
    """float32, 10⁵ columns: the bounds of the module's docstring."""
    m, n = (6, 100_000) if d <= 10 else (3, 30_000)
    x, y = hard(kind, d, m, n)
    g = (normal(n, 1, "g")[:, 0] * (3 if kind == "spread" else 0.3)).float()
    value, gradient, weight, costs = full(x, y, g, cost, epsilon)
    found = softmin_gradient(x, y, g, cost, epsilon)
    alone = softmin(x, y, g, cost, epsilon)
    size = (weight * (g.double().abs() + costs)).sum(1)  # what scores are made of
    digits = 8 if d <= tiled.DIRECT else 200  # near pairs are expanded up to a tenth of their distance to the mean
    bound = UNIT * (digits * size + 32 * epsilon)
    for values in (found[0], alone):
        assert bool(((values.double() - value).abs() <= bound + UNIT * value.abs()).all())
    origin = y.mean(0)
    lengths = (y - origin).norm(dim=1).double() + (x - origin).norm(dim=1).double()[:, None]
    steep = (weight * lengths).sum(1) if isinstance(cost, Squared) else cost.lipschitz
    assert bool(((found[1].double() - gradient).norm(dim=1) <= steep * (2 * bound / epsilon + 300 * UNIT)).all())


# Cells


def counted(monkeypatch):
    """The number of pairs that blocks are made of."""
    pairs = [0]

    def squares(self, rows, columns, plain=tiled.Blocks.squares):
        found = plain(self, rows, columns)
        pairs[0] += found[0].numel()
        return found

    monkeypatch.setattr(tiled.Blocks, "squares", squares)
    return pairs


@pytest.fixture
def small_cells(monkeypatch):
    """Blocks of 16 × 64 pairs."""
    monkeypatch.setitem(tiled.PAIRS, "cpu", 1024)
    monkeypatch.setattr(tiled, "COLUMNS", 64)
    monkeypatch.setattr(tiled, "CELLED", 4)
    monkeypatch.setattr(tiled, "STEEP", 0)


def clouds(kind, d, m=300, n=700):
    x, y = normal(m, d, "x"), normal(n, d, "y")
    g = 0.3 * normal(n, 1, "g")[:, 0]
    if kind == "outliers":
        x[::50] *= 100
        y[::70] *= 100
    if kind == "one place":
        x[:], y[:] = 1.0, 1.0
    if kind == "clusters":
        x[::3] += 20
        y[::2] += 20
    if kind == "no masses":
        g[100:600] = -math.inf
        y[650:] += 30
    if kind == "steep":  # the best column is not the nearest one
        g = 100 * g
    return x, y, g


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("epsilon", [0.003, 0.1, 3.0])
@pytest.mark.parametrize("kind", ["cloud", "outliers", "one place", "clusters", "no masses", "steep"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_cells_leave_out_what_does_not_matter(small_cells, monkeypatch, d, kind, epsilon, cost):
    """At most the part 2⁻²⁴ (2⁻⁵³) of a row's weight: ε 2⁻²⁴ in the value, 2⁻²³ of the reach of differences in the gradient."""
    x, y, g = clouds(kind, d)
    value, gradient, _, _ = full(x, y, g, cost, epsilon)
    reach = float(torch.cdist(x, y).max()) if isinstance(cost, Squared) else cost.lipschitz
    monkeypatch.setitem(pruning.BITS, DOUBLE, 24)  # float64 hides no error of the bound by its own rounding
    pairs = counted(monkeypatch)
    values, slopes = softmin_gradient(x, y, g, cost, epsilon)
    visited = pairs[0] / (len(x) * len(y))
    rounding = 1e-12 * (value.abs() + 1)
    assert bool(((values - value).abs() <= epsilon * UNIT + rounding).all())
    assert float((slopes - gradient).norm(dim=1).max()) <= 2 * UNIT * reach + 1e-11 * reach / min(epsilon, 1)
    if kind == "cloud" and epsilon == 0.003:
        assert visited < {1: 0.2, 2: 0.3, 3: 0.6}[d]
    if kind == "one place":
        assert visited <= 1.1
    monkeypatch.setitem(pruning.BITS, DOUBLE, 53)
    torch.testing.assert_close(softmin(x, y, g, cost, epsilon), value, rtol=1e-12, atol=1e-12)


def test_cells_are_not_made_of_what_is_not_finite(small_cells):
    x, y, g = clouds("cloud", 2)
    x[5, 0] = math.nan
    assert tiled.cells(x, y, Distance(), 0.1) is None
    found = softmin(x, y, g, Distance(), 0.1)
    assert bool(found[5].isnan())
    assert int(found.isnan().sum()) == 1


def test_cells_are_of_neighbours():
    """Every point is in one cell of the right size, within its box; boxes of a grid do not overlap."""
    x = torch.cartesian_prod(torch.arange(32.0), torch.arange(32.0))[torch.randperm(1024, generator=torch.Generator())]
    found = pruning.Cells(x, 64)
    assert sorted(found.order.tolist()) == list(range(1024))
    for k, order in enumerate(found.order.split(64)):
        torch.testing.assert_close(x[order].amin(0), found.lower[k])
        torch.testing.assert_close(x[order].amax(0), found.upper[k])
    sizes = (found.upper - found.lower + 1).prod(1)
    assert torch.equal(sizes, torch.full((16,), 64.0))


@pytest.mark.parametrize("d", [2, 10])
def test_rows_do_not_depend_on_each_other(small_cells, d):
    x, y, g = clouds("cloud", d)
    values, gradient = softmin_gradient(x, y, g, Distance(), 0.01)
    some = torch.arange(7, 300, 11)
    found = softmin_gradient(x[some], y, g, Distance(), 0.01)
    torch.testing.assert_close(found[0], values[some], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], gradient[some], rtol=1e-9, atol=1e-9)


# Kept costs and weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("epsilon", [0.003, 0.1, 3.0])
def test_kept_weights(epsilon, cost, dtype):
    """Potentials near the first, far from it, and without some masses, for rows and columns."""
    x, y, g = (tensor.to(dtype) for tensor in clouds("clusters", 2))
    pairs = Pairs(x, y, cost)
    costs = cost.value(torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square())
    least = 1e-12 if dtype == DOUBLE else 2e-6
    for k, change in enumerate((0.0, 1e-3, epsilon, 10 * epsilon, 1e3 * epsilon, 0.0, -math.inf)):
        moved = g + change * normal(len(g), 1, f"move {k}")[:, 0].to(dtype) if math.isfinite(change) else g.clone()
        if not math.isfinite(change):
            moved[::5] = -math.inf
        tolerance = least * (1 + float(costs.max()) + float(moved[moved.isfinite()].abs().max()))
        value = -epsilon * torch.logsumexp((moved.double() - costs) / epsilon, 1)
        torch.testing.assert_close(pairs.rows(moved, epsilon).double(), value, rtol=0, atol=tolerance)
        f = (value + change * normal(len(value), 1, f"f {k}")[:, 0] if math.isfinite(change) else value).to(dtype)
        expected = -epsilon * torch.logsumexp((f.double()[:, None] - costs) / epsilon, 0)
        torch.testing.assert_close(pairs.columns(f, epsilon).double(), expected, rtol=0, atol=tolerance)


def test_weights_are_kept_while_potentials_are_near(monkeypatch):
    """One matrix of weights for potentials that move by a few ε, a new one for those that moved by 60 binary scores."""
    made = []
    plain = cached.Weights.__init__
    monkeypatch.setattr(cached.Weights, "__init__", lambda self, *of: made.append(1) or plain(self, *of))
    x, y, g = clouds("cloud", 2)
    pairs = Pairs(x, y, Distance())
    for change in (0.0, 0.1, -0.4, 0.4):
        pairs.rows(g + change, 0.01)
    assert len(made) == 1
    pairs.rows(g + 1.0, 0.01)
    assert len(made) == 2
    pairs.rows(g + 1.0, 0.02)
    assert len(made) == 3


def test_columns_that_no_row_weighs_are_done_from_the_costs():
    """A column 10⁴ ε away from all rows has a weight that float32 does not have; its softmin is right."""
    x, y = torch.zeros(5, 1), torch.tensor([[0.0], [0.1], [100.0]])
    pairs = Pairs(x, y, Distance())
    f = -pairs.rows(torch.zeros(3), 0.01)
    found = pairs.columns(f, 0.01)
    torch.testing.assert_close(found, y[:, 0] - 0.01 * math.log(5) - f[0], rtol=1e-6, atol=1e-6)


# Kernel sums


def test_kernel_sums_of_many_columns():
    """10⁶ columns in float32: sums of blocks are added in float64, so that errors do not grow with their number."""
    x, y = normal(3, 2, "x").float(), normal(1_000_000, 2, "y").float()
    b = torch.ones(len(y))
    s = (x.double()[:, None] - y.double()).square().sum(2)
    found = kernel_product(x, y, b, Gaussian(1.5)).double()
    torch.testing.assert_close(found, (s / -4.5).exp().sum(1), rtol=1e-6, atol=0)
