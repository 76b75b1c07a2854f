"""kappa, the growth rate of random perturbations (docs/theory.md, section 6), from slices.

The teacher field is integrated in polar coordinates as in :mod:`gamp_theory.channel.slices`.
Where the origin turns into a double well the integrand is logarithmically singular, so radial
panels end there, and nodes crowd quadratically at all ends of panels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel import contraction_kernels as kernels
from gamp_theory.channel.outer import symmetry, teacher_fields
from gamp_theory.channel.plane import scalars
from gamp_theory.channel.search_kernels import SearchGrid
from gamp_theory.channel.slices import _candidates, _legendre, _search_grid, _state
from gamp_theory.channel.slices_kernels import SliceState, search_radii
from gamp_theory.channel.unstable_kernels import unstable_brackets, unstable_ends
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_legendre
from gamp_theory.overlaps import Overlaps

__all__ = ["Contraction", "contraction"]

NODES = 8  # of a radial panel
B_NODES = 8  # of a panel in b
CELL_NODES = 3
B_PANEL = 5.0  # widest panels, in standard deviations
CELL = 1.5
# What a panel may err by, in units of the tolerance: its estimate is pessimistic next to a
# singularity, where it decays algebraically, and there are few panels that matter.
R_SHARE = 3.0
B_SHARE = 8.0
R_BISECTIONS = 5
ANGLES = 6  # on the quarter circle, at tol = 1e-3
SEARCH_STEP = 0.2
SCAN = 64  # cells in which onsets are bracketed
RADIUS_MESH = (9, 5)  # radii and angles at which the search radius is bounded
COARSER = 5.0  # tolerance of the companion rule, relative
#: Below this size an average need not be known to a relative error.
LEAST = np.array([0.0, 0.01, 0.01, 1e-3, 0.0])


@dataclass(frozen=True)
class Contraction:
    """The regular part of the prox's linear response at one state, per unit of alpha.

    Attributes
    ----------
    value : float
        ``E |dprox/dw - 1|_F**2`` from pointwise derivatives: kappa/alpha.
    error : float
        Estimate of its absolute error: the difference to a coarser rule, or twice `tol`.
    jump_mass : float
        J, the part that the jumps of the prox have in ``V E sum dg_l/dw_l``.
    slope : float
        ``-E sum dg_l/dw_l`` from pointwise derivatives: ``V_hat + J/V``.
    jump_mass_error : float
        Estimate of the absolute error of `jump_mass`.
    unresolved : float
        Probability mass that could not be treated, bounded from above; its share of `value`
        is unknown, and not in `error`.
    """

    value: float
    error: float
    jump_mass: float
    slope: float
    jump_mass_error: float
    unresolved: float


def contraction(model: AttentionModel, overlaps: Overlaps, tol: float = 1e-3) -> Contraction:
    """kappa/alpha at a state, without the jumps of the prox, and what the jumps amount to.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    tol : float
        Relative error aimed at, between 1e-2 and 1e-5.

    Raises
    ------
    ValueError
        If `tol` is out of range.
    """
    if not 1e-5 <= tol <= 1e-2:
        raise ValueError(f"tol must be between 1e-5 and 1e-2, got {tol!r}")
    problem = _Problem.make(model, overlaps, tol)
    points = max(2, round(4 * ANGLES / problem.fold * (tol / 1e-3) ** -0.2))
    # the companion sets the scale for the tolerances of the rule proper
    crude = _integrate(problem, max(1, points // 3), None)
    coarse = _integrate(problem, max(1, round(points / 1.6)), COARSER * tol * _scale(crude))
    fine = _integrate(problem, points, tol * _scale(coarse))
    # two rules may agree by chance
    error = np.maximum(abs(fine - coarse), 2 * tol * np.maximum(abs(fine), LEAST))
    return Contraction(
        value=float(fine[2]),
        error=float(error[2]),
        jump_mass=float(fine[3]),
        slope=float(fine[1]),
        jump_mass_error=float(error[3]),
        unresolved=float(fine[4]),
    )


def _scale(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.maximum(abs(totals), LEAST)
    scale[[0, 1, 4]] = 0.0  # where kappa is right, mass and slope are
    return scale


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all rules at one state share."""

    model: AttentionModel
    overlaps: Overlaps
    state: SliceState
    fold: int
    grid: kernels.ContractionGrid
    search: SearchGrid
    radii: NDArray[np.float64]
    legendre: NDArray[np.float64]

    @classmethod
    def make(cls, model: AttentionModel, overlaps: Overlaps, tol: float) -> _Problem:
        state = _state(model, overlaps)
        # a ball of radius R in four Gaussian variables leaves out exp(-R^2/2) (1 + R^2/2)
        cut = float(np.sqrt(2 * np.log(1 / tol) + 4 * np.log(np.log(1 / tol)) + 5))
        panel = gauss_legendre(B_NODES, 0.0, 1.0)
        cell = gauss_legendre(CELL_NODES, 0.0, 1.0)
        grid = kernels.ContractionGrid(
            panel.nodes,
            panel.weights,
            _legendre(B_NODES),
            cell.nodes,
            cell.weights,
            cut,
            B_PANEL,
            CELL,
        )
        fold = symmetry(model, overlaps)
        r = np.linspace(0, cut, RADIUS_MESH[0])
        phi = np.linspace(0, 2 * np.pi / fold, RADIUS_MESH[1] * 4 // fold)
        mesh = teacher_fields(model, r[:, None], phi[None, :])
        radii = search_radii(mesh.reshape(-1, 2), state, cut, _candidates()).reshape(mesh.shape[:2])
        centre = np.sqrt(2) * (cut * model.sigma * abs(state.tilt) + abs(state.m))
        reach = float(radii.max() + centre + cut * state.s) + 2 * SEARCH_STEP
        return cls(
            model,
            overlaps,
            state,
            fold,
            grid,
            _search_grid(reach, SEARCH_STEP),
            radii,
            _legendre(NODES),
        )

    def search_radius(self, r: NDArray[np.float64], phi: float) -> NDArray[np.float64]:
        """How far the prox can be from the window of w: the largest at the corners of the mesh."""
        n_r, n_phi = self.radii.shape
        x = r / self.grid.cut * (n_r - 1)
        i = np.minimum(x.astype(int), n_r - 2)
        j = min(int(phi * self.fold / (2 * np.pi) * (n_phi - 1)), n_phi - 2)
        corners = [self.radii[i + p, j + q] for p in (0, 1) for q in (0, 1)]
        return np.max(corners, axis=0) + 2 * SEARCH_STEP


def _integrate(
    problem: _Problem, points: int, tolerance: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """All averages; radial panels and those in b are bisected to a tolerance (None: not at all).

    The trapezoid rule over the angles: by symmetry its two ends count half.
    """
    cut = problem.grid.cut
    refined = tolerance is not None
    allowed = tolerance if tolerance is not None else np.zeros(kernels.N_OUT)
    rule = gauss_legendre(NODES, 0.0, 1.0)
    angular = np.full(points + 1, 1 / points)
    angular[[0, -1]] /= 2
    angles = 2 * np.pi / problem.fold * np.arange(points + 1) / points
    todo = [
        _Panel(float(phi), float(share), lo, hi, lo > 0, hi < cut)
        for phi, share, ends in zip(angles, angular, _ends(problem, angles), strict=True)
        for lo, hi in itertools.pairwise(ends)
    ]
    total = np.zeros(kernels.N_OUT)
    for generation in range(R_BISECTIONS + 1):
        placed = [panel.nodes(rule.nodes) for panel in todo]
        r = np.array([nodes for nodes, _ in placed])
        density = r * np.exp(-(r**2) / 2) * np.array([jacobian for _, jacobian in placed])
        phi = np.array([panel.phi for panel in todo])
        y = teacher_fields(problem.model, r, phi[:, None])
        radius = np.array(
            [problem.search_radius(nodes, panel.phi) for nodes, panel in zip(r, todo, strict=True)]
        )
        # every draw may err by its share: the weights sum to one
        room = np.maximum(1.0, 0.02 / (density * rule.weights + 1e-300))
        sums, _ = kernels.contraction_sums(
            y.reshape(-1, 2),
            radius.ravel(),
            B_SHARE * allowed * room.reshape(-1, 1),
            problem.state,
            problem.grid,
            problem.search,
        )
        samples = sums.reshape(*r.shape, -1) * density[..., None]
        bisected = []
        for panel, sample in zip(todo, samples, strict=True):
            error = kernels.geometric_error(sample, problem.legendre, R_SHARE * allowed)
            if refined and error > 1 and generation < R_BISECTIONS:
                bisected += panel.halves()
            else:
                total += panel.share * (rule.weights @ sample)
        if not bisected:
            break
        todo = bisected
    return total


@dataclass(frozen=True)
class _Panel:
    """A piece of a ray; `lower` and `upper` say at which ends nodes are to crowd."""

    phi: float
    share: float
    lo: float
    hi: float
    lower: bool
    upper: bool

    def nodes(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where points of [0, 1] come to lie, and the derivative of that map."""
        length = self.hi - self.lo
        if self.lower and self.upper:
            return self.lo + length * x * x * (3 - 2 * x), length * 6 * x * (1 - x)
        if self.lower:
            return self.lo + length * x * x, length * 2 * x
        if self.upper:
            return self.hi - length * (1 - x) ** 2, length * 2 * (1 - x)
        return self.lo + length * x, np.full_like(x, length)

    def halves(self) -> list[_Panel]:
        """The panel cut where the middle of [0, 1] lies."""
        middle = float(self.nodes(np.array([0.5]))[0][0])
        return [
            replace(self, hi=middle, upper=False),
            replace(self, lo=middle, lower=False),
        ]


def _ends(problem: _Problem, angles: NDArray[np.float64]) -> list[list[float]]:
    """Radii from 0 to the cut at which the origin turns into a double well, or back."""
    cut = problem.grid.cut
    state, target = scalars(problem.model, problem.overlaps)
    brackets = unstable_brackets(angles, SCAN, cut, target, state)
    ends = unstable_ends(brackets, 0.0, target, state)
    return [
        [0.0, *sorted(e for e in ends[brackets[:, 0] == phi].ravel() if 0 < e < cut), cut]
        for phi in angles
    ]
