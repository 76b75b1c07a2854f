"""All branches that are connected to the named starts, along one parameter, with what happens.

Run ``python -m validation.lines [LINE...]``.  From each named start at some place the branch is
followed both ways; every branch that leaves one at a pitchfork is followed as well, and so on until
nothing new turns up.  Writes, for each line, ``results/lines_NAME.csv`` (special points and ends)
and ``results/lines_NAME_points.csv`` (the branches); ``--draw`` makes docs/figures/branches.png of
them.  Docs/branches.md says what is to be seen.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gamp_theory.branch_result import Branch, SpecialPoint
from gamp_theory.branches import emerging, follow
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import FixedPoint, solve

__all__ = ["LINES", "Line", "explore", "main"]

RESULTS = Path(__file__).with_name("results")
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "branches.png"
#: Accuracy by start; the uninformed branch has the largest V, and costs most.
TOL = {"uninformed": 1e-3, "positional": 2e-4, "semantic": 2e-4}


@dataclass(frozen=True)
class Line:
    """A line through the parameters: one of them varies from `low` to `high`.

    Attributes
    ----------
    name : str
    parameter : {"alpha", "omega", "lam", "sigma"}
    low, high : float
    seeds : tuple of (str, float)
        Named starts, and the value of the parameter at which they are solved.
    alpha, omega, sigma, lam : float
        The other parameters.
    """

    name: str
    parameter: str
    low: float
    high: float
    seeds: tuple[tuple[str, float], ...]
    alpha: float = 1.5
    omega: float = 0.3
    sigma: float = 0.5
    lam: float = 0.01

    def solve(self, start: str, value: float) -> FixedPoint:
        """The fixed point of a named start at one value of the parameter."""
        at = {"alpha": self.alpha, "omega": self.omega, "sigma": self.sigma, "lam": self.lam}
        at[self.parameter] = value
        model = AttentionModel.mixture(omega=at["omega"], sigma=at["sigma"])
        return solve(
            model,
            at["alpha"],
            at["lam"],
            start,
            TOL[start],
            with_stability=False,
            on_failure="return",
        )


def _all_at(value: float) -> tuple[tuple[str, float], ...]:
    return tuple((start, value) for start in ("semantic", "positional", "uninformed"))


LINES = (
    Line("omega = 0.3", "alpha", 0.05, 3.0, _all_at(1.5)),
    Line("omega = 0.1", "alpha", 0.05, 3.0, _all_at(1.5), omega=0.1),
    Line("along lambda", "lam", 0.001, 0.3, (*_all_at(0.01), ("positional", 0.1))),
    Line("lambda = 0.1", "alpha", 0.5, 8.0, (*_all_at(1.5), ("semantic", 6.0)), lam=0.1),
    # below, where it ends, q is too small for the rules to be accurate
    Line("along sigma", "sigma", 0.345, 0.6, (("semantic", 0.5), ("positional", 0.5))),
    Line("along omega", "omega", 0.0, 1.0, _all_at(0.3)),
)


def explore(line: Line, seconds: float = 3600.0) -> list[Branch]:
    """Every branch that the seeds and their pitchforks lead to, each once."""
    began = time.perf_counter()
    found: list[Branch] = []
    waiting: list[FixedPoint | SpecialPoint] = [line.solve(*seed) for seed in line.seeds]
    while waiting and time.perf_counter() - began < seconds:
        source = waiting.pop(0)
        if isinstance(source, FixedPoint):
            if not source.converged or source.branch == "zero" or known(found, source, line):
                continue
            value = _value(source, line.parameter)
            new = [
                follow(source, line.parameter, to, back_to=back)
                for to, back in ((line.low, line.high), (line.high, line.low))
                if to != value
            ]
        else:
            if source.point is None or reached(found, source):
                continue
            new = [emerging(source, (line.low, line.high))]
        for branch in new:
            found.append(branch)
            print(f"[{time.perf_counter() - began:6.0f} s] {branch!r}", flush=True)
            waiting += branch.of_kind("pitchfork")  # one that is not located is in the table only
            # the branch that this one ends at
            waiting += [
                special.point
                for special in branch.of_kind("merge")
                if special.point is not None and special.after >= 0
            ]
    return found


def known(found: Sequence[Branch], point: FixedPoint, line: Line) -> bool:
    """Whether a fixed point lies on a branch that has been followed."""
    assert point.overlaps is not None
    x = point.overlaps.as_array()
    value = _value(point, line.parameter)
    for branch in found:
        states = [p.overlaps.as_array() for p in branch.points if p.overlaps is not None]
        for i, (a, b) in enumerate(pairwise(states)):
            lo, hi = sorted(branch.values[i : i + 2])
            if lo <= value <= hi and hi > lo:
                share = (value - branch.values[i]) / (branch.values[i + 1] - branch.values[i])
                there = a + share * (b - a)
                scale = np.array([x[0], np.sqrt(x[0]), x[2], np.sqrt(point.model.rho * x[0])])
                if np.all((x == 0) == (b == 0)) and np.max(abs(there - x) / scale) < 0.05:
                    return True
    return False


def reached(found: Sequence[Branch], pitchfork: SpecialPoint) -> bool:
    """Whether the branch that leaves a pitchfork has been followed already."""
    point = pitchfork.point
    assert point is not None
    assert point.overlaps is not None
    for branch in found:
        for other in branch.of_kind("merge"):
            if other.direction != pitchfork.direction or other.point is None:
                continue
            assert other.point.overlaps is not None
            apart = abs(other.value - pitchfork.value)
            x, y = point.overlaps, other.point.overlaps
            close = abs(x.q - y.q) < 1e-2 * x.q and abs(x.V - y.V) < 1e-2 * x.V
            if close and apart < 1e-2 * abs(pitchfork.value):
                return True
    return False


def _value(point: FixedPoint, parameter: str) -> float:
    return float(getattr(point if parameter in ("alpha", "lam") else point.model, parameter))


def table(line: Line, branches: Sequence[Branch]) -> list[dict[str, object]]:
    """One row a special point, and one for each end."""
    rows: list[dict[str, object]] = []
    for number, branch in enumerate(branches, 1):
        common = {"line": line.name, "branch": number, "name": branch.name}
        values = branch.values
        rows.append(common | {"what": "begins", "value": values[0]})
        rows += [
            common
            | {
                "what": special.kind,
                "direction": special.direction,
                "value": special.value,
                "error": special.error,
            }
            for special in branch.special
        ]
        rows.append(common | {"what": branch.stop.token, "value": values[-1]})
    return rows


def points(line: Line, branches: Sequence[Branch]) -> list[dict[str, object]]:
    """One row a point of a branch."""
    rows: list[dict[str, object]] = []
    for number, branch in enumerate(branches, 1):
        for point in branch.points:
            assert point.overlaps is not None
            assert point.stability is not None
            x = point.overlaps
            rows.append(
                {
                    "line": line.name,
                    "branch": number,
                    "name": branch.name,
                    line.parameter: _value(point, line.parameter),
                    "q": x.q,
                    "m": x.m,
                    "V": x.V,
                    "theta": x.theta,
                    "train_loss": point.train_loss,
                    "train_loss_error": point.errors.train_loss,
                    "test_error": point.test_error,
                    "unstable": sum(e.real >= 1 for e in point.stability.eigenvalues),
                    "status": point.status.token,
                    "maps": point.map_evaluations,
                }
            )
    return rows


def write(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Rows as CSV, floats to 7 digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = [row.get(name, "") for name in columns]
            writer.writerow([f"{x:.7g}" if isinstance(x, float) else x for x in cells])


def draw(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Overlaps m and theta along each line: solid where stable, dotted where not.

    Parameters
    ----------
    rows : sequence of dict
        Of the ``*_points.csv`` files.
    path : Path
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = dict(
        zip(
            ("uninformed", "positional", "semantic", "mixed"),
            ("0.5", "C0", "C3", "C2"),
            strict=True,
        )
    )
    lines = list(dict.fromkeys(row["line"] for row in rows))
    figure, axes = pyplot.subplots(
        2, len(lines), figsize=(3.2 * len(lines), 5), sharex="col", squeeze=False
    )
    for column, name in enumerate(lines):
        line = next(line for line in LINES if line.name == name)
        here = [row for row in rows if row["line"] == name]
        for number in dict.fromkeys(row["branch"] for row in here):
            part = [row for row in here if row["branch"] == number]
            x = [float(row[line.parameter]) for row in part]
            for axis, overlap in zip(axes[:, column], ("m", "theta"), strict=True):
                y = [float(row[overlap]) for row in part]
                for i in range(len(part) - 1):
                    stable = part[i]["unstable"] == part[i + 1]["unstable"] == "0"
                    axis.plot(
                        x[i : i + 2],
                        y[i : i + 2],
                        "-" if stable else ":",
                        color=colours[part[0]["name"]],
                    )
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(line.parameter)
        axes[1, column].set_xscale("linear" if line.parameter == "omega" else "log")
    axes[0, 0].set_ylabel("m")
    axes[1, 0].set_ylabel("theta")
    for name, colour in colours.items():
        axes[0, -1].plot([], [], color=colour, label=name)
    axes[0, -1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore the lines, write what was found; with `--draw`, only draw what was written."""
    parser = argparse.ArgumentParser(prog="python -m validation.lines", description=__doc__)
    parser.add_argument("lines", nargs="*", help="names of lines; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=3600.0, help="for each line")
    parser.add_argument("--draw", action="store_true", help="draw docs/figures/branches.png")
    options = parser.parse_args(arguments)
    if options.draw:
        rows: list[dict[str, str]] = []
        for path in sorted(options.out.glob("lines_*_points.csv")):
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
        draw(rows, FIGURE)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [line for line in LINES if not options.lines or line.name in options.lines]
    for line in chosen:
        branches = explore(line, options.seconds)
        stem = line.name.replace(" ", "_").replace("=_", "")
        write(table(line, branches), options.out / f"lines_{stem}.csv")
        write(points(line, branches), options.out / f"lines_{stem}_points.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
