"""Channel averages of the general model: randomised quasi-Monte Carlo with standard errors.

One :class:`GeneralRule` keeps its points and, for each, the wells of the prox, found by Newton's
method from many starts.  At other overlaps the wells are followed, so that the averages of one rule
are a deterministic function of the overlaps, smooth but for samples that change wells; and the
scatter of independent scrambles is the error (docs/numerics.md).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gamp_theory.channel import general_kernels as kernels
from gamp_theory.channel.general_kernels import Mechanism, TokenState
from gamp_theory.token_mechanisms import TokenMechanism, attention
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenConjugates, TokenOverlaps

__all__ = [
    "DEFAULT_MEMORY_LIMIT",
    "FieldAverages",
    "GeneralRule",
    "compiled_mechanisms",
    "general_rule",
    "rule_bytes",
    "teacher_points",
    "token_linear_error",
]

Array = NDArray[np.float64]

SCRAMBLES = 16
#: Wells that are kept of each sample.
WELLS = 4
#: Samples of each scramble whose search is repeated with so many random starts more.
AUDITED = 32
AUDIT_STARTS = 24
AUDIT_TOL = 1e-9
DEFAULT_MEMORY_LIMIT = 2**30
"""Bytes that the points and wells of a rule may take (1 GiB)."""
#: Of the coordinates of a Sobol point.
BITS = 52
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class FieldAverages:
    """Averages over the fields, per unit of alpha, scramble by scramble.

    Attributes
    ----------
    values : array, shape (scrambles, size)
        As :func:`gamp_theory.channel.general_kernels.field_sums` returns them.
    overlaps : TokenOverlaps
        Where they were taken.
    rho : array, shape (L, t, t)
    noise : array, shape (L, r, r)
        Lower Cholesky factors of ``q - theta rho^-1 theta^T``.
    zero_m, zero_theta : bool
        Whether a symmetry makes ``m_hat`` or ``theta_hat`` vanish here.
    """

    values: Array
    overlaps: TokenOverlaps
    rho: Array
    noise: Array
    zero_m: bool
    zero_theta: bool

    def conjugates(self, alpha: float, values: Array | None = None) -> TokenConjugates:
        """The conjugates at sample ratio `alpha`, of the mean over scrambles or of given values.

        With ``w = E[w|y] + s zeta``, s the factor of the conditional covariance::

            q_hat = alpha E g g^T            V_hat = -alpha E[g zeta^T] s^-1
            m_hat = alpha E g                theta_hat = (alpha E[g y^T] + V_hat theta) rho^-1

        Stein's form of ``V_hat = -alpha E dg/dw``, which counts the jumps of the prox.  The matrix
        is symmetric but for noise: in the eigenbasis of ``s s^T``, where the noise of the entry
        (a, b) grows like 1/s_b, the two estimates of each entry are averaged accordingly.
        """
        if values is None:
            values = self.values.mean(axis=0)
        tokens, rank = self.overlaps.m.shape
        sizes = [tokens * rank * rank, tokens * rank, tokens * rank * rank]
        q, m, z, rest = np.split(values, np.cumsum(sizes))
        shape = (tokens, rank, rank)
        y = rest[: self.overlaps.theta.size].reshape(self.overlaps.theta.shape)
        V_hat = -z.reshape(shape) @ np.linalg.inv(self.noise)
        variances, U = np.linalg.eigh(self.noise @ np.swapaxes(self.noise, 1, 2))
        turned = np.swapaxes(U, 1, 2) @ V_hat @ U
        share = variances[:, None, :] / (variances[:, None, :] + variances[:, :, None])
        turned = share * turned
        V_hat = U @ (turned + np.swapaxes(turned, 1, 2)) @ np.swapaxes(U, 1, 2)
        theta_hat = y + V_hat @ self.overlaps.theta
        theta_hat = np.swapaxes(np.linalg.solve(self.rho, np.swapaxes(theta_hat, 1, 2)), 1, 2)
        return TokenConjugates(
            q_hat=alpha * q.reshape(shape),
            m_hat=alpha * (0.0 if self.zero_m else 1.0) * m.reshape(tokens, rank),
            V_hat=np.asarray(alpha * V_hat, dtype=float),
            theta_hat=alpha * (0.0 if self.zero_theta else 1.0) * theta_hat,
        )

    @property
    def loss(self) -> Array:
        """``E loss(prox)``, one number a scramble."""
        return self.values[:, -4]

    @property
    def test_error(self) -> Array:
        """``(1/L) E tr[(T - S(w)) rho (T - S(w))^T]``, one number a scramble."""
        return 2 * self.values[:, -3] / self.overlaps.tokens

    @property
    def failed_descents(self) -> int:
        """Descents that did not converge."""
        return int(self.values[:, -2].sum())

    @property
    def several_wells(self) -> int:
        """Samples with more than one well."""
        return int(self.values[:, -1].sum())

    @property
    def envelope(self) -> Array:
        """``E M = E loss + (1/2) sum_l tr[V_l E g_l g_l^T]``, exactly; one number a scramble."""
        V = self.overlaps.V
        q = self.values[:, : V.size].reshape(-1, *V.shape)
        return self.loss + 0.5 * np.einsum("lab,slba->s", V, q)


@dataclass(eq=False)
class GeneralRule:
    """Points and wells, made at one state, to be evaluated at states nearby.

    Attributes
    ----------
    model : GeneralModel
    at : TokenOverlaps
        Where the wells were searched.
    samples : int
        Sobol points per scramble; each counts twice, with ``+zeta`` and ``-zeta``.
    points : list of array, shape (2 samples, L t + L r)
        Standard normals, one array a scramble.
    wells : list of array, shape (2 samples, WELLS, L, r)
    counts : list of int array, shape (2 samples,)
    missed, audited : int
        Of `audited` samples, at so many a search with random starts added found a lower well.
    missed_energy : float
        By how much, in the mean over the audited samples.
    failed_descents : int
        Descents of the search that did not converge.
    """

    model: GeneralModel
    at: TokenOverlaps
    samples: int
    points: list[Array]
    wells: list[Array]
    counts: list[NDArray[np.int64]]
    missed: int
    audited: int
    missed_energy: float
    failed_descents: int

    @property
    def cost(self) -> int:
        """Proxes of one evaluation."""
        return sum(len(points) for points in self.points)

    def averages(self, overlaps: TokenOverlaps) -> FieldAverages:
        """Averages at `overlaps`.

        Raises
        ------
        ValueError
            Where the conditional covariance of a cavity field, or V, is singular.
        """
        model = self.model
        state = token_state(model, overlaps)
        target, student = compiled_mechanisms(model)
        values = _threads(
            lambda p, w, c: kernels.field_sums(
                p, state, target, student, w, c, np.zeros((len(p), model.tokens, model.rank))
            ),
            zip(self.points, self.wells, self.counts, strict=True),
        )
        free = model.positions_independent and model.even_target
        return FieldAverages(
            values=np.array(values),
            overlaps=overlaps,
            rho=model.law.rho,
            noise=np.asarray(state.noise),
            zero_m=free and model.even_student and not np.any(overlaps.m),
            zero_theta=free and not np.any(overlaps.theta),
        )

    def derivatives(self, overlaps: TokenOverlaps) -> tuple[Array, Array]:
        """Means of ``dg/dw`` on the diagonal and of its square, sample by sample, per scramble.

        Shapes (scrambles, L, r, r) and (scrambles, L r r, L r r).
        """
        state = token_state(self.model, overlaps)
        target, student = compiled_mechanisms(self.model)

        def one(p: Array, w: Array, c: NDArray[np.int64]) -> tuple[Array, Array]:
            proxes = np.zeros((len(p), self.model.tokens, self.model.rank))
            kernels.field_sums(p, state, target, student, w, c, proxes)
            return kernels.derivative_sums(p, state, target, student, proxes)

        pairs = _threads(one, zip(self.points, self.wells, self.counts, strict=True))
        return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


def rule_bytes(model: GeneralModel, samples: int, scrambles: int = SCRAMBLES) -> int:
    """Memory of a rule in bytes: ``16 samples scrambles (L t + (WELLS + 1) L r + WELLS + 1)``."""
    L, r, t = model.tokens, model.rank, model.teacher_rank
    return 16 * samples * scrambles * (L * t + (WELLS + 1) * L * r + WELLS + 1)


def general_rule(
    model: GeneralModel,
    overlaps: TokenOverlaps,
    samples: int,
    scrambles: int = SCRAMBLES,
    seed: int = 0,
    *,
    previous: GeneralRule | None = None,
    brief: bool = False,
    audit: bool = True,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> GeneralRule:
    """Draw points and search the wells of every sample.

    Parameters
    ----------
    model : GeneralModel
    overlaps : TokenOverlaps
        Where to search; within the domain, not on its edge.
    samples : int
        Sobol points per scramble, a power of two.
    scrambles : int
        Independent scrambles, at least 2.
    seed : int
        The same seed gives the same points.
    previous : GeneralRule, optional
        A rule of the same model and seed, whose wells serve as starts.
    brief : bool
        Whether a sample with such wells is searched from these and from its cavity field only.
    audit : bool
        Whether to measure how often the search misses the lowest well.
    memory_limit : int
        Bytes the rule may take, see :func:`rule_bytes`.

    Raises
    ------
    ValueError
        If `samples` is not a power of two, there are fewer than 2 scrambles, the memory does not
        suffice, or a covariance is singular.
    """
    if samples < 1 or samples & (samples - 1):
        raise ValueError(f"samples must be a power of two, got {samples!r}")
    if scrambles < 2:
        raise ValueError(f"scrambles must be at least 2 (they give the error), got {scrambles!r}")
    needed = rule_bytes(model, samples, scrambles)
    if needed > memory_limit:
        raise ValueError(
            f"{scrambles} x {samples} samples take {needed / 2**20:.0f} MiB, "
            f"allowed are {memory_limit / 2**20:.0f}"
        )
    L, r = model.tokens, model.rank
    state = token_state(model, overlaps)
    target, student = compiled_mechanisms(model)
    wells = [np.zeros((2 * samples, WELLS, L, r)) for _ in range(scrambles)]
    counts = [np.zeros(2 * samples, dtype=np.int64) for _ in range(scrambles)]
    if previous is not None and (previous.samples, len(previous.points)) == (samples, scrambles):
        points = previous.points
    else:
        streams = np.random.SeedSequence(seed).spawn(scrambles)
        dimension = L * model.teacher_rank + L * r
        points = [_normal_points(samples, dimension, L * r, stream) for stream in streams]
    if previous is not None:
        # fewer points of a scramble are nearly the first ones of more
        for s in range(min(scrambles, len(previous.points))):
            known = min(len(counts[s]), len(previous.counts[s]))
            wells[s][:known] = previous.wells[s][:known]
            counts[s][:known] = previous.counts[s][:known]
    energies = [np.full((2 * samples, WELLS), np.inf) for _ in points]
    none = np.empty((0, L, r))
    failures = _threads(
        lambda p, w, e, c: kernels.find_wells(p, state, target, student, none, w, e, c, brief),
        zip(points, wells, energies, counts, strict=True),
    )
    missed, audited, gain = 0, 0, 0.0
    if audit:
        random = np.random.default_rng(seed).standard_normal((AUDIT_STARTS, L, r))
        few = min(AUDITED, 2 * samples)

        def again(p: Array, w: Array, e: Array, c: NDArray[np.int64]) -> Array:
            w, lower, c = w[:few].copy(), e[:few].copy(), c[:few].copy()
            kernels.find_wells(p[:few], state, target, student, random, w, lower, c, False)
            return e[:few, 0] - lower[:, 0]

        gaps = np.concatenate(_threads(again, zip(points, wells, energies, counts, strict=True)))
        missed = int(np.sum(gaps > AUDIT_TOL))
        gain = float(np.mean(np.maximum(gaps, 0)))
        audited = few * scrambles
    return GeneralRule(
        model,
        overlaps,
        samples,
        points,
        wells,
        counts,
        missed,
        audited,
        gain,
        int(sum(failures)),
    )


def token_state(model: GeneralModel, overlaps: TokenOverlaps) -> TokenState:
    """The numbers that kernels need.

    Raises
    ------
    ValueError
        If a conditional covariance, or V, is singular.
    """
    rho = model.law.rho
    overlaps.check_domain(rho)
    slope = np.swapaxes(np.linalg.solve(rho, np.swapaxes(overlaps.theta, 1, 2)), 1, 2)
    noise = overlaps.noise(rho)
    try:
        return TokenState(
            m=np.array(overlaps.m),
            slope=np.ascontiguousarray(slope),
            noise=np.linalg.cholesky(0.5 * (noise + np.swapaxes(noise, 1, 2))),
            root_rho=np.linalg.cholesky(rho),
            precision=np.linalg.inv(overlaps.V),
            root_V=np.linalg.cholesky(overlaps.V),
            variance=model.law.variance,
        )
    except np.linalg.LinAlgError:
        raise ValueError(
            "q - theta rho^-1 theta^T and V must be positive definite for every token, got "
            f"{noise.tolist()} and {overlaps.V.tolist()}"
        ) from None


def token_linear_error(
    model: GeneralModel, samples: int = 2**12, scrambles: int = SCRAMBLES, seed: int = 0
) -> tuple[float, float]:
    """Test error of the best token-mixing matrix, ``W = E T``, and its standard error.

    ``(1/L) sum_ij int gamma_j Var T_ij``, by randomised quasi-Monte Carlo.
    """
    L, t = model.tokens, model.teacher_rank
    root = np.linalg.cholesky(model.law.rho)
    first, second = [], []
    for stream in np.random.SeedSequence(seed).spawn(scrambles):
        z = teacher_points(samples, L * t, stream)
        T = attention(model.target, np.einsum("lab,nlb->nla", root, z.reshape(-1, L, t)))
        first.append(T.mean(axis=0))
        second.append((T**2).mean(axis=0))
    mean = np.mean(first, axis=0)
    # the variance is linear in the scatter of the means to first order
    per_scramble = np.array(second) - 2 * mean * np.array(first) + mean**2
    values = np.einsum("j,sij->s", model.law.variance, per_scramble) / L
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(scrambles))


def compiled_mechanisms(model: GeneralModel) -> tuple[Mechanism, Mechanism]:
    """Target and student as kernels take them."""

    def mechanism(of: TokenMechanism, rank: int) -> Mechanism:
        return Mechanism(*of.functions(model.tokens, rank))

    return mechanism(model.target, model.teacher_rank), mechanism(model.student, model.rank)


def _normal_points(
    samples: int, dimension: int, mirrored: int, stream: np.random.SeedSequence
) -> Array:
    """Scrambled Sobol points as standard normals, each also with its last coordinates negated.

    Shape (2 samples, dimension).  Mirrored pairs keep ``E[g zeta] s^-1`` finite when s is small.
    """
    z = teacher_points(samples, dimension, stream)
    # exact first and second moments: what is quadratic in the fields has no error at all
    drawn = dimension - mirrored
    if samples > 2 * dimension:
        z[:, :drawn] -= z[:, :drawn].mean(axis=0)
        for part in (z[:, :drawn], z[:, drawn:]):
            if part.size:
                part[:] = part @ np.linalg.inv(np.linalg.cholesky(part.T @ part / samples)).T
    points = np.repeat(z, 2, axis=0)
    points[1::2, drawn:] *= -1
    return np.ascontiguousarray(points)


def teacher_points(samples: int, dimension: int, stream: np.random.SeedSequence) -> Array:
    """Scrambled Sobol points as standard normals, shape (samples, dimension).

    Their moments are as they come: where an average is smooth, exact ones bias it by as much as
    they make it less noisy, and the error bars do not know.
    """
    from scipy.stats import qmc  # slow to import

    # seed=, not rng=: both are accepted, but rng only since scipy 1.15
    sobol = qmc.Sobol(d=dimension, scramble=True, bits=BITS, seed=np.random.default_rng(stream))
    # centre each point in its cell of width 2**-BITS: 0 would become -infinity
    return np.ascontiguousarray(ndtri(sobol.random(samples) + 0.5 ** (BITS + 1)))


def _threads(function: Callable, arguments: Any) -> list:
    """`function` on every tuple of arguments; kernels release the GIL."""
    if THREADS < 2:
        return [function(*args) for args in arguments]
    return list(_pool().map(lambda args: function(*args), arguments))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="general")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: a child makes its own
    os.register_at_fork(after_in_child=_pool.cache_clear)
