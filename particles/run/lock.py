"""One process at a time writes to a run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger("particles")

NAME = ".lock"
_held: set[Path] = set()


class Locked(ValueError):
    """Another process is writing to the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder, which is made if it is not there; a process may ask again for what it holds.

    The system gives the lock back when a process ends in any way, so that none is left behind by a kill; where a file system knows no
    locks, the process that the file ``.lock`` names is looked for instead, on this machine alone.

    Raises:
        Locked: If another process holds it, naming it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / NAME
    if path in _held:
        yield
        return
    file = _taken(folder, path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)  # before the lock is given back: who waits for it sees another file
        os.close(file)


def busy(folder: Path) -> bool:
    """Whether another process is writing to a folder, as far as its lock tells who looks alone, and holds none."""
    path = folder / NAME
    owner = _owner(path)
    if not _runs(owner):
        return False
    return owner.get("host") == socket.gethostname() or not _free(path)


def _free(path: Path) -> bool:
    """Whether nobody holds the lock of another machine, which a copy of its folder has as a file alone."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _taken(folder: Path, path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(folder, path, file)
        except BaseException:
            os.close(file)
            raise
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # it was given back and removed meanwhile
    os.ftruncate(file, 0)
    os.write(file, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode())
    return file


def _take(folder: Path, path: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(_refusal(folder, path)) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
        if _runs(_owner(path)):
            raise Locked(_refusal(folder, path)) from None
        logger.warning("%s: this file system knows no locks; let one process alone write there", folder)


def _owner(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _runs(owner: dict[str, Any]) -> bool:
    """Whether the process that a lock names still runs, as far as can be told from here."""
    number = owner.get("process")
    if not isinstance(number, int) or number <= 0 or number == os.getpid():
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _refusal(folder: Path, path: Path) -> str:
    owner = _owner(path)
    who = (
        f"process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')}"
        if owner
        else "another process"
    )
    return f"{folder} is being written by {who}; wait for it, stop it, or name another folder"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
