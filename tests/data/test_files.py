"""Files as people have them: encodings, separators, decimal commas, compression; and files that want to do harm."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

from particles.data import files
from particles.data.tables import read_frame, read_table

ROWS = np.array([[1.5, -2.25], [3.0, 4.125], [-0.5, 1e-3]])


def put(folder, content, name="data.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, **settings):
    with pytest.raises(ValueError, match=re.escape(str(path))) as found:
        read_table(path, **settings)
    text = str(found.value)
    assert "\n" not in text
    return text


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings(tmp_path, caplog, encoding):
    text = "größe,é,klasse\n1,2,ä\n3,4,ö\n"
    table = read_table(put(tmp_path, text.encode(encoding)), label="klasse")
    assert table.columns == ("größe", "é")
    assert table.label.tolist() == ["ä", "ö"]
    assert table.values.tolist() == [[1, 2], [3, 4]]
    said = "line 1 is not UTF-8; the file is read as Latin-1" in caplog.text
    assert said == (encoding in ("latin-1", "cp1252"))


def test_utf_16_without_a_mark_is_not_text(tmp_path):
    assert "not text" in refusal(put(tmp_path, "a,b\n1,2\n".encode("utf-16-le")))


def test_half_a_utf_16_file(tmp_path):
    assert "UTF-16" in refusal(put(tmp_path, "a,b\n1,2\n3,4\n".encode("utf-16")[:-1]))


def test_a_picture_is_not_text(tmp_path):
    assert "not text" in refusal(put(tmp_path, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"))


# Decimal commas


def written(separator, decimal):
    mark = lambda value: repr(float(value)).replace(".", decimal)
    return "\n".join(["a" + separator + "b", *(separator.join(map(mark, row)) for row in ROWS)]) + "\n"


@pytest.mark.parametrize("separator", [";", "\t", "|", " "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("header", [True, False])
def test_decimal_marks(tmp_path, separator, decimal, header):
    text = written(separator, decimal)
    table = read_table(put(tmp_path, text if header else text.partition("\n")[2]))
    assert table.values.tolist() == ROWS.tolist()
    assert table.header == header


def test_decimal_commas_beside_text_and_quotes(tmp_path):
    text = 'kind;a;b\n"x, y";1,5;2\nz;"2,5";-0,125e1\n'
    table = read_table(put(tmp_path, text), label="kind")
    assert table.values.tolist() == [[1.5, 2.0], [2.5, -1.25]]
    assert table.label.tolist() == ["x, y", "z"]


def test_commas_in_text_alone_change_nothing(tmp_path):
    table = read_table(put(tmp_path, "kind\ta\nx, y\t1.5\nz\t2.5\n"), label="kind")
    assert table.values.tolist() == [[1.5], [2.5]]


def test_semicolons_make_a_comma_decimal_even_before_three_digits(tmp_path):
    assert read_table(put(tmp_path, "a;b\n1,234;2\n2,345;3\n")).values.tolist() == [[1.234, 2], [2.345, 3]]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\tb\n1,234\t5\n2,345\t6\n", "thousands"), ("a;b\n1,5;2.5\n2,5;3.5\n", "a point, too")],
    ids=["thousands", "both"],
)
def test_commas_that_could_be_anything_are_refused(tmp_path, text, said):
    assert said in refusal(put(tmp_path, text))


def test_quoted_decimal_commas_between_commas_are_named(tmp_path):
    found = refusal(put(tmp_path, 'a,b\n"1,5",2\n"2,5",3\n'))
    assert "line 2" in found
    assert "'a'" in found


# Lines


@pytest.mark.parametrize(("text", "warned"), [("0,1\n5,6\n7,8\n", True), ("a,b\n0,1\n", False), ("0,2\n5,6\n", False)])
def test_a_first_line_that_could_be_a_row_is_named(tmp_path, caplog, text, warned):
    """pandas calls columns without names 0, 1, …; it could be a row, too, which would be lost unsaid."""
    read_table(put(tmp_path, text), least=1)
    assert ("--no-header if it is a row" in caplog.text) is warned


def test_lines_are_counted_as_an_editor_does(tmp_path):
    """Quoted entries may go over several lines."""
    text = 'note,a\n"one\ntwo",1\n"three\nfour\nfive",2\nsix,x\nseven,4\n'
    assert ", line 7, column 'a'" in refusal(put(tmp_path, text), label="note")
    table = read_table(put(tmp_path, text.replace(",x", ",3")), label="note")
    assert table.label.tolist() == ["one\ntwo", "three\nfour\nfive", "six", "seven"]


def test_a_quoted_header_over_two_lines(tmp_path):
    text = '"a\nlength",b\n1,2\n3,x\n'
    assert read_table(put(tmp_path, text.replace("x", "4"))).columns == ("a\nlength", "b")
    assert "line 4" in refusal(put(tmp_path, text))


def test_classes_under_a_quoted_header_over_two_lines(tmp_path):
    """There, too, only an empty entry is a missing one."""
    table = read_table(put(tmp_path, 'a,"the\nclass"\n1,NA\n2,null\n'), label="the\nclass")
    assert table.label.tolist() == ["NA", "null"]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_ends_of_lines(tmp_path, end):
    path = put(tmp_path, end.join(["a,b", "1,2", "3,4", ""]))
    assert read_table(path).values.tolist() == [[1, 2], [3, 4]]


def test_separators_within_quotes_are_text(tmp_path):
    text = 'note;a\n"x,y,z,u";1\n"x,y,z,u";2\n'
    assert read_table(put(tmp_path, text), label="note").values.tolist() == [[1], [2]]


def test_thousands_of_blank_lines_at_the_end(tmp_path):
    path = put(tmp_path, "a,b\n1,2\n3,4\n" + "  \n" * 100_000)
    assert read_table(path).values.tolist() == [[1, 2], [3, 4]]


# Missing entries and labels


@pytest.mark.parametrize("name", ["NA", "None", "nan", "null"])
def test_a_class_may_be_called_as_missing_entries_are(tmp_path, name):
    table = read_table(put(tmp_path, f"a,k\n1,{name}\n2,v\n"), label="k")
    assert table.label.tolist() == [name, "v"]
    assert "line 3: the label 'k' is missing" in refusal(put(tmp_path, f"a,k\n1,{name}\n2,\n"), label="k")


@pytest.mark.parametrize("entry", ["NA", "None", "nan", "null", "", "#N/A"])
def test_missing_entries_of_numbers(tmp_path, entry):
    assert "line 3, column 'a': the value is missing" in refusal(put(tmp_path, f"a,b\n1,2\n{entry},4\n"))


def test_frames_keep_missing_text_missing(tmp_path):
    frame, _ = read_frame(put(tmp_path, "a,k,t\n1,NA,NA\n2,v,w\n"), label="k", text=["t"])
    assert frame["k"].tolist() == ["NA", "v"]
    assert frame["t"].isna().tolist() == [True, False]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_that_occur_twice(tmp_path, kind):
    if kind == "csv":
        path = put(tmp_path, "a,b,a\n1,2,3\n3,4,5\n")
    else:
        path = tmp_path / "data.parquet"
        pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}).rename(columns={"b": "1", "a": "0"}).to_parquet(path)
        assert read_table(path).columns == ("0", "1")
        return
    assert "'a' occurs more than once; rename" in refusal(path)


def test_categorical_columns_of_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "k": pd.Categorical(["u", "v", "u"]), "n": pd.Categorical([1, 2, 1])})
    frame.to_parquet(path)
    table = read_table(path, label="k")
    assert table.label.tolist() == ["u", "v", "u"]
    assert table.values.tolist() == [[1, 1], [2, 2], [3, 1]]


# Compression


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "xz"])
@pytest.mark.parametrize("kind", ["csv", "npy", "npz", "parquet"])
def test_compressed_files(tmp_path, pack, kind):
    content = io.BytesIO()
    if kind == "npy":
        np.save(content, ROWS)
    elif kind == "npz":
        np.savez(content, x=ROWS)
    elif kind == "parquet":
        pd.DataFrame(ROWS, columns=["a", "b"]).to_parquet(content)
    else:
        content.write(written(",", ".").encode())
    assert read_table(put(tmp_path, pack(content.getvalue()), f"data.{kind}.gz")).values.tolist() == ROWS.tolist()


def test_compressed_without_a_suffix(tmp_path):
    assert len(read_table(put(tmp_path, gzip.compress(b"a,b\n1,2\n3,4\n")))) == 2


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "xz"])
def test_compressed_and_cut_short(tmp_path, pack):
    whole = pack(b"a,b\n" + b"1.25,2\n" * 1000)
    assert "damaged" in refusal(put(tmp_path, whole[: len(whole) // 2], "data.csv.gz"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "xz"])
def test_compressed_and_damaged(tmp_path, pack):
    whole = bytearray(pack(b"a,b\n" + b"1.25,2\n" * 1000))
    for at in range(4, len(whole), 3):
        whole[at] ^= 8
        with contextlib.suppress(ValueError):  # and nothing else that zlib, bz2 and lzma raise
            read_table(put(tmp_path, bytes(whole)))


def test_what_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    path = put(tmp_path, gzip.compress(b"a\n" + b"1\n" * (1 << 20)), "data.csv.gz")
    assert path.stat().st_size < 5000
    assert "more than" in refusal(path)


# What is no file of rows


def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refusal(tmp_path / "pipe")


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    path = put(tmp_path, "a,b\n1,2\n3,4\n")
    reading = files.read_csv

    def slowly(*arguments):
        found = reading(*arguments)
        with open(path, "a") as file:
            file.write("5,6\n")
        return found

    monkeypatch.setattr(files, "read_csv", slowly)
    assert "changed while it was read" in refusal(path)


@pytest.mark.parametrize("shape", [(10**12, 3), (3, 10**12), (10**30,), (1 << 62, 1 << 62)], ids=str)
@pytest.mark.parametrize("archive", [False, True])
def test_huge_declared_shapes(tmp_path, shape, archive):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
    content.write(b"\0" * 64)
    if archive:
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
            file.writestr("x.npy", content.getvalue())
    else:
        put(tmp_path, content.getvalue(), "data.npy")
    assert "declares an array of shape" in refusal(tmp_path / ("data.npz" if archive else "data.npy"))


HEADS = {
    "NUL": b"{'descr': '<f8', 'fortran_order': False, 'shape': (\0,)}\n",
    "unbalanced": b"{{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n",
    "too many": b"{'descr': '|O', 'fortran_order': False, 'shape': (18446744073709551616,)}\n",
    "long": b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}" + b" " * 20000 + b"\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))
@pytest.mark.parametrize("version", [1, 2])
def test_spoilt_headers_of_arrays(tmp_path, head, version):
    """NumPy reads them as text of Python, and raises whatever that raises."""
    length = len(head).to_bytes(2 * version, "little")
    content = b"\x93NUMPY" + bytes([version, 0]) + length + head + b"\0" * 16
    assert "cannot be read as a NumPy file" in refusal(put(tmp_path, content, "data.npy"))


def test_an_archive_of_zeros_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((1 << 17, 2)))
    assert "declares 0.0021 GB" in refusal(tmp_path / "data.npz")


def test_names_in_an_archive_lead_nowhere(tmp_path):
    """Nothing is unpacked to disk, whatever an entry is called."""
    content = io.BytesIO()
    np.save(content, ROWS)
    inner = tmp_path / "inner"
    inner.mkdir()
    with zipfile.ZipFile(inner / "data.npz", "w") as file:
        file.writestr("../../escaped.npy", content.getvalue())
    assert read_table(inner / "data.npz").values.tolist() == ROWS.tolist()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data.npz", "inner"]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data.npy", "data.npz", "data.csv", "data.parquet"])
def test_pickles_are_not_run(tmp_path, name):
    mine = tmp_path / "pwned"
    if name == "data.npy":
        np.save(tmp_path / name, np.array([Payload(mine)], dtype=object), allow_pickle=True)
    elif name == "data.npz":
        np.savez(tmp_path / name, x=np.array([Payload(mine)], dtype=object), allow_pickle=True)
    else:
        put(tmp_path, pickle.dumps(Payload(mine)), name)
    refusal(tmp_path / name)
    assert not mine.exists()


def test_a_million_rows(tmp_path):
    """Read whole, and to the last digit."""
    values = np.random.default_rng(0).normal(size=(1_000_000, 2))
    pd.DataFrame(values, columns=["a", "b"]).to_csv(tmp_path / "data.csv", index=False)
    assert (read_table(tmp_path / "data.csv").values == values).all()
