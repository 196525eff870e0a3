"""Random settings: a specification, or a refusal in one line; and what is written down is read again."""

import dataclasses
import math

import numpy as np
import pytest
from fuzzing import fuzz, spoilt
from hypothesis import given
from hypothesis import strategies as st

from particles.experiment import provenance
from particles.experiment.specification import Specification
from particles.names import (
    ACTIVATIONS,
    BACKENDS,
    CONSTRAINTS,
    DIVERGENCES,
    DTYPES,
    FLOWS,
    KERNELS,
    MODES,
    PERSISTENT,
    SCALES,
    SOLVERS,
    STEPPERS,
)

pytestmark = pytest.mark.slow

FIELDS = {field.name: field for field in dataclasses.fields(Specification)}
CHOICES = {
    "flow": FLOWS, "divergence": DIVERGENCES, "kernel": KERNELS, "stepper": STEPPERS, "activation": ACTIVATIONS,
    "constraint": CONSTRAINTS, "scale": SCALES, "solver": sum(SOLVERS.values(), ()), "mode": MODES, "backend": BACKENDS,
    "persistent": PERSISTENT, "dtype": DTYPES,
}  # fmt: skip
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**30, 10**400, -(10**400), 2**63, 0.0, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["auto", "AUTO", "Reverse_KL", "", " ", "\n", "\0", "a\nb", "\ud800"]),
    st.sampled_from([np.float32(0.5), np.int64(3), np.array(1.0), np.array([1, 2]), 1j, b"kl", object, Ellipsis]),
    st.lists(st.one_of(st.integers(-1, 9), st.floats(), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip


def likely(field):
    """Values of a field's own type, most of them good."""
    if field.name in CHOICES:
        return st.sampled_from(list(CHOICES[field.name]))
    kinds = {
        "str": st.sampled_from(["moons", "a b.csv", "größe", "--flow", "-x", "'\"$", "a=b"]),
        "int": st.integers(0, 50),
        "float": st.one_of(st.floats(0, 2), st.floats(1e-300, 1e300), st.just(math.inf)),
        "bool": st.booleans(),
        "None": st.none(),
        "tuple[int, ...]": st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple),
    }
    if field.name == "step_size":
        kinds["str"] = st.just("auto")
    return st.one_of(*(kinds[kind] for kind in str(field.type).split(" | ")))


def some(values, most):
    """Some of the settings, with such values."""
    pairs = st.lists(st.sampled_from(sorted(FIELDS.keys() - {"target"})), max_size=most, unique=True)
    return pairs.flatmap(lambda names: st.fixed_dictionaries({name: values(FIELDS[name]) for name in names}))


def refused(error, name=""):
    assert "\n" not in str(error), str(error)
    assert str(error)
    assert name in str(error)


@fuzz(400)
@given(some(likely, 6), some(lambda field: ODD, 2), st.one_of(st.just("moons"), ODD))
def test_any_values(good, odd, target):
    try:
        spec = Specification(**good | odd | {"target": target})
    except ValueError as error:
        refused(error)
        return
    for field in FIELDS.values():
        value = getattr(spec, field.name)
        kinds = [kind.partition("[")[0] for kind in str(field.type).split(" | ")]
        assert type(value).__name__.replace("NoneType", "None") in kinds, (field.name, value)
    assert hash(spec) == hash(dataclasses.replace(spec))


@fuzz(200)
@given(some(likely, 8), st.sampled_from(["moons", "a b.csv", "ü.csv", "-x.csv"]))
def test_what_is_dumped_is_loaded(folder, settings, target):
    try:
        spec = Specification(**settings, target=target)
    except ValueError as error:
        refused(error)
        return
    path = folder / "spec.toml"
    path.write_text(spec.dump({"data": {"columns": ["a", 'b"\n']}}), encoding="utf-8")
    assert Specification.load(path) == (spec, {"data": {"columns": ["a", 'b"\n']}})


@fuzz(200)
@given(some(likely, 8), st.sampled_from(["moons", "a b.csv", "ü.csv", "-x.csv"]))
def test_the_options_of_a_run_give_the_run(settings, target):
    from particles.cli.simulate import command

    try:
        spec = Specification(**settings, target=target)
    except ValueError as error:
        refused(error)
        return
    found = command.make_context("simulate", provenance.options(spec)).params
    assert Specification(**{name: found[name] for name in FIELDS}) == spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


TEXT = Specification("moons", steps=20, network=(8, 8), label="k", lipschitz=math.inf).dump(
    {"data": {"columns": ["x0", "x1"], "units": [1.0, 0.5], "target_fingerprint": "0" * 32}, "versions": {"torch": "2"}}
)
VALUES = st.sampled_from(
    [
        '"a"',
        "'b'",
        "1",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        "[]",
        "[1, 2]",
        "[[1]]",
        "{}",
        "{a = 1}",
        "1979-05-27",
        "0x10",
    ]
    + [
        "99999999999999999999999",
        '"""a\nb"""',
        "",
        "07:32:00",
        "[1, 'a']",
        '"\\u0000"',
        "1_000",
        '"auto"',
        "[" * 500,
        "{a=" * 500,
    ]
)


@fuzz(300)
@given(st.data())
def test_any_file_of_settings(folder, data):
    draw = data.draw
    text = TEXT
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*FIELDS, "data", "versions", "strange", "a.b", '""']))
        text = "\n".join(line for line in text.split("\n") if not line.startswith(f"{name} = "))
        text = f"{name} = {draw(VALUES)}\n{text}"
    content = text.encode()
    path = folder / "spoilt.toml"
    path.write_bytes(draw(spoilt(content)) if draw(st.booleans()) else content)
    try:
        spec, noted = Specification.load(path)
    except ValueError as error:
        refused(error, str(path))
        return
    assert isinstance(spec, Specification)
    assert all(isinstance(part, dict) for part in noted.values())
