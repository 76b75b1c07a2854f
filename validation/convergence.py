"""Where damped message passing converges: a rule, written down before it was tried.

The rule looks at a fixed point of state evolution and asks three things.

1. Is it stable to random perturbations: ``kappa < 1``?  (docs/theory.md, section 6)
2. Is it stable in the overlaps under the damping used?  With the part ``delta`` of both g and Q
   kept, a direction in which the undamped map has the eigenvalue z obeys
   ``mu**2 - (2 delta + (1 - delta)**2 z) mu + delta**2 = 0``: both roots inside the unit circle.
3. Do jumps keep it going?  Perturb every cavity field by a random amount of variance ``e**2``.
   Of n sentences ``n e sqrt(2/pi) J/D`` jump, with D the typical length of a jump and J the jump
   mass; the perturbation of the next iterate has variance ``kappa e**2 + alpha e sqrt(2/pi) J D``.
   This repeats itself at ``e = alpha sqrt(2/pi) J D/(1 - kappa)``, and then, D having dropped out,

       N = (2/pi) alpha n J**2/(1 - kappa)

   sentences jump in each iteration.  With N < 1 the noise soon misses every sentence, and dies out.

A simpler rule, for comparison, replaces the third question: no sentence is expected near a jump,
``n J < 1``.  It would be right if damping, which makes the Onsager term lag behind the sentence's
own contribution, kept every sentence near a jump flipping.

Both rules were in the repository before the first run.  That run, with plain damping, followed the
simpler one, for the reason given: with damping 1/2 a sentence whose cavity field is within D/9 of a
jump flips with period two for ever, ``2 n J/9`` of them.  Message passing has since learnt to let
its Onsager term lag as Q does (``lagging``), and the first rule is tried on that.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gamp_theory.empirical.gamp import message_passing
from gamp_theory.empirical.task import draw_task
from gamp_theory.stability import Stability
from validation.minima import BROKEN, FAMILY
from validation.study import (
    Case,
    Place,
    Record,
    Study,
    Table,
    Verdict,
    fixed_point,
    groups,
    judged_at,
    model_of,
    row,
)

__all__ = ["STUDY", "Prediction", "predict"]

#: alpha, omega, lam, start.
POINTS = [
    (2.0, 0.3, 0.01, "semantic"),
    (1.75, 0.3, 0.01, "semantic"),
    (1.5, 0.3, 0.01, "semantic"),
    (1.25, 0.3, 0.01, "semantic"),
    (1.1, 0.3, 0.01, "semantic"),
    (1.0, 0.3, 0.01, "semantic"),
    (1.5, 0.1, 0.01, "semantic"),
    (1.0, 0.1, 0.01, "semantic"),
    (1.0, 0.3, 0.01, "positional"),
    (1.25, 0.3, 0.01, "positional"),
    (1.5, 0.3, 0.01, "positional"),
    (2.0, 0.3, 0.01, "positional"),
    (1.5, 0.3, 0.02, "positional"),
    (1.5, 0.3, 0.03, "positional"),
    (1.5, 0.3, 0.1, "positional"),
    (1.5, 0.5, 0.01, "positional"),
    (1.5, 0.7, 0.01, "positional"),
]
#: Points that are to converge whatever the rules say of them: there the overlaps are judged too.
CLEAR = [POINTS[0], POINTS[14]]
D, ITERATIONS, CLEAR_INSTANCES = 1000, 400, 8
#: With plain damping, and with a lagging Onsager term.
INSTANCES = {False: 3, True: 2}
QUICK_D, QUICK_INSTANCES, QUICK_ITERATIONS = 300, 8, 300
#: Fewer have so large a limit of z that nothing could fail.
FEWEST_JUDGED = 8
DAMPING = 0.5
M_START = 0.25
TOL = 1e-10
HEAD = (
    "where",
    "kappa",
    "damped modulus",
    "J",
    "n J",
    "N",
    "rule",
    "simpler rule",
    "converged",
    "median last step",
    "iterations",
)


class Prediction(NamedTuple):
    """What the rules say of one fixed point.

    Attributes
    ----------
    kappa : float
        Replicon, regular part.
    modulus : float
        Largest modulus of an eigenvalue under the damping.
    jumping : float
        N, sentences that jump in each iteration.
    near : float
        ``n J``, sentences near a jump.
    """

    kappa: float
    modulus: float
    jumping: float
    near: float

    @property
    def converges(self) -> bool:
        """The rule."""
        return self._attracts and self.jumping < 1

    @property
    def converges_simpler(self) -> bool:
        """The simpler rule."""
        return self._attracts and self.near < 1

    @property
    def _attracts(self) -> bool:
        return self.kappa < 1 and self.modulus < 1


def predict(stability: Stability, alpha: float, n: int, damping: float) -> Prediction:
    """Apply the rules to a fixed point.

    Parameters
    ----------
    stability : Stability
        Of the fixed point.
    alpha : float
        Sample ratio.
    n : int
        Number of sentences.
    damping : float
        Part of the old iterate that is kept, in [0, 1).
    """
    kappa, J = stability.replicon, stability.jump_mass
    noise = 2 / math.pi * alpha * n * J**2 / (1 - kappa) if kappa < 1 else math.inf
    return Prediction(
        kappa=kappa,
        modulus=max(_damped(z, damping) for z in stability.eigenvalues),
        jumping=noise,
        near=n * J,
    )


def _damped(z: complex, damping: float) -> float:
    """Largest modulus of the roots that belong to the eigenvalue z."""
    half = damping + 0.5 * (1 - damping) ** 2 * z
    root = cmath.sqrt(half**2 - damping**2)
    return max(abs(half + root), abs(half - root))


def cases(quick: bool) -> list[Case]:
    """Bias-free tasks, in which fixed points of message passing are exact critical points."""
    if quick:
        return [
            _case(point, QUICK_D, QUICK_ITERATIONS, lagging, instance)
            for point, lagging in zip(CLEAR, (False, True), strict=True)
            for instance in range(QUICK_INSTANCES)
        ]
    found = []
    for lagging, point in itertools.product((False, True), POINTS):
        found += [
            _case(point, D, ITERATIONS, lagging, instance)
            for instance in range(CLEAR_INSTANCES if point in CLEAR else INSTANCES[lagging])
        ]
    return found


def _case(
    point: tuple[float, float, float, str], d: int, iterations: int, lagging: bool, instance: int
) -> Case:
    alpha, omega, lam, start = point
    case = {
        **FAMILY,
        "omega": omega,
        "d": d,
        "alpha": alpha,
        "lam": lam,
        "start": start,
        "damping": DAMPING,
        "lagging": lagging,
        "tol": TOL,
        "iterations": iterations,
        "seed": [109 if lagging else 59, POINTS.index(point), instance],
    }
    # The named start is too small: around Q = 0 the response is negative at small ridges.
    return case if start == "semantic" else {**case, "m_start": M_START}


def measure(case: Case) -> Record:
    """Where damped message passing has come to on one task."""
    task = draw_task(
        model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]), bias_free=True
    )
    found = message_passing(
        task,
        np.full(task.d, case["m_start"]) if "m_start" in case else case["start"],
        damping=case["damping"],
        lagging=case["lagging"],
        tol=case["tol"],
        max_iterations=case["iterations"],
    )
    return {
        "q": found.q,
        "m": found.m,
        "theta": found.theta,
        "V": found.V,
        "step": found.step,
        "iterations": found.iterations,
        "status": str(found.status),
    }


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """The rule's predictions beside what happened, and the overlaps of what converged."""
    rows, problems, lines = [], [], []
    outcomes: dict[str, list[tuple[Prediction, int, int]]] = {"plain": [], "lagging": []}
    for case, found in groups(cases, records, ("alpha", "omega", "lam", "start", "lagging")):
        kind = "lagging" if case["lagging"] else "plain"
        series = f"{kind}, {case['start']}, omega = {case['omega']:g}, lam = {case['lam']:g}"
        place = Place(f"{series}, d = {case['d']}", "alpha", case["alpha"])
        point = fixed_point(case, problems)
        if point is None or point.stability is None:
            continue
        n = round(case["alpha"] * case["d"])
        prediction = predict(point.stability, case["alpha"], n, case["damping"])
        converged = [r for r in found if r["status"] == "converged"]
        outcomes[kind].append((prediction, len(converged), len(found)))
        steps = sorted(r["step"] for r in found)
        lines.append(
            (
                str(place),
                f"{prediction.kappa:.3f}",
                f"{prediction.modulus:.2f}",
                f"{point.stability.jump_mass:.2g}",
                f"{prediction.near:.2g}",
                f"{prediction.jumping:.2g}",
                *(
                    "converges" if x else "stalls"
                    for x in (prediction.converges, prediction.converges_simpler)
                ),
                f"{len(converged)} of {len(found)}",
                f"{steps[len(steps) // 2]:.1g}",
                str(max(r["iterations"] for r in found)),
            )
        )
        if prediction.near < 0.01 and len(converged) < len(found):
            problems.append(
                f"{place}: practically no jumps, and yet {len(found) - len(converged)} of "
                f"{len(found)} did not converge"
            )
        if len(converged) >= 2:
            # A point of this size is one of d = infinity up to its fluctuations.
            for name in ("q", "V", BROKEN[case["start"]]):
                expected = getattr(point.overlaps, name), getattr(point.errors, name)
                values = [r[name] for r in converged]
                judged = judged_at(point) and len(values) >= FEWEST_JUDGED
                rows.append(row(place, name, expected, values, judged))
    tables = [Table("Predictions and outcomes", HEAD, lines)]
    for kind, seen in outcomes.items():
        rule = [(p.converges, k, n) for p, k, n in seen]
        simpler = [(p.converges_simpler, k, n) for p, k, n in seen]
        tables += [
            confusion(f"the rule, N < 1, with {kind} damping", rule),
            confusion(f"the simpler rule, n J < 1, with {kind} damping", simpler),
        ]
    return Verdict(rows, problems, [], tables)


def confusion(rule: str, outcomes: Sequence[tuple[bool, int, int]]) -> Table:
    """How often a rule was right, by points; instances of one point may differ."""
    lines = []
    for text, predicted in (("converges", True), ("stalls", False)):
        counts = [(k, n) for p, k, n in outcomes if p is predicted]
        all_, none = sum(k == n for k, n in counts), sum(k == 0 for k, _ in counts)
        lines.append((text, str(all_), str(len(counts) - all_ - none), str(none)))
    head = ("predicted", "all converged", "some did", "none did")
    return Table(f"Confusion table of {rule}, points", head, lines)


STUDY = Study(
    name="convergence",
    title="Where damped message passing converges",
    text=(
        "Damping 1/2, bias-free tasks, from the teacher or from m = .25, to a step of 1e-10. The "
        "rule, written down before the runs: kappa < 1, eigenvalues under the damping inside the "
        "unit circle, and N = (2/pi) alpha n J^2/(1 - kappa) < 1 sentences that jump in each "
        "iteration. The simpler rule has n J < 1 in its place. With plain damping the Onsager "
        "term does not lag as Q does, and sentences near a jump flip with period two for ever "
        "(docs/validation.md); `lagging` mends that."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure,),
)
