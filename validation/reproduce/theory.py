"""The theory of each figure as a dataset: grids, curves, lines and thresholds, with error bars."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory import AttentionModel, find_transition, solve
from gamp_theory.branch_map import Place, place_at
from gamp_theory.cli.threads import in_threads
from gamp_theory.datasets import phase_diagram_dataset, transition_dataset
from gamp_theory.grids import grid_dataset, no_point, on_branch, point_columns
from gamp_theory.mechanisms import DEFAULT_A
from gamp_theory.observables import linear_error
from gamp_theory.phase_diagram import phase_diagram
from gamp_theory.records import KNOWN, versions
from gamp_theory.tracing import follow_through
from validation import rank_two as rank_two_students
from validation.parameters import SECOND
from validation.reproduce.labelled import dataset_of_rows
from validation.reproduce.store import Store, key_of

if TYPE_CHECKING:
    import xarray

    from gamp_theory.result import FixedPoint

__all__ = ["THEORIES", "Theory", "Work"]

INFORMED = ("semantic", "positional")
LAM, OMEGA, SIGMA = 0.01, 0.3, 0.5
#: Of the slices: where the studies of other parameters are.
SLICE_ALPHA = 1.5
#: Omega of the thresholds that the paper gives.
PUBLISHED_OMEGAS = {
    "alpha_c": (0.0, 0.1, 0.2, 0.3, 0.4, 0.425),
    "alpha_l": (0.0, 0.1, 0.2, 0.3, 0.35),
}
#: Where thresholds are searched: all of the above lie well inside.
THRESHOLD_RANGE = (0.4, 2.4)
#: Where the positional branch is at every omega of the plane: at small omega it ends above.
POSITIONAL_ALPHA = 0.62
#: Points of a line, about: for the progress bar.
LINE_POINTS = 45
#: Accuracy of the fixed points whose jump mass is wanted: two digits of it.
MASS_TOL = 1e-3
#: The plane of the diagrams.
ALPHA_SPAN, OMEGA_SPAN = (0.1, 2.3), (0.0, 0.5)


@dataclass(frozen=True)
class Work:
    """How to compute.

    Attributes
    ----------
    store : Store
    quick : bool
        Coarser grids and tolerances.
    jobs : int
        Threads.
    tell : callable
        Called with the number of steps that are done.
    """

    store: Store
    quick: bool
    jobs: int
    tell: Callable[[int], object]


@dataclass(frozen=True)
class Theory:
    """One dataset of theory.

    Attributes
    ----------
    make : callable
        ``make(work, **asked)``.
    asked : callable
        ``asked(quick)``: its arguments, as JSON can hold them; the key of the dataset.
    steps : callable
        ``steps(**asked)``: how often it tells of progress.
    """

    make: Callable[..., xarray.Dataset]
    asked: Callable[[bool], dict[str, Any]]
    steps: Callable[..., int]

    def key(self, name: str, quick: bool) -> str:
        """What the dataset is found again by."""
        return _key(name, self.asked(quick))


def _key(*asked: Any) -> str:
    return key_of(*asked, modules=("labelled", "theory"))


def _grid(low: float, high: float, points: int) -> list[float]:
    return [float(round(x, 6)) for x in np.linspace(low, high, points)]


# ------------------------------------------------------------------------------------ branches


class _Enough(Exception):
    """Raised in a thread that need not go on."""


def branches(
    work: Work,
    model: AttentionModel,
    along: str,
    values: Sequence[float],
    bases: Mapping[str, Sequence[float]],
    tols: Mapping[str, float],
) -> dict[str, dict[float, FixedPoint]]:
    """Fixed points of named starts along a parameter, as far as their branches go to both sides.

    Each start is asked at its `bases`, which are among the values, until one leads to its branch;
    this is then followed, side by side with those of other starts.  Values beyond its end are left
    out.  Along other parameters alpha is `SLICE_ALPHA`.
    """
    stop = threading.Event()

    def first_of(start: str) -> tuple[float, FixedPoint]:
        for base in bases[start]:
            place = place_at(Place(model, SLICE_ALPHA, LAM), along, base)
            point = solve(
                place.model, place.alpha, place.lam, start, tols[start], on_failure="return"
            )
            if on_branch(point, start):
                break
        return base, point

    def follow(start: str) -> dict[float, FixedPoint]:
        base, first = first_of(start)
        found = {base: first}

        def finish(point: FixedPoint) -> None:
            found[ahead[len(found) - before]] = replace(point, start=start)
            work.tell(1)
            if stop.is_set():
                raise _Enough

        if on_branch(first, start):
            for ahead in (
                [value for value in values if value > base],
                [value for value in values if value < base][::-1],
            ):
                before = len(found)
                if ahead:
                    follow_through(first, along, ahead, finish)
        work.tell(len(values) - len(found) + 1)
        return found

    with ThreadPoolExecutor(work.jobs) as pool:
        futures = {start: pool.submit(follow, start) for start in tols}
        try:
            return {start: future.result() for start, future in futures.items()}
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _curve(
    along: str,
    values: Sequence[float],
    points: Mapping[str, Mapping[float, FixedPoint]],
    A: Sequence[Sequence[float]],
    tol: float,
) -> xarray.Dataset:
    """Branches as a dataset; values that they do not reach are ``left_branch``."""
    place: dict[str, float | Sequence[float]] = {
        "alpha": SLICE_ALPHA,
        "omega": OMEGA,
        "sigma": SIGMA,
        "lam": LAM,
    }
    model = AttentionModel.mixture(OMEGA, SIGMA, A)
    rows = []
    for value in values:
        here = place_at(Place(model, SLICE_ALPHA, LAM), along, value)
        missing = no_point("left_branch") | {"linear_error": linear_error(here.model)}
        rows.append(
            [
                point_columns(found[value], start) if value in found else missing
                for start, found in points.items()
            ]
        )
    return grid_dataset(
        "curve",
        place | {along: list(values)},
        list(points),
        {
            name: np.array([[point[name] for point in row] for row in rows])
            for name in no_point("left_branch")
        },
        A=A,
        tol=tol,
        computed_with=versions(),
    )


def transition(work: Work, alphas: Sequence[float], tols: dict[str, float]) -> xarray.Dataset:
    """Branches along alpha at omega = .3, with alpha_c and alpha_l."""
    model = AttentionModel.mixture(OMEGA, SIGMA)
    points = branches(work, model, "alpha", alphas, dict.fromkeys(tols, alphas[-1:]), tols)
    transitions = {}
    for kind in PUBLISHED_OMEGAS:
        transitions[kind] = find_transition(
            model, kind, THRESHOLD_RANGE, LAM, min(tols[name] for name in INFORMED)
        )
        work.tell(1)
    return transition_dataset(
        model, {name: list(found.values()) for name, found in points.items()}, transitions
    )


def _transition_asked(quick: bool) -> dict[str, Any]:
    alphas = _grid(0.1, 2.0, 20 if quick else 39)
    # the uninformed branch is unstable, there for comparison, and costs most
    tols = dict.fromkeys(INFORMED, 1e-3 if quick else 1e-5)
    return {"alphas": alphas, "tols": tols if quick else {"uninformed": 1e-3, **tols}}


# -------------------------------------------------------------------------------------- slices


def along(
    work: Work,
    parameter: str,
    values: Sequence[float],
    base: float,
    tol: float,
    starts: Sequence[str] = INFORMED,
    A: Sequence[Sequence[float]] = DEFAULT_A,
) -> xarray.Dataset:
    """Branches along a parameter at alpha = 1.5, from `base`, which is one of the values."""
    model = AttentionModel.mixture(OMEGA, SIGMA, A)
    bases, tols = dict.fromkeys(starts, (base,)), dict.fromkeys(starts, tol)
    points = branches(work, model, parameter, values, bases, tols)
    return _curve(parameter, values, points, A, tol)


# The quick values stay where both branches are: to find where one ends takes longer than all else.
def _slice(
    parameter: str, values: Sequence[float], quick: Sequence[float], base: float, **more: Any
) -> Theory:
    def asked(is_quick: bool) -> dict[str, Any]:
        return {
            "parameter": parameter,
            "values": list(quick if is_quick else values),
            "base": base,
            "tol": 1e-3 if is_quick else 1e-5,
            **more,
        }

    def steps(values: Sequence[float], starts: Sequence[str] = INFORMED, **_: Any) -> int:
        return len(starts) * len(values)

    return Theory(along, asked, steps)


# ----------------------------------------------------------------------------------- the plane


def plane(
    work: Work, alphas: Sequence[float], omegas: Sequence[float], tol: float
) -> xarray.Dataset:
    """Both informed branches over alpha and omega; each value of omega is kept when it is done."""

    def cut(number: int) -> dict[str, Any]:
        omega = omegas[number]
        key = _key("plane", list(alphas), omega, tol)
        found = work.store.part("plane", key, lambda: _cut(work, alphas, omega, tol))
        work.tell(1)
        return found

    cuts = [cut(number) for number in range(len(omegas))]
    return grid_dataset(
        "sweep",
        {"alpha": list(alphas), "omega": list(omegas), "sigma": SIGMA, "lam": LAM},
        INFORMED,
        {
            name: np.array(
                [[found[start][name] for start in INFORMED] for found in cuts]
            ).transpose(2, 0, 1)
            for name in no_point("left_branch")
        },
        A=DEFAULT_A,
        tol=tol,
        computed_with=versions(),
    )


def _cut(work: Work, alphas: Sequence[float], omega: float, tol: float) -> dict[str, Any]:
    """The columns of both branches along alpha at one omega."""
    model = AttentionModel.mixture(omega, SIGMA)
    near = sorted(alphas, key=lambda alpha: abs(alpha - POSITIONAL_ALPHA))
    bases = {"semantic": alphas[-1:], "positional": near[:2]}
    quiet = replace(work, tell=lambda steps: None)
    points = branches(quiet, model, "alpha", alphas, bases, dict.fromkeys(INFORMED, tol))
    missing = no_point("left_branch") | {"linear_error": linear_error(model)}
    rows = {
        start: [
            point_columns(found[alpha], start) if alpha in found else missing for alpha in alphas
        ]
        for start, found in points.items()
    }
    return {
        start: {name: [row[name] for row in line] for name in missing}
        for start, line in rows.items()
    }


def _plane_asked(quick: bool) -> dict[str, Any]:
    return {
        "alphas": _grid(*ALPHA_SPAN, 12 if quick else 45),
        "omegas": _grid(*OMEGA_SPAN, 6 if quick else 21),
        "tol": 1e-2 if quick else 1e-4,
    }


def lines(work: Work, kinds: Sequence[str], tol: float) -> xarray.Dataset:
    """Lines of transitions in the same plane."""
    left = LINE_POINTS * len(kinds)  # how many points there will be is not known

    def on_point(*_: Any) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            work.tell(1)

    diagram = phase_diagram(
        AttentionModel.mixture(OMEGA, SIGMA),
        ALPHA_SPAN,
        OMEGA_SPAN,
        LAM,
        tol,
        kinds=kinds,
        points=0,
        jobs=work.jobs,
        progress=on_point,
    )
    if not diagram.complete:
        raise KeyboardInterrupt
    work.tell(left)
    return phase_diagram_dataset(diagram)


def _lines_asked(quick: bool) -> dict[str, Any]:
    kinds = ("alpha_c", "alpha_l")
    more = () if quick else ("instability_semantic", "instability_positional")
    return {"kinds": [*kinds, *more], "tol": 1e-3 if quick else 1e-4}


# ---------------------------------------------------------------------------------- thresholds


def thresholds(work: Work, omegas: dict[str, Sequence[float]], tol: float) -> xarray.Dataset:
    """alpha_c and alpha_l where the paper has them; each is kept when it is found."""
    places = [(kind, omega) for kind, values in omegas.items() for omega in values]

    def find(number: int) -> dict[str, Any]:
        kind, omega = places[number]
        key = _key("threshold", kind, omega, tol)
        found = work.store.part("threshold", key, lambda: _threshold(kind, omega, tol))
        work.tell(1)
        return found

    rows = in_threads(find, range(len(places)), work.jobs)
    title = "Thresholds of a solvable attention model"
    return dataset_of_rows("thresholds", rows, title=title, sigma=SIGMA, lam=LAM, tol=tol)


def _threshold(kind: str, omega: float, tol: float) -> dict[str, Any]:
    found = find_transition(AttentionModel.mixture(omega, SIGMA), kind, THRESHOLD_RANGE, LAM, tol)
    masses = [_jump_mass(point) for point in found.sides]
    return {
        "kind": kind,
        "omega": omega,
        "alpha": found.value,
        "alpha_error": found.error,
        "low": found.bracket[0],
        "high": found.bracket[1],
        "status": found.status.token,
        "jump_mass": max(masses, default=float("nan")),
    }


def _jump_mass(point: FixedPoint) -> float:
    """The jump mass of a fixed point of a transition, which comes without."""
    if point.overlaps is None:
        return float("nan")
    again = solve(
        point.model, point.alpha, point.lam, point.overlaps, MASS_TOL, on_failure="return"
    )
    return float("nan") if again.stability is None else again.stability.jump_mass


# ------------------------------------------------------------------------------------ rank two


def rank_two(work: Work, alphas: Sequence[float], tol: float) -> xarray.Dataset:
    """The mixed branch of a student of rank two; each point is kept when it is found."""

    def find(number: int) -> dict[str, Any]:
        alpha = alphas[number]
        found = work.store.part(
            "rank-two", _key("rank two", alpha, tol), lambda: _rank_two(alpha, tol)
        )
        work.tell(1)
        return found

    rows = in_threads(find, range(len(alphas)), work.jobs)
    title = "Students of rank two of a solvable attention model"
    return dataset_of_rows("general", rows, title=title, omega=OMEGA, sigma=SIGMA, lam=LAM, tol=tol)


def _rank_two(alpha: float, tol: float) -> dict[str, Any]:
    point = solve(
        rank_two_students.model(), alpha, LAM, start="mixed", tol=tol, on_failure="return"
    )
    row = {"alpha": alpha, "branch": point.branch, "status": point.status.token}
    names = ("q", "m", "theta", "train_loss", "test_error")
    row |= {f"{name}{suffix}": float("nan") for name in names for suffix in ("", "_error")}
    if point.status.token in KNOWN and point.overlaps is not None:
        x, bar = point.overlaps, point.errors
        row |= {
            "q": float(np.trace(x.q, axis1=1, axis2=2).mean()),
            "m": float(np.sqrt(np.sum(x.m**2) / len(x.m))),
            "theta": float(np.sqrt(np.sum(x.theta**2) / len(x.theta))),
            "q_error": float(np.trace(bar.q, axis1=1, axis2=2).mean()),
            "m_error": float(np.max(bar.m)),
            "theta_error": float(np.max(bar.theta)),
            "train_loss": point.train_loss,
            "test_error": point.test_error,
            "train_loss_error": bar.train_loss,
            "test_error_error": bar.test_error,
        }
    return row


def rank_one(work: Work, alphas: Sequence[float], tol: float) -> xarray.Dataset:
    """The informed branches of rank one where rank two is shown."""
    model = AttentionModel.mixture(OMEGA, SIGMA)
    bases, tols = dict.fromkeys(INFORMED, alphas[-1:]), dict.fromkeys(INFORMED, tol)
    points = branches(work, model, "alpha", alphas, bases, tols)
    return _curve("alpha", alphas, points, DEFAULT_A, tol)


THEORIES = {
    "alpha": Theory(
        transition, _transition_asked, lambda alphas, tols: len(tols) * len(alphas) + 2
    ),
    "omega": _slice("omega", _grid(0, 0.9, 31), _grid(0, 0.9, 10), OMEGA),
    "sigma": _slice("sigma", _grid(0.3, 0.7, 21), _grid(0.35, 0.5, 7), SIGMA),
    "lam": _slice(
        "lam",
        [float(f"{x:.4g}") for x in np.geomspace(0.001, 0.1, 25)],
        [0.01, 0.015, 0.02, 0.03, 0.05],
        LAM,
    ),
    # its positional minimum is none: attention to the other token is not to be had by position
    "second_target": _slice(
        "omega", _grid(0, 0.5, 26), _grid(0, 0.4, 5), 0.1, starts=["semantic"], A=SECOND
    ),
    "plane": Theory(plane, _plane_asked, lambda alphas, omegas, tol: len(omegas)),
    "lines": Theory(lines, _lines_asked, lambda kinds, tol: LINE_POINTS * len(kinds)),
    "thresholds": Theory(
        thresholds,
        lambda quick: {"omegas": PUBLISHED_OMEGAS, "tol": 1e-3 if quick else 1e-6},
        lambda omegas, tol: sum(map(len, omegas.values())),
    ),
    "rank_two": Theory(
        rank_two,
        lambda quick: {
            "alphas": [2.0] if quick else list(rank_two_students.ALPHAS),
            "tol": 1e-2,  # less takes minutes a point
        },
        lambda alphas, tol: len(alphas),
    ),
    "rank_one": Theory(
        rank_one,
        lambda quick: {"alphas": _grid(1, 4, 7 if quick else 25), "tol": 1e-3 if quick else 1e-5},
        lambda alphas, tol: len(INFORMED) * len(alphas),
    ),
}
