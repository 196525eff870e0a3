"""What reading a damaged file can raise, and what to say of it."""

from __future__ import annotations

import pickle
import tokenize
import zipfile

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
