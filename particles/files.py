"""Files that are whole or not there: atomic replacement, drafts left behind, and what reading a damaged file can raise."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNREADABLE = (
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    SyntaxError,
    EOFError,
    OSError,
    MemoryError,
    pickle.UnpicklingError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What reading a damaged file can raise; the header of an npy file is read as Python's own text is."""


def first_line(error: BaseException) -> str:
    """What an error says, without what it adds."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A name to write to in place of ``path``; if all went well, it replaces ``path`` at one stroke.

    What is not ``lasting`` may be lost if the machine stops before ``settle``; it is not waited for then. A link stays one: what it leads
    to is replaced.

    Raises:
        OSError: If ``path`` is a device, a pipe or a folder, which cannot be replaced, or a name of what a process has open.
    """
    opened = path.absolute().parts[1:2] in (
        ("dev",),
        ("proc",),
    )  # /dev/stdout is a file where it is sent to one, which others write, too
    if opened or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "this is a folder, a device or a pipe; name a file", str(path))
    path = path.resolve() if path.is_symlink() else path
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        if lasting:
            settle(draft)
        os.replace(draft, path)
        if lasting:
            settle(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes the drafts that processes which were killed have left in a folder; to be called by who alone writes there."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9]+\.tmp", path.name):
            path.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on their disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError:
        if not path.is_dir():  # some file systems cannot wait for folders
            raise
    finally:
        os.close(file)
