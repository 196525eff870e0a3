"""The options that name everything in a specification, for all commands that make runs."""

import dataclasses
import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from particles.experiment.specification import Specification
from particles.names import (
    ACTIVATIONS,
    BACKENDS,
    COMPILE,
    CONSTRAINTS,
    DIVERGENCES,
    DTYPES,
    EXPORTS,
    FLOWS,
    KERNELS,
    MODES,
    PERSISTENT,
    REAL,
    SCALES,
    SOLVERS,
    SOURCES,
    STEPPERS,
    TOYS,
)

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Specification)}


def _widths(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of widths such as 64,64,64") from None


def _step_size(ctx: click.Context, param: click.Parameter, value: Any) -> float | str | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


def _option(*names: str, unit: str = "", **settings: Any) -> Any:
    """An option of the specification, with its default there and its help saying which it is."""
    field = names[-1].lstrip("-").replace("-", "_") if names[-1].startswith("-") else names[-1]
    default = DEFAULTS[field]
    settings.setdefault("show_default", default is not None)
    return click.option(*names, default=None if default is dataclasses.MISSING else default, **settings)


def _names(names: Any) -> str:
    return ", ".join(names)


OPTIONS = [
    click.option(
        "--target",
        metavar="FILE|NAME",
        help=f"What particles flow to: a CSV, Parquet, npy or npz file, or {_names(TOYS)}, {_names(REAL)}.",
    ),
    _option(
        "--source", metavar="FILE|NAME", help=f"Where they start: {_names(SOURCES)}, a file, or the name of a target."
    ),
    _option(
        "-n",
        "--particles",
        type=int,
        help="Number of particles.  [default: as many as target rows; all rows of a source file]",
    ),
    _option(
        "--carried", type=int, help="Number of further particles that ride along and influence nothing (carried.csv)."
    ),
    _option("--target-size", type=int, help="Number of points drawn from a toy target."),
    _option(
        "--holdout",
        type=float,
        help="Share of target rows that the flow never sees, to measure on; 1 and above: number of rows.",
    ),
    _option(
        "--label",
        metavar="COLUMN",
        help="Column of classes: one discriminator output per class, and particles of all classes.",
    ),
    _option(
        "--header/--no-header", "header", help="Whether a CSV's first line names the columns.  [default: found out]"
    ),
    _option(
        "--scale",
        metavar="NAME",
        help=f"{_names(SCALES)}: columns to deviation 1, one factor for all, or as they are; undone on output.  [default: none for toys, else standard]",
    ),
    _option("--source-mean", type=float, help="Mean of each source coordinate, in flow units."),
    _option(
        "--source-std",
        type=float,
        help="Deviation of each source coordinate, in flow units.  [default: 1; for bootstrap, the jitter, 0.1]",
    ),
    _option(
        "--flow",
        metavar="NAME",
        help=f"What particles descend: {_names(FLOWS)}. The first trains a discriminator, transport solves for it, kernel bounds it in a kernel's space; proximal is the W1 ⊕ W2 generative flow.",
    ),
    _option(
        "--solver",
        metavar="NAME",
        help=f"Of w2: {_names(SOLVERS['w2'])}  [default: exact]; of proximal: {_names(SOLVERS['proximal'])}  [default: network].",
    ),
    _option(
        "--divergence",
        metavar="NAME",
        help=f"{_names(DIVERGENCES)}; of the flows lipschitz, transport, kernel and proximal.",
    ),
    _option("--order", type=float, help="Order of the alpha divergence, above 1."),
    _option(
        "-L",
        "--lipschitz",
        type=float,
        help="Bound L on the slope of the discriminator, in 1 / flow units; with spectral norms also the top speed.",
    ),
    _option("--constraint", metavar="NAME", help=f"How it is kept: {_names(CONSTRAINTS)}."),
    _option("--penalty", type=float, help="Weight of the gradient penalty, for --constraint penalty."),
    click.option(
        "--network",
        default=",".join(map(str, DEFAULTS["network"])),
        callback=_widths,
        metavar="WIDTHS",
        show_default=True,
        help="Widths of hidden layers, of the discriminator and of the flow proximal.",
    ),
    _option(
        "--activation",
        metavar="NAME",
        help=f"That of the discriminator: {_names(ACTIVATIONS)}.  [default: relu; of proximal groupsort]",
    ),
    _option("--learning-rate", type=float, help="Step of the optimiser, Adam.  [default: 0.001; of proximal 0.002]"),
    _option("--momentum", type=float, help="Memory of that optimiser, from 0 to 1; with it particles overshoot."),
    _option("--inner-steps", type=int, help="Number of discriminator steps per fit."),
    _option(
        "--tolerance",
        type=float,
        help="Go on fitting until --inner-steps steps gain less than this, in units of the divergence.",
    ),
    _option(
        "--batch-size",
        type=int,
        help="Number of points of each cloud in a discriminator step; of proximal in a step of training.  [default: all; of proximal 512]",
    ),
    _option("--chunk-size", type=int, help="Number of points evaluated at once; bounds memory."),
    _option(
        "--epsilon",
        type=float,
        help="Entropic regularisation. transport: in units of the divergence  [default: 0.03 L × the target's rms radius]; w2: in (flow units)²  [default: (0.05 × that radius)²].",
    ),
    _option(
        "--epsilon-start",
        type=float,
        help="The first one of transport; inf for the scale of the whole problem, 0 for --epsilon.",
    ),
    _option("--halving", type=float, help="Number of fits after which it is halved, until it is --epsilon."),
    _option(
        "--debias/--no-debias",
        "debias",
        help="Whether transport subtracts the blur of --epsilon; half the time without.",
    ),
    _option(
        "--radius",
        type=float,
        help="Distance below which the cost of transport is quadratic, so that particles come to rest; 0 never.  [default: step size × L]",
    ),
    _option(
        "--kernel",
        metavar="NAME",
        help=f"Of mmd, kale and kernel: {_names(KERNELS)}.  [default: riesz for mmd, else gaussian]",
    ),
    _option("--bandwidth", type=float, help="Its length, in flow units.  [default: median distance in the target]"),
    _option("--exponent", type=float, help="Exponent of the kernel riesz, between 0 and 2; 1 is the energy distance."),
    _option("--regularisation", type=float, help="The λ of kale: KL for small ones, MMD for large ones."),
    _option(
        "--noise",
        type=float,
        help="Take gradients at points moved by noise of this deviation at first, in flow units; of proximal: of its flow, per √time.",
    ),
    _option("--noise-halving", type=float, help="Time after which the noise is halved, and so on; inf keeps it."),
    _option(
        "--alpha",
        type=float,
        help="Weight of the kinetic energy in the flow proximal: no particle goes further than T L / alpha (T (L / alpha)^(1 / (p - 1)) for a power p).  [default: that is 10 times the root mean square way to the target]",
    ),
    _option("--horizon", type=float, help="The time T that the flow proximal takes, per stage."),
    _option(
        "--power",
        type=float,
        help="Exponent of the speed in its kinetic energy, above 1; for the solver network at least 1.4.",
    ),
    _option("--time-steps", type=int, help="Number of Euler steps that it takes, per stage."),
    _option("--kinetic/--no-kinetic", "kinetic", help="Whether kinetic energy is paid at all: the W2 proximal."),
    _option("--hj", type=float, help="Weight of the Hamilton-Jacobi residual in its training."),
    _option("--terminal", type=float, help="Weight of the terminal residual, of its slope to the discriminator's."),
    _option("--stages", type=int, help="Number of flows in a row, each trained where the last one ends."),
    _option("--stage-steps", type=int, help="Number of training steps of each.  [default: steps / stages]"),
    _option("--persistent", metavar="NAME", help=f"What is kept for --persistency steps: {_names(PERSISTENT)}."),
    _option("--persistency", type=int, help="Number of steps per fit, or per minibatch of particles."),
    _option("--minibatch", type=int, help="Number of particles moved at a time, for --persistent minibatch."),
    _option("--backend", metavar="NAME", help=f"Sums over all pairs: {_names(BACKENDS)}."),
    _option(
        "--compile",
        metavar="NAME",
        help=f"{_names(COMPILE)}: a trained discriminator's step as one launch: on a GPU a CUDA graph; full: torch.compile too, on the CPU as well.",
    ),
    _option("--stepper", metavar="NAME", help=f"Time integrator: {_names(STEPPERS)}."),
    _option(
        "--mode",
        metavar="NAME",
        help=f"How the stepper proximal solves its W2-penalised step: {_names(MODES)} (semi-implicit: potential frozen; explicit: Euler).",
    ),
    _option("--max-inner", type=int, help="Most inner steps of the stepper proximal."),
    _option(
        "--accuracy",
        type=float,
        help="Residual of the stepper proximal, as a part of the first speed; error per substep of adaptive, in flow units.",
    ),
    _option(
        "--step-size",
        callback=_step_size,
        metavar="FLOAT|auto",
        help="Time of a step; auto: the target's nearest-neighbour distance over L; with spectral norms a particle moves at most step size × L.  [default: 0.5; w2 0.1; kale 0.3; mmd: the target's rms radius, or half the squared bandwidth]",
    ),
    _option(
        "--decay",
        type=float,
        help="Number of steps K after which the step size is halved: it is step size / (1 + k/K) at step k; inf keeps it. Of proximal: the same of the learning rate, where inf stands for a quarter of a stage's steps.",
    ),
    _option(
        "--steps",
        type=int,
        help="Number of the last step; of proximal the last one of training, which --solver transport and plan have not.",
    ),
    _option(
        "--stop-energy",
        type=float,
        help="End early when the kinetic energy stays below this, in (flow units / time)²; 0 never.",
    ),
    _option("--patience", type=int, help="... for this many logged steps."),
    _option("--seed", type=int, help="Source of all randomness: same seed, same machine, same bits."),
    _option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N."),
    _option("--dtype", metavar="NAME", help=f"{_names(DTYPES)}."),
    _option(
        "--threads",
        type=int,
        help="Number of CPU threads; the last digits of large sums depend on it, so a resumed run keeps its own.  [default: torch's]",
    ),
    _option("--log-every", type=int, help="Number of steps from row to row of series.csv.  [default: steps / 100]"),
    _option(
        "--snapshot-every",
        type=int,
        help="Number of steps from snapshot to snapshot of trajectory.npy, a multiple of --log-every.  [default: log every]",
    ),
    _option(
        "--metric-every",
        type=int,
        help="Number of steps from one measurement of W2 to the next, a multiple of --log-every.  [default: 5 × log every]",
    ),
    _option("--checkpoint-every", type=int, help="Number of steps from checkpoint to checkpoint."),
    _option("--metric-size", type=int, help="Largest number of points that W2 is measured on along the way."),
    _option(
        "--record/--no-record",
        "record",
        help="Keep the potential of every step, so that `particles transport` can move new points along; the default network takes 40 kB a step.",
    ),
    _option(
        "--trajectory-particles",
        type=int,
        help="Most particles whose way is kept in trajectory.npy, evenly chosen among all, classes and carried ones.  [default: all]",
    ),
    _option("--export", metavar="NAME", help=f"Kind of the file for the end, particles.csv: {_names(EXPORTS)}."),
]


def specification(*without: str) -> Callable[[Any], Any]:
    """A decorator that gives a command the options of a specification, but for some, in their order."""

    def decorate(function: Any) -> Any:
        for option in reversed(OPTIONS):
            function = option(function)
        function.__click_params__ = [param for param in function.__click_params__ if param.name not in without]
        return function

    return decorate


def set_threads(spec: Specification) -> None:
    """Gives torch the number of threads that a run asks for, or began with."""
    if spec.threads is not None:
        import torch

        torch.set_num_threads(spec.threads)


def say(text: str, err: bool = False) -> None:
    """Writes a text to standard output, or to standard error."""
    click.echo(printable(text), err=err)


def printable(text: str) -> str:
    """A text without the characters by which a name in a file could steer a terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def usage(error: Exception) -> click.UsageError:
    """The error as one sentence, with options spelt as on the command line."""
    return click.UsageError(printable(spelt(str(error))))


class DiskError(click.ClickException):
    """The disk is full, or fails."""

    exit_code = 4


def disk(error: OSError, path: Path) -> click.ClickException:
    """What to raise where a file cannot be written: exit code 4 if the disk is full or fails, else 2, as it is the name that is wrong."""
    text = printable(f"{error.filename or path}: {error.strerror or error}")
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return click.UsageError(text)
    return DiskError(text)


def spelt(text: str) -> str:
    for name in DEFAULTS:
        if "_" in name or text.startswith((f"{name} ", f"unknown {name} ")):
            text = re.sub(
                rf"(?<![\w./-]){name}(?![\w./-])", f"--{name.replace('_', '-')}", text, count=0 if "_" in name else 1
            )
        text = re.sub(rf"(?<![\w./-]){name}(?= = )", f"--{name.replace('_', '-')}", text)
    return text
