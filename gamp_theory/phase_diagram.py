"""The phase diagram of a model in alpha and omega: lines that were traced, regions with words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import Place, place_at
from gamp_theory.model import AttentionModel
from gamp_theory.result import FixedPoint
from gamp_theory.state_evolution import Solver, Status, check_arguments
from gamp_theory.transition_lines import LINE_TOL, TransitionLine, trace_transition
from gamp_theory.transitions import KINDS, Transition, survey_transitions

__all__ = ["PhaseDiagram", "Region", "phase_diagram"]

Vector: TypeAlias = NDArray[np.float64]

#: Where lines are looked for: fractions of the range of omega.
COLUMNS = (0.5, 0.15, 0.85)
#: Values of omega at which regions are cut, and the accuracy of the point that names one.
CUTS = 61
PROBE_TOL = 1e-3
#: A transition this close to a line, relative, is on it.
ON_LINE = 5e-3
#: Regions narrower than this in alpha, relative, are not named.
NARROW = 1e-3
#: Steps of the lines: forty points or so over half of omega's range.
LARGEST_STEP = 0.05


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
            return "not known"
        if others:
            return f"{self.lowest}; {' and '.join(others)} metastable"
        return f"{self.lowest} only"


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
    missing : tuple of str
        What could not be done, in sentences; empty if all went well.
    complete : bool
        False after Ctrl-C: what was finished is there.
    """

    model: AttentionModel
    lam: float
    alpha: tuple[float, float]
    omega: tuple[float, float]
    lines: tuple[TransitionLine, ...]
    regions: tuple[Region, ...]
    missing: tuple[str, ...]
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
        lines += [f"  missing: {sentence}" for sentence in self.missing]
        return "\n".join(lines) + ">"


def phase_diagram(
    model: AttentionModel,
    alpha: tuple[float, float] = (0.05, 2.2),
    omega: tuple[float, float] = (0.0, 0.5),
    lam: float = 0.01,
    tol: float = LINE_TOL,
    *,
    kinds: Sequence[str] = KINDS,
    jobs: int = 1,
    progress: Callable[[str, float, float], object] | None = None,
) -> PhaseDiagram:
    """All transitions of a model in the plane of alpha and omega.

    Branches are followed along alpha at three values of omega; every transition that shows there
    is traced along omega to both sides, so a line that passes none of the three is not seen.
    Regions are cut out by the lines and named by the fixed points at one place in each.

    Parameters
    ----------
    model : AttentionModel
    alpha, omega : (low, high)
    lam : float
    tol : float
        Accuracy of the fixed points on the lines.
    kinds : sequence of str
        Which transitions (:data:`gamp_theory.transitions.KINDS`).
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
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs!r}")
    check_arguments(model, alpha[0], lam, "semantic", tol)
    return _Drawing(model, alpha, omega, lam, tol, kinds, jobs, progress).run()


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
        jobs: int,
        progress: Callable[[str, float, float], object] | None,
    ) -> None:
        self.model, self.alpha, self.omega, self.lam = model, alpha, omega, lam
        self.tol, self.kinds, self.jobs, self.progress = tol, kinds, jobs, progress
        self.lines: list[TransitionLine] = []
        self.regions: list[Region] = []
        self.missing: list[str] = []

    def run(self) -> PhaseDiagram:
        complete = True
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                self.trace(pool)
                self.cut(pool)
        except KeyboardInterrupt:
            complete = False
            self.missing.append("Interrupted by the user.")
        order = {kind: k for k, kind in enumerate(KINDS)}
        self.lines.sort(key=lambda line: (order[line.kind], line.values.min()))
        return PhaseDiagram(
            self.model,
            self.lam,
            self.alpha,
            self.omega,
            tuple(self.lines),
            tuple(self.regions),
            tuple(self.missing),
            complete,
        )

    # -- lines ------------------------------------------------------------------------------------

    def trace(self, pool: ThreadPoolExecutor) -> None:
        """Survey the columns, and follow what is not on a line already."""
        lo, hi = self.omega
        columns = [lo + fraction * (hi - lo) for fraction in COLUMNS]
        surveys = [pool.submit(self.survey, column) for column in columns]
        for survey in surveys:
            started: dict[Future[TransitionLine], Transition] = {}
            for transition in survey.result():
                if not self.known(transition):
                    started[pool.submit(self.line, transition)] = transition
            for done in as_completed(started):
                transition = started[done]
                try:
                    self.lines.append(done.result())
                except ValueError as error:
                    self.missing.append(
                        f"The line of {transition.kind} through alpha = {transition.value:.4g}, "
                        f"omega = {transition.place.model.omega:.4g} was not followed: {error}."
                    )

    def survey(self, omega: float) -> list[Transition]:
        place = Place(self.model.with_parameters(omega=omega), self.alpha[0], self.lam)
        return survey_transitions(place, "alpha", self.alpha, self.kinds)

    def line(self, transition: Transition) -> TransitionLine:
        lo, hi = self.omega
        report = self.progress

        def on_point(position: float, value: float) -> None:
            if report is not None:
                report(transition.kind, position, value)

        return trace_transition(
            transition,
            "omega",
            hi,
            back_to=lo,
            between=self.alpha,
            tol=self.tol,
            largest_step=LARGEST_STEP,
            on_point=on_point,
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
        """The parts between the lines, each named at one place."""
        bounding = [line for line in self.lines if line.kind != "alpha_l"]
        parts: dict[tuple[object, ...], list[tuple[float, float, float]]] = {}
        columns = np.linspace(*self.omega, CUTS)
        for omega in columns:
            here = [("bottom", self.alpha[0]), ("top", self.alpha[1])]
            for k, line in enumerate(bounding):
                for j, value in enumerate(_at(line, omega, meaningful=True)):
                    if self.alpha[0] < value < self.alpha[1]:
                        here.append((f"{k}.{j}", value))
            here.sort(key=lambda bound: bound[1])
            for (below, low), (above, high) in zip(here[:-1], here[1:], strict=True):
                parts.setdefault((below, above), []).append((float(omega), low, high))
        named = {key: pool.submit(self.named, part) for key, part in parts.items()}
        for future in named.values():
            region = future.result()
            if region is not None:
                self.regions.append(region)

    def named(self, part: list[tuple[float, float, float]]) -> Region | None:
        """A region, from the fixed points where it is widest."""
        omega, low, high = (np.array(column) for column in zip(*part, strict=True))
        widest = int(np.argmax(high - low))
        if high[widest] - low[widest] < NARROW * high[widest]:
            return None
        alpha = float(np.sqrt(low[widest] * high[widest]))
        place = place_at(Place(self.model, alpha, self.lam), "omega", float(omega[widest]))
        points = tuple(_probe(place, start) for start in ("semantic", "positional", "zero"))
        good = [
            point
            for point in points
            if point.status in (Status.CONVERGED, Status.QUADRATURE_LIMIT)
            and point.stability is not None
            and point.stability.stable
        ]
        good.sort(key=lambda point: point.train_loss_variational)
        stable = tuple(dict.fromkeys(point.branch for point in good))
        lowest = stable[0] if stable else ""
        return Region(lowest, stable, omega, low, high, (alpha, float(omega[widest])), points)


def _probe(place: Place, start: str) -> FixedPoint:
    """Where a start ends, with the stability of the map alone."""
    tol = PROBE_TOL
    solver = Solver(
        place.model, place.alpha, place.lam, start, tol, 0.03 * tol, 0.3 * tol, True, False
    )
    return solver.run()


def _at(line: TransitionLine, omega: float, *, meaningful: bool = False) -> list[float]:
    """The values of a line at one omega, between its points by straight lines."""
    found = []
    x, y = line.positions, line.values
    for k in range(x.size - 1):
        a, b = sorted((x[k], x[k + 1]))
        last = k == x.size - 2
        if a <= omega < b or (last and omega == x[k + 1]) or (a < b and omega == b == x.max()):
            if meaningful and not (line.meaningful[k] and line.meaningful[k + 1]):
                continue
            value = float(y[k] + (omega - x[k]) / (x[k + 1] - x[k]) * (y[k + 1] - y[k]))
            if not found or abs(value - found[-1]) > 1e-12:
                found.append(value)
    return found
