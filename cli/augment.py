"""``particles augment``"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import math
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from particles.cli.gain import as_text, measure
from particles.cli.options import disk, say, usage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ARRAYS = (".npy", ".npz")
PARQUET = (".parquet", ".pq")
OTHERS = (".gz", ".bz2", ".xz", ".zip", ".zst", ".json", ".xlsx", ".xls")
"""Suffixes of files that would not be what they are called."""


@click.command("augment")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="CSV (or .parquet) file for the rows and the new ones behind them, marked with 1 in its last column, synthetic.",
)
@click.option("--label", metavar="COLUMN", help="Column of classes, or of a number that is augmented with the others.")
@click.option(
    "--per-class",
    type=click.IntRange(1),
    metavar="N",
    help="Number of rows of each class afterwards; larger ones are left.",
)
@click.option("--balance", is_flag=True, help="All classes to the size of the largest.  [default with classes]")
@click.option(
    "--rows",
    type=click.IntRange(1),
    metavar="N",
    help="Number of rows afterwards, without classes.  [default: twice as many]",
)
@click.option("--only-new", is_flag=True, help="Write the new rows alone.")
@click.option(
    "--holdout",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Real rows that are never fitted: what a classifier gains by the new rows is measured on them.",
)
@click.option(
    "--method",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="gaussian, kde, flow; auto: decided on rows left out.",
)
@click.option(
    "--start",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Where the flow starts: gaussian, kde, bootstrap, mixed, normal; auto: decided on rows left out.",
)
@click.option(
    "--stop",
    default="auto",
    show_default=True,
    metavar="auto|ratio|N",
    help="Where the flow ends: nearest to rows left out; where --min-ratio is reached; after N steps.",
)
@click.option(
    "--min-ratio",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="Least distance from new rows to training rows, in units of that among training rows (medians).",
)
@click.option("--divergence", default="kl", show_default=True, metavar="NAME", help="f-divergence of the flow.")
@click.option("--lipschitz", type=float, default=1.0, show_default=True, help="Bound on the discriminators' slope.")
@click.option("--conditional", is_flag=True, help="One discriminator for all classes.")
@click.option(
    "--latent",
    default="none",
    show_default=True,
    metavar="NAME",
    help="Where the flow takes place: none, pca:0.95, pca:20, ae:16, conv:16 (with --image-shape).",
)
@click.option(
    "--marginals/--no-marginals",
    default=True,
    show_default=True,
    help="Give each column of the new rows of a class the distribution that it has in its training rows.",
)
@click.option("--image-shape", metavar="H,W", help="Of rows that are images: convolutional discriminators.")
@click.option("--categorical", metavar="COLUMNS", help="Columns of numbers that are names of categories: a,b.")
@click.option("--seed", type=int, default=0, show_default=True, help="Source of all randomness.")
@click.option("--report", metavar="FILE", type=click.Path(path_type=Path), help="Write all figures to this JSON file.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="PARTICLES_AUGMENT_JSON",
    help="Print all figures as JSON instead of tables.",
)
@click.option("--overwrite", is_flag=True, help="Replace --output and --report if they are there.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings alone.")
def command(
    data: Path,
    output: Path,
    label: str | None,
    per_class: int | None,
    balance: bool,
    rows: int | None,
    only_new: bool,
    holdout: Path | None,
    categorical: str | None,
    seed: int,
    report: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make new rows like those of DATA, a CSV, Parquet, npy or npz file: of each class, or of all rows.

    \b
    The output has the columns, types, ranges, grids and categories of DATA; its last column, synthetic, is 0 for the
    rows of DATA and 1 for new ones: never test a model on those. With 50 rows per class or fewer no method is known to
    gain much; --holdout measures it. A table whose column synthetic is 0 throughout is taken without it. Examples:
      particles augment data.csv --label y --per-class 200 --output augmented.csv
      particles augment train.csv --label y --balance --holdout test.csv --output augmented.csv --report report.json
      particles augment images.npz --label y --per-class 300 --image-shape 28,28 --output images.csv
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    from particles.augment.generator import Augmentation
    from particles.keys import Key
    from particles.run.loop import SAVED, Diverged

    try:
        read = [path for path in (data, holdout) if path is not None]
        _check_apart(read, {"--output": output, "--report": report}, overwrite)
        names = [name.strip() for name in (categorical or "").split(",") if name.strip()]
        table = _Table.read(data, label, label in names)
        fresh = None if holdout is None else _holdout(holdout, table)
        recipe = _recipe(options, [name for name in names if name != label])
        counts = _counts(table, per_class, balance, rows)
        made = Augmentation(
            table.features, table.group, counts, recipe, Key.of(seed), names=table.names, name=str(data)
        )
        new = table.complete(made.rows, made.group)
        found = _found(data, label, seed, options, table, counts, made)
        if holdout is not None and fresh is not None:
            measure(found, table, new, holdout, fresh, recipe.categorical, Key.of(seed).fold("evaluate"))
        _write(output, table.marked(new, only_new), report, found)
    except (ValueError, FileNotFoundError) as error:
        raise usage(error) from None
    except Diverged as error:
        say(f"Diverged: {str(error).removesuffix(SAVED)}; nothing is written.", err=True)
        sys.exit(3)
    except OSError as error:
        raise disk(error, output) from None
    except KeyboardInterrupt as error:
        say("Interrupted; nothing is written.", err=True)
        sys.exit(128 + getattr(error, "signal", 2))
    if as_json:
        say(_json(found))
    elif not quiet:
        say(as_text(found))
        old = "" if only_new else f"{len(table.frame)} rows of {data} and "
        say(f"{output}: {old}{len(new)} new row{'s' * (len(new) != 1)}, marked in the column 'synthetic'")
    for sentence in found["warnings"]:
        say(f"WARNING: {sentence}", err=True)


# What goes in


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table that was read, and what the generator sees of it.

    Arguments:
        path: Its file.
        frame: Its rows, without a column of marks.
        label: The name of the label, if there is one.
        features: What the generator sees: without a label of classes.
        group: The class of each row.
        levels: The classes by that number; ``None`` without.
    """

    path: Path
    frame: pd.DataFrame
    label: str | None
    features: pd.DataFrame
    group: np.ndarray
    levels: Any

    @staticmethod
    def read(path: Path, label: str | None, declared: bool) -> _Table:
        """Reads a table; a label is one of classes if it was ``declared`` so, or looks like it."""
        import numpy as np
        import pandas as pd

        from particles.data.kinds import is_continuous

        frame = _read(path, label)
        if len(frame) < 2:
            raise ValueError(
                f"{path} has {len(frame)} row{'s' * (len(frame) != 1)}; at least 2 are needed to learn from"
            )
        if label is None or (is_continuous(frame[label]) and not declared):
            return _Table(path, frame, label, frame, np.zeros(len(frame), dtype=np.intp), None)
        features = frame.drop(columns=label)
        if features.empty:
            raise ValueError(f"{path} has no column beside the label {label!r}")
        group, levels = pd.factorize(frame[label], sort=True)
        return _Table(path, frame, label, features, group, levels)

    @property
    def names(self) -> list[Any]:
        """What the classes are called."""
        return ["all rows"] if self.levels is None else self.levels.tolist()

    def complete(self, rows: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
        """New rows with their label where that was."""
        import pandas as pd

        rows = rows.copy()
        if self.levels is not None and self.label is not None:
            label = pd.Series(self.levels.take(group), dtype=self.frame[self.label].dtype)
            rows.insert(list(self.frame.columns).index(self.label), self.label, label)
        return rows

    def marked(self, new: pd.DataFrame, alone: bool) -> pd.DataFrame:
        """The rows and new ones behind them, with the marks in the last column."""
        import pandas as pd

        from particles.quality.evaluate import MARK

        parts = [new.assign(**{MARK: 1})]
        return parts[0] if alone else pd.concat([self.frame.assign(**{MARK: 0}), *parts], ignore_index=True)


def _read(path: Path, label: str | None, text: Collection[str] = ()) -> pd.DataFrame:
    """The rows of a file, none of which is synthetic, lacks its label or is infinite."""
    import numpy as np
    import pandas as pd

    from particles.data.tables import read_frame
    from particles.quality.evaluate import MARK

    frame, named = read_frame(path, label=label, text=text)
    if label == MARK:
        raise ValueError(f"the column {MARK!r} marks new rows in what is written; rename it to use it as a label")
    if MARK in frame.columns:
        marks = pd.to_numeric(
            frame[MARK].map(lambda mark: {"true": 1, "false": 0}.get(str(mark).lower(), mark)), "coerce"
        )
        if not (marks == 0).all():
            raise ValueError(
                f"{path} has a column {MARK!r} that is not 0 throughout: new rows are made from real ones alone; "
                f"drop those that it marks, or rename it if it marks something else"
            )
        frame = frame.drop(columns=MARK)
    frame = frame.reset_index(drop=True)
    is_csv = path.suffix.lower() not in (*ARRAYS, *PARQUET)

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            where = f"line {at + 1 + named}" if is_csv else f"row {at}"
            raise ValueError(f"{path}, {where}: {what}")

    missing = frame.isna()
    if frame.shape[1] > 1:
        refuse(missing.all(axis=1).to_numpy(), "all entries are missing; drop the row")
    if label is not None:
        refuse(missing[label].to_numpy(), f"the label {label!r} is missing; fill it in or drop the row")
    for name in frame.select_dtypes("number").columns:
        infinite = np.isinf(frame[name].to_numpy(dtype=np.float64, na_value=np.nan))
        refuse(infinite, f"column {name!r} is infinite; replace it or drop the row")
    return frame


def _holdout(path: Path, table: _Table) -> pd.DataFrame:
    """Rows to measure on, with the columns of the table."""
    import pandas as pd

    from particles.data.tables import text_columns

    if path.resolve() == table.path.resolve():
        raise ValueError(f"--holdout {path} is the table itself; give rows that are not in it")
    frame = _read(path, table.label, text_columns(table.frame))
    lacking = [name for name in table.frame.columns if name not in frame.columns]
    if lacking or len(frame.columns) != len(table.frame.columns):
        more = [name for name in frame.columns if name not in table.frame.columns]
        what = f"lacks the column {lacking[0]!r}" if lacking else f"has the column {more[0]!r} more"
        raise ValueError(f"--holdout {path} {what}; it needs the columns of {table.path}")
    for name in table.frame.columns:
        kinds = [pd.api.types.is_numeric_dtype(each[name]) for each in (table.frame, frame)]
        if kinds == [True, False] and frame[name].notna().any():
            raise ValueError(f"--holdout {path}, column {name!r}: it holds text, and numbers in {table.path}")
    return frame[list(table.frame.columns)]


def _recipe(options: dict[str, Any], categorical: Sequence[str]) -> Any:
    from particles.augment.block_flow import FlowSettings
    from particles.augment.generator import Recipe
    from particles.names import DIVERGENCES, make

    if not 0 < options["lipschitz"] < math.inf:
        raise ValueError(f"--lipschitz must be a positive number, not {options['lipschitz']}")
    settings = FlowSettings(
        divergence=make("divergence", options["divergence"], DIVERGENCES),
        lipschitz=options["lipschitz"],
        conditional=options["conditional"],
        image_shape=_shape(options["image_shape"]),
    )
    stop = int(options["stop"]) if options["stop"].isdecimal() else options["stop"]
    kind = {name: options[name] for name in ("method", "start", "min_ratio", "latent", "marginals")}
    return Recipe(**kind, stop=stop, settings=settings, categorical=tuple(categorical))


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    sizes = [size.strip() for size in text.split(",")]
    if len(sizes) not in (2, 3) or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"--image-shape {text!r} is no height and width (and number of channels), such as 28,28")
    return tuple(int(size) for size in sizes)


def _counts(table: _Table, per_class: int | None, balance: bool, rows: int | None) -> list[int]:
    """The number of new rows of each class."""
    if (per_class is not None) + balance + (rows is not None) > 1:
        raise ValueError("--per-class, --balance and --rows exclude each other; give one of them")
    sizes = [int((table.group == c).sum()) for c in range(len(table.names))]
    if table.levels is None:
        if per_class is not None or balance:
            lacks = "there is no --label" if table.label is None else f"{table.label!r} holds numbers, not classes"
            raise ValueError(f"{lacks}, so the number of rows is given with --rows")
        wanted = 2 * len(table.frame) if rows is None else rows
        if wanted <= len(table.frame):
            raise ValueError(
                f"{table.path} has {len(table.frame)} rows already; --rows must be more than that, not {wanted}"
            )
        return [wanted - len(table.frame)]
    if rows is not None:
        raise ValueError(f"{table.label!r} holds classes, so the number of rows is given with --per-class or --balance")
    wanted = max(sizes) if per_class is None else per_class
    counts = [max(wanted - size, 0) for size in sizes]
    if not any(counts):
        raise ValueError(
            f"no class has fewer than {wanted} rows, so there is nothing to make; ask for more with --per-class"
        )
    return counts


def _check_apart(read: Sequence[Path], written: dict[str, Path | None], overwrite: bool) -> None:
    """Refuses to write over what is read, and over anything without --overwrite."""
    chosen = {option: path for option, path in written.items() if path is not None}
    for option, path in chosen.items():
        if path.resolve() in [each.resolve() for each in read]:
            raise ValueError(f"{option} {path} is one of the tables; name another file")
        if path.is_dir():
            raise ValueError(f"{option} {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            raise ValueError(f"{option} {path} is no regular file; name one")
        if path.exists() and not overwrite:
            raise ValueError(f"{option} {path} is there already; replace it (--overwrite), or name another file")
        if not path.parent.is_dir():
            raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    if len({path.resolve() for path in chosen.values()}) < len(chosen):
        raise ValueError("--output and --report are the same file; name two")
    output = chosen["--output"]
    if output.suffix.lower() in (*ARRAYS, *OTHERS):
        raise ValueError(f"--output {output} would hold CSV; name a .csv or .parquet file")
    if output.suffix.lower() in PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{output}: writing Parquet needs pyarrow: pip install 'lipschitz-particles[parquet]'")


# What is found


def _found(
    data: Path, label: str | None, seed: int, options: dict[str, Any], table: _Table, counts: Sequence[int], made: Any
) -> dict[str, Any]:
    """The report, without what is measured on held-out rows."""
    sizes = [int((table.group == c).sum()) for c in range(len(counts))]
    left = [{"class": name, "rows": size} for name, size, count in zip(table.names, sizes, counts) if not count]
    found = {"data": str(data), "label": label, "seed": seed, "options": options, "holdout": None, "gain": None}
    warnings = [*made.report["warnings"], *_short(table, counts, made.group)]
    return {**found, **made.report, "left": left, "warnings": warnings}


def _short(table: _Table, counts: Sequence[int], group: np.ndarray) -> Iterable[str]:
    for c, name in enumerate(table.names):
        if (made := int((group == c).sum())) < counts[c]:
            yield f"class {name!r}: only {made} of the {counts[c]} new rows that were asked for could be made"


# What comes out


def _write(output: Path, frame: pd.DataFrame, report: Path | None, found: dict[str, Any]) -> None:
    """Both files, or none."""
    from particles.files import replacing

    with contextlib.ExitStack() as both:
        draft = both.enter_context(replacing(output))
        if report is not None:
            both.enter_context(replacing(report)).write_text(_json(found) + "\n", encoding="utf-8")
        if output.suffix.lower() in PARQUET:
            frame.to_parquet(draft, index=False)
        else:
            frame.to_csv(draft, index=False, lineterminator="\n")


def _json(found: dict[str, Any]) -> str:
    return json.dumps(_plain(found), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers that are not finite as null, and what JSON has no type for as text."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)
