"""Averages of the general model at Q = 0: Hessians of the loss over the teacher's fields.

Where the student's attention is flat at vanishing fields, ``h = 0`` is a critical point of the loss
of every draw of the teacher, and the prox is linear around it: ``g = -B w`` with
``B = H (I + V H)^-1`` and the Hessian H of the loss there (docs/theory.md, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from gamp_theory.channel import general_kernels as kernels
from gamp_theory.channel.general import (
    AUDIT_STARTS,
    AUDITED,
    SCRAMBLES,
    WELLS,
    compiled_mechanisms,
    teacher_points,
)
from gamp_theory.channel.general_kernels import TokenState
from gamp_theory.token_mechanisms import attention, curvatures
from gamp_theory.token_model import GeneralModel

__all__ = ["OriginAverages", "OriginRule", "OutsideDomain"]

Array = NDArray[np.float64]

#: Where the strongest attainable pull is looked for: directions of the teacher's fields, how far
#: out along them in standard deviations, and how many of the best are climbed from.
DIRECTIONS = 256
DISTANCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CLIMBS = 4
#: Energies that are equal to within this part are equal.
EQUAL = 1e-9
#: Draws whose Hessians are held at a time.
CHUNK = 2**11


@dataclass(frozen=True, eq=False)
class OriginAverages:
    """Averages over the teacher's fields at one V, scramble by scramble.

    Attributes
    ----------
    B : array, shape (scrambles, N, N)
        ``E B``, ``N = L r``.
    square : array, shape (scrambles, L r r, L r r)
        ``E B_kj[a, c] B_kj[b, d]``: what a change of q_j does to q_hat_k.
    first : array, shape (scrambles, N, N, L, t)
        ``E B y``.
    second : array, shape (scrambles, N, N, L, t, L, t)
        ``E B y y^T``.
    """

    B: Array
    square: Array
    first: Array
    second: Array

    def mean(self, without: int | None = None) -> OriginAverages:
        """Over all scrambles, or all but one."""
        parts = (self.B, self.square, self.first, self.second)
        if without is None:
            return OriginAverages(*(part.mean(axis=0) for part in parts))
        others = len(self.B) - 1
        return OriginAverages(*((part.sum(axis=0) - part[without]) / others for part in parts))


class OutsideDomain(Exception):
    """Some draw's Hessian, or the ridge's form, is not positive definite at this V."""


class OriginRule:
    """The teacher's fields of all scrambles, and what is averaged over them at a response V.

    Parameters
    ----------
    model : GeneralModel
        The student's attention must be flat at vanishing fields.
    draws : int
        Teacher's fields of each scramble, a power of two.
    seed : int
        The same seed gives the same fields.
    """

    def __init__(self, model: GeneralModel, draws: int, seed: int) -> None:
        self.model, self.draws, self.seed = model, draws, seed
        L, t = model.tokens, model.teacher_rank
        self.shape = (L, model.rank, model.rank)
        self.root_rho = np.linalg.cholesky(model.law.rho)
        flat = np.zeros((L, model.rank))
        self.at_rest = attention(model.student, flat)
        # the loss's Hessian at h = 0 is linear in S - T where the attention is flat there
        self.curvatures = model.law.variance[None, :, None, None] * curvatures(model.student, flat)
        streams = np.random.SeedSequence(seed).spawn(SCRAMBLES)
        self.points = [teacher_points(draws, L * t, stream) for stream in streams]

    def fields(self, points: Array) -> Array:
        """Teacher's fields y, shape (n, L, t), of standard normals."""
        return np.einsum(
            "lab,nlb->nla", self.root_rho, points.reshape(len(points), *self.root_rho.shape[:2])
        )

    def hessians(self, y: Array) -> Array:
        """Hessians of the loss at h = 0, shape (n, N, N)."""
        gap = self.at_rest - attention(self.model.target, y)
        return np.einsum("nij,ijxy->nxy", gap, self.curvatures)

    def resolvents(self, H: Array, V: Array) -> Array:
        """``B = H (I + V H)^-1``, shape (n, N, N).

        Raises
        ------
        OutsideDomain
            If h = 0 is no minimum for some draw.
        """
        root = _roots(V)
        turned = H @ root
        try:
            factor = np.linalg.cholesky(np.eye(len(root)) + root.T @ turned)
        except np.linalg.LinAlgError:
            raise OutsideDomain from None
        half = np.linalg.solve(factor, np.swapaxes(turned, 1, 2))
        return H - np.swapaxes(half, 1, 2) @ half

    def trace(self, V: Array) -> Array:
        """``E B``: all that the equation of V needs."""
        total = np.zeros((V.shape[0] * V.shape[1],) * 2)
        for points in self.points:
            for some in _pieces(points):
                H = self.hessians(self.fields(some))
                total += (self.resolvents(H, V) if np.any(V) else H).sum(axis=0)
        return total / sum(len(points) for points in self.points)

    def sums(self, V: Array) -> OriginAverages:
        """All averages at V."""
        L, r, _ = self.shape
        parts: list[list[Array]] = [[], [], [], []]
        for points in self.points:
            total: list[Array] = []
            for some in _pieces(points):
                y = self.fields(some)
                B = self.resolvents(self.hessians(y), V)
                blocks = B.reshape(len(B), L, r, L, r)
                square = np.einsum("nkajc,nkbjd->kabjcd", blocks, blocks, optimize=True)
                values = [
                    B.sum(axis=0),
                    square.reshape(L * r * r, L * r * r),
                    np.einsum("nxy,nlc->xylc", B, y),
                    np.einsum("nxy,nlc,nke->xylcke", B, y, y, optimize=True),
                ]
                total = [a + b for a, b in zip(total, values, strict=True)] if total else values
            for part, value in zip(parts, total, strict=True):
                part.append(value / len(points))
        return OriginAverages(*(np.array(part) for part in parts))

    def strongest_pull(self, V: Array) -> float:
        """Largest eigenvalue of ``-V^(1/2) H V^(1/2)`` over all fields of the teacher.

        It is convex in T: where T is bounded, the strongest are far out.  Rays first, then climbs
        from the best of them.
        """
        root = _roots(V)

        def pull(points: Array) -> Array:
            H = self.hessians(self.fields(points))
            finite = np.all(np.isfinite(H), axis=(1, 2))  # a mechanism may give up far out
            values = np.full(len(points), -math.inf)
            values[finite] = -np.linalg.eigvalsh(root.T @ H[finite] @ root)[:, 0]
            return values

        found = max(float(pull(some).max()) for some in _pieces(np.concatenate(self.points)))
        rays = self.rays()
        values = pull(rays)
        for k in np.argsort(values)[-CLIMBS:]:
            end = minimize(lambda z: -float(pull(z[None])[0]), rays[k], method="BFGS")
            found = max(found, float(values[k]), -float(end.fun))
        return found

    def rays(self) -> Array:
        """Standard normals of the teacher's fields, and the same directions farther out."""
        directions = self.points[0][:DIRECTIONS]
        return np.concatenate([distance * directions for distance in DISTANCES])

    def another_minimum(self, V: Array) -> bool:
        """Whether a search finds a draw whose prox at w = 0 is lower elsewhere."""
        model = self.model
        L, r, t = model.tokens, model.rank, model.teacher_rank
        state = TokenState(
            m=np.zeros((L, r)),
            slope=np.zeros((L, r, t)),
            noise=np.zeros(self.shape),
            root_rho=self.root_rho,
            precision=np.linalg.inv(V),
            root_V=np.linalg.cholesky(V),
            variance=model.law.variance,
        )
        points = np.concatenate([self.rays(), *(some[:AUDITED] for some in self.points)])
        points = np.concatenate([points, np.zeros((len(points), L * r))], axis=1)
        wells = np.zeros((len(points), WELLS, L, r))
        energies = np.full((len(points), WELLS), np.inf)
        counts = np.zeros(len(points), dtype=np.int64)
        random = np.random.default_rng(self.seed).standard_normal((AUDIT_STARTS, L, r))
        target, student = compiled_mechanisms(model)
        kernels.find_wells(points, state, target, student, random, wells, energies, counts, False)
        at_rest = self.losses(self.fields(points[:, : L * t]))
        return bool(np.any(energies[:, 0] < at_rest * (1 - EQUAL)))

    def mean_losses(self) -> Array:
        """``E l(0; y)``, one number a scramble."""
        return np.array([self.losses(self.fields(points)).mean() for points in self.points])

    def losses(self, y: Array) -> Array:
        """``l(0; y)``, shape (n,)."""
        gap = self.at_rest - attention(self.model.target, y)
        return np.asarray(0.5 * np.einsum("nij,j->n", gap**2, self.model.law.variance), dtype=float)


def _pieces(points: Array) -> Iterator[Array]:
    """The points, some at a time."""
    return (points[begin : begin + CHUNK] for begin in range(0, len(points), CHUNK))


def _roots(V: Array) -> Array:
    """Lower Cholesky factors of each block, as one block-diagonal matrix."""
    blocks = np.linalg.cholesky(V)
    L, r, _ = blocks.shape
    whole = np.zeros((L, r, L, r))
    for l in range(L):
        whole[l, :, l] = blocks[l]
    return whole.reshape(L * r, L * r)
