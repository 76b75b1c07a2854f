"""Which fixed points there are, where, and which of them are minima: a search that is counted.

Run ``python -m validation.inventory``.  At each place :func:`gamp_theory.solutions.find_solutions`
makes 200 random starts over the domain and deflates until three rounds find nothing.  For each
fixed point the table has how many starts ended there, the overlaps, the losses, the eigenvalues of
the map, and the Hessian of the training loss in (q, m, theta): ``index`` counts its negative
eigenvalues.  At Q = 0 the growth rates stand for it.

Exit code 1 if a candidate could not be polished, a kind is undecided, the two criteria contradict
each other (``det(I - J)`` must be positive exactly if the index is even), or the signs of all
fixed points and their images do not sum to 1 (docs/theory.md, section 6).
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gamp_theory.landscape import curvature
from gamp_theory.model import AttentionModel
from gamp_theory.result import FixedPoint
from gamp_theory.solutions import Solutions, find_solutions

__all__ = ["PLACES", "main", "row"]

RESULTS = Path(__file__).with_name("results") / "inventory.csv"
#: omega, alpha, lam, sigma
PLACES = (
    (0.3, 0.6, 0.01, 0.5),
    (0.3, 1.25, 0.01, 0.5),
    (0.3, 2.0, 0.01, 0.5),
    (0.1, 0.9, 0.01, 0.5),
    (0.0, 1.0, 0.01, 0.5),
    (0.5, 1.5, 0.01, 0.5),
    (0.3, 1.5, 0.1, 0.5),
    (0.3, 1.5, 0.01, 0.3),
)
COLUMNS = (
    *("omega", "alpha", "lam", "sigma", "branch", "reached", "q", "m", "V", "theta"),
    *("train_loss", "test_error", "eigenvalues", "stable", "kind", "index", "curvatures"),
    *("replicon", "jump_mass", "starts", "lost", "rounds", "unpolished", "seconds"),
)


def row(point: FixedPoint, reached: int, found: Solutions, seconds: float) -> dict[str, object]:
    """One line of the table."""
    assert point.overlaps is not None
    assert point.stability is not None
    x, s = point.overlaps, point.stability
    if x.q == 0:
        index = sum(value.real > 1 for value in s.eigenvalues)
        kind, bends = "saddle" if index else "minimum", ""
    else:
        c = curvature(point)
        index, kind = c.index, c.kind
        bends = " ".join(f"{value:.3g}" for value in c.eigenvalues)
    return {
        "omega": point.model.omega,
        "alpha": point.alpha,
        "lam": point.lam,
        "sigma": point.model.sigma,
        "branch": point.branch,
        "reached": reached,
        **{name: f"{getattr(x, name):.7g}" for name in ("q", "m", "V", "theta")},
        "train_loss": f"{point.train_loss:.8g}",
        "test_error": f"{point.test_error:.8g}",
        "eigenvalues": " ".join(_number(value) for value in s.eigenvalues),
        "stable": s.stable,
        "kind": kind,
        "index": index,
        "curvatures": bends,
        "replicon": f"{s.replicon:.4g}",
        "jump_mass": f"{s.jump_mass:.3g}",
        "starts": found.starts,
        "lost": " ".join(f"{name}:{count}" for name, count in sorted(found.lost.items())),
        "rounds": found.rounds,
        "unpolished": len(found.unpolished),
        "seconds": f"{seconds:.0f}",
    }


def _number(value: complex) -> str:
    return f"{value.real:.4g}" if value.imag == 0 else f"{value.real:.4g}{value.imag:+.3g}i"


def _consistent(point: FixedPoint, line: dict[str, object]) -> bool:
    """``det(I - J) > 0`` exactly if the index is even, and no minimum is unstable."""
    assert point.stability is not None
    determinant = math.prod((1 - value for value in point.stability.eigenvalues), start=1 + 0j)
    even = int(str(line["index"])) % 2 == 0
    return (determinant.real > 0) == even and line["kind"] != "undecided"


def main(arguments: Sequence[str] | None = None) -> int:
    """Search all places and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--only", type=int, help="number of one place, from 0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    places = PLACES if options.only is None else (PLACES[options.only],)
    lines: list[dict[str, object]] = []
    sound = True
    for omega, alpha, lam, sigma in places:
        began = time.perf_counter()
        model = AttentionModel.mixture(omega, sigma)
        found = find_solutions(
            model, alpha, lam, options.starts, seed=options.seed, tol=options.tol
        )
        seconds = time.perf_counter() - began
        sound &= not found.unpolished and found.degree == 1
        for point, reached in zip(found.points, found.reached, strict=True):
            line = row(point, reached, found, seconds)
            sound &= _consistent(point, line)
            lines.append(line)
            print(*(f"{name}={line[name]}" for name in COLUMNS), flush=True)
        for point in found.unpolished:
            print("not confirmed:", point, flush=True)
        with options.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(lines)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
