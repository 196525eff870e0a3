"""Clouds as files in the columns, types and units of a target, written part by part."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from particles.cloud import Cloud, at_once
from particles.data.tables import Schema


def check_export(kind: str, schema: Schema) -> None:
    """Raises ValueError if the rows of a target cannot be written as a file of a kind."""
    if kind == "npy" and schema.levels is not None:
        raise ValueError("export npy has no place for classes; choose csv or parquet")
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("export parquet needs pyarrow: pip install 'lipschitz-particles[parquet]'")


def write(schema: Schema, cloud: Cloud, path: Path, kind: str = "csv") -> None:
    """A cloud as rows of the target, in its columns, types and units.

    Arguments:
        schema: That of the target.
        cloud: The points, in units of the flow.
        path: The file.
        kind: ``csv``, ``parquet``, or ``npy``: the numbers alone, of one type that holds those of all columns, with shape (n, columns).
    """
    rows = at_once(cloud.x)
    frames = (schema.decode(cloud.take(slice(begin, begin + rows))) for begin in range(0, len(cloud), rows))
    if kind == "npy":
        _npy(frames, len(cloud), path)
    elif kind == "parquet":
        _parquet(frames, path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            for place, frame in enumerate(frames):
                frame.to_csv(file, index=False, header=schema.table.header and not place)


def _npy(frames: Iterator[pd.DataFrame], count: int, path: Path) -> None:
    with open(path, "wb") as file:
        for place, frame in enumerate(frames):
            kind = np.result_type(*frame.dtypes)
            if not place:
                header = {"descr": kind.str, "fortran_order": False, "shape": (count, frame.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(frame.to_numpy(dtype=kind)).data)


def _parquet(frames: Iterator[pd.DataFrame], path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    first = pa.Table.from_pandas(next(frames), preserve_index=False)
    with parquet.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, first.schema, preserve_index=False))
