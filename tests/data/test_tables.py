"""Tables in and out, the scales between, and the laws that points are drawn from."""

import os
import random

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from particles.cloud import Cloud
from particles.data.export import write
from particles.data.tables import SCALES, Schema, Table, array_table, read_table
from particles.keys import Key
from particles.names import SOURCES, TOYS, find

KEY = Key.of(3)
INT, FLOAT, BOOL = (np.dtype(t) for t in (np.int64, np.float64, np.bool_))
MIXED = "a,k,flag\n0.25,3,True\n-1.5,-70,False\n8.125,12,True\n2.75,5,False\n"


def put(folder, content, name="data.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, error=ValueError, **settings):
    """What reading says, which is one sentence that names the file."""
    with pytest.raises(error) as caught:
        read_table(path, **settings)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def table(values, label=None, **settings):
    return array_table("data", np.asarray(values), None if label is None else np.asarray(label), **settings)


# Reading


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("header", [True, False])
def test_separators_and_headers(tmp_path, separator, header):
    lines = [["a", "b", "c"]] * header + [["1", "2.5", "-3"], ["4", "5e-1", "6"]]
    found = read_table(put(tmp_path, "".join(separator.join(line) + "\n" for line in lines)))
    assert found.header is header
    assert found.columns == (("a", "b", "c") if header else ("x0", "x1", "x2"))
    assert found.dtypes == (INT, FLOAT, INT)
    assert found.values.tolist() == [[1, 2.5, -3], [4, 0.5, 6]]
    assert found.values.dtype == np.float64


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        ("\ufeffa,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("\ufeff1,2\n3,4\n", ("x0", "x1"), [[1, 2], [3, 4]]),
        ("a,b\r\n1,2\r\n3,4\r\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a,b\n1,2\n3,4", ("a", "b"), [[1, 2], [3, 4]]),
        ("a, b\n1, 2\n3 ,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ('"a, in m",b\n1,2\n3,4\n', ("a, in m", "b"), [[1, 2], [3, 4]]),
        ("0,1,2\n5,6,7\n8,9,10\n", ("0", "1", "2"), [[5, 6, 7], [8, 9, 10]]),
        ("0,1,3\n5,6,7\n8,9,10\n", ("x0", "x1", "x2"), [[0, 1, 3], [5, 6, 7], [8, 9, 10]]),
        ("length (cm)\n1\n2\n", ("length (cm)",), [[1], [2]]),
        ("1\n2\n", ("x0",), [[1], [2]]),
    ],
)
def test_forms_of_csv(tmp_path, content, columns, rows):
    found = read_table(put(tmp_path, content))
    assert found.columns == columns
    assert found.values.tolist() == rows
    assert set(found.dtypes) == {INT}
    assert found.header is (columns[0] != "x0")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("blank", ["\n", "\n\n\n"])
def test_blank_lines_at_the_end_change_nothing(tmp_path, header, blank):
    content = "a,flag,class\n"[: 13 * header] + "1,True,4\n3,False,5\n5,True,4\n"
    label = "class" if header else "x2"
    plain = read_table(put(tmp_path, content), label, header)
    found = read_table(put(tmp_path, content + blank), label, header)
    assert found.values.tolist() == [[1, 1], [3, 0], [5, 1]]
    assert found.dtypes == plain.dtypes == (INT, BOOL)
    assert found.label.tolist() == [4, 5, 4]
    assert found.label.dtype == plain.label.dtype == INT
    assert found.fingerprint == plain.fingerprint


@pytest.mark.parametrize("header", [True, False])
def test_header_can_be_told(tmp_path, header):
    found = read_table(put(tmp_path, "1,2\n3,4\n5,6\n"), header=header)
    assert found.columns == (("1", "2") if header else ("x0", "x1"))
    assert len(found) == 3 - header


@pytest.mark.parametrize("names", [("a", "b"), (0, 1)])
def test_row_numbers_of_pandas_are_left_out(tmp_path, caplog, names):
    pd.DataFrame([[1.5, 2], [3, 4], [5, 6]], columns=list(names)).to_csv(tmp_path / "data.csv")
    found = read_table(tmp_path / "data.csv")
    assert found.columns == tuple(map(str, names))
    assert found.values.tolist() == [[1.5, 2], [3, 4], [5, 6]]
    assert "counts the rows" in caplog.text


def test_an_unnamed_column_that_counts_nothing_stays(tmp_path, caplog):
    found = read_table(put(tmp_path, ",a\n0,1\n2,3\n"))
    assert found.values.tolist() == [[0, 1], [2, 3]]
    assert caplog.text == ""


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"k": [3, -7], "l": ["u", "v"], "f": np.float32([0.5, 2]), "t": [True, False]})
    frame.to_parquet(tmp_path / "data.parquet")
    found = read_table(tmp_path / "data.parquet", "l")
    assert found.columns == ("k", "f", "t")
    assert found.dtypes == (INT, np.dtype(np.float32), BOOL)
    assert found.values.tolist() == [[3, 0.5, 1], [-7, 2, 0]]
    assert found.label.tolist() == ["u", "v"]
    assert found.label_column == ("l", 1)


def test_parquet_with_nullable_integers(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"k": pd.array([3, -7], dtype="Int64")}).to_parquet(tmp_path / "data.parquet")
    found = read_table(tmp_path / "data.parquet")
    assert found.values.tolist() == [[3], [-7]]
    assert found.dtypes == (INT,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_npy(tmp_path, dtype, shape):
    values = np.array([0, 1, 0, 1]).reshape(shape).astype(dtype)
    np.save(tmp_path / "data.npy", values)
    found = read_table(tmp_path / "data.npy")
    assert np.array_equal(found.values, values.reshape(shape[0], -1))
    assert found.columns == ("x0", "x1")[: found.values.shape[1]]
    assert set(found.dtypes) == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("names", "label", "rows"),
    [
        (["x"], None, "x"),
        (["q"], None, "q"),
        (["x", "q"], None, "x"),
        (["q", "y"], "y", "q"),
        (["x", "q", "y"], "y", "x"),
    ],
)
def test_npz(tmp_path, names, label, rows):
    arrays = {name: np.array([[1.5, 2], [3, 4]]) + i for i, name in enumerate(names)}
    if label:
        arrays[label] = np.array(["u", "v"])
    np.savez(tmp_path / "data.npz", **arrays)
    found = read_table(tmp_path / "data.npz", label)
    assert np.array_equal(found.values, arrays[rows])
    assert found.columns == ("x0", "x1")
    assert (None if found.label is None else found.label.tolist()) == (["u", "v"] if label else None)
    assert found.label_column == ((label, 2) if label else None)


@pytest.mark.parametrize(
    ("label", "place", "classes", "columns"),
    [("k", 1, [3, -70, 12, 5], ("a", "flag")), ("flag", 2, [True, False, True, False], ("a", "k"))],
)
def test_labels(tmp_path, label, place, classes, columns):
    found = read_table(put(tmp_path, MIXED), label)
    assert found.columns == columns
    assert found.label.tolist() == classes
    assert found.label_column == (label, place)


def test_take_keeps_labels_beside_rows():
    found = table([[1, 2], [3, 4], [5, 6]], ["u", "v", "w"]).take(np.array([2, 0]))
    assert found.values.tolist() == [[5, 6], [1, 2]]
    assert found.label.tolist() == ["w", "u"]


def test_fingerprint():
    values = np.arange(6.0).reshape(3, 2)
    other, swapped = values.copy(), values[[1, 0, 2]]
    other[1, 1] += 1e-12
    tables = [
        table(values),
        table(other),
        table(swapped),
        table(values[:, ::-1]),
        table(values[:2]),
        table(values, [0, 1, 1]),
        table(values, [0, 1, 0]),
        Table("data", values, ("x0", "y"), (FLOAT, FLOAT)),
    ]
    assert len({t.fingerprint for t in tables}) == len(tables)
    assert table(values.copy()).fingerprint == tables[0].fingerprint


# Bad input


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("word", "'word' is not a number"),
        ("1.2.3", "'1.2.3' is not a number"),
        ("", "missing"),
        ("NA", "missing"),
        ("nan", "missing"),
        ("inf", "inf is not finite"),
        ("-inf", "-inf is not finite"),
        ("1e999", "inf is not finite"),
    ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_a_bad_entry_is_named_by_line_and_column(tmp_path, header, entry, says, at):
    rows = [["1", "2"], ["3", "4"], ["5", "6"]]
    rows[at][1] = entry
    names = ["height", "width"] if header else ["x0", "x1"]
    path = put(tmp_path, "".join(",".join(line) + "\n" for line in [names] * header + rows))
    message = refusal(path, header=header)
    assert f"line {at + 1 + header}, column {names[1]!r}" in message
    assert says in message


@pytest.mark.parametrize(
    ("content", "settings", "says"),
    [
        ("", {}, ["empty"]),
        ("a,b\n", {}, ["0 rows", "at least 2"]),
        ("a,b\n1,2\n", {}, ["1 row;", "at least 2"]),
        ("1,2\n", {}, ["1 row;", "at least 2"]),
        ("a,b\n1,2\n\n3,4\n5,6\n", {}, ["line 3", "missing"]),
        ("a,b\n1,2\n3\n5,6\n", {}, ["line 3", "'b'", "missing"]),
        ("a,b\n1,2\n3,4,5\n6,7\n", {}, ["line 3"]),
        ("a,b\n1,2,3\n4,5,6\n", {}, ["line 2"]),
        ("a,b,a\n1,2,3\n4,5,6\n", {}, ["'a'", "more than once"]),
        ("a, a\n1,2\n3,4\n", {}, ["'a'", "more than once"]),
        ("a,b\n1,2\n3,4\n", {"label": "c"}, ["'c'", "'a', 'b'"]),
        ("a,b\n1,u\n3,\n4,v\n", {"label": "b"}, ["line 3", "label 'b' is missing"]),
        ("1,u\n3,v\n4,\n", {"label": "x1", "header": False}, ["line 3", "label 'x1' is missing"]),
        ("b\nu\nv\n", {"label": "b"}, ["no column of numbers"]),
        (b"a,b\n1,\xff\n3,4\n", {}, ["line 2", "'b'", "'ÿ'"]),
        pytest.param(b"a,b\n" + b"1,2\n" * 20000 + b"1,\xe9\n", {}, ["line 20002", "'b'", "'é'"], id="late"),
    ],
)
def test_bad_csv(tmp_path, content, settings, says):
    message = refusal(put(tmp_path, content), **settings)
    for part in says:
        assert part in message


def test_no_file_and_a_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "nothing.csv", FileNotFoundError)
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((2, 2, 2)), "(2, 2, 2)"),
        (np.array(3.0), "shape"),
        (np.array([["a"], ["b"]]), "numbers"),
        (np.array([1 + 2j, 3, 4]), "complex128"),
        (np.array([(1, 2.0), (3, 4.0)], dtype=[("a", int), ("b", float)]), "numbers"),
        (np.ones((1, 3)), "1 row;"),
        (np.ones((3, 0)), "no column"),
        (np.array([[1, 2], [3, np.nan]]), "column 'x1': the value is missing"),
        (np.array([[1, 2], [np.inf, 4]]), "line 2, column 'x0': inf is not finite"),
    ],
)
def test_bad_npy(tmp_path, array, says):
    np.save(tmp_path / "data.npy", array)
    assert says in refusal(tmp_path / "data.npy")


@pytest.mark.parametrize(
    ("arrays", "label", "says"),
    [
        ({"q": np.arange(4), "r": np.arange(4)}, None, ["'q', 'r'", "one called x"]),
        ({"x": np.arange(4)}, "y", ["'y'", "it holds 'x'"]),
        ({"x": np.arange(4), "y": np.arange(3)}, "y", ["(4,)", "(3,)"]),
        ({"x": np.arange(4.0), "y": np.array([1, np.nan, 1, 2])}, "y", ["line 2", "'y'", "missing"]),
    ],
)
def test_bad_npz(tmp_path, arrays, label, says):
    np.savez(tmp_path / "data.npz", **arrays)
    message = refusal(tmp_path / "data.npz", label=label)
    for part in says:
        assert part in message


@pytest.mark.parametrize("name", ["data.npy", "data.npz", "data.parquet"])
@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04hello", b"\x93NUMPY\x01\x00", b"PAR1PAR1"])
def test_files_of_another_kind(tmp_path, name, content):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    assert "cannot be read" in refusal(put(tmp_path, content, name))


def test_arrays_under_the_wrong_suffix(tmp_path):
    """The content counts, not the name."""
    np.savez(tmp_path / "data.npz", np.arange(4))
    os.rename(tmp_path / "data.npz", tmp_path / "data.npy")
    np.save(tmp_path / "other.npy", np.arange(4))
    os.rename(tmp_path / "other.npy", tmp_path / "other.npz")
    for name in ("data.npy", "other.npz"):
        assert read_table(tmp_path / name).values.tolist() == [[0], [1], [2], [3]]


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("label", [None, "y"])
def test_object_arrays_are_not_unpickled(tmp_path, label):
    objects = np.array([Trap(tmp_path / "sprung"), Trap(tmp_path / "sprung")], dtype=object)
    if label is None:
        np.save(tmp_path / "data.npy", objects, allow_pickle=True)
    else:
        np.savez(tmp_path / "data.npz", x=np.arange(2.0), y=objects)
    refusal(tmp_path / ("data.npy" if label is None else "data.npz"), label=label)
    assert not (tmp_path / "sprung").exists()


# Scales, and back


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", [None, "class", "k"])
@pytest.mark.parametrize("header", [True, False])
def test_round_trip(tmp_path, scale, dtype, label, header):
    rng = np.random.default_rng(0)
    given = pd.DataFrame(
        {
            "a": 1e3 + rng.normal(size=50),
            "class": rng.choice(["u", "v", "w"], 50),
            "k": rng.integers(-3000, 3000, 50),
            "seven": 7,
            "flag": rng.random(50) < 0.5,
            "pi": 3.25,
            "z": rng.normal(size=50) * 1e-6,
        }
    )
    if label != "class":
        given = given.drop(columns="class")
    given.to_csv(tmp_path / "in.csv", index=False, header=header)
    if not header and label is not None:
        label = f"x{list(given.columns).index(label)}"
    found = read_table(tmp_path / "in.csv", label, header)
    schema = Schema.fit(found, scale, dtype)
    write(schema, schema.encode(found), tmp_path / "out.csv")
    wanted, back = (
        pd.read_csv(tmp_path / name, header=0 if header else None, float_precision="round_trip")
        for name in ("in.csv", "out.csv")
    )
    tolerance = {torch.float32: 2e-7, torch.float64: 1e-13}[dtype]
    assert list(back.columns) == list(wanted.columns)
    assert back.dtypes.tolist() == wanted.dtypes.tolist()
    for name in back.columns:
        if back[name].dtype == FLOAT:
            scope = np.abs(wanted[name]).max()
            np.testing.assert_allclose(back[name], wanted[name], rtol=0, atol=tolerance * scope * 4)
        else:
            assert back[name].tolist() == wanted[name].tolist()


def test_decode_restores_types_and_order():
    rng = np.random.default_rng(1)
    columns = ("f", "k", "flag", "u")
    dtypes = tuple(np.dtype(t) for t in (np.float64, np.int16, np.bool_, np.uint8))
    values = np.stack((rng.normal(size=9), np.arange(9), np.arange(9) % 2, 250 - np.arange(9)), 1)
    found = Table("data", values, columns, dtypes, label=np.array([5, 7, 9] * 3), label_column=("class", 2))
    schema = Schema.fit(found, "standard", torch.float64)
    frame = schema.decode(schema.encode(found))
    assert list(frame.columns) == ["f", "k", "class", "flag", "u"]
    assert frame["class"].tolist() == [5, 7, 9] * 3
    assert [frame[name].dtype for name in columns] == list(dtypes)
    assert np.array_equal(frame[["k", "flag", "u"]].to_numpy(float), values[:, 1:])


def test_decode_stays_within_the_type():
    dtypes = tuple(np.dtype(t) for t in (np.uint8, np.int64, np.bool_))
    found = Table("data", np.array([[0.0, 0, 0], [255, 9, 1]]), ("u", "k", "flag"), dtypes)
    schema = Schema.fit(found, "none", torch.float64)
    frame = schema.decode(Cloud(torch.tensor([[-3.0, -1e30, 0.4], [300, 1e30, 0.6], [2.6, 2.4, -8]]).double()))
    assert frame["u"].tolist() == [0, 255, 3]
    assert frame["flag"].tolist() == [False, True, False]
    low, high, near = frame["k"].tolist()
    assert low <= -(2**62)
    assert high >= 2**62
    assert near == 2


def test_standard_gives_mean_0_and_deviation_1():
    found = table(np.random.default_rng(0).normal([5, -300, 0], [1e-3, 40, 7], (80, 3)))
    x = Schema.fit(found, "standard", torch.float64).encode(found).x
    torch.testing.assert_close(x.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3).double(), atol=1e-9, rtol=0)


def test_global_keeps_ratios_of_distances():
    found = table(np.random.default_rng(0).normal([5, -300, 0], [1e-3, 40, 7], (80, 3)))
    schema = Schema.fit(found, "global", torch.float64)
    x = schema.encode(found).x
    ratios = pdist(x.numpy()) / pdist(found.values)
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-11)
    assert ratios[0] == pytest.approx(1 / schema.unit[0])
    torch.testing.assert_close(x.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert float(x.square().mean()) == pytest.approx(1)


def test_none_leaves_values_alone():
    found = table(np.random.default_rng(0).normal([5, -300, 0], [1e-3, 40, 7], (80, 3)))
    assert np.array_equal(Schema.fit(found, "none", torch.float64).encode(found).x.numpy(), found.values)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_columns_come_back_as_they_were(caplog, scale, dtype):
    values = np.array([[12345678.901, 1, 2**40 + 1, 0.5], [12345678.901, 2, 2**40 + 1, 2]])
    found = Table("data", values, ("big", "a", "id", "b"), (FLOAT, INT, INT, FLOAT))
    schema = Schema.fit(found, scale, dtype)
    assert "kept constant: columns 'big', 'id'" in caplog.text
    assert schema.columns == ["a", "b"]
    cloud = schema.encode(found)
    assert cloud.x.shape == (2, 2)
    frame = schema.decode(Cloud(cloud.x[[0, 1, 1]]))
    assert frame["id"].tolist() == [2**40 + 1] * 3
    assert frame["a"].tolist() == [1, 2, 2]
    assert frame["big"].tolist() == [12345678.901] * 3


def test_fit_refuses():
    with pytest.raises(ValueError, match="data: every column is constant"):
        Schema.fit(table([[1.0, 2.0], [1.0, 2.0]]), "standard")
    with pytest.raises(ValueError, match="'log' is not one of standard, global, none"):
        Schema.fit(table([[1.0], [2.0]]), "log")


@pytest.mark.parametrize("scale", ["standard", "global", "none"])
def test_fit_refuses_what_the_type_cannot_hold(scale):
    found = table([[1e200, 1.0], [3e200, 2.0]])
    with pytest.raises(ValueError, match="'x0': its values are too large for float32; divide"):
        Schema.fit(found, scale).encode(found)


@pytest.mark.parametrize("scale", ["standard", "global", "none"])
def test_fit_refuses_what_is_nothing_in_the_type(scale):
    found = table([[1e-200, 1.0], [3e-200, 2.0]])
    if scale == "global":  # one unit for both
        assert Schema.fit(found, scale).encode(found).x[:, 0].tolist() == [0, 0]
        return
    with pytest.raises(ValueError, match="'x0': its values are too small for float32; multiply"):
        Schema.fit(found, scale).encode(found)


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standard_units_take_any_scale(factor, dtype):
    values = np.random.default_rng(0).normal(size=(20, 2))
    found, plain = table(values * factor), table(values)
    a, b = (Schema.fit(one, "standard", dtype).encode(one).x for one in (found, plain))
    assert torch.allclose(a, b, atol=1e-6)
    schema = Schema.fit(found, "standard", dtype)
    assert schema.points(a) == pytest.approx(values * factor, rel=1e-5)


def test_encode_refuses():
    target = Table("b.csv", np.array([[1.0, 2], [3, 5]]), ("p", "q"), (FLOAT, FLOAT))
    schema = Schema.fit(target, "standard")
    with pytest.raises(ValueError, match=r"a.csv has 3 columns of numbers, but b.csv has 2"):
        schema.encode(Table("a.csv", np.ones((2, 3)), ("p", "q", "r"), (FLOAT,) * 3))
    with pytest.raises(ValueError, match=r"a.csv has column 'r' where b.csv has 'q'"):
        schema.encode(Table("a.csv", np.ones((2, 2)), ("p", "r"), (FLOAT,) * 2))
    bare = Table("a.csv", np.array([[3.0, 2]]), ("x0", "x1"), (FLOAT,) * 2, header=False)
    assert schema.encode(bare).x.tolist() == [[1, -1]]  # without names, the order counts


@pytest.mark.parametrize(
    ("classes", "other", "says"),
    [
        ([0, 1], [0, 7], "has the class 7, which"),
        (["u", "v"], ["u", "w"], "has the class 'w', which"),
        (["u", "v"], [1, 2], "has the class 1, which"),
        ([0, 1], None, "has no labels"),
    ],
)
def test_encode_refuses_classes(classes, other, says):
    schema = Schema.fit(table([[1.0], [2.0]], classes), "standard")
    with pytest.raises(ValueError, match=says):
        schema.encode(table([[1.0], [2.0]], other))


def test_encode_counts_classes_in_order():
    schema = Schema.fit(table([[1.0], [2.0], [3.0]], ["v", "w", "u"]), "standard")
    assert schema.encode(table([[1.0], [2.0]], ["w", "u"])).label.tolist() == [2, 0]


# Toy laws


def draw(name, n=20000, key=KEY):
    return find("target", name, TOYS)(n, key)


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_functions_of_their_key(name):
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()  # noqa: NPY002
    x = draw(name, 101)
    assert x.shape == (101, 3 if name in ("swiss-roll", "s-curve") else 2)
    assert x.dtype == np.float64
    assert np.isfinite(x).all()
    assert len(np.unique(x, axis=0)) == 101
    assert np.array_equal(x, draw(name, 101))
    assert not np.isin(x, draw(name, 101, KEY.fold(1))).any()
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())  # noqa: NPY002


def test_four_gaussians():
    x = draw("4-gaussians")
    np.testing.assert_allclose(x.mean(0), 2, atol=5 * np.sqrt(4.25 / 20000))
    np.testing.assert_allclose(x.var(0), 4.25, atol=5 * np.sqrt(4.125 / 20000))
    assert abs(np.cov(x.T)[0, 1]) < 5 * 4.25 / np.sqrt(20000)


def test_eight_gaussians():
    x = draw("8-gaussians")
    angle = np.pi / 4 * np.arange(8)
    distance, mode = cKDTree(4 * np.stack((np.cos(angle), np.sin(angle)), 1)).query(x)
    np.testing.assert_allclose(np.bincount(mode) / 20000, 1 / 8, atol=5 * np.sqrt(7 / 64 / 20000))
    assert np.mean(distance**2) == pytest.approx(2 * 0.2**2, abs=5 * 2 * 0.2**2 / np.sqrt(20000))
    assert np.abs(np.linalg.norm(x, axis=1) - 4).max() < 6 * 0.2


def test_checkerboard():
    x = draw("checkerboard")
    square = np.floor((x + 4) / 2).astype(int)
    assert square.min() == 0
    assert square.max() == 3
    assert (square.sum(1) % 2 == 0).all()
    _, counts = np.unique(square, axis=0, return_counts=True)
    np.testing.assert_allclose(counts / 20000, 1 / 8, atol=5 * np.sqrt(7 / 64 / 20000))


def test_sierpinski_carpet():
    x = draw("sierpinski-carpet")
    assert np.abs(x).max() < 5
    assert np.abs(x).max(1).min() > 5 / 3  # the hole in the middle
    cell = np.floor((x / 10 + 0.5) * 81).astype(int)
    for level in range(4):
        place = cell // 3**level % 3
        _, counts = np.unique(place, axis=0, return_counts=True)
        assert not (place == 1).all(1).any()
        np.testing.assert_allclose(counts / 20000, 1 / 8, atol=5 * np.sqrt(7 / 64 / 20000))


def test_student_t():
    x = draw("student-t")
    assert np.mean(np.abs(x) < 0.764892) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20000))  # quartiles of t, df 3
    middle = 3 * (2 ** (2 / 3) - 1)  # |x|² / 2 has the law F(2, 3)
    assert np.mean((x**2).sum(1) < middle) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20000))


def test_swiss_roll():
    x, y, z = draw("swiss-roll").T
    t = np.hypot(x, z)
    np.testing.assert_allclose(np.stack((t * np.cos(t), t * np.sin(t))), (x, z), atol=1e-9)
    assert t.min() >= 1.5 * np.pi
    assert t.max() <= 4.5 * np.pi
    assert y.min() >= 0
    assert y.max() <= 21


def test_s_curve():
    x, y, z = draw("s-curve").T
    np.testing.assert_allclose(x**2 + (np.abs(z) - 1) ** 2, 1, atol=1e-12)
    assert y.min() >= 0
    assert y.max() <= 2
    assert np.ptp(z) == pytest.approx(4, abs=0.01)


ARC = np.linspace(0, 1, 4001)


@pytest.mark.parametrize(
    ("name", "curves", "noise"),
    [
        (
            "moons",
            [(np.cos(np.pi * ARC), np.sin(np.pi * ARC)), (1 - np.cos(np.pi * ARC), 0.5 - np.sin(np.pi * ARC))],
            0.05,
        ),
        ("circles", [(r * np.cos(2 * np.pi * ARC), r * np.sin(2 * np.pi * ARC)) for r in (0.5, 1)], 0.05),
        ("swiss-roll-2d", [(t := np.pi * (1.5 + 3 * ARC), (t * np.cos(t) / 3.5, t * np.sin(t) / 3.5))[1]], 0.1),
        (
            "spirals",
            [(t := 3 * np.pi * ARC, (s * 0.4 * t * np.cos(t), s * 0.4 * t * np.sin(t)))[1] for s in (-1, 1)],
            0.1,
        ),
    ],
)
def test_noisy_curves(name, curves, noise):
    x = draw(name)
    points = np.concatenate([np.stack(curve, 1) for curve in curves])
    distance, nearest = cKDTree(points).query(x)
    assert distance.max() < 6 * noise
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(noise, rel=0.05)  # across the curve alone
    if len(curves) == 2:
        assert np.mean(nearest < len(ARC)) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20000) + 0.005)


def test_pinwheel():
    x = draw("pinwheel") / 2
    radius, angle = np.linalg.norm(x, axis=1), np.arctan2(x[:, 1], x[:, 0])
    np.testing.assert_allclose(x.mean(0), 0, atol=5 * np.sqrt(1.1 / 2 / 20000))
    assert np.mean(radius**2) == pytest.approx(1 + 0.3**2 + 0.1**2, abs=0.03)
    bent = angle - 0.25 * np.exp(radius)
    arm = np.rint(bent / (2 * np.pi / 5))
    assert np.std(radius * np.sin(bent - arm * 2 * np.pi / 5)) == pytest.approx(0.1, rel=0.1)
    np.testing.assert_allclose(np.bincount(arm.astype(int) % 5) / 20000, 0.2, atol=5 * np.sqrt(0.16 / 20000))


# Sources


def source(name, target, count, mean=0.0, std=1.0, key=KEY):
    return find("source", name, SOURCES)(target, count, mean, std, key)


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_free_sources(name):
    target = Cloud(torch.zeros(5, 3))
    x = source(name, target, 20000, 1.5, 0.7).x
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.mean(0), 1.5, atol=5 * 0.7 / np.sqrt(20000))
    np.testing.assert_allclose(x.std(0), 0.7, atol=5 * 0.7 / np.sqrt(2 * 20000))
    np.testing.assert_allclose(np.corrcoef(x.T), np.eye(3), atol=5 / np.sqrt(20000))
    assert (float((x - 1.5).abs().max()) <= 0.7 * np.sqrt(3) + 1e-6) == (name == "uniform")


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sources_are_functions_of_their_key(name, dtype):
    target = Cloud(torch.linspace(0, 1, 20, dtype=dtype).reshape(10, 2))
    before = torch.get_rng_state()
    x = source(name, target, 7).x
    assert x.shape == (7, 2)
    assert x.dtype == dtype
    assert torch.equal(x, source(name, target, 7).x)
    assert not torch.equal(x, source(name, target, 7, key=KEY.fold(1)).x)
    assert torch.equal(before, torch.get_rng_state())


def test_bootstrap_draws_rows():
    target = Cloud(100 * torch.randn(50, 3, generator=KEY.generator()))
    distance, row = cKDTree(target.x).query(source("bootstrap", target, 5000, 0, 0).x)
    assert distance.max() == 0
    assert len(set(row)) == 50
    np.testing.assert_allclose(np.bincount(row) / 5000, 1 / 50, atol=5 * np.sqrt(1 / 50 / 5000))
    jittered = source("bootstrap", target, 5000, 0.25, 0.01).x
    _, row = cKDTree(target.x + 0.25).query(jittered)
    noise = (jittered - target.x[row] - 0.25).numpy()
    assert noise.std() == pytest.approx(0.01, rel=0.03)
    assert abs(noise.mean()) < 5 * 0.01 / np.sqrt(15000)


def test_bootstrap_keeps_classes():
    label = torch.tensor([0] * 30 + [1] * 15 + [2] * 5)
    target = Cloud(torch.randn(50, 2, generator=KEY.generator()) + 100 * label[:, None], label)
    drawn = source("bootstrap", target, 20, 0, 0.1)
    assert torch.bincount(drawn.label).tolist() == [12, 6, 2]
    assert torch.equal((drawn.x.mean(1) / 100).round().long(), drawn.label)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("rows", "count", "shares"),
    [
        ((5, 3, 2), 7, [4, 2, 1]),
        ((5, 3, 2), 10, [5, 3, 2]),
        ((1, 1, 1), 4, [2, 1, 1]),
        ((98, 1, 1), 10, [8, 1, 1]),
        ((49, 49, 2), 3, [1, 1, 1]),
        ((49, 49, 2), 2, [1, 1, 0]),
        ((29, 71), 100, [29, 71]),
    ],
)
def test_shares_go_by_largest_remainder(name, rows, count, shares):
    """And no class goes without where there are enough particles."""
    label = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
    drawn = source(name, Cloud(torch.randn(len(label), 2, generator=KEY.generator()), label), count)
    assert torch.bincount(drawn.label, minlength=len(rows)).tolist() == shares


@pytest.mark.parametrize("scale", ["standard", "global"])
def test_far_from_zero_float32_is_not_what_comes_back(tmp_path, scale):
    """Particles are float32 in flow units; a timestamp in seconds would come back in steps of 128."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60) + 1e6, "stamp": 1_600_000_000 + rng.integers(0, 300, 60)})
    frame.to_csv(tmp_path / "far.csv", index=False)
    table = read_table(tmp_path / "far.csv")
    schema = Schema.fit(table, scale)
    found = schema.decode(schema.encode(table))
    assert found.stamp.tolist() == frame.stamp.tolist()
    assert found.a.to_numpy() == pytest.approx(frame.a.to_numpy(), rel=0, abs=1e-4)
    assert schema.points(schema.encode(table).x).dtype == np.float64


def test_wide_text_files(tmp_path):
    """Lines far longer than any buffer: separators and headers are found in whole lines."""
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "wide.txt", rng.normal(size=(40, 300)))
    assert read_table(tmp_path / "wide.txt").values.shape == (40, 300)
    pd.DataFrame(rng.normal(size=(3, 9000))).add_prefix("gene_").to_csv(tmp_path / "genes.csv", index=False)
    assert read_table(tmp_path / "genes.csv").columns[-1] == "gene_8999"
