"""``sweep``: branches of fixed points on a grid of parameters, kept line by line in a folder."""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import INTERRUPTED, SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    Range,
    add_branch,
    add_command,
    add_model,
    add_tol,
    build_model,
    integer,
    number,
    number_or_range,
    shown,
    starts,
)
from gamp_theory.cli.general import add_general, build_general, general_starts
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import table
from gamp_theory.cli.threads import single_blas_thread
from gamp_theory.records import SETTLED

if TYPE_CHECKING:
    import xarray

    from gamp_theory.model import AttentionModel
    from gamp_theory.token_model import GeneralModel

__all__ = ["EMPTY", "add_parser", "counts", "counts_text", "run", "settled_counts"]

EMPTY: Mapping[str, Any] = {
    "lines": 0,
    "finished": 0,
    "shard": None,
    "counts": {},
    "failures": [],
    "out": None,
}
PARAMETERS = ("alpha", "omega", "sigma", "lam")


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "sweep",
        "Branches of fixed points on a grid of parameters. Each branch is followed along alpha; "
        "such a line is kept in the folder as soon as it is finished, and --resume goes on from "
        "there after Ctrl-C, or whatever else has ended a sweep. `gamp-theory merge` makes one "
        "file of the folder.",
        writes_document=False,
    )
    command.add_argument(
        "--alpha",
        type=number_or_range,
        metavar="LO:HI:N",
        help="sample ratio n/d, positive; required unless --points has it",
    )
    command.add_argument(
        "--points",
        metavar="FILE.csv",
        help="a list instead of a grid: a table with a row of names, any of alpha, omega, sigma, "
        "lam and tol, and a row for each point; what is not in it is the same at all points",
    )
    add_model(command, grid=True)
    add_branch(command, mixed=True, default=("semantic", "positional"))
    add_tol(command, general=True)
    add_general(command)
    command.add_argument("--out", required=True, metavar="DIR", help="folder for the lines")
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the sweep in the folder, or begin it; without this the folder must be new",
    )
    command.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="i/n",
        help="do the i-th of n parts only, counted from 1; all may share the folder",
    )
    command.add_argument("--jobs", type=integer, default=2, help="threads (default: %(default)s)")


def shard(text: str) -> tuple[int, int]:
    """``i/n``."""
    parts = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise argparse.ArgumentTypeError(
            f"expected i/n with i from 1 to n, such as 1/4, got {text!r}"
        )
    return int(parts[1]), int(parts[2])


def read_points(name: str) -> list[dict[str, float]]:
    """The rows of a table of points.

    Raises
    ------
    BadInput
        If it can not be read, or is not a table of numbers.
    """
    try:
        with open(name, encoding="utf-8", newline="") as file:
            table_of = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows, names = list(table_of), list(table_of.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"--points {name!r} can not be read: {error}") from None
    if len(set(names)) < len(names):
        raise BadInput(f"--points {name!r}: the names of columns must differ, got {names}")
    points = []
    for k, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise BadInput(f"--points {name!r}, row {k}: expected {len(names)} numbers")
        try:
            points.append({key.strip(): number(text.strip()) for key, text in row.items()})
        except argparse.ArgumentTypeError as error:
            raise BadInput(f"--points {name!r}, row {k}: {error}") from None
    return points


def run(options: argparse.Namespace) -> Answer:
    """Compute the lines that are not there; what is finished stays, however this ends."""
    single_blas_thread()
    from gamp_theory.sweep import SweepError, sweep

    grid = {name: getattr(options, name) for name in PARAMETERS}
    if options.alpha is None and options.points is None:
        raise BadInput("--alpha must be given, or --points FILE.csv")
    values: dict[str, Any] = {
        name: value.values() if isinstance(value, Range) else value for name, value in grid.items()
    }
    first = {name: x[0] if isinstance(x, list) else x for name, x in values.items()}
    model: AttentionModel | GeneralModel | None = _general(options)
    names = starts(options.branch) if model is None else general_starts(options.branch)
    if model is None:
        model = build_model(options, omega=first["omega"], sigma=first["sigma"])
    else:
        values = {name: values[name] for name in ("alpha", "lam")}
    if options.points is None:
        points = None
        sizes = [len(x) for name, x in values.items() if name != "alpha" and isinstance(x, list)]
        places = math.prod(sizes)
    else:
        points = read_points(options.points)
        places = len({tuple(x for n, x in row.items() if n != "alpha") for row in points})
    part, parts = options.shard
    lines = len(range(part - 1, len(names) * places, parts))
    document: dict[str, Any] = {
        **EMPTY,
        "lines": lines,
        "shard": [part, parts],
        "out": options.out,
    }
    began = time.perf_counter()

    def failed(status: str, message: str, exit_code: int) -> Answer:
        print(f"gamp-theory: {message}", file=sys.stderr)
        seconds = time.perf_counter() - began
        return Answer(
            document | {"seconds": seconds, "status": status, "message": message}, "", exit_code
        )

    with progress(lines, "lines") as advance, warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"gamp-theory: {message}", file=sys.stderr)

        def line_finished(finished: int, lines: int) -> None:
            advance(finished - document["finished"])
            document["finished"] = finished

        try:
            dataset = sweep(
                model,
                **values,
                points=points,
                branches=names,
                tol=options.tol,
                out=options.out,
                resume=options.resume,
                shard=options.shard,
                executor=options.jobs,
                progress=line_finished,
            )
        except SweepError as error:
            return failed("failed", f"{error} (--resume)", UNSETTLED)
        except KeyboardInterrupt:
            return failed(
                "interrupted",
                f"interrupted: {document['finished']} of {lines} lines are in {options.out!r}; "
                "to go on, give the same command with --resume",
                INTERRUPTED,
            )
    found = counts(dataset)
    done = settled_counts(found)
    document |= {
        "counts": found,
        "failures": dataset.attrs["failures"].splitlines(),
        "seconds": time.perf_counter() - began,
        "status": "converged" if done else "incomplete",
        "message": "Everything converged." if done else "Not everything converged.",
    }
    text = "\n".join(
        [
            counts_text(found),
            *document["failures"],
            f"{document['finished']} of {lines} lines are in {options.out!r}; one file of them: "
            "gamp-theory merge",
        ]
    )
    return Answer(document, text, SUCCESS if done else UNSETTLED)


def _general(options: argparse.Namespace) -> GeneralModel | None:
    """The general model that is swept, if it is one; over alpha and lam only."""
    asked = (options.tokens, options.rank, options.teacher_rank, options.model)
    if all(value is None for value in asked):
        return None
    if options.points is not None:
        raise BadInput("--points is for the two-token model")
    for name in ("omega", "sigma"):
        value = getattr(options, name)
        if isinstance(value, Range):
            raise BadInput(f"{name} must be one number for a general model, got {shown(value)}")
    return build_general(options)


def counts(dataset: xarray.Dataset) -> dict[str, dict[str, int]]:
    """How many points of each branch have each status; those not computed are not counted."""
    meanings = dataset["status"].attrs["flag_meanings"].split()
    result = {}
    for name in dataset["branch"].values.tolist():
        status = dataset["status"].sel(branch=name).values
        numbers = {meaning: int((status == k).sum()) for k, meaning in enumerate(meanings)}
        result[name] = {
            meaning: number
            for meaning, number in numbers.items()
            if number and meaning != "not_computed"
        }
    return result


def settled_counts(found: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether every point that was computed answers what was asked."""
    return all(status in (*SETTLED, "left_branch") for row in found.values() for status in row)


def counts_text(found: Mapping[str, Mapping[str, int]]) -> str:
    """A row a branch, a column a status."""
    columns = list(dict.fromkeys(status for row in found.values() for status in row))
    rows = [["branch", *columns]]
    rows += [[name, *(str(row.get(c, "-")) for c in columns)] for name, row in found.items()]
    return table(rows)
