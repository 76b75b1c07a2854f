"""Students of our own, and the theory, against published means of full-batch descent.

Run ``python -m validation.published FILE`` after ``python -m validation small_alpha``.  FILE is a
table (CSV) of published means with the columns ``alpha``, ``start`` and, each with its
``..._stderr``, ``m``, ``theta_over_sigma2``, ``train_loss``, ``test_error``: such as those of the
repository that accompanies arXiv:2402.03902.  m and theta are means of absolute values there, so
that they have a floor of order 1/sqrt(d); ours are taken alike, and the theory is folded in the
same way, with the spread of our students.  Losses contain the 1/d bias on both sides, and the
theory gets it from our students.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gamp_theory.empirical.measure import folded_mean, mean_and_stderr
from validation.minima import BROKEN, theory
from validation.report import aligned
from validation.runner import RESULTS
from validation.study import Record, fixed_point, groups

__all__ = ["Comparison", "compare", "main"]

#: Alphas that differ by less are the same: tables round them.
SAME_ALPHA = 1e-4


class Comparison(NamedTuple):
    """One published mean beside ours and beside the theory.

    Attributes
    ----------
    start, alpha, quantity
        What is compared.
    steps : int
        Steps of descent at the published rate that our students took; 0 for students of L-BFGS.
    published, published_error : float
        Mean and standard error of the table.
    ours, ours_error : float
        The same of our students.
    theory, theory_error : float
        With the floor of an absolute value or the 1/d bias in it, and what our few students leave
        uncertain of these; NaN where there is none, and beside students of descent.
    """

    start: str
    alpha: float
    quantity: str
    steps: int
    published: float
    published_error: float
    ours: float
    ours_error: float
    theory: float
    theory_error: float

    @property
    def z(self) -> float:
        """Ours less published, in combined standard errors."""
        return (self.ours - self.published) / math.hypot(self.ours_error, self.published_error)

    @property
    def z_theory(self) -> float:
        """Theory less published, in combined standard errors."""
        error = math.hypot(self.theory_error, self.published_error)
        return (self.theory - self.published) / error


def compare(
    table: Sequence[dict[str, str]], instances: Sequence[dict], variance: float
) -> list[Comparison]:
    """Match a published table with recorded instances.

    Parameters
    ----------
    table : sequence of dict
        Rows of the published table.
    instances : sequence of dict
        ``{"case": ..., "record": ...}`` as studies record them.
    variance : float
        sigma**2, which published values of theta are divided by.
    """
    cases = [{"steps": 0, **entry["case"]} for entry in instances]
    records = [entry["record"] for entry in instances]
    found = []
    for case, mine in groups(cases, records, ("start", "alpha", "steps")):
        rows = [
            row
            for row in table
            if row["start"] == case["start"]
            and abs(float(row["alpha"]) - case["alpha"]) < SAME_ALPHA
        ]
        if not rows:
            continue
        point = None if case["steps"] else fixed_point(case, [], elsewhere=True)
        for name, column, scale in (
            ("m", "m", 1.0),
            ("theta", "theta_over_sigma2", variance),
            ("train_loss", "train_loss", 1.0),
            ("test_error", "test_error", 1.0),
        ):
            if name not in mine[0]:
                continue
            ours = mean_and_stderr(abs(record[name]) for record in mine)
            value = error = math.nan
            if point is not None and point.overlaps is not None and point.branch == case["start"]:
                value, error = _dressed(theory(point), name, case["start"], mine)
            found.append(
                Comparison(
                    case["start"],
                    case["alpha"],
                    name,
                    case["steps"],
                    scale * float(rows[0][column]),
                    scale * float(rows[0][f"{column}_stderr"]),
                    ours.mean,
                    ours.stderr,
                    value,
                    error,
                )
            )
    return found


def _dressed(
    expected: Mapping[str, tuple[float, float]], name: str, start: str, mine: Sequence[Record]
) -> tuple[float, float]:
    """The theory in a mean of absolute values, or with its 1/d bias; what that leaves uncertain."""
    value, error = expected.get(name, (0.0, 0.0))
    if name == BROKEN[start]:  # far from 0: that it is folded hardly matters
        spread = float(np.std([record[name] for record in mine], ddof=1))
        return folded_mean(value, spread), error
    if name in BROKEN.values():  # a floor, known as well as the second moment of our students
        square = mean_and_stderr(record[name] ** 2 for record in mine)
        spread = math.sqrt(square.mean)
        floor = folded_mean(0.0, spread)
        return floor, floor * square.stderr / (2 * square.mean)
    bias = mean_and_stderr(record[f"{name}_bias"] for record in mine)
    return value + bias.mean, math.hypot(error, bias.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; 0 if ours and published agree everywhere, 1 if not, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.published", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, help="table of published means")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where small_alpha.json is")
    parser.add_argument("--limit", type=float, default=4.0, help="largest |z| (default: 4)")
    options = parser.parse_args(argv)
    try:
        with options.file.open(encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        recorded = json.loads((options.results / "small_alpha.json").read_text(encoding="utf-8"))
        instances = recorded["instances"]
        sigma = instances[0]["case"]["sigma"]
        found = compare(table, instances, sigma**2)
    except (OSError, KeyError, IndexError, ValueError) as error:
        print(f"validation.published: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if not found:
        print("validation.published: no point of the table was simulated", file=sys.stderr)
        return 2
    head = (
        "start",
        "alpha",
        "quantity",
        "students",
        "published",
        "ours",
        "z",
        "theory",
        "z of theory",
    )
    lines = [
        (
            x.start,
            f"{x.alpha:.4f}",
            x.quantity,
            f"{x.steps} steps" if x.steps else "L-BFGS",
            f"{x.published:.5g}({x.published_error:.1g})",
            f"{x.ours:.5g}({x.ours_error:.1g})",
            f"{x.z:+.2f}",
            f"{x.theory:.5g}",
            f"{x.z_theory:+.2f}",
        )
        for x in found
    ]
    print(aligned(head, lines, 4))
    outside = [x for x in found if not abs(x.z) <= options.limit]
    print(
        f"\nours against published: {len(found) - len(outside)} of {len(found)} within "
        f"{options.limit:g} standard errors, largest |z| {max(abs(x.z) for x in found):.2f}"
    )
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
