"""CSV in its many forms as a frame: separator, decimal mark, encoding and header are found out, and what is guessed is told."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

logger = logging.getLogger("particles")

WIDEST = 200_000
"""The most columns of a CSV: reading more takes minutes."""
MISSING = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA", "#N/A N/A"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""Entries of a CSV that stand for a missing one; among labels the empty entry alone."""
HEAD = 50
"""The number of lines by which the separator is found out."""


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


def read_csv(path: Path, content: bytes, label: str | None, header: bool | None, kept: Collection[str] | None) -> Rows:
    """The rows of a CSV; unless ``kept`` is ``None``, these columns and those of codes such as 00123 are kept as text."""
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
            check_names(path, names)
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


def check_names(path: Path, names: list[str]) -> None:
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
