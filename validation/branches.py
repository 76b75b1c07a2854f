"""Trained students beside the branch that the theory has for their start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gamp_theory import FixedPoint
from validation.minima import BROKEN, theory, unfinished
from validation.study import Case, Place, Record, Row, fixed_point, judged_at, row

__all__ = ["branch_reached", "branch_rows", "ends"]


def branch_rows(
    case: Case, found: Sequence[Record], place: Place, problems: list[str]
) -> tuple[list[Row], FixedPoint | None]:
    """Rows of one point, theory and students from the start of the case, and the fixed point.

    The 1/d bias of the losses is removed.  There are no rows where the theory ends on another
    branch than the one that the start names.
    """
    problems += unfinished(list(found), str(place))
    point = fixed_point(case, problems, elsewhere=True)
    if point is None or point.branch != case["start"]:
        return [], point
    expected, judged = theory(point), judged_at(point)
    names = (BROKEN[case["start"]], "q", "train_loss", "test_error")
    return [
        row(
            place,
            name,
            expected[name],
            [r[name] - r.get(f"{name}_bias", 0.0) for r in found],
            judged,
        )
        for name in names
    ], point


def branch_reached(record: Record, sigma: float, known: float = 0.05) -> str:
    """Name of the branch that a student with these overlaps is on.

    It is said to know teacher or position if the square of its cosine with that direction is
    above `known`; by chance it is 1/d.
    """
    q, rho = record["q"], sigma**2
    if q < 1e-6:
        return "zero"
    return {
        (True, True): "mixed",
        (True, False): "semantic",
        (False, True): "positional",
        (False, False): "uninformed",
    }[record["theta"] ** 2 > known * rho * q, rho * record["m"] ** 2 > known * q]


def ends(found: Sequence[Record], sigma: float) -> str:
    """Where the students of a point ended, counted."""
    counts = Counter(branch_reached(r, sigma) for r in found)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
