"""The general model against L-BFGS: ``python -m validation.general [NAME...] [--quick]``.

More tokens, higher ranks, other covariances, positions and mechanisms than the studies of the
worked case, each at one point.  Instances are recorded as they are finished.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gamp_theory import ConvergenceError, GeneralModel, JointLaw, solve
from gamp_theory.empirical.token_task import draw_token_task, train_tokens
from gamp_theory.files import replacing
from gamp_theory.token_mechanisms import (
    FixedMixture,
    LinearAttention,
    RowSoftmax,
    SympyMechanism,
)
from gamp_theory.token_result import GeneralFixedPoint
from validation.records import Records
from validation.report import table
from validation.study import (
    CLEAR_JUMP_MASS,
    Case,
    Record,
    Row,
    Study,
    Verdict,
    groups,
    row,
)

__all__ = ["POINTS", "Point", "main"]

RESULTS = Path(__file__).resolve().parent / "results"
D, INSTANCES = 1000, 10
QUICK_D, QUICK_INSTANCES = 300, 6
GRADIENT_TOL = 1e-5

A2 = [[0.6, 0.4], [0.4, 0.6]]
A3 = [[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]
OPPOSITE = [[1.0], [-1.0]]
THREE = [[1.0], [0.0], [-1.0]]


class Point(NamedTuple):
    """A model, where it is studied, and the start of theory and simulation."""

    model: Callable[[], GeneralModel]
    alpha: float
    lam: float
    start: str


def _softmax(law: JointLaw, A: object = A2, rank: int = 1) -> GeneralModel:
    return GeneralModel(FixedMixture(0.3, A), RowSoftmax(), law, rank)  # type: ignore[arg-type]


def _random_stochastic() -> NDArray[np.float64]:
    A = np.random.default_rng(7).uniform(0.1, 1, (4, 4))
    return A / A.sum(axis=1, keepdims=True)


def _two_covariances() -> GeneralModel:
    moments = np.array([[1.0, -1, 0], [-1, 1, 0], [0, 0, 1]])
    return _softmax(JointLaw([0.5, 0.5], [[0.4, 0.3], [0.1, 0.3]], np.array([moments, moments])))


def _power_law(alignment: float) -> GeneralModel:
    """A spectrum ``u**-.4`` in ten equal bins: every atom has d/10 directions at any d."""
    u = (np.arange(10) + 0.5) / 10
    gamma, strength = u**-0.4, u**-alignment
    gamma *= 0.25 / gamma.mean()
    moments = np.zeros((10, 3, 3))
    moments[:, :2, :2] = [[1, -1], [-1, 1]]
    moments[:, 2, 2] = strength / strength.mean()
    return _softmax(JointLaw(np.full(10, 0.1), np.repeat(gamma[:, None], 2, axis=1), moments))


def _causal() -> GeneralModel:
    causal = RowSoftmax(causal=True)
    law = JointLaw.isotropic(0.5, THREE)
    return GeneralModel(FixedMixture(0.3, A3, causal), causal, law)


def _linear() -> GeneralModel:
    law = JointLaw.isotropic(0.5, OPPOSITE)
    return GeneralModel(LinearAttention(), LinearAttention(), law)


def _sigmoid() -> GeneralModel:
    import sympy

    h = sympy.symbols("h0:2")
    mechanism = SympyMechanism(
        [[(1 + sympy.tanh(a * b)) / 2 for b in h] for a in h], [[x] for x in h]
    )
    return GeneralModel(
        FixedMixture(0.3, A2, mechanism), mechanism, JointLaw.isotropic(0.5, OPPOSITE)
    )


POINTS = {
    "three_tokens": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, THREE), A3), 1.5, 0.01, "semantic"
    ),
    "three_tokens_positional": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, THREE), A3), 1.5, 0.1, "positional"
    ),
    "four_tokens": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, np.eye(4)), _random_stochastic()),
        1.5,
        0.01,
        "semantic",
    ),
    "rank_two": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, OPPOSITE), rank=2), 2.0, 0.01, "mixed"
    ),
    "rank_two_teacher": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, OPPOSITE, np.eye(2)), rank=2),
        3.0,
        0.01,
        "semantic",
    ),
    "two_covariances": Point(_two_covariances, 2.0, 0.01, "semantic"),
    "power_law_leading": Point(lambda: _power_law(0.4), 2.0, 0.01, "semantic"),
    "power_law_trailing": Point(lambda: _power_law(-1.0), 2.0, 0.01, "semantic"),
    "correlated_positions": Point(
        lambda: _softmax(JointLaw.isotropic(0.5, OPPOSITE, correlation=[[0.5], [-0.5]])),
        2.0,
        0.01,
        "semantic",
    ),
    "causal": Point(_causal, 1.5, 0.01, "semantic"),
    "linear": Point(_linear, 2.0, 0.05, "semantic"),
    "sympy": Point(_sigmoid, 2.0, 0.01, "semantic"),
}
QUICK = ("three_tokens", "rank_two", "two_covariances")


def _numbers(q: Sequence, m: Sequence, theta: Sequence) -> dict[str, float]:
    """What does not depend on sign or gauge: mean norms over tokens."""
    q, m, theta = np.asarray(q), np.asarray(m), np.asarray(theta)
    return {
        "q": float(np.trace(q, axis1=1, axis2=2).mean()),
        "|m|": math.sqrt(float((m**2).sum()) / len(m)),
        "|theta|": math.sqrt(float((theta**2).sum()) / len(theta)),
    }


def _measure(case: dict) -> dict:
    point = POINTS[case["name"]]
    task = draw_token_task(
        point.model(),
        case["d"],
        point.alpha,
        point.lam,
        tuple(case["seed"]),
        bias_free=True,
    )
    student = train_tokens(task, point.start, gradient_tol=GRADIENT_TOL, test_samples=5 * case["d"])
    return {
        **_numbers(student.q, student.m, student.theta),
        "train_loss": student.train_loss,
        "test_error": student.test_error,
        "gradient_norm": student.gradient_norm,
        "iterations": student.iterations,
    }


def _theory(point: GeneralFixedPoint) -> dict[str, tuple[float, float]]:
    """Values and error bars; entries of one overlap are taken to err together."""
    x, e = point.overlaps, point.errors
    numbers = _numbers(x.q, x.m, x.theta)  # type: ignore[arg-type]
    bars = {"q": float(np.trace(e.q, axis1=1, axis2=2).mean())}
    for name, value, error in (("|m|", x.m, e.m), ("|theta|", x.theta, e.theta)):
        size = numbers[name] * len(value)
        bars[name] = float(np.sum(abs(value) * error)) / size if size else math.nan
    expected = {name: (numbers[name], bars[name]) for name in numbers}
    expected["train_loss"] = (point.train_loss, e.train_loss)
    expected["test_error"] = (point.test_error, e.test_error)
    return expected


def _judge(name: str, records: Sequence[dict]) -> tuple[list[Row], str, list[str]]:
    """Rows, a remark, and what failed apart from them."""
    at = POINTS[name]
    problems = [
        f"{name}: {r['gradient_norm']:.1g} is no minimum"
        for r in records
        if not r["gradient_norm"] <= 10 * GRADIENT_TOL
    ]
    try:
        point = solve(at.model(), at.alpha, at.lam, at.start)
    except ConvergenceError as error:
        return [], f"{name}: no fixed point", [*problems, f"{name}: {error}"]
    assert point.stability is not None
    s = point.stability
    judged = s.jump_mass - 2 * s.jump_mass_error <= CLEAR_JUMP_MASS and s.replicon < 1
    quantities = ["q", "train_loss", "test_error"]
    # the norm of an overlap that vanishes is a floor of order d**-1/2 in simulation
    quantities += ["|m|"] if point.branch in ("positional", "mixed") else []
    quantities += ["|theta|"] if point.branch in ("semantic", "mixed") else []
    expected = _theory(point)
    rows = [row(name, q, expected[q], [r[q] for r in records], judged) for q in quantities]
    remark = (
        f"{name}: {point.branch} from {at.start}, {point.samples} points, "
        f"missed wells {point.missed_wells:.2g}, "
        f"jump mass {s.jump_mass:.2g} +- {s.jump_mass_error:.1g}, replicon {s.replicon:.3g}, "
        f"leading eigenvalue {s.eigenvalues[0].real:.2f} +- {s.leading_error:.1g}"
    )
    return rows, remark, problems


def _cases(quick: bool) -> list[Case]:
    d, instances = (QUICK_D, QUICK_INSTANCES) if quick else (D, INSTANCES)
    return [
        {"name": name, "d": d, "seed": [61, k]}
        for name in (QUICK if quick else POINTS)
        for k in range(instances)
    ]


def _verdict(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    rows, remarks, problems = [], [], []
    for case, found in groups(cases, records, ("name",)):
        new_rows, remark, new_problems = _judge(case["name"], found)
        rows += new_rows
        remarks.append(remark)
        problems += new_problems
    return Verdict(rows, problems, remarks)


STUDY = Study(
    name="general",
    title="The general model against finite dimension",
    text="More tokens, higher ranks, other covariances, positions and mechanisms; L-BFGS.",
    cases=_cases,
    measure=_measure,
    judge=_verdict,
    sources=(
        _measure,
        _numbers,
        _softmax,
        _random_stochastic,
        _two_covariances,
        _power_law,
        _causal,
        _linear,
        _sigmoid,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate what is not recorded yet, and compare; 0 if all that is judged agrees."""
    parser = argparse.ArgumentParser(prog="python -m validation.general", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*POINTS, []], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--adopt", action="store_true", help="keep records that come out the same again"
    )
    parser.add_argument("--results", type=Path, default=None)
    options = parser.parse_args(argv)
    d, instances = (QUICK_D, QUICK_INSTANCES) if options.quick else (D, INSTANCES)
    names = options.names or list(QUICK if options.quick else POINTS)
    directory = options.results or (RESULTS / "quick" if options.quick else RESULTS)
    directory.mkdir(parents=True, exist_ok=True)
    records = Records(directory / "general.json", STUDY, adopt=options.adopt)
    rows, remarks, problems = [], [], []
    for name in names:
        cases: list[Case] = [{"name": name, "d": d, "seed": [61, k]} for k in range(instances)]
        missing = [case for case in cases if records.get(case) is None]
        with ThreadPoolExecutor(max(options.jobs, 1)) as pool:
            for case, record in zip(missing, pool.map(_measure, missing), strict=True):
                records.add(case, record)
        found = [record for case in cases if (record := records.get(case)) is not None]
        new_rows, remark, new_problems = _judge(name, found)
        rows += new_rows
        remarks.append(remark)
        problems += new_problems
        print(f"\n{remark}\n{table(new_rows)}", flush=True)
    problems += [
        f"{r.where}: {r.quantity}: z = {r.z:.2f}" for r in rows if r.judged and not r.agrees
    ]
    for problem in problems:
        print(f"FAILED  {problem}")
    text = "\n".join(
        [
            "# The general model against finite dimension",
            "",
            "Written by `python -m validation.general`; do not edit. L-BFGS, bias-free tasks of",
            f"dimension {d}; z in combined standard errors. Rows are judged where the jump mass is",
            f"at most {CLEAR_JUMP_MASS} and the replicon below 1, else shown.",
            "",
            "```text",
            table(rows),
            "```",
            "",
            *(f"* {remark}" for remark in remarks),
            *(f"* FAILED {problem}" for problem in problems),
            "",
        ]
    )
    with replacing(directory / "GENERAL.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 1 if problems or not any(r.judged for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
