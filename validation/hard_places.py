"""The places where solving is hard: each one solved, or shown to have nothing to solve.

Run ``python -m validation.hard_places``.  A small ridge, wide tokens, no positional part or almost
only that, a jump of large mass, few samples and many.  Each line says how the solve ended, by
which rule, with which error bars, in what time, and whether an independent randomised Sobol
evaluation with a global prox agrees.  Exit code 0 if every place is solved, or does not exist, and
Sobol agrees everywhere; 1 if not.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gamp_theory.check import check_point
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import Status, solve

__all__ = ["PLACES", "Place", "judge", "main"]

RESULTS = Path(__file__).with_name("results") / "hard_places.csv"
QUANTITIES = ("q", "m", "V", "theta", "train_loss", "test_error")


@dataclass(frozen=True)
class Place:
    """One problem; what is not said is sigma = 0.5, omega = 0.3, lam = 0.01."""

    alpha: float
    start: str
    sigma: float = 0.5
    omega: float = 0.3
    lam: float = 0.01

    @property
    def model(self) -> AttentionModel:
        """The model, with the standard target."""
        return AttentionModel.mixture(omega=self.omega, sigma=self.sigma)


def _both(alpha: float, **others: float) -> list[Place]:
    return [Place(alpha, start, **others) for start in ("semantic", "positional")]


PLACES = (
    *_both(1.5, lam=0.001),
    *_both(1.17, sigma=0.7),
    *_both(1.0, sigma=1.0),
    *_both(1.5, omega=0.0),
    *_both(1.5, omega=0.7),
    Place(0.9, "positional", omega=0.1),
    *_both(0.02),
    *_both(20.0),
)


def judge(place: Place) -> dict[str, Any]:
    """One row of the table."""
    point = solve(
        place.model,
        place.alpha,
        place.lam,
        place.start,
        with_stability=False,
        on_failure="return",
    )
    row: dict[str, Any] = {
        "sigma": place.sigma,
        "lam": place.lam,
        "omega": place.omega,
        "alpha": place.alpha,
        "start": place.start,
        "status": point.status.token,
        "branch": point.branch,
        "rule": point.rule,
        "maps": point.iterations,
        "map_evaluations": point.map_evaluations,
        "seconds": round(point.seconds, 2),
    }
    if point.overlaps is None:
        return row
    for key in QUANTITIES:
        value = getattr(point.overlaps, key, None)
        row[key] = getattr(point, key) if value is None else value
        row[f"{key}_error"] = getattr(point.errors, key)
    if not math.isfinite(point.train_loss):
        return row
    check = check_point(point)
    row["sobol_agrees"] = int(all(difference.agrees for difference in check.values()))
    row["sobol_worst"] = max(
        (
            abs(d.difference) / math.hypot(d.standard_error, d.error)
            for d in check.values()
            if d.difference
        ),
        default=0.0,
    )
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows to read."""
    lines = [
        f"{'sigma':>5} {'lam':>5} {'omega':>5} {'alpha':>5} {'start':<10} {'status':<16} "
        f"{'branch':<10} {'rule':<6} {'maps':>4} {'s':>6} {'Sobol':>5}  "
        f"q, m, V, theta, eps_t, eps_g (error)"
    ]
    for row in rows:
        values = ", ".join(
            f"{row[key]:.7g} ({row[f'{key}_error']:.0e})" for key in QUANTITIES if key in row
        )
        sobol = f"{row['sobol_worst']:.1f}" if "sobol_worst" in row else "-"
        lines.append(
            f"{row['sigma']:5g} {row['lam']:5g} {row['omega']:5g} {row['alpha']:5g} "
            f"{row['start']:<10} {row['status']:<16} {row['branch']:<10} {row['rule']:<6} "
            f"{row['maps']:4d} {row['seconds']:6.2f} {sobol:>5}  {values}"
        )
    return "\n".join(lines)


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The table as CSV, floats to 10 digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = [row.get(name, "") for name in columns]
            writer.writerow([f"{x:.10g}" if isinstance(x, float) else x for x in cells])


def main(arguments: Sequence[str] | None = None) -> int:
    """Solve the places, write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m validation.hard_places", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for row in pool.map(judge, PLACES):
            rows.append(row)
            write(rows, options.out)  # what is finished survives an interruption
            print(table(rows).splitlines()[0 if len(rows) == 1 else -1], flush=True)
            if len(rows) == 1:
                print(table(rows).splitlines()[-1], flush=True)
    fine = (Status.CONVERGED.token, Status.DOES_NOT_EXIST.token)
    good = all(row["status"] in fine and row.get("sobol_agrees", 1) for row in rows)
    solved = sum(row["status"] == Status.CONVERGED.token for row in rows)
    print(
        f"{solved} of {len(rows)} solved; Sobol disagrees at "
        f"{sum(row.get('sobol_agrees') == 0 for row in rows)}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
