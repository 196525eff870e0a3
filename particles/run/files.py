"""Files that are whole or not there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

UNREADABLE = (
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
)
"""What reading a damaged file can raise."""


def first_line(error: BaseException) -> str:
    """What an error says, without what it adds."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A name to write to in place of ``path``; if all went well, it replaces ``path`` at one stroke.

    What is not ``lasting`` may be lost if the machine stops before ``settle``; it is not waited for then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        if lasting:
            settle(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Waits until a file is on its disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


class GrowingArray:
    """A ``.npy`` file that rows are appended to, and that ``numpy.load`` can read at any moment.

    The header declares how many rows there are and is written after the rows, so a kill between the two leaves a
    valid file and some bytes behind its end, which the next append overwrites.

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
            found = np.load(path, mmap_mode="r")
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
            file.write(np.ascontiguousarray(row, dtype=self.dtype).tobytes())
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
