"""``reproduce``: the published figures, recomputed, and a table of published beside ours."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gamp_theory
from gamp_theory.cli.answer import INTERRUPTED, SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import Commands, add_command, integer
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import concise, table

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"figures": [], "table": [], "files": []}


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "reproduce",
        "The figures of the paper, recomputed. Theory is computed here, students are those that "
        "the validation studies of the source checkout have recorded. Writes each figure as PDF "
        "and PNG, its data as netCDF, and a table of published numbers beside ours. What is "
        "finished stays after Ctrl-C, and is used again by the next run.",
        writes_document=False,
    )
    command.add_argument(
        "figures", nargs="*", metavar="NAME", help="names of figures (default: all)"
    )
    command.add_argument(
        "--quick", action="store_true", help="coarser grids and tolerances of the theory"
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        default="reproduced",
        help="directory of the files, made if need be (default: %(default)s)",
    )
    command.add_argument("--jobs", type=integer, default=2, help="threads (default: %(default)s)")


def run(options: argparse.Namespace) -> Answer:
    """Make the figures, if the checkout is there."""
    root = Path(gamp_theory.__file__).resolve().parent.parent
    if not (root / "validation" / "reproduce" / "runner.py").is_file():
        message = (
            "The figures are made from the records of the validation studies, which belong to the "
            "source checkout and are not part of an installed package; run this command from a "
            "clone of the repository."
        )
        print(f"gamp-theory: {message}", file=sys.stderr)
        return Answer({**EMPTY, "status": "not_available", "message": message}, "", UNSETTLED)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    # Its package sets the threads of the BLAS before NumPy is imported.
    runner = importlib.import_module("validation.reproduce.runner")
    if options.jobs < 1:
        raise BadInput(f"jobs must be at least 1, got {options.jobs}")
    names = runner.check_names(options.figures)
    began = time.perf_counter()
    work = runner.Reproduction(names, Path(options.out), options.quick, options.jobs)
    interrupted = False
    with progress(work.steps, "steps") as advance:
        try:
            work.run(advance, _said)
        except KeyboardInterrupt:
            interrupted = True
    comparison = importlib.import_module("validation.reproduce.comparison")
    gaps = [entry["name"] for entry in work.figures if entry["message"]]
    if interrupted:
        status = "interrupted"
        message = (
            f"interrupted: {len(work.figures)} of {len(names)} figures are in {options.out!r}; "
            "the same command goes on"
        )
        print(f"gamp-theory: {message}", file=sys.stderr)
    elif gaps:
        status = "incomplete"
        message = f"Not everything could be computed: {', '.join(gaps)}."
    else:
        status, message = "converged", "Everything converged."
    document = {
        "figures": work.figures,
        "table": comparison.as_json(work.rows),
        "files": work.files,
        "quick": options.quick,
        "seconds": time.perf_counter() - began,
        "status": status,
        "message": message,
    }
    exit_code = INTERRUPTED if interrupted else SUCCESS if status == "converged" else UNSETTLED
    return Answer(document, _text(document, options.out), exit_code)


def _said(entry: Mapping[str, Any]) -> None:
    """A line on standard error for a figure that is finished, above the progress bar."""
    from tqdm import tqdm

    tqdm.write(f"{entry['name']}: {entry['status']}, {entry['seconds']:.0f} s", file=sys.stderr)


def _text(document: Mapping[str, Any], out: str) -> str:
    """A row a figure, and the table without its last column, which is for the page."""
    rows = [["figure", "what it shows", "", "seconds"]]
    rows += [
        [x["name"], x["title"], x["status"], f"{x['seconds']:.0f}"] for x in document["figures"]
    ]
    parts = [table(rows, left=3)]
    parts += [f"{x['name']}: {x['message']}" for x in document["figures"] if x["message"]]
    if document["table"]:
        head = ["quantity", "where", "published", "ours", "difference"]
        lines = [
            [
                x["quantity"],
                x["where"],
                f"{x['published']:g}",
                concise(x["ours"], x["error"]),
                f"{100 * x['difference']:+.1f} %" if x["difference"] == x["difference"] else "-",
            ]
            for x in document["table"]
        ]
        parts += ["", table([head, *lines], left=2)]
    parts.append(
        f"\n{document['message'].rstrip('.')}. Files are in {out}, in {document['seconds']:.0f} s."
    )
    return "\n".join(parts)
