"""Coverage-guided bytes for everything that reads files: not part of CI, and atheris is no dependency of the project.

    pip install atheris
    python tests/faults/readers.py csv -max_total_time=120        # or npy, npz, spec, series, growing

The first word names the reader, the rest is libFuzzer's. A reader answers finite numbers or raises ValueError in one line; anything
else is a finding, which is printed with the bytes, and written to a file ``crash-...`` in the working directory.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import atheris  # noqa: E402
import numpy as np  # noqa: E402

with atheris.instrument_imports(include=["particles", "numpy.lib", "tomllib", "csv", "zipfile"]):
    import csv  # noqa: F401
    import tomllib  # noqa: F401
    import zipfile  # noqa: F401

    from particles.data.tables import read_frame, read_table
    from particles.experiment.specification import Specification
    from particles.files import UNREADABLE
    from particles.run.arrays import read_growing, read_series

logging.disable(logging.WARNING)
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def one_line(error: ValueError, path: Path) -> None:
    assert str(path) in str(error), error
    assert "\n" not in str(error), error


def table(suffix: str, content: bytes) -> None:
    path = FOLDER / f"data{suffix}"
    path.write_bytes(content)
    label = None if len(content) % 3 else "a"
    header = (None, True, False)[len(content) % 5 % 3]
    try:
        found = read_table(path, label, header, least=1)
    except ValueError as error:
        one_line(error, path)
    else:
        assert np.isfinite(found.values).all()
        assert found.values.shape[1] == len(set(found.columns))
    try:
        read_frame(path, header, label)
    except ValueError as error:
        one_line(error, path)


def spec(content: bytes) -> None:
    path = FOLDER / "spec.toml"
    path.write_bytes(content)
    try:
        found, noted = Specification.load(path)
    except ValueError as error:
        one_line(error, path)
        return
    path.write_text(found.dump(noted), encoding="utf-8")
    assert Specification.load(path)[0] == found


def series(content: bytes) -> None:
    path = FOLDER / "series.csv"
    path.write_bytes(content)
    try:
        rows = read_series(path)
    except UNREADABLE:  # which who reads a run catches
        return
    assert all(isinstance(value, int | float) for row in rows for value in row.values())


def growing(content: bytes) -> None:
    path = FOLDER / "trajectory.npy"
    path.write_bytes(content)
    try:
        rows = read_growing(path)
    except UNREADABLE:
        return
    assert rows.nbytes <= len(content)
    np.array(rows)


READERS = {
    "csv": lambda content: table(".csv", content),
    "npy": lambda content: table(".npy", content),
    "npz": lambda content: table(".npz", content),
    "spec": spec,
    "series": series,
    "growing": growing,
}


def seeds(name: str) -> Path:
    """A folder with some good files to begin with."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(6.0).reshape(3, 2))
    np.savez(npz, x=np.arange(4.0).reshape(2, 2), a=np.array([1, 2]))
    good: dict[str, list[bytes]] = {
        "csv": [b"a,b\n1,2\n3,4\n", b"a;b\n1,5;2\n-3e5;4\n", b'"a\nb"\tc\n1\t"x"\n', b"1 2\n3 4\n", b"\xff\xfea\x00\n\x001\x00", b",a\n0,1\n1,NA\n"],
        "npy": [npy.getvalue()],
        "growing": [npy.getvalue()],
        "npz": [npz.getvalue()],
        "spec": [Specification("moons", network=(8, 8), step_size="auto").dump({"data": {"units": [1.0]}}).encode()],
        "series": [b"step,time,divergence\n0,0.0,1.5\n1,0.5,\n2,1.0,nan\n"],
    }  # fmt: skip
    for i, content in enumerate(good[name]):
        (folder / str(i)).write_bytes(content)
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"name a reader: {', '.join(READERS)}")
    name = sys.argv.pop(1)
    atheris.Setup([*sys.argv, str(seeds(name))], READERS[name])
    atheris.Fuzz()
