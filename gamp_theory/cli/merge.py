"""``merge``: one file of the lines in the folder of a sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer
from gamp_theory.cli.arguments import Commands, add_command, writable
from gamp_theory.cli.sweep import counts, counts_text, settled_counts

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"complete": None, "counts": {}, "failures": [], "files": []}


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "merge",
        "Make one file of the folder of a sweep. Lines that are not there yet are flagged, and the "
        "exit code is 1.",
        writes_document=False,
    )
    command.add_argument("folder", metavar="DIR", help="folder of a sweep")
    command.add_argument("--out", required=True, metavar="FILE.nc", help="the dataset")


def run(options: argparse.Namespace) -> Answer:
    """Read all lines, write one file."""
    path = writable(options.out)

    from gamp_theory.netcdf import save
    from gamp_theory.sweep import merge

    dataset = merge(options.folder)
    try:
        save(dataset, path)
    except OSError as error:
        message = f"{str(path)!r} could not be written: {error.strerror or error}"
        print(f"gamp-theory: {message}", file=sys.stderr)
        return Answer({**EMPTY, "status": "failed", "message": message}, "", UNSETTLED)
    found = counts(dataset)
    complete = bool(dataset.attrs["complete"])
    done = complete and settled_counts(found)
    if not complete:
        message = "Lines are missing: go on with the sweep by --resume."
    else:
        message = "Everything converged." if done else "Not everything converged."
    failures = dataset.attrs["failures"].splitlines()
    document = {
        "complete": complete,
        "counts": found,
        "failures": failures,
        "files": [str(path)],
        "status": "converged" if done else "incomplete",
        "message": message,
    }
    text = "\n".join([counts_text(found), *failures, f"wrote {str(path)!r}. {message}"])
    return Answer(document, text, SUCCESS if done else UNSETTLED)
