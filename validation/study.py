"""What a study is made of: cases to simulate, rows that hold them against the theory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gamp_theory import AttentionModel, ConvergenceError, FixedPoint, solve
from gamp_theory.empirical.measure import mean_and_stderr, z_limit, z_score
from gamp_theory.mechanisms import DEFAULT_A

__all__ = [
    "CLEAR_JUMP_MASS",
    "SIGMAS",
    "Case",
    "Place",
    "Record",
    "Row",
    "Study",
    "Table",
    "Verdict",
    "fixed_point",
    "groups",
    "judged_at",
    "model_of",
    "row",
]

#: How improbable a deviation has to be before a study fails, in standard deviations of a normal.
SIGMAS = 4.0
#: A fixed point is judged where its jump mass is at most this.  Replica symmetry is broken
#: wherever it is positive, visibly where it is not small: there, rows are only shown.
CLEAR_JUMP_MASS = 0.01
#: Relative accuracy of the theory; simulations are good to half a per cent.
THEORY_TOL = 1e-4

Case = dict[str, Any]
Record = dict[str, Any]


class Place(NamedTuple):
    """A point of the model: what is kept fixed, and the position on the axis of a figure.

    Attributes
    ----------
    series : str
        Points of one series make one curve.
    axis : str
        Name of the parameter that changes along it.
    x : float
        Its value.
    """

    series: str
    axis: str
    x: float

    def __str__(self) -> str:
        return f"{self.series}, {self.axis} = {self.x:g}"


class Row(NamedTuple):
    """One quantity at one place, theory against simulation.

    Attributes
    ----------
    where : Place
        The point of the model.
    quantity : str
        What is compared there.
    theory, theory_error : float
        Value at d = infinity and its numerical error bar.
    simulation, stderr : float
        Mean over instances and its standard error.
    instances : int
        How many of them.
    judged : bool
        Whether the study fails if this row does; else it is reported only.
    """

    where: Place
    quantity: str
    theory: float
    theory_error: float
    simulation: float
    stderr: float
    instances: int
    judged: bool

    @property
    def z(self) -> float:
        """Deviation of the simulation in combined standard errors; NaN if neither has an error."""
        if self.stderr == self.theory_error == 0:
            return math.nan
        return z_score(self.simulation, self.stderr, self.theory, self.theory_error)

    @property
    def limit(self) -> float:
        """The largest |z| that passes: the quantile of Student's t that `SIGMAS` is of a normal."""
        return z_limit(self.instances, SIGMAS)

    @property
    def agrees(self) -> bool:
        """Whether |z| is within the limit; a NaN is not."""
        return abs(self.z) <= self.limit


class Table(NamedTuple):
    """A table of the report that holds no rows to judge; cells are text."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


class Verdict(NamedTuple):
    """What a study found: rows, what failed apart from them, remarks and tables for the report."""

    rows: list[Row]
    problems: list[str]
    notes: list[str]
    tables: Sequence[Table] = ()


class Study(NamedTuple):
    """A study, as the runner sees it.

    Attributes
    ----------
    name, title, text : str
        What it is called on the command line and in the report, and what it is about.
    cases : callable
        ``cases(quick)``: parameters of all instances, seeds included, as JSON can hold them.
    measure : callable
        ``measure(case)``: the numbers of one instance; knows nothing of the theory.
    judge : callable
        ``judge(cases, records)``: solves the theory and compares.
    sources : tuple of callables
        `measure` and the functions of this directory that it calls: with a case, and the code of
        the package, they are all that an instance depends on.
    """

    name: str
    title: str
    text: str
    cases: Callable[[bool], list[Case]]
    measure: Callable[[Case], Record]
    judge: Callable[[Sequence[Case], Sequence[Record]], Verdict]
    sources: tuple[Callable, ...]


def row(
    where: Place,
    quantity: str,
    theory: tuple[float, float],
    values: Sequence[float],
    judged: bool,
) -> Row:
    """The row of one quantity, from its values in all instances."""
    sample = mean_and_stderr(values)
    return Row(where, quantity, *theory, sample.mean, sample.stderr, sample.instances, judged)


def groups(
    cases: Sequence[Case], records: Sequence[Record], keys: Sequence[str]
) -> list[tuple[Case, list[Record]]]:
    """Instances of the same point: those whose cases agree in `keys`, in order of appearance."""
    found: dict[tuple, tuple[Case, list[Record]]] = {}
    for case, record in zip(cases, records, strict=True):
        found.setdefault(tuple(case[key] for key in keys), (case, []))[1].append(record)
    return list(found.values())


def model_of(case: Mapping[str, Any]) -> AttentionModel:
    """The model of a case; the target is the standard one unless it says ``A``."""
    return AttentionModel.mixture(case["omega"], case["sigma"], case.get("A", DEFAULT_A))


def judged_at(point: FixedPoint) -> bool:
    """Whether agreement is claimed at a fixed point, which the theory alone decides.

    It has to be stable in all directions, random ones included, with hardly any jumps.
    """
    stability = point.stability
    return (
        stability is not None
        and stability.stable
        and stability.replicon < 1
        and stability.jump_mass <= CLEAR_JUMP_MASS
    )


def fixed_point(
    case: Mapping[str, Any], problems: list[str], elsewhere: bool = False
) -> FixedPoint | None:
    """The theory at a case; what is wrong with it goes to `problems`, and then there is none.

    To end on another branch than the one that `start` names is wrong unless `elsewhere` is given.
    """
    start = case["start"]
    where = (
        f"alpha = {case['alpha']:g}, omega = {case['omega']:g}, sigma = {case['sigma']:g}, "
        f"lam = {case['lam']:g}, {start}"
    )
    try:
        point = _solved(model_of(case), case["alpha"], case["lam"], start)
    except (ConvergenceError, ValueError) as error:
        problems.append(f"{where}: no fixed point: {error}")
        return None
    if point.branch != start and not elsewhere:
        problems.append(f"{where}: the theory ended on the {point.branch} branch")
        return None
    gap = abs(point.train_loss - point.train_loss_variational)
    bar = math.hypot(point.errors.train_loss, point.errors.train_loss_variational)
    if not gap <= 10 * bar + 1e-9:
        problems.append(
            f"{where}: the two forms of the training loss differ by {gap:.2g}, error bar {bar:.2g}"
        )
    return point


@functools.cache
def _solved(model: AttentionModel, alpha: float, lam: float, start: str) -> FixedPoint:
    """The same points come up in several studies."""
    return solve(model, alpha, lam, start=start, tol=THEORY_TOL)
