"""The table: published, ours with its error, the difference, and why there is one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gamp_theory.cli.text import concise
from validation.reproduce.published import RANK_TWO, SOURCE, TABLES, THRESHOLDS
from validation.runner import RESULTS
from validation.study import SIGMAS

if TYPE_CHECKING:
    import xarray

__all__ = ["Row", "as_json", "markdown", "rank_two_rows", "threshold_rows"]

SCHEME = RESULTS / "published_scheme.json"
HEAD = ("quantity", "where", "published", "ours", "difference", "why")


class Row(NamedTuple):
    """One published number beside ours.

    Attributes
    ----------
    quantity, where : str
    published : float
    ours, error : float
        NaN where there is none.
    why : str
        What is known of the difference.
    """

    quantity: str
    where: str
    published: float
    ours: float
    error: float
    why: str

    @property
    def difference(self) -> float:
        """Published less ours, relative to ours."""
        return (self.published - self.ours) / self.ours


def threshold_rows(found: xarray.Dataset) -> list[Row]:
    """alpha_c and alpha_l."""
    rows = []
    for k in range(found.sizes["point"]):
        one = found.isel(point=k)
        kind, omega = str(one["kind"].values), float(one["omega"])
        published = THRESHOLDS[kind].get(omega)
        if published is None:
            continue
        status = str(one["status"].values)
        rows.append(
            Row(
                kind,
                f"omega = {omega:g}",
                published,
                float(one["alpha"]),
                float(one["alpha_error"]),
                _why(kind, omega) if status == "converged" else f"not found here: {status}",
            )
        )
    return rows


def _why(kind: str, omega: float) -> str:
    """What replaying the published scheme has shown (`validation.published_scheme`)."""
    found = json.loads(SCHEME.read_text(encoding="utf-8"))[kind]
    row = next(row for row in found if row["omega"] == omega)
    if kind == "alpha_c":
        return f"at the published value our two losses differ by {100 * row['gap']:.1f} %; {TABLES}"
    steps = [row[name] for name in ("ours", "state_equations", "and_test_error", "and_baseline")]
    first, second, third = (100 * (b - a) / steps[0] for a, b in pairwise(steps))
    return (
        f"the published rule, replayed, gives {steps[-1]:.4g}: {first:+.1f} % by the state "
        f"equations, {second:+.1f} % by the test error, {third:+.1f} % by the linear baseline; "
        f"its prox: {100 * (steps[-1] / row['global_prox'] - 1):+.2f} %"
    )


def rank_two_rows(students: xarray.Dataset, theory: xarray.Dataset) -> list[Row]:
    """Losses of students of rank two: our minima, with what descent and the theory have."""
    rows = []
    for alpha, published in RANK_TWO.items():
        minima = next(_students(students, alpha, descent=False), None)
        descents = list(_students(students, alpha, descent=True))
        for name, value in published.items():
            ours = error = math.nan
            if minima is not None:
                ours, error = float(minima[name]), float(minima[f"{name}_stderr"])
            parts = ["ours are minima (L-BFGS)"]
            parts += [_reached(descent, minima, name) for descent in descents]
            for k in np.flatnonzero(abs(np.asarray(theory["alpha"], float) - alpha) < 1e-9):
                one = theory.isel(point=k)
                limit = concise(float(one[name]), float(one[f"{name}_error"]))
                parts.append(f"theory (no 1/d bias): {limit}")
            rows.append(
                Row(
                    f"{name}, rank 2",
                    f"omega = 0.3, alpha = {alpha:g}, d = 1000",
                    value,
                    ours,
                    error,
                    "; ".join(parts),
                )
            )
    return rows


def _reached(descent: xarray.Dataset, minima: xarray.Dataset | None, name: str) -> str:
    """Whether descent has arrived at the minima, in both losses; and a loss of it."""
    shown = concise(float(descent[name]), float(descent[f"{name}_stderr"]))
    how = f"{int(descent['steps'])} steps of descent at d = {int(descent['d'])}"
    if minima is None:
        return f"{how}: {shown}"
    arrived = all(
        abs(float(descent[loss] - minima[loss]))
        <= SIGMAS * math.hypot(float(descent[f"{loss}_stderr"]), float(minima[f"{loss}_stderr"]))
        for loss in ("train_loss", "test_error")
    )
    return f"{how} {'arrive' if arrived else 'have not arrived'} there: {shown}"


def _students(students: xarray.Dataset, alpha: float, *, descent: bool) -> Iterator[xarray.Dataset]:
    """The students, with their 1/d bias, at one alpha; those of descent by its steps."""
    here = (
        (abs(students["alpha"] - alpha) < 1e-9)
        & (students["bias_free"] == 0)
        & ((students["steps"] > 0) == descent)
    )
    places = np.flatnonzero(here)
    for place in sorted(places, key=lambda k: int(students["steps"][k])):
        yield students.isel(point=int(place))


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as the objects of the command line."""
    return [{**row._asdict(), "difference": row.difference} for row in rows]


def markdown(rows: Sequence[Row], provenance: Mapping[str, str]) -> str:
    """The table as a page."""
    lines = [
        "# Published and recomputed",
        "",
        "Written by `gamp-theory reproduce`. Published: " + SOURCE + "; thresholds were read off "
        "its lines. Digits in brackets are our error bars, in units of the last digit: of the "
        "solution of the equations for thresholds, standard errors over students for losses. The "
        "difference is published less ours, relative to ours.",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in provenance.items()) + ".",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    difference = row.difference
    return (
        row.quantity,
        row.where,
        f"{row.published:g}",
        concise(row.ours, row.error),
        f"{100 * difference:+.1f} %" if math.isfinite(difference) else "-",
        row.why,
    )
