"""How hard tests with random input try, and how files are spoilt.

Few examples, always the same ones, are run by default; ``PARTICLES_FUZZ=2000`` runs so many new ones of each quick test, and a part of
them of slower ones.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("PARTICLES_FUZZ", "0"))


def fuzz(few: int, part: float = 1.0) -> Callable[[Any], Any]:
    """A decorator for a test of random examples: ``few`` of them, or that part of those that are asked for."""
    return settings(
        max_examples=max(1, round(EXAMPLES * part)) if EXAMPLES else few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


LIMIT = 60
"""The seconds of the processor that one example may take; ten times as long by the clock, as the machine may be shared."""


class TooLong(BaseException):
    """What does not end; no handler of errors takes it for one of its own."""


@contextmanager
def limited() -> Iterator[None]:
    """Ends what goes on for too long."""

    def stop(*_: object) -> None:
        raise TooLong

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(10 * LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


PIECES = [b"", b"\0", b"\xff" * 8, b"\n", b'"', b",", b"nan", b"1e999", b"-1", b"\x80\0\0\0\0\0\0\0", b"\0" * 64]


@st.composite
def spoilt(draw: Any, content: bytes, most: int = 4) -> bytes:
    """Bytes with a few of them changed, cut out, put in or cut off."""
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "put", "cut", "end", "twice"]))
        if what == "flip":
            content = (
                content[:at]
                + bytes([content[at] ^ 1 << draw(st.integers(0, 7))] if content else [])
                + content[at + 1 :]
            )
        elif what == "set":
            content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
        elif what == "put":
            content = content[:at] + draw(st.sampled_from(PIECES)) + content[at:]
        elif what == "cut":
            content = content[:at] + content[at + draw(st.integers(1, 40)) :]
        elif what == "end":
            content = content[:at]
        else:
            content = content[:at] + content[max(at - 30, 0) :]
    return content
