"""What a sweep computes: its plan, checked, and the lines that it consists of.

A plan says everything that a line depends on, and its hash is in the name of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gamp_theory.model import AttentionModel
from gamp_theory.records import versions
from gamp_theory.starts import STARTS
from gamp_theory.state_evolution import check_arguments
from gamp_theory.token_mechanisms import attention
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_starts import GENERAL_STARTS, check_general_arguments

__all__ = [
    "GENERAL_FORMAT",
    "GRID_FORMAT",
    "LIST_FORMAT",
    "PARAMETERS",
    "GeneralLine",
    "GeneralPlan",
    "Line",
    "Plan",
    "Points",
    "digest",
    "general_plan",
    "model_fingerprint",
    "pair_plan",
    "source_hash",
]

#: These are axes of the result even with one value; sigma and lam where they are given as lists.
ALWAYS = ("alpha", "omega")
PARAMETERS = ("alpha", "omega", "sigma", "lam", "tol")
#: Of the files in the folder, by what was swept; goes up when their meaning changes.
GRID_FORMAT, LIST_FORMAT, GENERAL_FORMAT = 1, 2, 3

Points: TypeAlias = Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]]


class Line(NamedTuple):
    """Where a line is: everything but alpha."""

    omega: float
    sigma: float
    lam: float
    tol: float
    branch: str


@dataclass(frozen=True)
class Plan:
    """What a sweep computes, and with what.

    Attributes
    ----------
    A : tuple of tuple of float
        Positional attention of the target.
    alpha, omega, sigma, lam : tuple of float
        The values whose product is the grid; of a list of points one value for each point.
    branch : tuple of str
    axes : tuple of str
        Which of alpha, omega, sigma and lam are axes of the result; the others have one value.  Of
        a list of points ``("point",)``.
    tol : float, or tuple of float
        The latter of a list of points.
    versions, source : str
        Of the package and what it stands on; hash of the source of the package.
    """

    A: tuple[tuple[float, ...], ...]
    alpha: tuple[float, ...]
    omega: tuple[float, ...]
    sigma: tuple[float, ...]
    lam: tuple[float, ...]
    branch: tuple[str, ...]
    axes: tuple[str, ...]
    tol: float | tuple[float, ...]
    versions: str
    source: str

    @property
    def listed(self) -> bool:
        """Whether it is a list of points, not a grid."""
        return self.axes == ("point",)

    @property
    def format(self) -> int:
        """Of the files."""
        return LIST_FORMAT if self.listed else GRID_FORMAT

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """All lines, the branch varying fastest; in a list, in the order of their first points."""
        if self.listed:
            return tuple(Line(*place, name) for place in self.members for name in self.branch)
        places = product(self.omega, self.sigma, self.lam, (self.tol,), self.branch)
        return tuple(map(Line._make, places))

    @cached_property
    def members(self) -> dict[tuple[float, float, float, float], list[int]]:
        """The points of a list that differ in alpha only, by (omega, sigma, lam, tol)."""
        assert isinstance(self.tol, tuple)
        found: dict[tuple[float, float, float, float], list[int]] = {}
        for k, place in enumerate(zip(self.omega, self.sigma, self.lam, self.tol, strict=True)):
            found.setdefault(place, []).append(k)
        return found

    def alphas(self, line: Line) -> tuple[float, ...]:
        """The values of alpha on a line."""
        if not self.listed:
            return self.alpha
        return tuple(self.alpha[k] for k in self.members[line[:-1]])

    @property
    def line_axes(self) -> tuple[str, ...]:
        """What the lines of a grid are the product of, in their order."""
        return ("omega", "sigma", "lam", "branch")

    @cached_property
    def key(self) -> str:
        """Hash of all of it."""
        return _key(self)

    def model(self, line: Line) -> AttentionModel:
        """The model of a line."""
        return AttentionModel.mixture(line.omega, line.sigma, self.A)


class GeneralLine(NamedTuple):
    """Where a line of a general model is: everything but alpha."""

    lam: float
    branch: str


@dataclass(frozen=True)
class GeneralPlan:
    """What a sweep of a general model computes, and with what.

    Attributes
    ----------
    model : str
        Hash of what the model computes (:func:`model_fingerprint`): mechanisms may be functions,
        which no file holds.
    shape : tuple of int
        (L, r, t).
    alpha, lam : tuple of float
    branch : tuple of str
    axes : tuple of str
    tol : float
    versions, source : str
        As of :class:`Plan`.
    """

    model: str
    shape: tuple[int, int, int]
    alpha: tuple[float, ...]
    lam: tuple[float, ...]
    branch: tuple[str, ...]
    axes: tuple[str, ...]
    tol: float
    versions: str
    source: str

    @property
    def format(self) -> int:
        """Of the files."""
        return GENERAL_FORMAT

    @cached_property
    def lines(self) -> tuple[GeneralLine, ...]:
        """All lines, the branch varying fastest."""
        return tuple(map(GeneralLine._make, product(self.lam, self.branch)))

    @property
    def line_axes(self) -> tuple[str, ...]:
        """What the lines are the product of, in their order."""
        return ("lam", "branch")

    @cached_property
    def key(self) -> str:
        """Hash of all of it."""
        return _key(self)


def pair_plan(
    model: AttentionModel,
    given: Mapping[str, Any],
    branches: str | Sequence[str],
    tol: float,
    points: Points | None,
) -> Plan:
    """What to compute, checked."""
    names = _branches(branches, STARTS)
    if points is None:
        if given["alpha"] is None:
            raise ValueError("alpha must be given, as an argument or in points")
        values = {name: _values(name, value) for name, value in given.items()}
        axes = tuple(name for name in given if name in ALWAYS or np.ndim(given[name]) == 1)
        for omega in values["omega"]:
            for sigma in values["sigma"]:
                model.with_parameters(omega, sigma)
        for alpha in values["alpha"]:
            for lam in values["lam"]:
                check_arguments(model, alpha, lam, names[0], tol)
    else:
        values = _columns(points, {**given, "tol": tol})
        axes = ("point",)
        for alpha, omega, sigma, lam, accuracy in zip(*values.values(), strict=True):
            check_arguments(model.with_parameters(omega, sigma), alpha, lam, names[0], accuracy)
    return Plan(
        A=tuple(map(tuple, model.target.A)),
        alpha=values["alpha"],
        omega=values["omega"],
        sigma=values["sigma"],
        lam=values["lam"],
        branch=names,
        axes=axes,
        tol=float(tol) if points is None else values["tol"],
        versions=versions(),
        source=source_hash(),
    )


def general_plan(
    model: GeneralModel,
    alpha: float | Sequence[float] | None,
    lam: float | Sequence[float],
    branches: str | Sequence[str],
    tol: float,
) -> GeneralPlan:
    """What to compute of a general model, checked."""
    names = _branches(branches, GENERAL_STARTS)
    if alpha is None:
        raise ValueError("alpha must be given")
    alphas, lams = _values("alpha", alpha), _values("lam", lam)
    for a in alphas:
        for x in lams:
            for name in names:
                check_general_arguments(model, a, x, name, tol)
    return GeneralPlan(
        model=model_fingerprint(model),
        shape=(model.tokens, model.rank, model.teacher_rank),
        alpha=alphas,
        lam=lams,
        branch=names,
        axes=("alpha", "lam") if np.ndim(lam) == 1 else ("alpha",),
        tol=float(tol),
        versions=versions(),
        source=source_hash(),
    )


def _branches(branches: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    names = (branches,) if isinstance(branches, str) else tuple(branches)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"branches must be one or more that differ, got {branches!r}")
    for name in names:
        if name not in known:
            raise ValueError(f"branches must be among {', '.join(known)}, got {name!r}")
    return names


def _columns(points: Points, given: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The parameters of each point of a list, one column for each of `PARAMETERS`."""
    if isinstance(points, Mapping):
        columns = {str(name): list(np.atleast_1d(column)) for name, column in points.items()}
        if len(set(map(len, columns.values()))) > 1:
            sizes = {name: len(column) for name, column in columns.items()}
            raise ValueError(f"points must have columns of one length, got {sizes}")
        points = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    for name, value in given.items():
        if np.ndim(value):
            raise ValueError(f"{name} must be one number beside points, got {value!r}")
    rows: dict[tuple[float, ...], None] = {}
    for k, point in enumerate(points if isinstance(points, Iterable) else [points]):
        if not isinstance(point, Mapping) or not point.keys() <= set(PARAMETERS):
            raise ValueError(
                f"points must be mappings with keys among {', '.join(PARAMETERS)}, got {point!r}"
            )
        whole = {**given, **point}
        try:
            row = tuple(float(whole[name]) for name in PARAMETERS)
        except (TypeError, ValueError):
            missing = "" if whole["alpha"] is not None else ", and alpha for each of them"
            raise ValueError(
                f"points must hold numbers{missing}, got {dict(point)!r} as number {k}"
            ) from None
        if row in rows:
            raise ValueError(f"points must differ, got {dict(point)!r} twice")
        rows[row] = None
    if not rows:
        raise ValueError(f"points must hold at least one point, got {points!r}")
    return dict(zip(PARAMETERS, zip(*rows, strict=True), strict=True))


def _values(name: str, value: Any) -> tuple[float, ...]:
    """A number or a sequence of numbers, none of them twice."""
    try:
        array = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        array = np.zeros((0, 0))
    if array.ndim != 1 or not array.size or np.unique(array).size < array.size:
        raise ValueError(f"{name} must be a number or a list of numbers that differ, got {value!r}")
    return tuple(array.tolist())


def model_fingerprint(model: GeneralModel) -> str:
    """Hash of a law, of the ranks, and of what both mechanisms give at fixed fields.

    To ten digits: the last ones depend on the processor.
    """
    rng = np.random.default_rng(0)
    values = [model.law.weights, model.law.gamma, model.law.moments]
    for mechanism, rank in ((model.target, model.teacher_rank), (model.student, model.rank)):
        values.append(attention(mechanism, rng.standard_normal((16, model.tokens, rank))))
    return digest([[f"{x:.10g}" for x in value.ravel()] for value in values])[:16]


def source_hash() -> str:
    """Hash of the package's source: a checkout changes between releases."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"\n{file.relative_to(package).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _key(plan: Plan | GeneralPlan) -> str:
    return digest([plan.format, asdict(plan)])[:16]


def digest(value: Any) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
