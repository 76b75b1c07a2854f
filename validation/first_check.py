"""One point of the theory against L-BFGS at finite d: the smallest check that could fail.

Run ``python -m validation.first_check``.  Independent tasks are drawn, each is minimised from one
informed start, and the means of the overlaps and losses are compared with the fixed point of the
state evolution, in standard errors.  The two sides share the definition of the model and nothing
else.  The 1/d bias of the losses is removed by formula (docs/theory.md, section 7); nothing is
fitted.

The overlaps and the test error keep biases of order 1/d, below the noise of a dozen instances at
d = 1000.  On the positional branch q comes out several per cent low where the prox jumps
(docs/theory.md, section 7): with enough instances that start fails here, and it should.

Exit code 0: every |z| is at most 4 and everything converged.  1: not so.  2: bad input.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from scipy.stats import t as student_t
from tqdm import tqdm

import gamp_theory
from gamp_theory.empirical.measure import (
    mean_and_stderr,
    test_error_bias,
    train_loss_bias,
    z_score,
)
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train

__all__ = ["Z_LIMIT", "Comparison", "compare", "main", "simulate", "theory_values"]

Z_LIMIT = 4.0

# The overlap that a start breaks; the other one vanishes in the limit, and at finite d its
# absolute value is a floor of order 1/sqrt(d), which is no test of anything.
_OVERLAP = {"semantic": "theta", "positional": "m"}


@dataclass(frozen=True)
class Comparison:
    """One quantity, theory against simulation.

    Attributes
    ----------
    name : str
        ``q``, ``m``, ``theta``, ``train_loss`` or ``test_error``.
    theory, theory_error : float
        Value at d = infinity and its numerical error bar.
    simulation, stderr : float
        Mean over instances with the bias removed, and its standard error.
    bias : float
        The mean 1/d bias that was subtracted; 0 for overlaps, whose bias is not known.
    z : float
        ``(simulation - theory)`` in combined standard errors.
    p_value : float
        Two-sided probability of a larger |z| under Student's t with instances - 1 degrees of
        freedom.
    """

    name: str
    theory: float
    theory_error: float
    simulation: float
    stderr: float
    bias: float
    z: float
    p_value: float


def theory_values(
    model: gamp_theory.AttentionModel, alpha: float, lam: float, start: str
) -> dict[str, tuple[float, float]]:
    """Value and error bar of each quantity at the fixed point that `start` leads to."""
    point = gamp_theory.solve(model, alpha, lam, start=start)
    values = {"q": (point.overlaps.q, point.errors.q)}
    name = _OVERLAP[start]
    values[name] = (getattr(point.overlaps, name), getattr(point.errors, name))
    values["train_loss"] = (point.train_loss, point.errors.train_loss)
    values["test_error"] = (point.test_error, point.errors.test_error)
    return values


def simulate(
    model: gamp_theory.AttentionModel,
    d: int,
    alpha: float,
    lam: float,
    start: str,
    seed: Sequence[int],
    test_samples: int = 20_000,
) -> dict:
    """One instance: draw, train, test; overlaps signed, losses as measured beside their bias."""
    task = draw_task(model, d, alpha, lam, seed)
    student = train(task, start)
    fresh = task.test_error(student.Q, samples=test_samples)
    return {
        "seed": list(seed),
        "q": student.q,
        "m": student.m,
        "theta": student.theta,
        "train_loss": student.train_loss,
        "train_loss_bias": train_loss_bias(task.position_square(student.Q), task.alpha, d),
        "test_error": fresh.value,
        "test_error_stderr": fresh.stderr,
        "test_error_bias": test_error_bias(fresh.position_square, d),
        "iterations": student.iterations,
        "gradient_norm": student.gradient_norm,
        "status": str(student.status),
        "message": student.message,
    }


def compare(
    theory: Mapping[str, tuple[float, float]], instances: Sequence[Mapping]
) -> list[Comparison]:
    """Each quantity of `theory` against the mean of the instances, less its bias.

    `m` and `theta` enter by absolute value: their signs are a symmetry.
    """
    rows = []
    for name, (value, error) in theory.items():
        biases = [instance.get(f"{name}_bias", 0.0) for instance in instances]
        signed = name not in ("m", "theta")
        measured = [i[name] if signed else abs(i[name]) for i in instances]
        sample = mean_and_stderr(x - bias for x, bias in zip(measured, biases, strict=True))
        z = z_score(sample.mean, sample.stderr, value, error)
        rows.append(
            Comparison(
                name=name,
                theory=value,
                theory_error=error,
                simulation=sample.mean,
                stderr=sample.stderr,
                bias=mean_and_stderr(biases).mean,
                z=z,
                p_value=2 * float(student_t.sf(abs(z), sample.instances - 1)),
            )
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; the return value is the exit code."""
    options = _parser().parse_args(argv)
    began = time.perf_counter()
    try:
        _check(options)
        model = gamp_theory.AttentionModel.mixture(omega=options.omega, sigma=options.sigma)
        n = round(options.alpha * options.d)
        # The theory is asked for the ratio that is drawn, which rounding may have moved.
        theory = theory_values(model, n / options.d, options.lam, options.start)

        def instance(number: int) -> dict:
            seed = (options.seed, number)
            return simulate(model, options.d, options.alpha, options.lam, options.start, seed)

        # Threads, not processes: the time goes into NumPy calls that release the lock, and the
        # numbers do not depend on how many there are.
        with ThreadPoolExecutor(options.jobs) as pool:
            work = pool.map(instance, range(options.instances))
            instances = list(tqdm(work, total=options.instances, desc="instances"))
    except ValueError as error:
        print(f"first_check: {error}", file=sys.stderr)
        return 2
    except gamp_theory.ConvergenceError as error:
        print(f"first_check: the theory did not converge: {error}", file=sys.stderr)
        return 1

    rows = compare(theory, instances)
    unfinished = [i["seed"] for i in instances if i["status"] != "converged"]
    outside = [row.name for row in rows if not abs(row.z) <= Z_LIMIT]  # NaN counts as outside
    if unfinished:
        status = "not_converged"
        message = f"{len(unfinished)} of {len(instances)} instances did not converge: {unfinished}"
    elif outside:
        status, message = "disagree", f"|z| > {Z_LIMIT:g} for {', '.join(outside)}"
    else:
        status, message = "agree", f"every |z| is at most {Z_LIMIT:g}"
    report = {
        "d": options.d,
        "n": n,
        "alpha": n / options.d,
        "omega": model.omega,
        "sigma": model.sigma,
        "lam": options.lam,
        "start": options.start,
        "seed": options.seed,
        "comparison": {row.name: asdict(row) for row in rows},
        "degrees_of_freedom": len(instances) - 1,
        "z_limit": Z_LIMIT,
        "instances": instances,
        "seconds": time.perf_counter() - began,
        "status": status,
        "message": message,
    }
    print(json.dumps(_finite(report), indent=1) if options.json else _table(report, rows))
    return 0 if status == "agree" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m validation.first_check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--d", type=int, default=1000, help="embedding dimension")
    parser.add_argument("--alpha", type=float, default=1.5, help="sample ratio n/d")
    parser.add_argument("--omega", type=float, default=0.3, help="positional part of the target")
    parser.add_argument("--sigma", type=float, default=0.5, help="token standard deviation")
    parser.add_argument("--lam", type=float, default=0.01, help="ridge")
    parser.add_argument("--start", choices=sorted(_OVERLAP, reverse=True), default="semantic")
    parser.add_argument("--instances", type=int, default=12, help="independent tasks, 2 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="instances at a time")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _check(options: argparse.Namespace) -> None:
    """What no later call would refuse before work is done."""
    for name, least in (("d", 2), ("instances", 2), ("jobs", 1), ("seed", 0)):
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not (math.isfinite(options.alpha) and options.alpha > 0):
        raise ValueError(f"alpha must be positive and finite, got {options.alpha!r}")


def _table(report: Mapping, rows: Sequence[Comparison]) -> str:
    lines = [
        f"L-BFGS from the {report['start']} start: d = {report['d']}, n = {report['n']}, "
        f"{len(report['instances'])} instances, alpha = {report['alpha']:g}, "
        f"omega = {report['omega']:g}, sigma = {report['sigma']:g}, lam = {report['lam']:g}",
        f"{'':<11} {'theory':>11} {'error':>8}  {'simulation':>11} {'stderr':>8}"
        f"  {'1/d bias':>9} {'z':>6} {'p':>6}",
    ]
    lines += [
        f"{row.name:<11} {row.theory:>11.6g} {row.theory_error:>8.1e}  {row.simulation:>11.6g}"
        f" {row.stderr:>8.1e}  {row.bias:>9.2e} {row.z:>6.2f} {row.p_value:>6.3f}"
        for row in rows
    ]
    dof = report["degrees_of_freedom"]
    chance = 2 * float(student_t.sf(report["z_limit"], dof))
    lines += [
        "The bias has been subtracted from the simulation. z is in combined standard errors and",
        f"follows Student's t with {dof} degrees of freedom: by chance |z| > {report['z_limit']:g}"
        f" has probability {chance:.1g} for each line.",
        f"{report['status']}: {report['message']} ({report['seconds']:.1f} s)",
    ]
    return "\n".join(lines)


def _finite(value):
    """`value` with non-finite floats replaced by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    sys.exit(main())
