"""Roots of functions that are known up to an error bar: a value, its error, and a bracket.

A sign is **certain** where the value exceeds its error bar.  The answer is a bracket whose two ends
have certain and opposite signs, and a root inside it; where the bracket can not be made narrower
because the function is lost in its own error, that is the answer, not a failure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Root",
    "RootStatus",
    "Sample",
    "bracket_root",
    "denser",
    "sign_changes",
    "uncovered",
]

#: The ends are put this many error bars from the root, and further where that does not settle it.
REACH = 2.0
#: A secant's root this close to an end, in units of the bracket, is known well.
NEAR = 0.05
WIDENINGS = 6
#: Bisections of where a function begins to have values.
EXISTENCE_STEPS = 20


class RootStatus(Enum):
    """How a search ended; the value is the sentence for the user."""

    CONVERGED = "The function has certain and opposite signs at the ends of the bracket."
    NOT_BRACKETED = "The signs at the ends of the interval are not certain and opposite."
    EVALUATION_LIMIT = "The allowed evaluations were used up."
    UNDEFINED = "The function has no value somewhere between the ends."

    @property
    def token(self) -> str:
        """The name in lower case."""
        return self.name.lower()


@dataclass(frozen=True)
class Sample:
    """A function at one place.

    Attributes
    ----------
    x, value, error : float
        `value` is NaN where the function is not defined; ``error >= 0`` bounds what is not known
        of it.
    """

    x: float
    value: float
    error: float

    @property
    def sign(self) -> int:
        """-1 or 1 where it is certain, else 0."""
        if not abs(self.value) > self.error:
            return 0
        return 1 if self.value > 0 else -1


@dataclass(frozen=True)
class Root:
    """A root with its bracket.

    Attributes
    ----------
    x : float
        Inside the bracket; NaN unless converged.
    error : float
        That of the function over its slope, plus what the search left.
    bracket : tuple of float
        Ends of certain and opposite sign; else the last interval that was looked at.
    slope : float
        Of the function across the bracket, as noisy as its ends are.
    status : RootStatus
    evaluations : int
    """

    x: float
    error: float
    bracket: tuple[float, float]
    slope: float
    status: RootStatus
    evaluations: int

    def __post_init__(self) -> None:
        if self.status is RootStatus.CONVERGED and not self.bracket[0] <= self.x <= self.bracket[1]:
            raise ValueError(f"root {self.x!r} is outside its bracket {self.bracket!r}")


def uncovered(
    known: Sequence[tuple[float, float]], lo: float, hi: float, least: float
) -> list[tuple[float, float]]:
    """The parts of a range, longer than `least`, that no interval covers."""
    found = []
    for low, high in sorted(known):
        if low - lo > least:
            found.append((lo, low))
        lo = max(lo, high)
    if hi - lo > least:
        found.append((lo, hi))
    return found


def denser(p: NDArray[np.float64], lo: float, hi: float, factor: int) -> NDArray[np.float64]:
    """The values inside a range and its ends, each gap between them cut into `factor` parts."""
    p = np.unique(np.clip(p, lo, hi))
    steps = np.arange(factor * (p.size - 1) + 1) / factor
    return np.interp(steps, np.arange(p.size), p)


def sign_changes(f: Callable[[float], float], grid: Sequence[float]) -> list[tuple[float, float]]:
    """Pieces of a rising grid between which a function changes its sign; it may be NaN.

    Where it begins or ends between two points, the piece reaches to the last place where it has a
    value.
    """
    pieces = []
    for lo, hi in itertools.pairwise((p, f(p)) for p in grid):
        if math.isnan(lo[1]) != math.isnan(hi[1]):
            lo, hi = _defined(f, lo, hi)
        if lo[1] * hi[1] < 0:
            pieces.append((lo[0], hi[0]))
    return pieces


def _defined(
    f: Callable[[float], float], lo: tuple[float, float], hi: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of a piece, one of whose ends has no value, on which there are values."""
    start, outside = (hi, lo[0]) if math.isnan(lo[1]) else (lo, hi[0])
    inside = start
    for _ in range(EXISTENCE_STEPS):
        middle = 0.5 * (inside[0] + outside)
        value = f(middle)
        if math.isnan(value):
            outside = middle
        else:
            inside = middle, value
    return (inside, start) if inside[0] < start[0] else (start, inside)


def bracket_root(
    f: Callable[[float], tuple[float, float]],
    lo: Sample | float,
    hi: Sample | float,
    width: float,
    *,
    most: int = 60,
) -> Root:
    """Close in on a sign change of `f` until the bracket is narrow or the error bars forbid.

    Secants from the two ends of the bracket, as Illinois weighs them, and bisection where they
    have not halved it in three steps.  Where they lead close to one end, the other is fetched.

    Parameters
    ----------
    f : callable
        ``x -> (value, error)``.
    lo, hi : Sample or float
        Ends, ``lo < hi``; as samples where the function is known already.
    width : float
        Bracket asked for.
    most : int
        Evaluations allowed.

    Returns
    -------
    Root

    Raises
    ------
    ValueError
        If the ends are not in order, or `width` is not positive.
    """
    search = _Search(f, most)
    a, b = (end if isinstance(end, Sample) else search.sample(end) for end in (lo, hi))
    if not (a.x < b.x and width > 0):
        raise ValueError(
            f"ends must be in order and width > 0, got {a.x!r}, {b.x!r} and width = {width!r}"
        )
    if a.sign * b.sign != -1:
        return search.ended(a, b, RootStatus.NOT_BRACKETED)
    stays = [0, 0]  # Illinois: an end that has stayed twice counts half, and so on
    slow, last = 0, b.x - a.x
    while b.x - a.x > width:
        if search.evaluations >= most:
            return search.ended(a, b, RootStatus.EVALUATION_LIMIT)
        fa, fb = (end.value / 2 ** max(n - 1, 0) for end, n in zip((a, b), stays, strict=True))
        x = a.x - fa * (b.x - a.x) / (fb - fa)
        if slow >= 3:
            x, slow = 0.5 * (a.x + b.x), 0
        x = _beyond(x, a.x, b.x, width)
        sample = search.sample(x)
        if math.isnan(sample.value):
            return search.ended(a, b, RootStatus.UNDEFINED)
        if sample.sign == 0:
            return search.fence(a, sample, b, width)
        if sample.sign == a.sign:
            a, stays = sample, [0, stays[1] + 1]
        else:
            b, stays = sample, [stays[0] + 1, 0]
        slow = slow + 1 if b.x - a.x > 0.5 * last else 0
        last = b.x - a.x
    return search.answer(a, b)


def _beyond(x: float, a: float, b: float, width: float) -> float:
    """Where to look instead of `x`, the secant's root: past it, if it is close to an end.

    Such a root is known well, and what is missing is the end on its other side.
    """
    near = min(x - a, b - x)
    if near > NEAR * (b - a):
        return x
    step = min(max(0.1 * near, 0.4 * width), 0.5 * (b - a) - near)
    return x + step if x - a < b - x else x - step


class _Search:
    def __init__(self, f: Callable[[float], tuple[float, float]], most: int) -> None:
        self.f, self.most, self.evaluations = f, most, 0

    def sample(self, x: float) -> Sample:
        self.evaluations += 1
        value, error = self.f(x)
        return Sample(x, value, error)

    def fence(self, a: Sample, root: Sample, b: Sample, width: float) -> Root:
        """Ends of certain sign as close to `root`, where the sign is not, as the errors allow."""
        ends = [a, b]
        for k, far in enumerate((a, b)):
            slope = (far.value - root.value) / (far.x - root.x)
            step = max(REACH * (root.error + abs(root.value)) / abs(slope), 0.25 * width)
            for _ in range(WIDENINGS):
                if step >= abs(far.x - root.x) or self.evaluations >= self.most:
                    break
                end = self.sample(root.x + math.copysign(step, far.x - root.x))
                if math.isnan(end.value):
                    return self.ended(a, b, RootStatus.UNDEFINED)
                if end.sign == far.sign:
                    ends[k] = end
                    break
                step *= 2
        low, high = ends
        slope = (high.value - low.value) / (high.x - low.x)
        x = min(max(root.x - root.value / slope, low.x), high.x)
        error = (root.error + abs(root.value)) / abs(slope)
        return self.converged(x, error, low, high, slope)

    def answer(self, a: Sample, b: Sample) -> Root:
        """The secant's root of a bracket that is narrow enough."""
        slope = (b.value - a.value) / (b.x - a.x)
        x = min(max(a.x - a.value / slope, a.x), b.x)
        # the secant's own error is of second order, and the nearer end bounds it
        own = max(a.error, b.error) / abs(slope) + min(x - a.x, b.x - x)
        return self.converged(x, min(own, max(x - a.x, b.x - x)), a, b, slope)

    def converged(self, x: float, error: float, a: Sample, b: Sample, slope: float) -> Root:
        return Root(x, error, (a.x, b.x), slope, RootStatus.CONVERGED, self.evaluations)

    def ended(self, a: Sample, b: Sample, status: RootStatus) -> Root:
        return Root(math.nan, math.nan, (a.x, b.x), math.nan, status, self.evaluations)
