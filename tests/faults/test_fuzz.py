"""Random files and settings: what is read is right, and what is not read is refused in one line that names the file."""

import bz2
import csv
import gzip
import io
import itertools
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import fuzz, spoilt
from hypothesis import assume, given
from hypothesis import strategies as st

from particles.data.export import write
from particles.data.tables import Schema, Table, read_frame, read_table

pytestmark = pytest.mark.slow

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def said(error, path):
    """Whether an error is one line that names the file."""
    text = str(error)
    assert str(path) in text, text
    assert "\n" not in text.strip(), text


def tried(path, label=None, header=None):
    """The table in a file, if it is not refused as it should be; its frame is read, too."""
    try:
        frame, named = read_frame(path, header, label)
        assert isinstance(named, bool)
        assert frame.columns.is_unique
    except ValueError as error:
        said(error, path)
    try:
        table = read_table(path, label, header, least=1)
    except ValueError as error:
        said(error, path)
        return None
    n, d = table.values.shape
    assert n >= 1
    assert d == len(table.columns) == len(set(table.columns)) == len(table.dtypes) >= 1
    assert np.isfinite(table.values).all()
    assert (table.label is None) == (label is None)
    assert label is None or table.label.shape == (n,)
    return table


# CSV

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**53), 2**53).map(str),
    st.floats(-1e4, 1e4).map(lambda value: f"{value:.3f}"),
    st.integers(0, 99).map(str),
)
ODD = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "1e999",
            "-1e999",
            "1e-999",
            "0x10",
            "1_000",
            "1,5",
            "1.5",
            "1,234",
            "1.234,5",
        ]
        + [
            "٣",
            "²",
            "½",
            "−1",
            "1 000",
            "1\xa0000",
            "'1'",
            '"',
            '""',
            '"1',
            '1"',
            "a\nb",
            "True",
            "false",
            "NA",
            "#N/A",
            "None",
            "<NA>",
        ]
        + [
            "9" * 400,
            "1" * 25,
            "0." + "0" * 350 + "1",
            "9007199254740993",
            "18446744073709551616",
            "00123",
            "007",
            "+5",
            "--5",
            "1e",
            ".5",
            "5.",
        ]
        + [
            "1d5",
            "1e5L",
            "5%",
            "$5",
            "(5)",
            "=1+1",
            "2020-01-01",
            "\0",
            "\ufeff",
            "\u2028",
            "\x1a",
            "\x85",
            "x" * 3000,
            "#",
            "\\",
        ]
    ),
    st.text(max_size=6),
)
SEPARATORS = st.sampled_from([",", ";", "\t", "|", " ", ":", "  ", ", "])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def texts(draw):
    """What may be meant as a CSV."""
    separator, end = draw(SEPARATORS), draw(ENDS)
    width, odd = draw(st.integers(1, 5)), draw(st.sampled_from([0.0, 0.05, 0.5]))
    entry = st.floats(0, 1).flatmap(lambda luck: ODD if luck < odd else NUMBERS)
    lines = []
    if draw(st.booleans()):
        lines.append(
            [
                draw(st.one_of(st.sampled_from(["a", "b", "x", "y", "", "1", " a", "Unnamed: 0"]), ODD))
                for _ in range(width)
            ]
        )
    for _ in range(draw(st.integers(0, 8))):
        count = width if draw(st.integers(0, 9)) else draw(st.integers(0, 7))
        lines.append([draw(entry) for _ in range(count)])
    quote = draw(st.sampled_from([lambda text: text, lambda text: '"' + text.replace('"', '""') + '"']))
    return end.join(separator.join(map(quote, line)) for line in lines) + draw(st.sampled_from(["", end, end * 3]))


def encoded(text, encoding):
    return text.encode(encoding, "replace")


@st.composite
def csv_files(draw):
    """The bytes of such a text, spoilt now and then, and the suffix of the file."""
    content = encoded(draw(texts()), draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])))
    content = draw(spoilt(content)) if not draw(st.integers(0, 3)) else content
    suffix = draw(st.sampled_from(["", "", "", ".gz", ".bz2", ".xz"]))
    content = PACK[suffix](content)
    content = draw(spoilt(content)) if suffix and draw(st.booleans()) else content
    return content, ".csv" + suffix


def value(entry, decimal):
    entry = entry.strip()
    if entry.lower() in ("true", "false"):
        return float(entry.lower() == "true")
    return float(entry.replace(decimal, ".") if decimal not in "." else entry)


def readings(text):
    """All tables that a text can be taken for."""
    text = text.rstrip()
    for separator, decimal, header in itertools.product([*",;\t| "], ".,", (0, 1)):
        if separator == " ":
            records = [line.split() for line in text.splitlines()]
        else:
            records = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
        for first in (0, 1):  # without a column of row numbers
            try:
                yield np.array([[value(entry, decimal) for entry in record[first:]] for record in records[header:]])
            except ValueError:
                continue


@fuzz(80)
@given(csv_files(), st.sampled_from([None, None, True, False]), st.sampled_from([None, None, None, "a", "x0"]))
def test_any_text(folder, file, header, label):
    content, suffix = file
    path = folder / f"text{suffix}"
    path.write_bytes(content)
    tried(path, label, header)


@fuzz(150)
@given(texts(), st.sampled_from([None, True, False]))
def test_what_is_read_is_what_the_text_says(folder, text, header):
    """A table is one of the readings of its text by another reader, to the last bit."""
    path = folder / "reading.csv"
    path.write_bytes(text.encode("utf-8", "replace"))
    table = tried(path, header=header)
    if table is not None:
        plain = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        assert any(np.array_equal(found, table.values) for found in readings(plain)), (text, table.values)


NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "größe", "x y", "α", "d;e", "f,g", "h|i", 'q"r', "line\nbreak", "#", "'s'", "nan", "True"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8),
).map(str.strip)


@st.composite
def columns(draw, n):
    """A column of numbers, and how it is written."""
    if draw(st.integers(0, 2)):
        write = draw(st.sampled_from([repr, lambda value: f"{value:.17g}", lambda value: f"{value:.16E}"]))
        element = draw(st.sampled_from([st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e3, 1e3)]))
        return draw(st.lists(element, min_size=n, max_size=n)), write
    return draw(st.lists(st.integers(-(2**53), 2**53), min_size=n, max_size=n)), str


@fuzz(120)
@given(st.data())
def test_values_come_back_to_the_last_bit(folder, data):
    """Whatever separator, decimal mark, encoding, quotes and ends of lines a plain writer chose."""
    draw = data.draw
    n, separator = draw(st.integers(1, 6)), draw(st.sampled_from([",", ";", "\t", "|", " "]))
    decimal = "." if separator == "," else draw(st.sampled_from(".,"))
    written = draw(st.lists(columns(n), min_size=2 if decimal == "," else 1, max_size=5))
    names = draw(st.lists(NAMES.filter(bool), min_size=len(written), max_size=len(written), unique=True))
    named = draw(st.booleans()) if separator != " " else False
    header = True if named else draw(st.sampled_from([False, None]))
    counting = all(str(values[0]) == str(i) for i, (values, _) in enumerate(written))
    header = False if counting and not named else header  # 0,1,… is what pandas calls columns without names
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])) if separator != " " else csv.QUOTE_MINIMAL
    end = draw(ENDS)
    # Where lines end in \r the writer takes a \n in a name for a letter, and every reader for the end of a line.
    quoting = csv.QUOTE_ALL if end == "\r" and named and "\n" in "".join(names) else quoting
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    if named:
        writer.writerow(names)
    for i in range(n):
        writer.writerow([write(values[i]).replace(".", decimal) for values, write in written])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    suffix = draw(st.sampled_from(list(PACK)))
    path = folder / f"written.csv{suffix}"
    path.write_bytes(PACK[suffix](encoded(text.getvalue(), encoding)))
    try:
        table = read_table(path, header=header, least=1)
    except ValueError as error:
        said(error, path)
        if not (
            "beyond 2^53" in str(error) or (decimal == "," and "comma" in str(error))
        ):  # 9007199254740994, or 1,234
            raise
        return
    assert table.values.shape == (n, len(written))
    for found, (values, _), kind in zip(table.values.T, written, table.dtypes):
        expected = np.array(values, dtype=float)
        expected += 0.0 if kind.kind == "i" else -0.0  # 0, 1 and -0 are whole numbers, of which one is 0
        assert found.tobytes() == expected.tobytes()
        assert kind.kind == "i" or not isinstance(values[0], int)
    assert not named or table.columns == tuple(names)


@fuzz(150)
@given(st.data())
def test_what_is_written_is_read_again(folder, data):
    """Rows of a table, written as a cloud, are the same table."""
    draw = data.draw
    n, d = draw(st.integers(2, 6)), draw(st.integers(1, 4))
    kinds = [draw(st.sampled_from(["f8", "f4", "i8", "i2", "u1", "?"])) for _ in range(d)]
    parts = []
    for kind in kinds:
        if kind[0] == "f":
            element = st.floats(-1e6, 1e6, width=int(kind[1]) * 8)
        elif kind == "?":
            element = st.booleans()
        else:
            info = np.iinfo(kind)
            element = st.integers(max(info.min, -(2**53)), min(info.max, 2**53))
        parts.append(np.array(draw(st.lists(element, min_size=n, max_size=n)), dtype=kind))
    names = draw(st.lists(NAMES.filter(bool), min_size=d + 1, max_size=d + 1, unique=True))
    label = np.array(
        draw(st.lists(st.sampled_from(["u", "v w", "NA", "ü", "x;y"]), min_size=n, max_size=n)), dtype=object
    )
    labelled = draw(st.booleans())
    table = Table(
        "table",
        np.stack([part.astype(float) for part in parts], 1),
        tuple(names[:d]),
        tuple(part.dtype for part in parts),
        True,
        label if labelled else None,
        (names[d], draw(st.integers(0, d))) if labelled else None,
    )
    assume((table.values.min(0) < table.values.max(0)).any())
    try:
        schema = Schema.fit(table, "none", torch.float64)
    except ValueError as error:
        said(error, "table")
        return
    path = folder / "again.csv"
    write(schema, schema.encode(table), path)
    found = read_table(path, names[d] if labelled else None, header=True)  # a name may look like a number
    assert found.columns == table.columns
    assert found.values.tobytes() == (table.values + 0.0).tobytes() or np.array_equal(found.values, table.values)
    assert not labelled or (found.label.tolist() == label.tolist() and found.label_column == table.label_column)


# Arrays


DTYPES = [
    "<f8",
    ">f8",
    "<f4",
    "<f2",
    "<i8",
    ">i4",
    "<u8",
    "|u1",
    "?",
    "<c16",
    "<M8[s]",
    "<m8[ns]",
    "<U3",
    "S4",
    "<f16",
    "i4,f8",
    "V3",
]


@st.composite
def arrays(draw):
    kind = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape)) * kind.itemsize
    raw = draw(st.binary(min_size=size, max_size=size)) if draw(st.booleans()) else bytes(range(64)) * (size // 64 + 1)
    found = np.frombuffer(raw[:size], kind).reshape(shape) if size else np.zeros(shape, kind)
    return np.asfortranarray(found) if draw(st.booleans()) else found


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@st.composite
def array_files(draw):
    """The bytes of an npy or npz file, spoilt or not, its suffix, and the array in it if it is whole."""
    array = draw(arrays())
    if draw(st.booleans()):
        content, suffix = saved(array), ".npy"
    else:
        file, suffix = io.BytesIO(), ".npz"
        name = draw(st.sampled_from(["x", "values", "arr_0", "../x", "a/b", "größe", "file"]))
        others = {"y": np.arange(len(array) if array.ndim else 0)} if name == "x" and draw(st.booleans()) else {}
        draw(st.sampled_from([np.savez, np.savez_compressed]))(
            file, **({name: array} if name != "file" else {"f": array}), **others
        )
        content = file.getvalue()
    whole = draw(st.booleans())
    content = content if whole else draw(spoilt(content))
    pack = draw(st.sampled_from(["", "", "", *PACK]))
    return PACK[pack](content), suffix + pack, array if whole else None


@fuzz(100)
@given(array_files(), st.sampled_from([None, None, "y"]))
def test_any_array(folder, file, label):
    content, suffix, array = file
    path = folder / f"array{suffix}"
    path.write_bytes(content)
    table = tried(path, label)
    if table is not None and array is not None:
        values = np.asarray(array, dtype=float)
        assert np.array_equal(table.values, values[:, None] if values.ndim == 1 else values)


HEADS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["<f8", ">f4", "|O", "<c16", "f8,i4", "<U9999999", "|S0", "V0", "<f8" * 3, "", 5, None, [("a", "<f8")], [("a", "<f8", (2, 10**9))]]),
        "fortran_order": st.sampled_from([True, False, None, 1, "no"]),
        "shape": st.sampled_from([(), (2,), (2, 2), (10**9, 10**9), (-1, 2), (2, -2), (2.0, 2), ("2",), (True, 2), (0, 5), (2**63, 0), (2**64,), [2, 2], 4, None, (1,) * 40]),
    },
    optional={"more": st.just(1)},
)  # fmt: skip


@fuzz(150)
@given(HEADS, st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]), st.binary(max_size=40), st.booleans())
def test_any_header_of_an_array(folder, head, version, body, archive):
    text = repr(head).encode() + b"\n"
    content = b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text + body
    path = folder / ("head.npz" if archive else "head.npy")
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    tried(path)


# Parquet


@pytest.fixture(scope="module")
def parquets():
    """Some valid files."""
    frames = [
        pd.DataFrame({"a": [0.5, 1.5, 2.5], "b": [1, 2, 3], "k": ["u", "v", "u"]}),
        pd.DataFrame(
            {
                "a": pd.array([1, None, 3], dtype="Int64"),
                "t": pd.date_range("2020", periods=3),
                "c": pd.Categorical(list("uvu")),
            }
        ),
        pd.DataFrame({"a": [[1.0], [2.0], [3.0]], "b": [b"x", b"y", b"z"], "d": [True, False, True]}),
        pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=pd.Index([5, 6, 7], name="i")),
        pd.DataFrame(np.ones((2, 2)), columns=pd.MultiIndex.from_tuples([("a", "b"), ("c", "d")])),
        pd.DataFrame({"a": np.array([1, 2**64 - 1], dtype="u8"), "z": pd.to_timedelta([1, 2], unit="s")}),
    ]
    found = []
    for frame in frames:
        file = io.BytesIO()
        frame.to_parquet(file)
        found.append(file.getvalue())
    return found


@fuzz(100)
@given(st.data())
def test_any_parquet(folder, parquets, data):
    content = data.draw(st.sampled_from(parquets))
    content = data.draw(spoilt(content, 2)) if data.draw(st.integers(0, 5)) else content
    suffix = data.draw(st.sampled_from(["", "", ".gz"]))
    path = folder / f"rows.parquet{suffix}"
    path.write_bytes(PACK[suffix](content))
    tried(path, data.draw(st.sampled_from([None, "k", "c"])))
