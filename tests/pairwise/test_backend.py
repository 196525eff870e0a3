"""The rule by which ``auto`` takes KeOps: derived from timings, kept per machine, and settled once per run."""

import json
import logging
import math
import tomllib

import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

from particles.pairwise import backend, calibration, keops
from particles.pairwise.backend import BUILT_IN, Rule, Timing, derived


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, in which nothing was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(keops, "broken", [])
    backend._stored.cache_clear()
    yield tmp_path
    backend._stored.cache_clear()


def timed(*faster, device="cpu"):
    """Timings in which KeOps was faster (or not) at (dimension, points)."""
    return [Timing(device, d, n, 1.0, 0.5 if won else 2.0) for d, n, won in faster]


@pytest.mark.parametrize(
    ("timings", "rule"),
    [
        ([], Rule()),
        (timed((2, 1000, False), (2, 4000, False)), Rule()),
        (timed((2, 1000, True), (2, 4000, False)), Rule()),  # it has to win from there on
        (timed((2, 1000, False), (2, 4000, True)), Rule(4000**2, 2)),
        (timed((2, 1000, True), (2, 4000, True), (10, 1000, False), (10, 4000, True)), Rule(4000**2, 10)),
        (timed((2, 1000, True), (10, 1000, False), (50, 1000, True)), Rule(1000**2, 2)),  # no gap between dimensions
        (timed((10, 4000, True), (2, 4000, True), (2, 1000, True), (10, 1000, True)), Rule(1000**2, 10)),
    ],
)
def test_rules_take_keops_where_it_was_faster(timings, rule):
    assert derived(timings) == rule


def test_a_rule_is_asked_with_pairs_and_dimension():
    rule = Rule(1e6, 10)
    assert [rule(10**6, 10), rule(10**6 - 1, 10), rule(10**6, 11), Rule()(10**30, 1)] == [True, False, False, False]


def test_what_is_stored_is_what_auto_does():
    x, y = torch.zeros(1000, 2), torch.zeros(1000, 2)
    assert not keops.is_chosen("auto", x, y)
    path = backend.store({"cpu": Rule(10**6, 2), "cuda": Rule()})
    assert keops.is_chosen("auto", x, y)
    assert not keops.is_chosen("auto", x[1:], y)
    assert not keops.is_chosen("auto", torch.zeros(1000, 3), torch.zeros(1000, 3))
    assert not keops.is_chosen("tiled", x, y)
    assert backend.rule("cuda") == Rule()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def changed(**of):
    def change(content):
        content["rules"]["cpu"] |= of
        return json.dumps(content)

    return change


def of_another_machine(content):
    content["machine"]["torch"] = "1.0"
    return json.dumps(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: json.dumps(content)[:-20],
        lambda content: "[]",
        lambda content: "null",
        lambda content: '{"machine": {}, "rules": {}}',
        changed(pairs="many"),
        changed(pairs=-1),
        changed(pairs=float("nan")),
        changed(pairs=True),
        changed(dimension=1.5),
        changed(dimension=None),
        of_another_machine,
        lambda content: "\x00" * 100,
    ],
)
def test_a_damaged_or_stale_file_is_as_good_as_none(damage):
    path = backend.store({"cpu": Rule(1.0, 1000)})
    assert backend.rule("cpu") == Rule(1.0, 1000)
    path.write_text(damage(json.loads(path.read_text())))
    backend._stored.cache_clear()
    assert backend.rule("cpu") == BUILT_IN["cpu"]


def test_bytes_that_are_no_text_and_folders_are_as_good_as_none():
    path = backend.store({"cpu": Rule(1.0, 1000)})
    path.write_bytes(b"\xff\xfe\x00")
    backend._stored.cache_clear()
    assert backend.rule("cpu") == BUILT_IN["cpu"]
    path.unlink()
    path.mkdir()
    backend._stored.cache_clear()
    assert backend.rule("cpu") == BUILT_IN["cpu"]


def test_the_cache_folder(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert backend.place().parent == home / "cache" / "lipschitz-particles"
    for unset in ("", "relative"):  # the standard: a relative path is to be ignored
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert backend.place().parent == home / ".cache" / "lipschitz-particles"


# The command


def info(*words):
    done = CliRunner().invoke(main, ["info", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_info_measures_and_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(calibration, "timings", lambda device: timed((2, 1000, False), (2, 4000, True)))
    said = info("--benchmark")
    assert "4000     1.0000     0.5000" in said
    assert "--backend auto on cpu: KeOps from 1.6e+07 pairs and up to 2 dimensions, tiles elsewhere" in said
    assert f"kept in {backend.place()}" in said
    assert backend.rule("cpu") == Rule(4000**2, 2)
    assert "cpu: KeOps from 1.6e+07 pairs" in info()
    found = json.loads(info("--benchmark", "--json"))
    assert found["timings"][1] == {"device": "cpu", "dimension": 2, "points": 4000, "tiled": 1.0, "keops": 0.5}


def test_info_says_that_a_rule_cannot_be_kept(home, monkeypatch):
    (home / "cache").touch()  # a file where the folder should be
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(calibration, "timings", lambda device: timed((2, 1000, True)))
    said = info("--benchmark").splitlines()
    assert said[-1].startswith("they could not be kept, so the next process does not know them: ")
    assert backend.rule("cpu") == BUILT_IN["cpu"]


def test_without_keops_nothing_is_measured_or_kept(monkeypatch, caplog):
    def fail(*_):
        raise OSError("no compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(keops, "lazy", fail)
    with caplog.at_level(logging.WARNING):
        said = info("--benchmark")
    assert said.strip() == "nothing is kept: KeOps does not work here"
    assert len(caplog.records) == 1
    assert not backend.place().exists()


def test_a_budget_that_is_spent_ends_the_measurement():
    assert list(calibration.timings("cpu", -1.0)) == []


# Runs


@pytest.mark.parametrize(("rule", "name"), [(Rule(), "tiled"), (Rule(1.0, 100), "keops")])
def test_a_run_settles_what_auto_is(home, monkeypatch, rule, name):
    """It is in spec.toml, and a resumed run keeps it whatever the rule is then."""
    monkeypatch.setattr(keops, "broken", ["not here"])  # KeOps is chosen, and tiles do it
    backend.store({"cpu": rule})
    words = ["simulate", "--target", "moons", "--flow", "mmd", "-n", "20", "--output", str(home / "run"), "-q"]
    assert CliRunner().invoke(main, [*words, "--steps", "2"]).exit_code == 0
    spec = tomllib.loads((home / "run" / "spec.toml").read_text())
    assert name in (spec.get("backend"), spec.get("options", {}).get("backend"))
    backend.store({"cpu": Rule() if name == "keops" else Rule(1.0, 100)})
    resumed = CliRunner().invoke(main, ["simulate", "--resume", str(home / "run"), "--steps", "4", "-q"])
    assert resumed.exit_code == 0, resumed.output
    again = tomllib.loads((home / "run" / "spec.toml").read_text())
    assert name in (again.get("backend"), again.get("options", {}).get("backend"))


@pytest.mark.gpu
@pytest.mark.parametrize("d", [2, 10, 50, 200])
def test_a_million_pairs_of_a_million_on_a_gpu(d):
    """10⁶ × 10⁶ by KeOps: some rows are the full sum in float64."""
    from particles.kernels import Distance
    from particles.pairwise.sums import softmin_gradient

    generator = torch.Generator(device="cuda").manual_seed(0)
    x, y = (torch.randn(10**6, d, device="cuda", generator=generator) for _ in range(2))
    g = torch.zeros(len(y), device="cuda")
    values, gradient = softmin_gradient(x, y, g, Distance(), 0.1, backend="keops")
    assert not keops.broken
    distance = torch.cdist(x[:8].double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(
        values[:8].double(), -0.1 * torch.logsumexp(-distance / 0.1, 1), rtol=1e-5, atol=1e-5 * math.sqrt(d)
    )
    assert float(gradient.norm(dim=1).max()) <= 1 + 1e-3
    tiled = softmin_gradient(x[:10_000], y, g, Distance(), 0.1, backend="tiled")
    torch.testing.assert_close(tiled[0], values[:10_000], rtol=1e-4, atol=1e-4 * math.sqrt(d))
