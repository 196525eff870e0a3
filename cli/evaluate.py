"""``particles evaluate``"""

import json
import sys
from pathlib import Path
from typing import Any

import click
from particles.cli.options import disk, say, usage

FORMATS = ("text", "csv", "json")


@click.command("evaluate")
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("synthetic", type=click.Path(path_type=Path))
@click.option(
    "--holdout",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Real rows that had no part in making the synthetic ones. Without them, fidelity is not measured.",
)
@click.option(
    "--label", metavar="COLUMN", help="Column of classes, or of a number to predict: figures per class, and utility."
)
@click.option("--categorical", metavar="COLUMNS", help="Columns of numbers that are names of categories: a,b.")
@click.option("--seed", type=int, default=0, show_default=True, help="Source of all randomness.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Tables to read, or all numbers.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write that.  [default: standard output]",
)
@click.option("--overwrite", is_flag=True, help="Replace --output if it is there.")
def command(
    real: Path,
    synthetic: Path,
    holdout: Path | None,
    label: str | None,
    categorical: str | None,
    seed: int,
    form: str,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Measure SYNTHETIC rows, whatever made them, against the REAL ones that they were made from, and held-out ones.

    \b
    Tables are CSV, Parquet, npy or npz files with the same columns. Of a table with a column "synthetic", as augment
    writes it, the marked rows are measured. First come the figures to rely on: energy distance to the held-out rows
    (unbiased: real rows score about 0), variance ratio, recall, and whether rows are copies. Those that reward collapse
    come second, then the accuracy of classifiers with and without the synthetic rows. Examples:
      particles evaluate train.csv new.csv --holdout test.csv --label class
      particles evaluate train.csv new.csv --holdout test.csv --categorical postcode --format json --output quality.json
    """
    from particles.data.tables import read_frame, text_columns
    from particles.files import replacing
    from particles.keys import Key
    from particles.quality.evaluate import evaluate

    try:
        if output is not None:
            _check_output(output, [path for path in (real, synthetic, holdout) if path is not None], overwrite)
        if holdout is not None and holdout.resolve() in (real.resolve(), synthetic.resolve()):
            raise ValueError(
                f"--holdout {holdout} is one of the tables that it is to judge; give rows that are in neither"
            )
        rows = read_frame(real, label=label)[0]
        text = text_columns(rows)
        made = read_frame(synthetic, label=label, text=text)[0]
        fresh = None if holdout is None else read_frame(holdout, label=label, text=text)[0]
        names = [name.strip() for name in (categorical or "").split(",") if name.strip()]
        quality = evaluate(rows, made, fresh, label, categorical=names, key=Key.of(seed))
        report = _written(quality, form)
        if output is None:
            say(report)
        else:
            with replacing(output) as draft:
                draft.write_text(report + "\n", encoding="utf-8")
    except (ValueError, FileNotFoundError) as error:
        raise usage(error) from None
    except OSError as error:
        raise disk(error, output or Path("standard output")) from None
    except KeyboardInterrupt:
        say("Interrupted; nothing is written.", err=True)
        sys.exit(130)
    for sentence in quality.warnings:
        say(f"WARNING: {sentence}", err=True)


def _check_output(output: Path, read: list[Path], overwrite: bool) -> None:
    if output.resolve() in [path.resolve() for path in read]:
        raise ValueError(f"--output {output} is one of the tables; name another file")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file")
    if output.exists() and not output.is_file():
        raise ValueError(f"--output {output} is no regular file; name one, or leave it out for standard output")
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output} is there already; replace it (--overwrite), or name another file")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")


def _written(quality: Any, form: str) -> str:
    if form == "json":
        return json.dumps(quality.as_dict(), indent=2, allow_nan=False)
    if form == "csv":
        text: str = quality.as_frame().to_csv(index=False, lineterminator="\n")
        return text.rstrip("\n")
    return str(quality)
