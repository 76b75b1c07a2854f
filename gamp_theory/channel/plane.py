"""Channel averages by integrating over the prox instead of the field: the whole plane minus hole.

Substituting ``w = h + V grad loss(h; t)`` removes every Newton solve (docs/theory.md, section 4):
the signed integral over the whole h-plane is analytic, and the trapezoid rule converges
exponentially; what it counts too much is the hole around the origin, where the prox objective is
a double well, and which is integrated by Gauss-Legendre over its bitangent chords.

A :class:`PlaneRule` is frozen: evaluating it is a smooth function of the overlaps, so that
difference quotients of :func:`plane_averages` are derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.hole_kernels import MOST_NODES, hole_shapes, hole_sums
from gamp_theory.channel.outer import fields_at, symmetries
from gamp_theory.channel.plane_kernels import (
    FURTHEST_PUSH,
    Kinetics,
    Target,
    active_tiles,
    candidate_tiles,
    outer_fold_mass,
    plane_sums,
    targets_and_means,
    tile_tables,
)
from gamp_theory.channel.unstable_kernels import unstable_brackets, unstable_ends
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_legendre_table
from gamp_theory.overlaps import Overlaps

__all__ = [
    "PlaneDiagnostics",
    "PlaneRule",
    "PlaneUnusable",
    "outer_folds",
    "plane_averages",
    "plane_rule",
]

# The plane costs (1 + k)**2 nodes a draw and its outer holes open where k = V sigma**2/2 is large.
LARGEST_K = 8.0
# As k goes to 0 the integrand keeps the width of the Gaussians and of the targets.
LEAST_SHARPNESS = 1.7
# Nodes of the h-grid, before it is thinned to where there is density.
LARGEST_GRID = 5e6
# Density beyond a triple point above which a rule is not even tried.
LARGEST_TRUNCATION = 1e-3
# The weight of a hole changes with y like the density of w: outer nodes are more where that density
# is narrower than this, relative to how its mean moves, and no more than so many times more.
NARROW = 1.6
NARROWER = 6.0
# Cells in which the outer radius is searched for holes.
SCAN = 64
# Nodes along or across a hole, at most; above the first number they are a multiple of the second.
# The chords of a large hole are 30 widths of the density long and more.
LARGEST_COUNT = MOST_NODES
EVERY_COUNT = 80
COUNT_STEP = 8
LANES = 8
# How many more of them there are for each width of the density that a hole is long, and where that
# is narrow at most; and for each one that it is folded by.
ALONG = (0.12, 0.2)
ACROSS = 0.6


class PlaneUnusable(Exception):
    """The rule can not be applied at this state; the message says why."""


@dataclass(frozen=True)
class Resolution:
    """The numbers of nodes of one level.

    Attributes
    ----------
    radius : float
        Cut of the density of (y, w), in standard deviations of its four axes together.
    y_step : float
        Spacing of the outer trapezoid rule, in units of ``sigma/sharpness``, where
        sharpness is ``1 + V sigma**2/2`` (:data:`LEAST_SHARPNESS` at least).
    h_step : float
        Spacing of the h-grid, in units of ``s/sharpness``.
    angles : int
        Trapezoid nodes per full turn of the outer angle of the holes.
    radii : int
        Gauss-Legendre nodes per unstable interval of the outer radius.
    along, across : float
        Gauss-Legendre nodes along and across the smallest hole.
    per_length : float
        How many more along a hole, relatively, for each width of the density that it is long.
    """

    radius: float
    y_step: float
    h_step: float
    angles: int
    radii: int
    along: float
    across: float
    per_length: float

    @classmethod
    def of_level(cls, level: int, narrow: float = 0.0) -> Resolution:
        """Resolution of an accuracy level, 0 (about 1e-4) to 6 (about 1e-9).

        Parameters
        ----------
        level : int
        narrow : float
            How many widths s of w given y its mean moves with a standard deviation of y.
        """
        fine = 1.15**level
        narrower = min(max(1.0, narrow / NARROW), NARROWER)
        return cls(
            radius=math.sqrt(2 * (13.2 + 2.4 * level)),
            y_step=1.48 / fine,
            h_step=math.sqrt(26 / (9.2 + 2.3 * level)),
            angles=4 * round(8 * fine * narrower),
            radii=_available(round(12 * fine * narrower)),
            along=4.5 * fine,
            across=5 * fine,
            per_length=min(ALONG[0] * narrower, ALONG[1]),
        )


@dataclass(frozen=True, eq=False)
class PlaneRule:
    """A frozen quadrature rule for :func:`plane_averages`.

    Attributes
    ----------
    level : int
        The level it was asked for.
    resolution : Resolution
        Numbers of nodes and spacings.
    swap, flip : bool
        Symmetries that have halved the outer nodes (:func:`outer.symmetries`).
    y_step, h_step : float
        Spacings of the outer grid (in units of sigma) and of the h-grid.
    x : array, shape (n, 2)
        Outer nodes of the plane: ``(y_1 - y_2, y_1 + y_2)/(sqrt(2) sigma)``.
    corners : int64 array, shape (2, tiles)
        Tiles of the h-grid.
    start, index : int64 arrays
        Tiles in use for each outer node.
    brackets : array, shape (intervals, 5)
        Outer angles of the holes, and brackets of the unstable radii.
    hole_nodes : int64 array, shape (holes,)
        Which (interval, radius) pairs carry density.
    hole_shapes : array, shape (holes, 6)
        How each hole is followed, and how far (:func:`hole_kernels.hole_shapes`).
    hole_counts : int64 array, shape (holes, 2)
        Gauss-Legendre nodes along and across each hole.
    truncation : float
        Density where holes had to be cut short because a third well takes over: the relative
        error from there, up to an order of magnitude.
    """

    level: int
    resolution: Resolution
    swap: bool
    flip: bool
    y_step: float
    h_step: float
    x: NDArray[np.float64] = field(repr=False)
    corners: NDArray[np.int64] = field(repr=False)
    start: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    brackets: NDArray[np.float64] = field(repr=False)
    hole_nodes: NDArray[np.int64] = field(repr=False)
    hole_shapes: NDArray[np.float64] = field(repr=False)
    hole_counts: NDArray[np.int64] = field(repr=False)
    truncation: float

    @property
    def fold(self) -> int:
        """By how much symmetry has thinned the outer nodes: 1, 2 or 4."""
        return (1 + self.swap) * (1 + self.flip)


@dataclass(frozen=True)
class PlaneDiagnostics:
    """What an evaluation reveals of its own accuracy.

    Attributes
    ----------
    mass : float
        Mass of the whole plane minus 1 (exactly 0): sees the h-grid and the cuts.
    hole_mass : float
        Largest absolute mass of a hole, with the weight of its draw (exactly 0): sees the chords.
    holes_mass : float
        Mass of all holes (exactly 0): sees edges that all chords miss alike.
    failed : int
        Holes that were not followed as far as the rule says.
    truncation : float
        Density where holes had to be cut short, by the rule or by the evaluation: the relative
        error from there, up to an order of magnitude.
    holes : int
        Number of holes.
    nodes : int
        Number of plane nodes.
    """

    mass: float
    hole_mass: float
    holes_mass: float
    failed: int
    truncation: float
    holes: int
    nodes: int


def plane_rule(
    model: AttentionModel,
    overlaps: Overlaps,
    level: int,
    *,
    swap: bool | None = None,
    flip: bool | None = None,
) -> PlaneRule:
    """A rule for the states near `overlaps`.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    level : int
        Accuracy, from 0; errors shrink 5 to 10 times a level, nodes grow 1.15 times per axis.
    swap, flip : bool, optional
        Which symmetries thin the outer nodes; by default all that hold at `overlaps`.  Say
        ``flip=False`` if the rule is to be used where both m and theta differ from 0.

    Raises
    ------
    PlaneUnusable
        If w is a function of y, if ``k = V sigma**2/2`` is too large, or if a third well takes
        over where there is density.
    """
    state, target = scalars(model, overlaps)
    k = state.c * state.V
    if not state.variance > 1e-9 * model.rho:
        raise PlaneUnusable(f"w is a function of y: q - theta**2/rho = {state.variance:.3g}")
    if k > LARGEST_K:
        raise PlaneUnusable(f"V sigma**2/2 = {k:.3g} > {LARGEST_K}")
    narrow = abs(state.slope) * state.sigma / math.sqrt(state.variance)
    resolution = Resolution.of_level(level, narrow)
    flips, swaps = symmetries(model, overlaps)
    swap = swaps if swap is None else swap
    flip = flips if flip is None else flip
    fold = (1 + swap) * (1 + flip)

    sharpness = max(1 + k, LEAST_SHARPNESS)
    y_step = resolution.y_step / sharpness
    x = outer_grid(resolution.radius, y_step, swap, flip)
    draws = targets_and_means(fields_at(x, state.sigma), target, state)
    cuts = state.variance * (resolution.radius**2 - (x**2).sum(axis=1))
    h_step = resolution.h_step * math.sqrt(state.variance) / sharpness
    limits = (abs(draws[:, 2:]) + np.sqrt(cuts)[:, None]).max(axis=0)
    cells = 4 * np.prod((limits + min(k, FURTHEST_PUSH)) / h_step)
    if cells > LARGEST_GRID:
        raise PlaneUnusable(f"w is almost a function of y: {cells:.2g} nodes to look through")
    corners = candidate_tiles(limits, h_step, k, draws)
    start, index = active_tiles(tile_tables(corners, h_step, k), draws, cuts, k)
    used, index = np.unique(index, return_inverse=True)

    angles = outer_angles(resolution.angles, swap, flip)
    brackets = unstable_brackets(angles, SCAN, resolution.radius, target, state)
    r, hole_angles, radial = hole_radii(brackets, resolution, target, state)
    hole_x = r[:, None] * np.column_stack([np.cos(hole_angles), np.sin(hole_angles)])
    hole_draws = targets_and_means(fields_at(hole_x, state.sigma), target, state)
    trial = np.linspace(0.08, 0.98, 12)
    hole_cuts = state.variance * (resolution.radius**2 - r**2)
    shapes, failed = hole_shapes(hole_draws, hole_cuts, trial, k)
    if failed:
        raise PlaneUnusable(f"{failed} of {len(r)} holes have no well to start from")
    radial *= fold / resolution.angles
    truncation = float(radial @ density_beyond(shapes[:, 5], r, state))
    if truncation > LARGEST_TRUNCATION:
        raise PlaneUnusable(f"a third well takes over where there is density {truncation:.2g}")
    kept = np.flatnonzero(shapes[:, 1] > 0)
    return PlaneRule(
        level=level,
        resolution=resolution,
        swap=swap,
        flip=flip,
        y_step=y_step,
        h_step=h_step,
        x=x,
        corners=corners[:, used],
        start=start,
        index=index,
        brackets=brackets,
        hole_nodes=kept,
        hole_shapes=shapes[kept],
        hole_counts=node_counts(shapes[kept], resolution, state),
        truncation=truncation,
    )


def plane_averages(
    model: AttentionModel, overlaps: Overlaps, rule: PlaneRule
) -> tuple[ChannelAverages, PlaneDiagnostics]:
    """All channel averages at `overlaps` with a frozen rule made near them.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    rule : PlaneRule
        From :func:`plane_rule`, at these overlaps or close by.
    """
    state, target = scalars(model, overlaps)
    k = state.c * state.V
    if not state.variance > 0:
        raise PlaneUnusable(f"w is a function of y: q - theta**2/rho = {state.variance:.3g}")
    flip, swap = symmetries(model, overlaps)
    if (rule.swap and not swap) or (rule.flip and not flip):
        raise ValueError(
            f"the rule assumes swap={rule.swap}, flip={rule.flip}, but the state has "
            f"swap={swap}, flip={flip}: make it with flip=False"
        )
    density = 1 / (2 * math.pi * state.variance)

    y = fields_at(rule.x, state.sigma)
    draws = targets_and_means(y, target, state)
    tables = tile_tables(rule.corners, rule.h_step, k)
    sums = plane_sums(tables, rule.start, rule.index, draws, k, state.variance)
    weights = plane_weights(rule, state)
    totals = combine(sums, draws, y, weights, state, target)

    r, angles, radial = hole_radii(rule.brackets, rule.resolution, target, state)
    r, angles, radial = r[rule.hole_nodes], angles[rule.hole_nodes], radial[rule.hole_nodes]
    x = r[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    y = fields_at(x, state.sigma)
    draws = targets_and_means(y, target, state)
    sums, edges = hole_sums(draws, rule.hole_shapes, rule.hole_counts, legendre_rules(), state)
    radial *= rule.fold / rule.resolution.angles
    hole_weights = radial * np.exp(-0.5 * r**2) * density
    holes = combine(sums, draws, y, hole_weights, state, target)

    averages = name_averages(totals - holes, overlaps, state, model)
    diagnostics = PlaneDiagnostics(
        mass=float(totals[0] - 1),
        hole_mass=float(np.max(abs(sums[:, 0] * hole_weights), initial=0.0)),
        holes_mass=float(holes[0]),
        failed=int((edges < np.inf).sum()),
        truncation=rule.truncation + float(radial @ density_beyond(edges, r, state)),
        holes=len(r),
        nodes=tables.shape[2] * len(rule.index),
    )
    return averages, diagnostics


def outer_folds(model: AttentionModel, overlaps: Overlaps, rule: PlaneRule) -> float:
    """Mass in holes other than the one at the origin, which the rule does not remove.

    The mass of the plane is blind to them.  A rule of level 0 or 1 is enough.
    """
    state, target = scalars(model, overlaps)
    k = state.c * state.V
    draws = targets_and_means(fields_at(rule.x, state.sigma), target, state)
    tables = tile_tables(rule.corners, rule.h_step, k)
    weights = plane_weights(rule, state)
    return float(outer_fold_mass(tables, rule.start, rule.index, draws, weights, k, state.variance))


def plane_weights(rule: PlaneRule, state: Kinetics) -> NDArray[np.float64]:
    """Weight of a node of the h-grid for each outer node of the plane."""
    cell = rule.fold * (rule.y_step * rule.h_step) ** 2 / (4 * math.pi**2 * state.variance)
    return cell * np.exp(-0.5 * (rule.x**2).sum(axis=1))


def density_beyond(
    edges: NDArray[np.float64], r: NDArray[np.float64], state: Kinetics
) -> NDArray[np.float64]:
    """Density of the teacher draws and of their fields at a distance `edges`, unnormalised."""
    return np.exp(-0.5 * (edges**2 / state.variance + r**2))


def scalars(model: AttentionModel, overlaps: Overlaps) -> tuple[Kinetics, Target]:
    """The scalars that kernels take."""
    rho = model.rho
    a1, a2 = model.target.contrasts
    state = Kinetics(
        c=0.5 * rho,
        V=overlaps.V,
        m=overlaps.m,
        slope=overlaps.theta / rho,
        variance=overlaps.q - overlaps.theta**2 / rho,
        sigma=model.sigma,
    )
    return state, Target(model.omega, a1, a2)


def outer_angles(count: int, swap: bool, flip: bool) -> NDArray[np.float64]:
    """Those of `count` outer angles around the turn that symmetry leaves."""
    angles = 2 * math.pi * (np.arange(count) + 0.5) / count
    return angles[symmetry_domain(np.cos(angles), np.sin(angles), swap, flip)]


def outer_grid(radius: float, step: float, swap: bool, flip: bool) -> NDArray[np.float64]:
    """Nodes of the outer trapezoid rule, shape (n, 2), off the axes by half a step."""
    half = math.floor(radius / step - 0.5) + 1
    line = (np.arange(-half, half) + 0.5) * step
    x1, x2 = np.meshgrid(line, line, indexing="ij")
    keep = (x1**2 + x2**2 < radius**2) & symmetry_domain(x1, x2, swap, flip)
    return np.column_stack([x1[keep], x2[keep]])


def symmetry_domain(
    x1: NDArray[np.float64], x2: NDArray[np.float64], swap: bool, flip: bool
) -> NDArray[np.bool_]:
    """Which x represent their orbit: the swap is ``x_2 -> -x_2``, the flip ``x -> -x``."""
    keep = np.ones(x1.shape, bool)
    if swap:
        keep &= x2 > 0
    if flip:
        keep &= x1 > 0
    return keep


def hole_radii(
    brackets: NDArray[np.float64], resolution: Resolution, target: Target, state: Kinetics
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Radii and angles of the teacher draws with a hole, and their weights ``r dr``.

    A hole is born at the lower end, and its weight is gone long before an upper end at the cut:
    there ``r = r_0 + L x/(3 - 2 x)`` moves Gauss-Legendre nodes x to where they are needed.
    """
    ends = unstable_ends(brackets, resolution.radius / SCAN, target, state)
    nodes, weights = legendre_rules()[resolution.radii, :, : resolution.radii]
    x = 0.5 * (1 + nodes)
    squeeze = np.where(ends[:, 1:] == resolution.radius, 2.0, 0.0)
    length = ends[:, 1:] - ends[:, :1]
    r = ends[:, :1] + length * x / (1 + squeeze * (1 - x))
    dr = length * 0.5 * weights * (1 + squeeze) / (1 + squeeze * (1 - x)) ** 2
    angles = np.repeat(brackets[:, 0], resolution.radii)
    return r.ravel(), angles, (dr * r).ravel()


@lru_cache(maxsize=1)
def legendre_rules() -> NDArray[np.float64]:
    """Gauss-Legendre rules on [-1, 1]: ``[n, 0, :n]`` are n nodes, ``[n, 1, :n]`` weights.

    Of those numbers n of nodes that a hole can have.
    """
    beyond = range(EVERY_COUNT + COUNT_STEP, LARGEST_COUNT + 1, COUNT_STEP)
    return gauss_legendre_table(LARGEST_COUNT, [*range(1, EVERY_COUNT + 1), *beyond])


def node_counts(
    shapes: NDArray[np.float64], resolution: Resolution, state: Kinetics
) -> NDArray[np.int64]:
    """Nodes along and across each hole, in proportion to its size in units of s."""
    size = shapes[:, 3:5] / math.sqrt(state.variance)
    along = resolution.along * (1 + resolution.per_length * size[:, 0])
    across = resolution.across * (1 + ACROSS * size[:, 1])
    full = LANES * np.ceil(across / LANES)  # nodes across are worked on so many at a time
    return _available(np.maximum(3, np.ceil(np.column_stack([along, full])).astype(np.int64)))


@overload
def _available(count: int) -> int: ...


@overload
def _available(count: NDArray[np.int64]) -> NDArray[np.int64]: ...


def _available(count):
    """The next number of nodes that :func:`legendre_rules` has; the largest, where that is less."""
    rounded = np.where(count > EVERY_COUNT, -(-count // COUNT_STEP) * COUNT_STEP, count)
    rounded = np.minimum(rounded, LARGEST_COUNT)
    return rounded if rounded.ndim else int(rounded)


def combine(
    sums: NDArray[np.float64],
    draws: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    state: Kinetics,
    target: Target,
) -> NDArray[np.float64]:
    """Averages over the teacher draws of the functions that the channel needs.

    Returns
    -------
    array, shape (9,)
        Of 1, |g|**2, g_1 - g_2, g.x, g.y, the loss, its derivative in omega,
        (g_1 - g_2)(x_1 - x_2) and (g.y)(x.y), with x = w - mu.
    """
    c = state.c
    one, G1, G2, GG, G1x1, G2x2, crossed, s1, s2, ss = (weights[:, None] * sums).T
    t1, t2 = draws[:, 0], draws[:, 1]
    tanh1, tanh2 = softmax_contrasts(y).T
    loss = 0.5 * c * ((t1**2 + t2**2) * one - 2 * (t1 * s1 + t2 * s2) + ss)
    loss_omega = c * ((t1 * one - s1) * (target.a1 - tanh1) + (t2 * one - s2) * (target.a2 - tanh2))
    y1, y2 = y.T
    columns = (
        one,
        c**2 * GG,
        c * (G1 - G2),
        c * (G1x1 + G2x2),
        c * (G1 * y1 + G2 * y2),
        loss,
        loss_omega,
        c * (G1x1 + G2x2 - crossed),
        c * (y1**2 * G1x1 + y2**2 * G2x2 + y1 * y2 * crossed),
    )
    return np.array([column.sum() for column in columns])


def name_averages(
    totals: NDArray[np.float64], overlaps: Overlaps, state: Kinetics, model: AttentionModel
) -> ChannelAverages:
    """The channel averages of the totals of :func:`combine`, zero where symmetry says so."""
    _, gg, difference, gx, gy, loss, loss_omega, along_m, along_y = totals
    V_hat = -gx / state.variance
    return ChannelAverages(
        q_hat=float(gg),
        m_hat=0.0 if overlaps.m == 0 else float(difference),
        V_hat=float(V_hat),
        theta_hat=0.0 if overlaps.theta == 0 else float((gy + overlaps.theta * V_hat) / model.rho),
        loss=float(loss),
        loss_omega=float(loss_omega),
        m_slope=float(along_m / state.variance),
        theta_slope=float((along_y / (model.rho * state.variance) + V_hat) / model.rho),
    )
