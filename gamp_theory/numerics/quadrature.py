"""One-dimensional quadrature rules that say how exact they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

__all__ = [
    "LARGEST_PIECE",
    "Rule",
    "gauss_hermite_normal",
    "gauss_legendre",
    "gauss_legendre_table",
    "gauss_normal",
    "trapezoid_normal",
]


#: Most nodes of a Gauss rule for a piece of the normal density.
LARGEST_PIECE = 200


@dataclass(frozen=True, eq=False)
class Rule:
    """Nodes and weights: ``weights @ f(nodes)`` approximates an integral of f.

    Attributes
    ----------
    nodes : array, shape (n,)
        Increasing, read-only.
    weights : array, shape (n,)
        Positive, read-only.
    degree : int or None
        Every polynomial up to this degree is integrated exactly, and not every one of the next
        degree.  None for a rule that is exact for no degree.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    degree: int | None

    def __post_init__(self) -> None:
        if self.nodes.shape != self.weights.shape or self.nodes.ndim != 1:
            raise ValueError(
                "nodes and weights must be vectors of one length, "
                f"got shapes {self.nodes.shape} and {self.weights.shape}"
            )
        self.nodes.setflags(write=False)
        self.weights.setflags(write=False)


def gauss_legendre(n: int, lo: float = -1.0, hi: float = 1.0) -> Rule:
    """The n-point Gauss-Legendre rule for ``int_lo^hi f(x) dx``, exact to degree 2n - 1.

    Raises
    ------
    ValueError
        If `n` is not a positive integer, or the interval is not finite with ``lo < hi``.
    """
    _require_positive_integer("n", n)
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(f"lo and hi must be finite with lo < hi, got lo = {lo!r}, hi = {hi!r}")
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (hi - lo)
    return Rule(0.5 * (lo + hi) + half * nodes, half * weights, 2 * n - 1)


def gauss_legendre_table(largest: int, wanted: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Gauss-Legendre rules on [-1, 1] of up to `largest` points, for kernels to choose from.

    Newton's method for all roots of all Legendre polynomials at once, from Tricomi's
    approximation: 20 times faster than so many eigenvalue problems.

    Parameters
    ----------
    largest : int
    wanted : sequence of int, optional
        Numbers of points, none above `largest`; all by default.

    Returns
    -------
    array, shape (largest + 1, 2, largest + 1)
        ``[n, 0, :n]`` are the nodes of the n-point rule, increasing, and ``[n, 1, :n]`` its
        weights; 0 elsewhere, and for numbers that are not wanted.

    Raises
    ------
    ValueError
        If `largest` is not a positive integer, or less than what is wanted.
    """
    _require_positive_integer("largest", largest)
    rows = np.arange(largest + 1) if wanted is None else np.asarray(wanted)
    if np.any((rows < 0) | (rows > largest)):
        raise ValueError(f"wanted must be in [0, {largest}], got {wanted!r}")
    n = rows[:, None]
    i = np.arange(largest + 1)
    used = i < n
    with np.errstate(divide="ignore", invalid="ignore"):  # at n = 0, which has no nodes
        x = -(1 - (n - 1) / (8.0 * n**3)) * np.cos(math.pi * (4 * i + 3) / (4 * n + 2))
    x = np.where(used, x, 0.0)
    for _ in range(5):  # quadratic convergence from 1e-3
        value, before = _legendre(n, x)
        slope = np.where(used, n * (before - x * value) / (1 - x * x), 1.0)
        x = np.where(used, x - value / slope, 0.0)
    _, before = _legendre(n, x)
    # 2/((1 - x**2) P_n'**2), and at a root P_n' = n P_(n-1)/(1 - x**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(used, 2 * (1 - x * x) / (n * before) ** 2, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    weights *= 2 / np.where(total > 0, total, 1.0)
    table = np.zeros((largest + 1, 2, largest + 1))
    table[rows] = np.stack([x, weights], axis=1)
    return table


def _legendre(
    n: NDArray[np.int64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``P_n(x)`` and ``P_(n-1)(x)``, row by row, by the three-term recurrence."""
    before, value = np.zeros_like(x), np.ones_like(x)
    for k in range(1, int(n.max()) + 1):
        after = ((2 * k - 1) * x * value - (k - 1) * before) / k
        before, value = np.where(k <= n, value, before), np.where(k <= n, after, value)
    return value, before


def gauss_hermite_normal(n: int) -> Rule:
    """The n-point Gauss-Hermite rule for ``E f(x)``, x standard normal, exact to degree 2n - 1.

    Raises
    ------
    ValueError
        If `n` is not an integer in [1, 360]: above, the outermost weights underflow (they are
        1e-299 at 360), and numpy's rule overflows with them.
    """
    _require_positive_integer("n", n)
    if n > 360:
        raise ValueError(f"n must be at most 360, got {n!r}")
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return Rule(nodes, weights / math.sqrt(2 * math.pi), 2 * n - 1)


def gauss_normal(n: int, lo: float, hi: float) -> Rule:
    """The n-point Gauss rule for ``E f(x) 1[lo < x < hi]``, x standard normal, to degree 2n - 1.

    Orthogonal polynomials by Stieltjes' procedure, with the density itself by Gauss-Legendre; nodes
    and weights from the Jacobi matrix (Golub and Welsch).  The weights sum to the probability of
    the interval.

    Raises
    ------
    ValueError
        If `n` is not an integer in [1, 200], or unless ``-37 <= lo < hi <= 37``: beyond that the
        density underflows.
    """
    _require_positive_integer("n", n)
    if n > LARGEST_PIECE:
        raise ValueError(f"n must be at most {LARGEST_PIECE}, got {n!r}")
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(f"lo and hi must be finite with lo < hi, got lo = {lo!r}, hi = {hi!r}")
    nearest = min(max(0.0, lo), hi)
    if max(abs(lo), abs(hi)) > 37:
        raise ValueError(f"the interval must be inside [-37, 37], got lo = {lo!r}, hi = {hi!r}")
    middle, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
    x, weight = _legendre_rule(16 * math.ceil((n + 20 + 2 * (hi - lo)) / 8))
    # relative to its largest value, and in the coordinate of the interval, from -1 to 1
    weight = weight * np.exp(0.5 * (nearest**2 - (middle + half * x) ** 2))
    mass = weight.sum()
    diagonal, beside = np.empty(n), np.empty(n)
    before, here, step = np.zeros_like(x), np.full_like(x, 1 / math.sqrt(mass)), 0.0
    for k in range(n):
        diagonal[k] = weight @ (x * here * here)
        after = (x - diagonal[k]) * here - step * before
        beside[k] = step = math.sqrt(weight @ (after * after))
        before, here = here, after / step
    places, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    density = math.exp(-0.5 * nearest**2) / math.sqrt(2 * math.pi)
    return Rule(middle + half * places, half * density * mass * vectors[0] ** 2, 2 * n - 1)


@functools.lru_cache(maxsize=32)
def _legendre_rule(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(n)


def trapezoid_normal(step: float, cut: float) -> Rule:
    """The trapezoid rule for ``E f(x)``, x standard normal, with nodes ``j step`` in [-cut, cut].

    For f analytic near the real axis the error falls exponentially as `step` shrinks: for f = 1 it
    is ``2 exp(-2 pi**2/step**2)`` (5e-9 at step 1, 1e-34 at 0.5), from the Poisson sum, less the
    probability beyond `cut`, ``erfc(cut/sqrt(2))``.  The weights are not renormalised, so
    ``sum(weights) - 1`` shows the difference.

    Raises
    ------
    ValueError
        Unless `step` and `cut` are finite with ``0 < step <= cut``.
    """
    if not (math.isfinite(step) and math.isfinite(cut) and 0 < step <= cut):
        raise ValueError(
            f"step and cut must be finite with 0 < step <= cut, got step = {step!r}, cut = {cut!r}"
        )
    # cut = 6 and step = .1 must have their node at 6, whatever the division rounds to.
    outermost = math.floor(cut / step * (1 + 1e-12))
    nodes = step * np.arange(-outermost, outermost + 1, dtype=float)
    return Rule(nodes, step / math.sqrt(2 * math.pi) * np.exp(-0.5 * nodes**2), None)


def _require_positive_integer(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
