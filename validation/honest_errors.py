"""Whether the error bars tell the truth, over random parameters.

Run ``python -m validation.honest_errors``.  Each set of parameters is solved at the default
tolerance.  Then the averages at the reported fixed point are evaluated once more, far finer and,
where it is possible, by the other deterministic rule: slices where the plane rule has solved, and
a fine plane rule where the slices have (finer slices where the plane rule is unsound).  The
defect ``F_fine(x) - x``, carried through ``(1 - J)^-1``, is the true error of the overlaps; the
change of the mean envelope is that of the training loss, since the free entropy is stationary.
An independent randomised Sobol evaluation, sharing no kernel, judges the same point.

Every set is drawn from a generator of its own, seeded with (seed, number): one set can be
repeated alone with ``--only``.

The criteria are printed with the summary: at least 85 % of the sets solved, at least 95 % of the
error bars honest (every true error below its bar, within what the reference itself leaves open),
and a median of bar over true error below 30.  Exit code 0 if they hold, 1 if not.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.pair import PairChannel, PairRule
from gamp_theory.channel.plane import PlaneUnusable, outer_folds, plane_averages, plane_rule
from gamp_theory.channel.slices import slice_rule
from gamp_theory.check import check_point
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.observables import free_entropy, test_error
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.stability import growth_rates, map_jacobian
from gamp_theory.state_evolution import FixedPoint, solve

__all__ = ["ParameterSet", "draw", "judge", "main", "reference", "true_errors"]

RESULTS = Path(__file__).with_name("results") / "honest_errors.csv"
QUANTITIES = ("q", "m", "V", "theta", "train_loss", "test_error")
STANDARD = ((0.6, 0.4), (0.4, 0.6))
SECOND = ((0.3, 0.7), (0.8, 0.2))
LEAST_SOLVED, LEAST_HONEST, LARGEST_MEDIAN = 0.85, 0.95, 30.0

#: The reference: slices of this tolerance where the plane rule solved; a plane rule of this level
#: where slices did, if it is sound; else slices of this tolerance.
SLICES_FOR_PLANE = 3e-8
PLANE_LEVEL = 6
SLICES_FOR_SLICES = 5e-8
#: Size of the independent Sobol check.
SOBOL = {"samples": 2**12, "scrambles": 16}
#: What the fine plane rule may leave undone and still be a reference for slices.
PLANE_SOUND = 1e-8
#: Largest error, relative, that it may estimate of itself.
PLANE_CERTAIN = 1e-7


@dataclass(frozen=True)
class ParameterSet:
    """One random problem."""

    number: int
    sigma: float
    lam: float
    omega: float
    alpha: float
    A: tuple[tuple[float, float], tuple[float, float]]
    start: str

    @property
    def model(self) -> AttentionModel:
        """The model of these parameters."""
        return AttentionModel.mixture(omega=self.omega, sigma=self.sigma, A=self.A)

    def __str__(self) -> str:
        target = ";".join(",".join(f"{x:.4f}" for x in row) for row in self.A)
        return (
            f"#{self.number} {self.start} sigma={self.sigma:.4f} lam={self.lam:.3e} "
            f"omega={self.omega:.4f} alpha={self.alpha:.4f} target={target}"
        )


def draw(number: int, seed: int) -> ParameterSet:
    """The parameters of set `number`; starts alternate and targets take turns."""
    rng = np.random.default_rng([seed, number])
    sigma = rng.uniform(0.3, 1.0)
    lam = math.exp(rng.uniform(math.log(1e-3), math.log(1e-1)))
    omega = rng.uniform(0.0, 1.0)
    alpha = math.exp(rng.uniform(math.log(0.05), math.log(4.0)))
    first, second = rng.uniform(0.0, 1.0, size=2)
    random = ((first, 1 - first), (second, 1 - second))
    return ParameterSet(
        number=number,
        sigma=float(sigma),
        lam=lam,
        omega=float(omega),
        alpha=alpha,
        A=(STANDARD, SECOND, random)[number % 3],
        start=("semantic", "positional")[number % 2],
    )


def reference(
    model: AttentionModel, overlaps: Overlaps, solved_by: str
) -> tuple[str, ChannelAverages, ChannelAverages]:
    """A far finer evaluation: its name, the averages, and its own estimate of their errors."""
    if solved_by == "plane":
        rule = PairChannel(model).slices(overlaps, SLICES_FOR_PLANE)
        name = f"slices {SLICES_FOR_PLANE:g}"
    else:
        found = _sound_plane(model, overlaps)
        if found is None:
            nodes = slice_rule(model, overlaps, SLICES_FOR_SLICES)
            rule = PairRule(model, overlaps, SLICES_FOR_SLICES, nodes, even=True)
            name = f"slices {SLICES_FOR_SLICES:g}"
        else:
            rule = found
            name = f"plane {PLANE_LEVEL}"
    averages = rule.averages(overlaps)
    return name, averages, rule.error(overlaps, averages)


def _sound_plane(model: AttentionModel, overlaps: Overlaps) -> PairRule | None:
    """A fine plane rule, if nothing that it sees of itself speaks against it."""
    rule = _fine_plane(model, overlaps)
    if rule is None:
        return None
    averages = rule.averages(overlaps)
    left_open = abs(rule.error(overlaps, averages).as_array())
    fine = np.all(left_open <= PLANE_CERTAIN * np.abs(averages.as_array()))
    return rule if fine else None


def _fine_plane(model: AttentionModel, overlaps: Overlaps) -> PairRule | None:
    try:
        nodes = plane_rule(model, overlaps, PLANE_LEVEL)
        _, seen = plane_averages(model, overlaps, nodes)
        folds = outer_folds(model, overlaps, plane_rule(model, overlaps, 1))
    except PlaneUnusable:
        return None
    if max(abs(seen.mass), seen.hole_mass, seen.truncation, folds) > PLANE_SOUND or seen.failed:
        return None
    return PairRule(model, overlaps, PLANE_SOUND, nodes, even=True)


def true_errors(point: FixedPoint) -> tuple[str, dict[str, float], dict[str, float]]:
    """Name of the reference, errors of a fixed point against it, and what it leaves open itself.

    Differences "true minus reported", to first order; keys are :data:`QUANTITIES`.
    """
    assert point.overlaps is not None
    if point.overlaps.q == 0:
        return _true_errors_at_zero(point)
    assert point.conjugates is not None
    model, alpha, lam, overlaps = point.model, point.alpha, point.lam, point.overlaps
    x = overlaps.as_array()
    name, fine, fine_error = reference(model, overlaps, point.rule)

    rule = PairChannel(model).rule(overlaps, 1e-5, checked=False)

    def prior(averages: ChannelAverages) -> np.ndarray:
        return prior_map(model.rho, averages.conjugates(alpha).as_array(), lam)

    jacobian = map_jacobian(
        lambda z: prior(rule.averages(Overlaps.from_array(z))),
        x,
        model.rho,
        growth_rates(model.rho, rule.averages(overlaps), alpha, lam),
    )
    inverse = np.linalg.inv(np.eye(4) - jacobian.matrix)

    def losses(averages: ChannelAverages, shift: np.ndarray) -> tuple[float, float]:
        envelope = averages.envelope(overlaps.V)
        loss = -free_entropy(model, point.conjugates, envelope, overlaps, alpha, lam)
        return loss, test_error(model, Overlaps.from_array(x + shift))

    shift = inverse @ np.where(x != 0, prior(fine) - x, 0.0)
    loss, test = losses(fine, shift)
    errors = [*shift, loss - point.train_loss, test - point.test_error]
    worse = ChannelAverages.from_array(fine.as_array() + fine_error.as_array())
    other_shift = inverse @ np.where(x != 0, prior(worse) - x, 0.0)
    other_loss, other_test = losses(worse, other_shift)
    open_ = [*abs(other_shift - shift), abs(other_loss - loss), abs(other_test - test)]
    return (
        name,
        dict(zip(QUANTITIES, map(float, errors), strict=True)),
        dict(zip(QUANTITIES, map(float, open_), strict=True)),
    )


def _true_errors_at_zero(point: FixedPoint) -> tuple[str, dict[str, float], dict[str, float]]:
    """At Q = 0: ``V = sigma**2/(lam + sigma**2 V_hat)`` by a plain rule over y."""
    model = point.model
    rho = model.rho
    nodes = 0.05 * np.arange(-180, 181)  # trapezoid rule for the standard normal
    weights = 0.05 * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    u, w = np.meshgrid(nodes, nodes, indexing="ij")
    y = model.sigma * math.sqrt(0.5) * np.stack([w + u, w - u], axis=-1)
    t = (1 - model.omega) * softmax_contrasts(y) + model.omega * np.array(model.target.contrasts)
    weight = np.outer(weights, weights)
    total = t.sum(axis=-1)
    root = np.hypot(t[..., 0] - t[..., 1], total)
    # eigenvalues of the Hessian of the loss at h = 0, t_1 - t_2 out of the diagonal
    low, high = (-rho / 4 * (total + sign * root) for sign in (1, -1))
    assert point.overlaps is not None
    V = point.overlaps.V
    for _ in range(500):
        V_hat = point.alpha * float(np.sum(weight * (low / (1 + V * low) + high / (1 + V * high))))
        V += 0.7 * (rho / (point.lam + rho * V_hat) - V)
    loss = rho / 4 * float(np.sum(weight * (t**2).sum(axis=-1)))
    values = {"q": 0.0, "m": 0.0, "V": V - point.overlaps.V, "theta": 0.0}
    values |= {"train_loss": point.alpha * loss - point.train_loss}
    values |= {"test_error": loss - point.test_error}
    # rounding is all that the trapezoid rule leaves open
    rounding = {"V": 1e-13 * V, "train_loss": 1e-14, "test_error": 1e-14}
    return "trapezoid", values, {name: rounding.get(name, 0.0) for name in QUANTITIES}


def _parameters(parameters: ParameterSet, seed: int) -> dict[str, Any]:
    return {
        "number": parameters.number,
        "seed": seed,
        "sigma": parameters.sigma,
        "lam": parameters.lam,
        "omega": parameters.omega,
        "alpha": parameters.alpha,
        "A11": parameters.A[0][0],
        "A21": parameters.A[1][0],
        "start": parameters.start,
    }


def judge(parameters: ParameterSet, seed: int) -> Iterator[dict[str, Any]]:
    """A row of the table, first as the solve leaves it, then with the true errors."""
    row = _parameters(parameters, seed)
    began_cpu = time.process_time()
    point = solve(
        parameters.model,
        parameters.alpha,
        parameters.lam,
        parameters.start,
        with_stability=False,
        on_failure="return",
    )
    row |= {
        "status": point.status.token,
        "branch": point.branch,
        "rule": point.rule,
        "maps": point.iterations,
        "seconds": round(point.seconds, 2),
        "cpu_seconds": round(time.process_time() - began_cpu, 2),
    }
    yield row
    if point.overlaps is None or not math.isfinite(point.train_loss):
        return
    began = time.perf_counter()
    name, errors, left_open = true_errors(point)
    row["reference"] = name
    ratios = []
    honest = certain = True
    for key in QUANTITIES:
        value = getattr(point.overlaps, key, None)
        value = getattr(point, key, None) if value is None else value
        bar, error, open_ = getattr(point.errors, key), abs(errors[key]), left_open[key]
        row |= {key: value, f"{key}_reported": bar, f"{key}_true": error, f"{key}_open": open_}
        if bar == 0 and error == 0:
            continue
        honest &= error <= bar + open_
        certain &= open_ < max(bar, error)
        ratios.append(bar / max(error, 1e-300))
    row |= {"least_ratio": min(ratios), "honest": honest, "reference_is_finer": certain}
    row["reference_seconds"] = round(time.perf_counter() - began, 2)
    check = check_point(point, seed=seed, **SOBOL)
    row["sobol_agrees"] = all(difference.agrees for difference in check.values())
    row["sobol_worst"] = max(
        (
            abs(d.difference) / math.hypot(d.standard_error, d.error)
            for d in check.values()
            if d.difference
        ),
        default=0.0,
    )
    yield row


def _work(sender: Connection, parameters: ParameterSet, seed: int, limit: float) -> None:
    """In a process of its own: send the row as often as there is more to say.

    The timer counts processor time and ends the process, kernels included; it starts anew for
    the reference.  A limit of 0 is none.
    """
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    for row in judge(parameters, seed):
        sender.send(row)
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * limit)
    sender.close()


def judge_apart(parameters: ParameterSet, seed: int, limit: float) -> dict[str, Any]:
    """The row of :func:`judge`; a solve that exceeds `limit` is ``time_limit``, not solved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gamp_theory.state_evolution", "gamp_theory.check"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, parameters, seed, limit))
    process.start()
    sender.close()
    row: dict[str, Any] = _parameters(parameters, seed) | {"status": "time_limit"}
    row |= {"branch": "", "rule": "", "maps": "", "seconds": "", "cpu_seconds": limit}
    try:
        while True:
            row = receiver.recv()
            print(f"    #{parameters.number} {describe(row)}", flush=True)
    except EOFError:
        process.join()
    return row


def _ratios(row: dict[str, Any]) -> list[float]:
    pairs = [(row[f"{key}_reported"], row[f"{key}_true"]) for key in QUANTITIES]
    return [bar / max(error, 1e-300) for bar, error in pairs if bar > 0 and error > 0]


def summary(rows: Sequence[dict[str, Any]]) -> tuple[str, bool]:
    """What the table says, and whether it is what was promised."""
    solved = [row for row in rows if row["status"] == "converged"]
    barred = [row for row in rows if row.get("honest", "") != ""]
    honest = [row for row in barred if row["honest"]]
    judged = [row for row in barred if row["rule"] != "origin"]
    ratios = [ratio for row in judged for ratio in _ratios(row)]
    median = float(np.median(ratios)) if ratios else math.nan
    by_set = float(np.median([row["least_ratio"] for row in judged])) if judged else math.nan
    agree = sum(row["sobol_agrees"] for row in barred)
    fraction = len(solved) / len(rows)
    truth = len(honest) / max(len(barred), 1)
    lines = [
        f"solved at the default tolerance   {len(solved)}/{len(rows)} = {fraction:.1%}"
        f"   (at least {LEAST_SOLVED:.0%})",
        f"error bars that bound the truth   {len(honest)}/{len(barred)} = {truth:.1%}"
        f"   (at least {LEAST_HONEST:.0%})",
        f"median of bar over true error     {median:.3g}   (below {LARGEST_MEDIAN:g}); "
        f"of the least ratio of a set {by_set:.3g}",
        f"independent Sobol check agrees    {agree}/{len(barred)}",
        f"reference finer than the bars     "
        f"{sum(row['reference_is_finer'] for row in barred)}/{len(barred)}",
    ]
    if solved:
        seconds = [row["cpu_seconds"] for row in solved]
        lines.append(
            f"CPU seconds a solve: median {np.median(seconds):.2f}, largest {max(seconds):.1f}"
        )
    kept = fraction >= LEAST_SOLVED and truth >= LEAST_HONEST and median < LARGEST_MEDIAN
    return "\n".join(lines), bool(kept)


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The table as CSV, floats to 7 digits; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(name, "")) for name in columns])


def read(path: Path) -> list[dict[str, Any]]:
    """Inverse of :func:`write`."""
    with path.open(newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _cell(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    return f"{value:.7g}" if isinstance(value, float) else value


def describe(row: dict[str, Any]) -> str:
    """One line of progress."""
    head = f"{row['status']}, {row['branch']}, {row['rule']}, {row['cpu_seconds']} s CPU"
    if row.get("honest", "") == "":
        return head
    word = "honest" if row["honest"] else "TOO SMALL"
    sobol = "agrees" if row["sobol_agrees"] else "DISAGREES"
    return (
        f"{head}; bars {word}, least ratio {row['least_ratio']:.2g} against {row['reference']} "
        f"({row['reference_seconds']} s); Sobol {sobol} ({row['sobol_worst']:.1f})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the sets, write the table, print the summary."""
    parser = argparse.ArgumentParser(prog="python -m validation.honest_errors", description=__doc__)
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=0.0, help="CPU seconds of a solve; 0: none")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single sets; no table")
    parser.add_argument("--resume", action="store_true", help="keep the finished sets of the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    numbers = options.only or list(range(options.sets))
    began = time.perf_counter()
    rows = read(options.out) if options.resume and options.out.exists() else []
    rows = [row for row in rows if row["status"] != "time_limit"]
    numbers = [n for n in numbers if n not in {row["number"] for row in rows}]
    with ThreadPoolExecutor(options.jobs) as pool:  # each thread waits for a process
        sets = {
            pool.submit(judge_apart, draw(n, options.seed), options.seed, options.limit): n
            for n in numbers
        }
        for done in as_completed(sets):
            number = sets[done]
            rows.append(done.result())
            rows.sort(key=lambda row: row["number"])
            if options.resume or not options.only:  # what is finished survives an interruption
                write(rows, options.out)
            print(
                f"[{len(rows)}, {time.perf_counter() - began:.0f} s] "
                f"{draw(number, options.seed)}\n    {describe(rows[_index(rows, number)])}",
                flush=True,
            )
    text, kept = summary(rows)
    print(text)
    return 0 if kept else 1


def _index(rows: Sequence[dict[str, Any]], number: int) -> int:
    return next(i for i, row in enumerate(rows) if row["number"] == number)


if __name__ == "__main__":
    sys.exit(main())
