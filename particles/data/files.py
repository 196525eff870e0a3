"""Files of rows: CSV, Parquet and NumPy files, compressed or not, as frames.

Nothing in a file is run or unpickled, sizes that a file only declares are not believed, and what is wrong is said with file, line,
column and cure.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from particles.data.csv_text import Rows, check_names, read_csv
from particles.files import UNREADABLE, first_line
from particles.machine import free_memory

logger = logging.getLogger("particles")

LARGEST = 4 << 30
"""The most bytes that a compressed file may expand to."""
READING = 3
"""How many times its size a file takes of memory while it is read, at least: its bytes, its entries, its rows."""
PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


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
                found = read_csv(path, _bytes(path, file), label, header, text)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        raise ValueError(f"{path} is damaged: {error}") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; give it fewer rows or columns") from None
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise ValueError(f"{path} changed while it was read; wait until it is complete, and try again")
    if label is not None and label in found.frame and found.frame[label].dtype == object:
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
    check_names(path, list(frame.columns))
    if names := [str(name) for name in frame.index.names if name is not None]:
        logger.warning(
            "%s: the index %s is no column and is left out; write the file after reset_index() to keep it",
            path,
            some(names),
        )
    return frame
