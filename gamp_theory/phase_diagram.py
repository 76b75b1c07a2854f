"""The phase diagram of a model in alpha and omega: lines that were traced, regions with words."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import Place, place_at
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.records import KNOWN, SETTLED
from gamp_theory.result import FixedPoint
from gamp_theory.starts import branch_name
from gamp_theory.state_evolution import (
    QUADRATURE_SHARE,
    RESIDUAL_SHARE,
    Solver,
    check_arguments,
)
from gamp_theory.transition_equations import NoRoot
from gamp_theory.transition_lines import TransitionLine, trace_transition
from gamp_theory.transition_result import KINDS, OVERLAP, Transition
from gamp_theory.transitions import survey_transitions

__all__ = [
    "COLUMNS",
    "DIAGRAM_TOL",
    "LARGEST_STEP",
    "Failure",
    "PhaseDiagram",
    "Region",
    "phase_diagram",
]

Vector: TypeAlias = NDArray[np.float64]

#: Accuracy of the fixed points on the lines, if nothing is said: finer than print.
DIAGRAM_TOL = 1e-4
#: Where lines are looked for: fractions of the range of omega.
COLUMNS = (0.5, 0.15, 0.85)
#: Values of omega at which regions are cut, beside those where a line begins or ends.
CUTS = 61
#: Accuracy of the points that name a region; the second where the first does not tell the losses
#: apart.
PROBE_TOLS = (1e-2, 1e-4)
#: A transition this close to a line, relative, is on it.
ON_LINE = 5e-3
#: Regions narrower than this in alpha, relative, are not named.
NARROW = 1e-3
#: Steps of the lines, at most.
LARGEST_STEP = 0.05
#: Points of a line at least, if nothing is said; one at either end may be out of range.
LEAST_POINTS = 40
#: Lines are followed this far beyond the range of alpha, a factor that no step exceeds: then one
#: point outside tells where they leave it.
BEYOND = 1.07
#: The label of a region where no branch could be shown to be a minimum.
NOT_KNOWN = "not known"


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the plane where nothing changes but numbers.

    Attributes
    ----------
    lowest : str
        The branch with the lowest training loss.
    stable : tuple of str
        All branches that are minima, the lowest first.
    omega, low, high : array, shape (columns,)
        It lies between ``low`` and ``high`` in alpha at these values of omega.
    probe : tuple of float
        The (alpha, omega) at which the branches were solved to name it.
    points : tuple of FixedPoint
        What was found there; those that failed with their status.
    """

    lowest: str
    stable: tuple[str, ...]
    omega: Vector
    low: Vector
    high: Vector
    probe: tuple[float, float]
    points: tuple[FixedPoint, ...] = field(repr=False)

    @property
    def label(self) -> str:
        """In words."""
        others = [name for name in self.stable if name != self.lowest]
        if not self.lowest:
            return NOT_KNOWN
        if others:
            return f"{self.lowest}; {' and '.join(others)} metastable"
        return f"{self.lowest} only"


@dataclass(frozen=True)
class Failure:
    """A place where something could not be computed.

    Attributes
    ----------
    kind : str
        The transition's, ``survey`` where branches could not be followed, ``region`` where one
        could not be named.
    omega, alpha : float
        Where; alpha is NaN for a whole range of it.
    status : str
        A token: ``solve_failed``, or that of a fixed point.
    message : str
    """

    kind: str
    omega: float
    alpha: float
    status: str
    message: str


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Lines and regions.

    Attributes
    ----------
    model : AttentionModel
        Its omega is of no account.
    lam : float
    alpha, omega : tuple of float
        The range.
    lines : tuple of TransitionLine
    regions : tuple of Region
    failures : tuple of Failure
        What could not be done; empty if all went well.
    complete : bool
        False after Ctrl-C: what was finished is there.
    """

    model: AttentionModel
    lam: float
    alpha: tuple[float, float]
    omega: tuple[float, float]
    lines: tuple[TransitionLine, ...]
    regions: tuple[Region, ...]
    failures: tuple[Failure, ...]
    complete: bool

    def of_kind(self, kind: str) -> tuple[TransitionLine, ...]:
        """The lines of one kind."""
        return tuple(line for line in self.lines if line.kind == kind)

    def __repr__(self) -> str:
        lines = [
            f"<PhaseDiagram alpha {self.alpha[0]:g} to {self.alpha[1]:g}, omega {self.omega[0]:g} "
            f"to {self.omega[1]:g}, {len(self.lines)} lines, {len(self.regions)} regions"
        ]
        lines += [f"  {line!r}" for line in self.lines]
        lines += [f"  region: {region.label}" for region in self.regions]
        lines += [f"  failed: {failure.message}" for failure in self.failures]
        lines += [] if self.complete else ["  interrupted"]
        return "\n".join(lines) + ">"


def phase_diagram(
    model: AttentionModel,
    alpha: tuple[float, float] = (0.05, 2.2),
    omega: tuple[float, float] = (0.0, 0.5),
    lam: float = 0.01,
    tol: float = DIAGRAM_TOL,
    *,
    kinds: Sequence[str] = KINDS,
    points: int = LEAST_POINTS,
    jobs: int = 1,
    progress: Callable[[str, float, float], object] | None = None,
) -> PhaseDiagram:
    """All transitions of a model in the plane of alpha and omega.

    Branches are followed along alpha at three values of omega; every transition that shows there
    is traced along omega to both sides, so a line that passes none of the three is not seen.
    Regions are cut out by the lines and named by the fixed points at one place in each.  Ctrl-C
    keeps the lines that are finished.

    Parameters
    ----------
    model : AttentionModel
    alpha, omega : (low, high)
    lam : float
    tol : float
        Accuracy of the fixed points on the lines.
    kinds : sequence of str
        Which transitions (:data:`gamp_theory.transition_result.KINDS`).
    points : int
        Of each line, at least, in the range; 0 for as many as it takes to follow it.
    jobs : int
        Threads.
    progress : callable, optional
        Called with (kind, omega, alpha) of each point of a line, from any thread.

    Raises
    ------
    ValueError
        On a bad range or an unknown kind.
    """
    for name, span, limit in (("alpha", alpha, float("inf")), ("omega", omega, 1.0)):
        lo, hi = span
        good = lo < hi <= limit and (lo > 0 if name == "alpha" else lo >= 0)
        if not (np.isfinite(hi) and good):
            allowed = "0 < low < high" if name == "alpha" else "0 <= low < high <= 1"
            raise ValueError(f"{name} must be a range with {allowed}, got {span!r}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {unknown[0]!r}")
    if points < 0:
        raise ValueError(f"points must be >= 0, got {points!r}")
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs!r}")
    check_arguments(model, alpha[0], lam, "semantic", tol)
    return _Drawing(model, alpha, omega, lam, tol, kinds, points, jobs, progress).run()


class _Enough(Exception):
    """Raised in a worker that need not go on."""


#: An interval of alpha at one omega, and the part of the plane it belongs to.
_Cell: TypeAlias = tuple[float, float, int]


class _Drawing:
    """The work behind one diagram, finished parts kept."""

    def __init__(
        self,
        model: AttentionModel,
        alpha: tuple[float, float],
        omega: tuple[float, float],
        lam: float,
        tol: float,
        kinds: Sequence[str],
        points: int,
        jobs: int,
        progress: Callable[[str, float, float], object] | None,
    ) -> None:
        self.model, self.alpha, self.omega, self.lam = model, alpha, omega, lam
        self.tol, self.kinds, self.jobs, self.progress = tol, kinds, jobs, progress
        self.points = points
        self.lines: list[TransitionLine] = []
        self.regions: list[Region] = []
        self.failures: list[Failure] = []
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> PhaseDiagram:
        complete = True
        pool = ThreadPoolExecutor(self.jobs)
        try:
            self.trace(pool)
            self.cut(pool)
        except KeyboardInterrupt:
            complete = False
        finally:
            self.stop.set()
            # after Ctrl-C a solve that is under way is not waited for: it can take a minute
            pool.shutdown(wait=complete, cancel_futures=True)
        order = {kind: k for k, kind in enumerate(KINDS)}
        return PhaseDiagram(
            self.model,
            self.lam,
            self.alpha,
            self.omega,
            tuple(sorted(self.lines, key=lambda line: (order[line.kind], line.values.min()))),
            tuple(self.regions),
            tuple(self.failures),
            complete,
        )

    def go_on(self) -> None:
        """End the work of this thread if the user has had enough."""
        if self.stop.is_set():
            raise _Enough

    # -- lines ------------------------------------------------------------------------------------

    def trace(self, pool: ThreadPoolExecutor) -> None:
        """Survey the columns, and follow what is not on a line already."""
        lo, hi = self.omega
        columns = [lo + fraction * (hi - lo) for fraction in COLUMNS]
        surveys = [pool.submit(self.survey, column) for column in columns]
        for survey in surveys:
            started: list[Future[None]] = [
                pool.submit(self.line, transition)
                for transition in survey.result()
                if not self.known(transition)
            ]
            for done in as_completed(started):
                done.result()

    def survey(self, omega: float) -> list[Transition]:
        """The transitions along alpha in one column; none where it fails."""
        self.go_on()
        place = Place(self.model.with_parameters(omega=omega), self.alpha[0], self.lam)
        try:
            return survey_transitions(
                place, "alpha", self.alpha, self.kinds, progress=lambda _: self.go_on()
            )
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            self.failed("survey", omega, math.nan, error)
            return []

    def line(self, transition: Transition) -> None:
        """Follow one transition; the line is kept as soon as it is finished.

        Two that are on one line may be followed at the same time: then the first is kept.
        """
        self.go_on()
        # onsets from Q = 0 have no fixed points to be followed
        from_zero = any(side.branch == "zero" for side in transition.sides)
        if from_zero or self.known(transition):
            return
        lo, hi = self.omega

        def on_point(position: float, value: float) -> None:
            self.go_on()
            if self.progress is not None:
                self.progress(transition.kind, position, value)

        try:
            line = trace_transition(
                transition,
                "omega",
                hi,
                back_to=lo,
                between=(self.alpha[0] / BEYOND, self.alpha[1] * BEYOND),
                tol=self.tol,
                largest_step=LARGEST_STEP,
                least_points=self.points + 2 if self.points else 0,
                on_point=on_point,
            )
        except (NoRoot, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            place = transition.place
            self.failed(transition.kind, place.model.omega, transition.value, error)
        else:
            with self.lock:
                if not self.known(transition):
                    self.lines.append(_trimmed(line, *self.alpha))

    def failed(self, kind: str, omega: float, alpha: float, error: Exception) -> None:
        where = f"omega = {omega:.4g}" + (f", alpha = {alpha:.4g}" if alpha == alpha else "")
        self.failures.append(
            Failure(kind, omega, alpha, "solve_failed", f"{kind} at {where}: {error}")
        )

    def known(self, transition: Transition) -> bool:
        """Whether it lies on a line that has been followed."""
        omega = transition.place.model.omega
        return any(
            abs(value - transition.value) < ON_LINE * value
            for line in self.lines
            if line.kind == transition.kind
            for value in _at(line, omega)
        )

    # -- regions ----------------------------------------------------------------------------------

    def cut(self, pool: ThreadPoolExecutor) -> None:
        """The parts between the lines, each named at one place; those of one name that touch."""
        columns = self.columns()
        cells, parts = self.parts(columns)
        futures = [pool.submit(self.named, part) for part in parts]
        named = [future.result() for future in futures]
        names = [region and (region.lowest, region.stable) for region in named]
        for chain in _joined(cells, names):
            places = [(columns[i], low, high) for i, (low, high, _) in chain]
            omega, low, high = (np.array(column) for column in zip(*places, strict=True))
            if omega[0] == omega[-1]:
                continue  # no area
            inside = {part for _, (_, _, part) in chain}
            widest = max(inside, key=lambda part: max(b - a for _, a, b in parts[part]))
            region = named[widest]
            assert region is not None
            self.regions.append(replace(region, omega=omega, low=low, high=high))

    def columns(self) -> list[float]:
        """Where regions are cut: evenly, and where a line begins, ends, turns or leaves alpha."""
        lo, hi = self.omega
        found = set(np.linspace(lo, hi, CUTS).tolist())
        for line in self.bounding():
            x, y = line.positions, line.values
            found |= {float(x[0]), float(x[-1])}
            turns = np.flatnonzero(np.diff(np.sign(np.diff(x)))) + 1
            found |= {float(value) for value in x[turns]}
            for limit in self.alpha:
                for k in np.flatnonzero((y[:-1] - limit) * (y[1:] - limit) < 0):
                    share = (limit - y[k]) / (y[k + 1] - y[k])
                    found.add(float(x[k] + share * (x[k + 1] - x[k])))
        return sorted(omega for omega in found if lo <= omega <= hi)

    def bounding(self) -> list[TransitionLine]:
        """The lines on which a minimum appears, vanishes or becomes the lowest."""
        return [line for line in self.lines if line.kind != "alpha_l"]

    def parts(
        self, columns: Sequence[float]
    ) -> tuple[list[list[_Cell]], list[list[tuple[float, float, float]]]]:
        """Cells of each column, and parts: cells in a row that lie between the same two lines."""
        bottom, top = self.alpha
        cells: list[list[_Cell]] = []
        parts: list[list[tuple[float, float, float]]] = []
        before: dict[tuple[str, str], int] = {}
        for omega in columns:
            here = [("bottom", bottom), ("top", top)]
            for k, line in enumerate(self.bounding()):
                for j, value in enumerate(_at(line, omega, meaningful=True)):
                    if bottom * (1 - 1e-9) < value < top * (1 + 1e-9):
                        here.append((f"{k}.{j}", min(max(value, bottom), top)))
            here.sort(key=lambda bound: (bound[1], bound[0] == "top", bound[0] != "bottom"))
            now: dict[tuple[str, str], int] = {}
            column: list[_Cell] = []
            for (below, low), (above, high) in pairwise(here):
                key = (below, above)
                if key not in before:
                    before[key] = len(parts)
                    parts.append([])
                now[key] = before[key]
                parts[now[key]].append((omega, low, high))
                column.append((low, high, now[key]))
            cells.append(column)
            before = now
        return cells, parts

    def named(self, part: list[tuple[float, float, float]]) -> Region | None:
        """A region, from the fixed points where it is widest; None where it is too narrow."""
        omega, low, high = (np.array(column) for column in zip(*part, strict=True))
        widest = int(np.argmax(np.log(high / low)))
        if high[widest] - low[widest] < NARROW * high[widest]:
            return None
        at = float(omega[widest])
        alpha = float(np.sqrt(low[widest] * high[widest]))
        place = place_at(Place(self.model, alpha, self.lam), "omega", at)
        for tol in PROBE_TOLS:
            points = []
            for start in ("semantic", "positional", "zero"):
                self.go_on()
                points.append(self.probed(place, start, tol))
            minima = _minima(points)
            if _told_apart(minima):
                break
        for point in points:
            if point.status.token not in SETTLED:
                self.failures.append(
                    Failure(
                        "region",
                        at,
                        alpha,
                        point.status.token,
                        f"the {point.start} start at omega = {at:.4g}, alpha = {alpha:.4g}: "
                        f"{point.message}",
                    )
                )
        stable = tuple(point.branch for point in minima)
        lowest = stable[0] if _told_apart(minima) and stable else ""
        return Region(lowest, stable, omega, low, high, (alpha, at), tuple(points))

    def probed(self, place: Place, start: str, tol: float) -> FixedPoint:
        """Where a start ends; if on no minimum of its branch, where the nearest line's state does.

        A branch may have two pieces at one place, and the named start may fall to the unstable one.
        """
        point = _probe(place, start, tol)
        if start not in OVERLAP or (point.branch == start and _minima([point])):
            return point
        state = self.nearest(place, start)
        if state is None:
            return point
        other = _probe(place, state, tol)
        return other if other.branch == start and _minima([other]) else point

    def nearest(self, place: Place, branch: str) -> Overlaps | None:
        """The state of a branch on the point of a line that is nearest; None if there is none."""
        found: list[tuple[float, Overlaps]] = []
        for line in self.lines:
            for omega, alpha, states in zip(line.positions, line.values, line.states, strict=True):
                far = math.hypot(omega - place.model.omega, math.log(alpha / place.alpha))
                found += [(far, state) for state in states if branch_name(state) == branch]
        return min(found, key=lambda pair: pair[0])[1] if found else None


def _probe(place: Place, start: str | Overlaps, tol: float) -> FixedPoint:
    """Where a start ends, with the stability of the map alone."""
    solver = Solver(
        place.model,
        place.alpha,
        place.lam,
        start,
        tol,
        RESIDUAL_SHARE * tol,
        QUADRATURE_SHARE * tol,
        with_stability=True,
        with_replicon=False,
    )
    return solver.run()


def _minima(points: Sequence[FixedPoint]) -> list[FixedPoint]:
    """One point of each branch that is stable, by training loss."""
    good = [
        point
        for point in points
        if point.status.token in KNOWN and point.stability is not None and point.stability.stable
    ]
    lowest: dict[str, FixedPoint] = {}
    for point in sorted(good, key=lambda point: point.train_loss_variational):
        lowest.setdefault(point.branch, point)
    return list(lowest.values())


def _told_apart(minima: Sequence[FixedPoint]) -> bool:
    """Whether the first has the lowest loss, by more than the error bars."""
    return all(
        point.train_loss_variational - point.errors.train_loss_variational
        > minima[0].train_loss_variational + minima[0].errors.train_loss_variational
        for point in minima[1:]
    )


def _joined(
    cells: Sequence[Sequence[_Cell]], names: Sequence[object]
) -> Iterator[list[tuple[int, _Cell]]]:
    """Chains of cells in neighbouring columns that have one name and touch."""
    open_: list[list[tuple[int, _Cell]]] = []
    for i, column in enumerate(cells):
        merged: list[_Cell] = []
        for low, high, part in column:
            if names[part] is None:
                continue
            if merged and merged[-1][1] == low and names[merged[-1][2]] == names[part]:
                wider = part if high - low > merged[-1][1] - merged[-1][0] else merged[-1][2]
                merged[-1] = (merged[-1][0], high, wider)
            else:
                merged.append((low, high, part))
        going = []
        for cell in merged:
            for chain in open_:
                low, high, part = chain[-1][1]
                touch = max(low, cell[0]) <= min(high, cell[1])
                if touch and names[part] == names[cell[2]]:
                    open_.remove(chain)
                    break
            else:
                chain = []
            chain.append((i, cell))
            going.append(chain)
        yield from open_
        open_ = going
    yield from open_


def _trimmed(line: TransitionLine, low: float, high: float) -> TransitionLine:
    """Without what is out of the range of alpha, but for the first point there on either side."""
    inside = np.flatnonzero((line.values >= low) & (line.values <= high))
    if inside.size == 0:
        return line
    first, last = max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 2, line.values.size)
    part = slice(first, last)
    left = f"{line.parameter} leaves the range {low:g} to {high:g}"
    outside = [not low <= line.values[k] <= high for k in (first, last - 1)]
    begins, ends = (left if out else end for out, end in zip(outside, line.ends, strict=True))
    return replace(
        line,
        positions=line.positions[part],
        values=line.values[part],
        errors=line.errors[part],
        meaningful=line.meaningful[part],
        states=line.states[part],
        ends=(begins, ends),
    )


def _at(line: TransitionLine, omega: float, *, meaningful: bool = False) -> list[float]:
    """The values of a line at one omega, between its points by straight lines."""
    found: list[float] = []
    x, y = line.positions, line.values
    for k in range(x.size - 1):
        a, b = sorted((x[k], x[k + 1]))
        last = k == x.size - 2
        if a <= omega < b or (last and omega == x[k + 1]) or (a < b and omega == b == x.max()):
            # it ends somewhere in a piece of which one end means something: better too far
            if meaningful and not (line.meaningful[k] or line.meaningful[k + 1]):
                continue
            value = float(y[k] + (omega - x[k]) / (x[k + 1] - x[k]) * (y[k + 1] - y[k]))
            if not found or abs(value - found[-1]) > 1e-12:
                found.append(value)
    return found
