"""Files that are whole or not there, and files that grow and are whole up to where they end."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from particles.files import replacing


def whole_lines(path: Path) -> str:
    """The text of a file that grows by lines, without a last one that was cut short."""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1]


def read_series(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV that grows, if it is there; a last line that was cut short is left out."""
    lines = whole_lines(path).splitlines() if path.exists() else []
    return [{name: _number(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def _number(text: str) -> float:
    """An integer stays one, so that a row which is written again is the same row."""
    return int(text) if text.isdigit() else float(text)


def read_growing(path: Path) -> np.ndarray:
    """The rows of a ``.npy`` file that grows, read from disk as needed; a last row that was cut short is left out.

    Raises:
        ValueError: If it is not a file of numbers.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path} is not a file of this kind: version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    row = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize if shape else 0
    if dtype.hasobject or not row:
        raise ValueError(f"{path} holds no rows of numbers, but {dtype} of shape {shape}")
    rows = min(shape[0], (size - start) // row)
    if rows <= 0:
        return np.empty((0, *shape[1:]), dtype)
    return np.memmap(path, dtype, "r", start, (rows, *shape[1:]))


class GrowingArray:
    """A ``.npy`` file that rows are appended to, and that ``numpy.load`` can read at any moment.

    The header declares how many rows there are and is written after the rows, so a kill between the two leaves a
    valid file and some bytes behind its end, which the next append overwrites. If the machine stopped, the file may end before the rows
    that it declares: those that are whole count.

    Arguments:
        path: The file; made if it is not there.
        shape: The shape of one row.
        dtype: The type of the entries.

    Raises:
        ValueError: If there is a file that holds something else.
    """

    HEADER = 128  # bytes: room for any number of rows

    def __init__(self, path: Path, shape: Sequence[int], dtype: np.dtype):
        self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
        self.size = int(np.prod(self.shape)) * self.dtype.itemsize
        self.rows = 0
        if path.exists():
            found = read_growing(path)
            if found.shape[1:] != self.shape or found.dtype != self.dtype:
                raise ValueError(
                    f"{path} holds rows of shape {found.shape[1:]}, {found.dtype}; expected {self.shape}, {dtype}"
                )
            self.rows = len(found)
        else:
            with replacing(path) as draft:
                draft.write_bytes(self._header())

    def append(self, row: np.ndarray) -> None:
        """Adds a row at the end."""
        with open(self.path, "rb+") as file:
            file.seek(self.HEADER + self.rows * self.size)
            file.write(np.ascontiguousarray(row, dtype=self.dtype).data)
            file.flush()
            self.rows += 1
            file.seek(0)
            file.write(self._header())

    def truncate(self, rows: int) -> None:
        """Keeps the first ``rows`` rows."""
        self.rows = min(self.rows, rows)
        with open(self.path, "rb+") as file:
            file.write(self._header())
            file.truncate(self.HEADER + self.rows * self.size)

    def _header(self) -> bytes:
        text = f"{{'descr': '{self.dtype.str}', 'fortran_order': False, 'shape': {(self.rows, *self.shape)}, }}"
        length = self.HEADER - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
