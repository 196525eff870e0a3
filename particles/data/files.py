"""Files of rows: CSV in its many forms, Parquet and NumPy files, as frames.

Nothing in a file is run or unpickled, sizes that a file only declares are not believed, and what is wrong is said with file, line,
column and cure.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import logging
import lzma
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from particles.data.damage import UNREADABLE, first_line
from particles.data.machine import free_memory

logger = logging.getLogger("particles")

WIDEST = 200_000
"""The most columns of a CSV: reading more takes minutes."""
LARGEST = 4 << 30
"""The most bytes that a compressed file may expand to."""
READING = 3
"""How many times its size a file takes of memory while it is read, at least: its bytes, its entries, its rows."""
MISSING = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA", "#N/A N/A"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Entries of a CSV that stand for a missing one; among labels the empty entry alone."""
HEAD = 50
"""The number of lines by which the separator is found out."""
PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Attributes:
        frame: The rows.
        named: Whether the file names its columns.
        line: The number, in the file, of the line (or row) where row i begins.
    """

    frame: pd.DataFrame
    named: bool
    line: Callable[[int], int] = lambda row: row + 1


def read_rows(path: Path, label: str | None, header: bool | None, text: Collection[str] | None = None) -> Rows:
    """Reads a file of any known kind; one that is compressed (gzip, bzip2, xz) is known by its first bytes.

    Arguments:
        path: The file.
        label: The column (or array) of classes, where only an empty entry is a missing one.
        header: Whether the first line of a CSV names the columns; found out if ``None``.
        text: Columns of a CSV that are kept as text, besides those of codes such as 00123; ``None`` for no such care but with classes.

    Raises:
        ValueError: If it cannot be read as such, or changes meanwhile.
        FileNotFoundError: If there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a CSV, Parquet, npy or npz file")
    before = path.stat()
    if not stat.S_ISREG(before.st_mode):
        raise ValueError(f"{path} is a pipe or a device; expected a file, which can be read again")
    if before.st_size == 0:
        raise ValueError(f"{path} is empty")
    if READING * before.st_size > (free := free_memory()):
        raise ValueError(
            f"{path} takes about {READING * before.st_size / 1e9:.3g} GB of memory to read, and {free / 1e9:.3g} GB are free; "
            f"give it fewer rows or columns"
        )
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        with _opened(path) as (file, packed):
            kind = suffixes[-2] if packed and len(suffixes) > 1 else (suffixes or [""])[-1]
            if kind in (".npy", ".npz"):
                found = Rows(_arrays(path, file, label), True)
            elif kind in (".parquet", ".pq"):
                found = Rows(_parquet(path, file), True)
            else:
                found = _csv(path, _bytes(path, file), label, header, text)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        raise ValueError(f"{path} is damaged: {error}") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; give it fewer rows or columns") from None
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise ValueError(f"{path} changed while it was read; wait until it is complete, and try again")
    if label is not None and label in found.frame:
        for i, entry in enumerate(found.frame[label]):
            if isinstance(entry, bytes | list | tuple | dict | set | np.ndarray):
                what = type(entry).__name__
                raise ValueError(
                    f"{path}, line {found.line(i)}: labels must be numbers, text or dates, and {label!r} holds a {what}"
                )
    return found


def some(names: Iterable[object], most: int = 8) -> str:
    """A few of many names, for a message."""
    listed = [repr(str(name)) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file, expanded if it is compressed, and whether it is."""
    with open(path, "rb") as file:
        first = file.read(6)
        file.seek(0)
        opener = next((opener for magic, opener in PACKED.items() if first.startswith(magic)), None)
        if opener is None:
            yield file, False
            return
        with opener(file) as whole:
            yield io.BytesIO(_bytes(path, whole)), True


def _bytes(path: Path, file: BinaryIO) -> bytes:
    found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST >> 30} GiB of text; give it as Parquet or npy")
    return found


def _arrays(path: Path, file: BinaryIO, label: str | None) -> pd.DataFrame:
    try:
        _check_sizes(path, file)
        found = np.load(file, allow_pickle=False)
        arrays = found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        if isinstance(arrays, dict) and (
            odd := [name for name, part in arrays.items() if not isinstance(part, np.ndarray)]
        ):
            raise ValueError(f"{odd[0]!r} in it is no array")
    except MemoryError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a NumPy file: {first_line(error)}") from None
    if isinstance(arrays, np.ndarray):
        if label is not None:
            raise ValueError(f"{path} is one array and has no column {label!r}; put rows and labels into an npz file")
        return array_frame(str(path), arrays, None, "label")
    if label is not None and label not in arrays:
        raise ValueError(f"{path} has no array {label!r} for the labels; it holds {some(arrays)}")
    rows = [name for name in arrays if name != label]
    chosen = "x" if "x" in rows else rows[0] if len(rows) == 1 else None
    if chosen is None:
        raise ValueError(f"{path} holds the arrays {some(arrays)}; expected one, or one called x")
    return array_frame(str(path), arrays[chosen], arrays[label] if label else None, label or "label")


def _check_sizes(path: Path, file: BinaryIO) -> None:
    """Refuses arrays that declare more entries than there are bytes, before memory is asked for them."""
    if file.read(2) == b"PK":
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.file_size > LARGEST:
                    raise ValueError(f"{entry.filename!r} declares {entry.file_size / 1e9:.3g} GB")
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as part:
                        _check_size(part, entry.file_size)
    else:
        file.seek(0)
        _check_size(file, file.seek(0, os.SEEK_END))
    file.seek(0)


def _check_size(file: Any, size: int) -> None:
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    declared = dtype.itemsize
    for length in shape:
        declared *= int(length)
    if not dtype.hasobject and declared > size:
        raise ValueError(f"it declares an array of shape {shape}, {declared} bytes, but holds {size}")


def array_frame(name: str, values: np.ndarray, label: np.ndarray | None, label_name: str) -> pd.DataFrame:
    """An array of rows as a frame with the columns ``x0``, ``x1``, …, and its labels behind them.

    Raises:
        ValueError: If it is not an array of real numbers of at most two axes, or there is not one label per row.
    """
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: expected an array of real numbers with shape (rows, columns), not {values.dtype} {values.shape}"
        )
    columns = [f"x{i}" for i in range(values.shape[1])]
    frame = pd.DataFrame(values, columns=columns)
    if label is None:
        return frame
    if label.shape != (len(values),):
        raise ValueError(f"{name}: the labels need shape ({len(values)},), one per row, not {label.shape}")
    if label.dtype.kind not in "biufSUMm":
        raise ValueError(f"{name}: labels must be numbers, text or dates, not {label.dtype}")
    classes = np.char.decode(label, "utf-8", "replace") if label.dtype.kind == "S" else label
    return frame.assign(**{label_name: classes})


def _parquet(path: Path, file: BinaryIO) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file)
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install 'lipschitz-particles[parquet]'") from None
    except MemoryError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
    frame.columns = frame.columns.map(str)
    _check_names(path, list(frame.columns))
    if names := [str(name) for name in frame.index.names if name is not None]:
        logger.warning(
            "%s: the index %s is no column and is left out; write the file after reset_index() to keep it",
            path,
            some(names),
        )
    return frame


def _csv(path: Path, content: bytes, label: str | None, header: bool | None, kept: Collection[str] | None) -> Rows:
    """The rows; unless ``kept`` is ``None``, these columns and those of codes such as 00123 are kept as text."""
    text = _decoded(path, content)
    text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    end = text.find("\n", len(text.rstrip()))
    text = text if end < 0 else text[:end]  # without blank lines at the end
    head = list(itertools.islice(io.StringIO(text), HEAD))  # with their ends, which belong to quoted names
    if not head or not head[0].strip():
        raise ValueError(f"{path}, line 1 is blank; expected the names of the columns, or the first row")
    separator = _separator(head)
    try:
        names = head[0].split() if separator == " " else next(_records(head, separator))
        names = [name.strip() for name in names]
        if len(names) > WIDEST:
            raise ValueError(
                f"{path} has {len(names)} columns, and at most {WIDEST} are read from text; give it as npy or Parquet"
            )
        if header is None:
            header = _is_header(names, separator)
            if header and _counts(names):
                logger.warning(
                    "%s: line 1 counts the columns and is taken for their names; --no-header if it is a row", path
                )
            elif not header and _consecutive(names):
                logger.warning(
                    "%s: line 1 counts on from %s and is taken for a row; --header if it names the columns",
                    path,
                    names[0],
                )
        if header:
            _check_names(path, names)
        parse = _parser(text, separator, header, names, label, path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = parse(None)
            if kept or ((kept is not None or label is not None) and re.search(r"(?<![\d.eE+-])0\d", text)):
                written = parse(str)
                whole = [name for name in frame.columns if frame[name].dtype.kind in "iuf"]
                if kept is None:  # classes are what they are called, though numbers are numbers
                    whole = [name for name in whole if str(name).strip() == label]
                codes = [
                    name
                    for name in whole
                    if str(name).strip() in (kept or ()) or written[name].str.fullmatch(r"\s*0\d+\s*").eq(True).any()
                ]
                frame = parse(dict.fromkeys(codes, str)) if codes else frame
    except pd.errors.ParserWarning:
        raise ValueError(f"{path}, line 2: more entries than the {len(names)} columns that the header names") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {str(error).strip()}") from None
    if not header:
        frame.columns = pd.Index([f"x{i}" for i in range(frame.shape[1])])
    frame = _without_index(path, frame.rename(columns=lambda name: str(name).strip()))
    return Rows(frame, header, lambda row: _line(text, separator, row + header))


def _decoded(path: Path, content: bytes) -> str:
    """Text in UTF-8 or, with its mark, UTF-16; else, if it can be that, in Windows' Latin-1, which is said."""
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8-sig")
    if encoding != "utf-16" and b"\0" in content[:65536]:
        raise ValueError(f"{path} is not text; expected a CSV, Parquet (.parquet), .npy or .npz file")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise ValueError(f"{path} is damaged: not UTF-16 at byte {error.start}") from None
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        line = content[: error.start].count(b"\n") + 1
        logger.warning("%s: line %d is not UTF-8; the file is read as Latin-1", path, line)
        return text


def _parser(
    text: str, separator: str, header: bool, names: list[str], label: str | None, path: Path
) -> Callable[[Any], pd.DataFrame]:
    """What reads the text, with columns of the types that are asked for."""
    decimal = _decimal(path, text, separator)
    own = names.index(label) if header and label in names else None

    def parse(dtype: Any) -> pd.DataFrame:
        missing: dict[int, Sequence[str]] = dict.fromkeys(range(len(names)), MISSING)
        if own is not None:
            missing[own] = ("",)
        frame: pd.DataFrame = pd.read_csv(  # type: ignore[call-overload]
            io.StringIO(text),
            index_col=False,
            sep=r"\s+" if separator == " " else separator,
            header=0 if header else None,
            skip_blank_lines=False,
            skipinitialspace=True,
            float_precision="round_trip",
            decimal=decimal,
            keep_default_na=False,
            na_values=missing,
            dtype=dtype,
        )
        return frame

    return parse


def _records(lines: Iterable[str], separator: str) -> Any:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _line(text: str, separator: str, record: int) -> int:
    """The number of the line where a record begins: quoted entries may go over several lines."""
    if separator == " " or '"' not in text:
        return record + 1
    reader = _records(io.StringIO(text, newline=""), separator)
    for _ in itertools.islice(reader, record):
        pass
    return int(reader.line_num) + 1


def _separator(lines: Sequence[str]) -> str:
    """The mark that cuts the first lines into numbers; where several do, or none, into the most entries."""
    found: dict[str, tuple[float, int]] = {}
    for mark in ",;\t|":
        try:
            records = [record for record in _records(lines, mark) if record]
        except csv.Error:
            continue
        records = records[:-1] if len(lines) == HEAD and len(records) > 1 else records  # the last one may be cut short
        if (least := min(map(len, records), default=0)) > 1:
            found[mark] = _share(records, mark), least
    fields = [line.split() for line in lines]
    if len(fields[0]) > 1 and len({len(row) for row in fields}) == 1 and _share(fields, " ") == 1:
        found.setdefault(" ", (1.0, len(fields[0])))
    return max(found, key=lambda mark: found[mark], default=",")


def _share(records: Sequence[Sequence[str]], separator: str) -> float:
    """How many of the entries below the first line are numbers, or nothing."""
    entries = [entry for record in records[1:] or records for entry in record]
    return sum(not entry.strip() or _numeric(entry, separator) for entry in entries) / len(entries)


COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def _decimal(path: Path, text: str, separator: str) -> str:
    """What stands between the units and the tenths: a comma where entries such as 1,5 occur, and none such as 1.5.

    Raises:
        ValueError: If commas may be those of thousands, or both occur.
    """
    if separator == "," or "," not in text:
        return "."
    head = itertools.islice(io.StringIO(text, newline=""), 2000)
    records = (line.split() for line in head) if separator == " " else _records(head, separator)
    entries = [entry.strip() for record in records for entry in record]
    commas = [entry for entry in entries if COMMA.fullmatch(entry) or THOUSANDS.fullmatch(entry)]
    points = any(POINT.fullmatch(entry) for entry in entries)
    if not commas:
        return "."
    thousands = all(THOUSANDS.fullmatch(entry) for entry in commas)
    if points or (thousands and separator != ";"):
        mixed = "there are numbers with a point, too" if points else "it could be one of thousands"
        raise ValueError(
            f"{path}: is the comma in {commas[0]!r} a decimal one? {mixed}; write numbers with a point and no other mark"
        )
    if thousands:
        logger.warning(
            "%s: the comma in %r is taken for a decimal one, as semicolons are between the columns; write numbers with a point if it is not",
            path,
            commas[0],
        )
    return ","


def _is_header(first: Sequence[str], separator: str) -> bool:
    return _counts(first) or not all(_numeric(entry, separator) for entry in first if entry)


def _counts(first: Sequence[str]) -> bool:
    """Whether a line is the 0, 1, … that pandas writes for columns without names, with or without row numbers."""
    places = list(first[1:] if first[0] == "" else first)
    return len(first) > 1 and places == [str(i) for i in range(len(places))]


def _consecutive(first: Sequence[str]) -> bool:
    """Whether the entries of a line are whole numbers, each one more than the one before, as years above columns are."""
    whole = all(entry.isdecimal() and len(entry) < 10 for entry in first)
    return whole and len(first) > 1 and all(int(b) - int(a) == 1 for a, b in itertools.pairwise(first))


def _numeric(entry: str, separator: str) -> bool:
    """Whether an entry is a number, its decimal mark a point or a comma that is not the separator."""
    if separator != "," and COMMA.fullmatch(entry.strip()):
        return True
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _check_names(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: the column name {name!r} occurs more than once; rename one of them")
        seen.add(name)


def _without_index(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the row numbers that pandas writes into a first column without a name."""
    first = frame.columns[0]
    if first.startswith("Unnamed: ") and np.array_equal(frame[first], np.arange(len(frame))):
        logger.warning("%s: the first column has no name and counts the rows; it is left out", path)
        return frame.drop(columns=first)
    return frame
