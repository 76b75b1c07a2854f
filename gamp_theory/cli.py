"""The command line: ``gamp-theory``, also ``python -m gamp_theory``.

Programs outside this project parse it, so commands, options and JSON keys only ever grow
(docs/design.md, "Command line").  A command turns its options into a :class:`Answer`; :func:`main`
alone writes to the outside.  What is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

from gamp_theory import __version__

if TYPE_CHECKING:
    from gamp_theory.model import AttentionModel
    from gamp_theory.state_evolution import FixedPoint
    from gamp_theory.transitions import Transition

__all__ = [
    "Answer",
    "concise",
    "follow_branches",
    "main",
    "point_record",
    "replacing",
    "settled",
    "table",
    "transition_record",
    "versions",
]

STARTS = ("semantic", "positional", "uninformed", "zero")
KINDS = ("alpha_c", "alpha_l")
LATER_KINDS = tuple(
    f"{what}_{branch}"
    for what in ("onset", "spinodal", "instability")
    for branch in ("semantic", "positional")
)
OPTIMIZERS = ("lbfgs",)
LATER_OPTIMIZERS = ("gd", "adam")
DEFAULT_TARGET = "0.6,0.4;0.4,0.6"
DEFAULT_POINTS = 40  # of a range without :N
OVERLAPS = ("q", "m", "V", "theta")
LOSSES = ("train_loss", "train_loss_variational", "test_error")

#: Statuses that answer what was asked: there is a number, or there is none to be had.
SETTLED = ("converged", "does_not_exist")

SUCCESS, UNSETTLED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Answer(NamedTuple):
    """What a command found.

    Attributes
    ----------
    document : dict
        What ``--json`` prints; may hold NaN, which is written as null.
    text : str
        The same for people.
    exit_code : int
        0 if all that was asked for is settled, 1 if not, 130 after Ctrl-C.
    """

    document: dict[str, Any]
    text: str
    exit_code: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments  # holds even where the rest can not be understood
    out: Path | None = None
    command = next((word for word in arguments if word in _EMPTY), "")
    try:
        options = _parser().parse_args(_joined(arguments))
        if options.command != "demo" and options.out is not None:
            out = _writable(options.out)
        answer = options.run(options)
    except (_BadInput, ValueError) as error:
        print(f"gamp-theory: error: {error}", file=sys.stderr)
        out = None  # what stands there is better than nothing
        answer = _nothing(command, "bad_input", str(error), BAD_INPUT)
    except KeyboardInterrupt:
        print("gamp-theory: interrupted", file=sys.stderr)
        out = None
        answer = _nothing(command, "interrupted", "Interrupted by the user.", INTERRUPTED)
    if as_json:
        print(_json(answer.document))
    elif answer.text:
        print(answer.text)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(_json(answer.document) + "\n", encoding="utf-8")
    return answer.exit_code


# ------------------------------------------------------------------------------- commands


def _solve(options: argparse.Namespace) -> Answer:
    """``solve``: the fixed points at one set of parameters."""
    from gamp_theory.state_evolution import solve

    model = _model(options)
    points = [
        solve(model, options.alpha, options.lam, start=start, tol=options.tol, on_failure="return")
        for start in _starts(options.branch)
    ]
    records = [point_record(point) for point in points]
    agree = True
    if options.check:
        agree = _add_checks(points, records)
    done = agree and all(settled(point) for point in points)
    return Answer(
        {"points": records}, _points_text(points, records), SUCCESS if done else UNSETTLED
    )


def _add_checks(points: Sequence[FixedPoint], records: Sequence[dict]) -> bool:
    """Recompute each converged point by the independent rule; whether all of them agree."""
    from gamp_theory.check import check_point

    agree = True
    for point, record in zip(points, records, strict=True):
        if point.status.token != "converged":
            record["check"] = None  # nothing to recompute
            continue
        differences = check_point(point)
        record["check"] = {key: found.difference for key, found in differences.items()}
        record["check_standard_error"] = {
            key: found.standard_error for key, found in differences.items()
        }
        record["check_agrees"] = all(bool(found.agrees) for found in differences.values())
        agree = agree and record["check_agrees"]
    return agree


def _curve(options: argparse.Namespace) -> Answer:
    """``curve``: fixed points along alpha or omega, by continuation."""
    along = options.along
    fixed = "omega" if along == "alpha" else "alpha"
    span, constant = getattr(options, along), getattr(options, fixed)
    if not isinstance(span, _Range):
        raise _BadInput(f"{along} must be a range LO:HI[:N] along {along}, got {_shown(span)}")
    if isinstance(constant, _Range) or constant is None:
        raise _BadInput(f"{fixed} must be one number along {along}, got {_shown(constant)}")
    values = span.values()
    for end in (values[0], values[-1]):
        _check_experiment(options, **{along: end, fixed: constant})
    model = _model(options, omega=values[0] if along == "omega" else options.omega)
    starts = _starts(options.branch)
    with _progress(len(starts) * len(values), "points") as advance:
        points, complete = follow_branches(
            model,
            values,
            options.lam,
            starts,
            along=along,
            alpha=options.alpha if along == "omega" else None,
            tol=options.tol,
            advance=advance,
        )
    found = [point for start in starts for point in points[start]]
    document: dict[str, Any] = {"points": [point_record(point) for point in found]}
    text = _curve_text(found, along)
    if not complete:
        document |= {"status": "interrupted", "message": "Interrupted by the user."}
        print(
            f"gamp-theory: interrupted: {len(found)} of {len(starts) * len(values)} points done",
            file=sys.stderr,
        )
        return Answer(document, text, INTERRUPTED)
    return Answer(document, text, SUCCESS if all(map(settled, found)) else UNSETTLED)


def _threshold(options: argparse.Namespace) -> Answer:
    """``threshold``: where along alpha something happens."""
    if options.kind in LATER_KINDS:
        raise _BadInput(
            f"threshold kind must be one of {', '.join(KINDS)} in this version ({__version__}), "
            f"which does not compute {options.kind!r} yet"
        )
    span = options.alpha
    if not isinstance(span, _Range) or span.count is not None:
        raise _BadInput(
            f"alpha must be a range LO:HI to search in (without :N), got {_shown(span)}"
        )
    if not span.low < span.high:
        raise _BadInput(f"alpha must be a range LO:HI with LO < HI, got {_shown(span)}")
    _check_experiment(options, alpha=span.low, omega=options.omega)
    model = _model(options)

    from gamp_theory.transitions import find_transition

    began = time.perf_counter()
    with _progress(None, "values of alpha") as advance:
        transition = find_transition(
            model,
            options.kind,
            alpha=(span.low, span.high),
            lam=options.lam,
            tol=options.tol,
            progress=lambda _: advance(),
        )
    record = transition_record(transition, model, options.lam)
    record["seconds"] = time.perf_counter() - began
    return Answer(
        record,
        _transition_text(transition, record),
        SUCCESS if settled(transition) else UNSETTLED,
    )


def _simulate(options: argparse.Namespace) -> Answer:
    """``simulate``: training at finite d."""
    if options.optimizer in LATER_OPTIMIZERS:
        raise _BadInput(
            f"optimizer must be {' or '.join(OPTIMIZERS)} in this version ({__version__}), "
            f"got {options.optimizer!r}"
        )
    for name, least in (("instances", 1), ("seed", 0), ("jobs", 1)):
        if getattr(options, name) < least:
            raise _BadInput(f"{name} must be at least {least}, got {getattr(options, name)}")
    # Instances run side by side, where a BLAS with threads of its own only gets in their way:
    # measured 6 times slower on two busy cores.  It is read when NumPy is first imported, which
    # in this command is below; a value that the user has set is left alone.
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    model = _model(options)

    from gamp_theory.empirical.measure import mean_and_stderr, test_error_bias, train_loss_bias
    from gamp_theory.empirical.task import draw_task
    from gamp_theory.empirical.training import train

    def instance(number: int) -> dict[str, Any]:
        seed = (options.seed, number)
        task = draw_task(model, options.d, options.alpha, options.lam, seed)
        student = train(task, options.start, options.optimizer)
        fresh = task.test_error(student.Q)
        advance()
        return {
            "seed": list(seed),
            "m": student.m,
            "theta": student.theta,
            "q": student.q,
            "train_loss": student.train_loss,
            "train_loss_bias": train_loss_bias(task.position_square(student.Q), task.alpha, task.d),
            "test_error": fresh.value,
            "test_error_stderr": fresh.stderr,
            "test_error_bias": test_error_bias(fresh.position_square, task.d),
            "iterations": student.iterations,
            "gradient_norm": student.gradient_norm,
            "status": str(student.status),
            "message": student.message,
        }

    with _progress(options.instances, "instances") as advance:
        instances = _in_threads(instance, range(options.instances), options.jobs)
    mean, stderr = {}, {}
    for name in (*_MEASURED, "train_loss_bias", "test_error_bias"):
        values = [abs(i[name]) if name in ("m", "theta") else i[name] for i in instances]
        if len(values) > 1:
            mean[name], stderr[name], _ = mean_and_stderr(values)
        else:
            mean[name], stderr[name] = values[0], math.nan  # one instance has no error bar
    document = {
        "d": options.d,
        "n": round(options.alpha * options.d),
        "alpha": round(options.alpha * options.d) / options.d,
        **_parameters(model, options.lam),
        "start": options.start,
        "optimizer": options.optimizer,
        "instances": instances,
        "mean": mean,
        "stderr": stderr,
    }
    converged = all(i["status"] == "converged" for i in instances)
    return Answer(document, _simulate_text(document), SUCCESS if converged else UNSETTLED)


_MEASURED = ("m", "theta", "q", "train_loss", "test_error")


def _validate(options: argparse.Namespace) -> Answer:
    """``validate``: the study of the checkout that holds theory against simulation."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "validation" / "first_check.py").is_file():
        message = (
            "The validation studies belong to the source checkout and are not part of an installed "
            "package; run this command from a clone of the repository."
        )
        print(f"gamp-theory: {message}", file=sys.stderr)
        return Answer({"status": "not_available", "message": message}, "", UNSETTLED)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    import importlib
    import io

    # Its package sets the threads of the BLAS before NumPy is imported.
    first_check = importlib.import_module("validation.first_check")
    arguments = ["--json"] if options.json or options.out else []
    if options.quick:
        arguments += ["--d", "500", "--instances", "6"]
    # The options of the model that it knows, where they were given.
    for name in ("alpha", "omega", "sigma", "lam"):
        if getattr(options, name) is not None:
            arguments += [f"--{name}={getattr(options, name)!r}"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exit_code = first_check.main(arguments)
    text = printed.getvalue().rstrip("\n")
    if not arguments or arguments[0] != "--json":
        return Answer({}, text, exit_code)
    if not text:  # it has said on stderr why there is nothing
        status = "bad_input" if exit_code == BAD_INPUT else "failed"
        return Answer({"status": status, "message": "See standard error."}, "", exit_code)
    document = json.loads(text)
    return Answer(document, f"{document['status']}: {document['message']}", exit_code)


def _demo(options: argparse.Namespace) -> Answer:
    """``demo``: the transition at omega = 0.3, from nothing to figure and data."""
    out = Path("demo" if options.out is None else options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _BadInput(f"out must be a directory that can be made, got {out}: {error}") from None

    from gamp_theory.demo import run_demo

    with _progress(None, "fixed points") as advance:
        return run_demo(out, advance)


# ------------------------------------------------------------- computing, for more than one


class _Enough(Exception):
    """Raised in a worker that need not go on."""


def follow_branches(
    model: AttentionModel,
    values: Sequence[float],
    lam: float,
    starts: Sequence[str],
    *,
    along: str = "alpha",
    alpha: float | None = None,
    tol: float | Mapping[str, float] = 1e-6,
    until_left: bool = False,
    advance: Callable[..., object] = lambda steps=1: None,
    jobs: int = 2,
) -> tuple[dict[str, list[FixedPoint]], bool]:
    """Fixed points along a parameter from several starts, side by side in threads.

    Parameters
    ----------
    model : AttentionModel
        Its omega is replaced if `along` is ``"omega"``.
    values : sequence of float
        The parameter, in the order in which the branches are followed.
    lam : float
        Ridge.
    starts : sequence of str
        Names of starts.
    along : {"alpha", "omega"}
        Which parameter `values` are of.
    alpha : float, optional
        Sample ratio, if `along` is ``"omega"``.
    tol : float or mapping of str to float
        Accuracy promised for each point, of all starts or by start.
    until_left : bool
        Whether to end a branch with the first point that converged on another one.
    advance : callable
        Called after each point, from any thread; with the number of points left out, if any.
    jobs : int
        Branches at a time; the kernels release the interpreter's lock.

    Returns
    -------
    points : dict of str to list of FixedPoint
        By start, in the order of `values`.
    complete : bool
        False if Ctrl-C came first: then `points` holds what was finished.
    """
    from gamp_theory.branches import trace

    points: dict[str, list[FixedPoint]] = {start: [] for start in starts}
    stop = threading.Event()

    def follow(start: str) -> None:
        def finished(point: FixedPoint) -> None:
            points[start].append(point)
            advance()
            left = until_left and point.converged and point.branch != start
            if left or stop.is_set():
                raise _Enough

        own_tol = tol if isinstance(tol, float) else tol[start]
        with contextlib.suppress(_Enough):
            trace(
                model, values, lam, start, alpha=alpha, along=along, tol=own_tol, progress=finished
            )
        advance(len(values) - len(points[start]))

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(follow, start) for start in starts]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                return points, False
            raise
    return points, True


def _in_threads(function: Callable[[int], dict], numbers: Sequence[int], jobs: int) -> list[dict]:
    """``map`` with `jobs` threads; Ctrl-C drops what has not begun."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(function, number) for number in numbers]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def settled(result: FixedPoint | Transition) -> bool:
    """Whether a result answers what was asked, by a number or by "there is none"."""
    return result.status.token in SETTLED


def _check_experiment(options: argparse.Namespace, *, alpha: float, omega: float) -> None:
    """Refuse what a solve would refuse, before the first of many."""
    lam, tol = options.lam, options.tol
    if not (math.isfinite(alpha) and alpha > 0):
        raise _BadInput(f"alpha must be positive and finite, got {alpha!r}")
    if not (math.isfinite(omega) and 0 <= omega <= 1):
        raise _BadInput(f"omega must lie in [0, 1], got {omega!r}")
    if not (math.isfinite(lam) and lam >= 0):
        raise _BadInput(f"lam must be >= 0 and finite, got {lam!r}")
    if not 1e-9 <= tol <= 0.01:
        raise _BadInput(f"tol must be in [1e-9, 0.01], got {tol!r}")


# ---------------------------------------------------------------------- results as records


def point_record(point: FixedPoint) -> dict[str, Any]:
    """A fixed point as the JSON object of the command line.

    ``branch`` is where it ended, ``start`` where it began.  Eigenvalues are pairs
    ``[real, imaginary]``; ``theta`` is ``sigma**2 Q.Q*/d``, ``test_error`` is per token.
    """
    overlaps = {
        name: math.nan if point.overlaps is None else getattr(point.overlaps, name)
        for name in OVERLAPS
    }
    errors = {name: getattr(point.errors, name) for name in (*OVERLAPS, *LOSSES)}
    return {
        "branch": point.branch,
        "start": point.start,
        "alpha": point.alpha,
        **_parameters(point.model, point.lam),
        "overlaps": overlaps,
        **{name: getattr(point, name) for name in LOSSES},
        "linear_error": point.linear_error,
        "error": {
            "overlaps": {name: errors[name] for name in OVERLAPS},
            **{name: errors[name] for name in LOSSES},
        },
        "residual": point.residual,
        "iterations": point.iterations,
        "map_evaluations": point.map_evaluations,
        "seconds": point.seconds,
        "status": point.status.token,
        "message": point.message,
        "tol": point.tol,
        "rule": point.rule,
        "stability": _stability_record(point),
    }


def _stability_record(point: FixedPoint) -> dict[str, Any] | None:
    found = point.stability
    if found is None:
        return None
    return {
        "eigenvalues": [[complex(e).real, complex(e).imag] for e in found.eigenvalues],
        "spectral_radius": found.spectral_radius,
        "transverse": {name: found.transverse.get(name) for name in ("m", "theta")},
        "replicon": found.replicon,
        "replicon_error": found.replicon_error,
        "jump_mass": found.jump_mass,
        "stable": bool(found.stable),
    }


def transition_record(transition: Transition, model: AttentionModel, lam: float) -> dict[str, Any]:
    """A transition as the JSON object of the command line."""
    return {
        "kind": transition.kind,
        **_parameters(model, lam),
        "alpha": transition.value,
        "error": transition.error,
        "bracket": list(transition.bracket) if math.isfinite(transition.bracket[0]) else None,
        "status": transition.status.token,
        "message": transition.message,
        "others": [
            {
                "alpha": other.value,
                "error": other.error,
                "bracket": list(other.bracket),
                "status": other.status.token,
                "message": other.message,
            }
            for other in transition.others
        ],
    }


def versions() -> str:
    """The versions that a number depends on, for the provenance of a file."""
    import numba
    import numpy
    import scipy

    packages = (("numpy", numpy), ("scipy", scipy), ("numba", numba))
    return ", ".join(
        [
            f"gamp_theory {__version__}",
            f"python {platform.python_version()}",
            *(f"{name} {package.__version__}" for name, package in packages),
        ]
    )


def _parameters(model: AttentionModel, lam: float) -> dict[str, float]:
    return {"omega": model.omega, "sigma": model.sigma, "lam": lam}


# ---------------------------------------------------------------------- results for people


def concise(value: float | None, error: float | None) -> str:
    """A value with its error bar in units of the last digit: ``0.0816248(3)``.

    The error bar is rounded up, so that what is printed covers what was reported; ``-`` stands
    for no value and ``(?)`` for an unknown error.
    """
    if value is None or not math.isfinite(value):
        return "-"
    if error is None or not math.isfinite(error):
        return f"{value:.6g}(?)"
    if error <= 0:
        return f"{value:.10g}"
    size = max(abs(value), error)
    if size < 1e-4:  # "1.23(4)e-9", not a row of zeros
        exponent = math.floor(math.log10(size))
        return f"{concise(value / 10.0**exponent, error / 10.0**exponent)}e{exponent:d}"
    # No more digits than a double has.
    places = min(-math.floor(math.log10(error)), 15 - math.floor(math.log10(size)))
    for _ in range(2):
        unit = 10.0**-places
        rounded = round(value, places)
        # Less a rounding error of this very expression: 3 units are not 4.
        digit = max(1, math.ceil((error + abs(value - rounded)) / unit - 1e-6))
        if digit < 10:
            break
        places -= 1
    if places <= 0:
        return f"{rounded:.0f}({digit * 10**-places})"
    return f"{rounded:.{places}f}({digit})"


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns: the first `left` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _points_text(points: Sequence[FixedPoint], records: Sequence[Mapping[str, Any]]) -> str:
    """Quantities down, one column a fixed point."""
    rows = [
        ["start", *(point.start for point in points)],
        ["branch", *(point.branch or "-" for point in points)],
        ["status", *(point.status.token for point in points)],
    ]
    rows += [[name, *(_cell(record, name) for record in records)] for name in (*OVERLAPS, *LOSSES)]
    rows += [
        [name, *(_stability_cell(record, name) for record in records)]
        for name in ("stable", "spectral_radius", "jump_mass", "replicon")
    ]
    rows += [
        ["residual", *(_number_cell(point.residual) for point in points)],
        ["iterations", *(str(point.iterations) for point in points)],
        ["seconds", *(f"{point.seconds:.2f}" for point in points)],
    ]
    if any("check" in record for record in records):
        rows.append(["check", *(_check_cell(record) for record in records)])
    first = points[0]
    lines = [
        f"alpha = {first.alpha:g}, omega = {first.model.omega:g}, sigma = {first.model.sigma:g}, "
        f"lam = {first.lam:g}; test error of the linear baseline {first.linear_error:.9g}",
        "",
        table(rows),
    ]
    lines += [
        f"{point.start}: {point.message}"
        for point in points
        if point.status.token != "converged" or point.branch != point.start
    ]
    return "\n".join(lines)


def _curve_text(points: Sequence[FixedPoint], along: str) -> str:
    """One row a fixed point."""
    names = (*OVERLAPS, "train_loss", "test_error")
    rows = [["start", "branch", "status", along, *names, "stable"]]
    for point in points:
        record = point_record(point)
        rows.append(
            [
                point.start,
                point.branch or "-",
                point.status.token,
                f"{record[along]:.6g}",
                *(_cell(record, name) for name in names),
                _stability_cell(record, "stable"),
            ]
        )
    return table(rows, left=3)


def _transition_text(transition: Transition, record: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name} = {record[name]:g}" for name in ("omega", "sigma", "lam"))
    if not math.isfinite(transition.value):
        return f"{transition.kind} ({parameters}): {record['status']}. {transition.message}"
    low, high = transition.bracket
    lines = [
        f"{transition.kind} = {concise(transition.value, transition.error)} ({parameters}), "
        f"bracket [{low:.10g}, {high:.10g}], {record['status']}"
    ]
    if record["status"] != "converged":
        lines.append(transition.message)
    if transition.others:
        further = (concise(other.value, other.error) for other in transition.others)
        lines.append(f"further ones at alpha = {', '.join(further)}")
    return "\n".join(lines)


def _simulate_text(document: Mapping[str, Any]) -> str:
    rows = [["seed", *_MEASURED, "iterations", "status"]]
    rows += [
        [
            "/".join(map(str, instance["seed"])),
            *(f"{instance[name]:.6g}" for name in _MEASURED),
            str(instance["iterations"]),
            instance["status"],
        ]
        for instance in document["instances"]
    ]
    for name in ("mean", "stderr"):
        values = (document[name][key] for key in _MEASURED)
        rows.append([name, *(_number_cell(value, 6 if name == "mean" else 2) for value in values)])
        rows[-1] += ["", ""]
    return (
        f"{document['optimizer']} from the {document['start']} start: d = {document['d']}, "
        f"n = {document['n']}, alpha = {document['alpha']:g}, omega = {document['omega']:g}, "
        f"sigma = {document['sigma']:g}, lam = {document['lam']:g}\n\n"
        f"{table(rows)}\n\n"
        "Means of m and theta are over absolute values. Losses still contain their 1/d bias, about "
        f"{document['mean']['train_loss_bias']:.2g} (train_loss) and "
        f"{document['mean']['test_error_bias']:.2g} (test_error)."
    )


def _cell(record: Mapping[str, Any], name: str) -> str:
    part, error = record, record["error"]
    if name in OVERLAPS:
        part, error = record["overlaps"], error["overlaps"]
    return concise(part[name], error[name])


def _number_cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _stability_cell(record: Mapping[str, Any], name: str) -> str:
    if record["stability"] is None:
        return "-"
    value = record["stability"][name]
    if name == "stable":
        return "yes" if value else "no"
    return _number_cell(value)


def _check_cell(record: Mapping[str, Any]) -> str:
    if record["check"] is None:
        return "-"
    return "agrees" if record["check_agrees"] else "DISAGREES"


@contextlib.contextmanager
def _progress(total: int | None, unit: str) -> Iterator[Callable[..., object]]:
    """A progress bar on stderr; what is yielded advances it, from any thread."""
    from tqdm import tqdm

    stream: TextIO = sys.stderr
    # A log file is not a screen: there, a line every ten seconds is enough.
    interval = 0.1 if stream.isatty() else 10.0
    with tqdm(total=total, desc=unit, file=stream, leave=False, mininterval=interval) as bar:
        lock = threading.Lock()

        def advance(steps: int = 1, *, total: int | None = None) -> None:
            with lock:
                if total is not None:
                    bar.total = total
                bar.update(steps)

        yield advance


# ----------------------------------------------------------------------------------- output


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by None: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


#: What a document holds where nothing could be computed.
_EMPTY: dict[str, dict[str, Any]] = {
    "solve": {"points": []},
    "curve": {"points": []},
    "threshold": {"kind": None, "omega": None, "alpha": None, "bracket": None, "others": []},
    "simulate": {"instances": [], "mean": {}, "stderr": {}},
    "validate": {},
    "demo": {},
}


def _nothing(command: str, status: str, message: str, exit_code: int) -> Answer:
    document = {**_EMPTY.get(command, {}), "status": status, "message": message}
    return Answer(document, "", exit_code)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    A reader finds the old file or the new one, never half of one.
    """
    descriptor, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # what a plain open() would have given
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _writable(name: str) -> Path:
    """The path of an output file, refused before anything is computed for it."""
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise _BadInput(f"out must be a file in a directory that can be written to, got {name!r}")
    return path


# ------------------------------------------------------------------------------------ input


class _BadInput(Exception):
    """What was asked for can not be: exit code 2, nothing computed."""


class _Parser(argparse.ArgumentParser):
    """argparse, but what it refuses goes the way of all bad input."""

    def error(self, message: str) -> NoReturn:
        raise _BadInput(f"{message} (see {self.prog} --help)")


@dataclass(frozen=True)
class _Range:
    """``LO:HI[:N]``."""

    low: float
    high: float
    count: int | None

    def values(self) -> list[float]:
        """N points, ends included."""
        import numpy as np

        return np.linspace(self.low, self.high, self.count or DEFAULT_POINTS).tolist()


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def _number(text: str) -> float:
    """A decimal number; whether it is allowed is for what it is given to."""
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.25, got {text!r}")
    return float(text)


def _number_or_range(text: str) -> float | _Range:
    if ":" not in text:
        return _number(text)
    parts = text.split(":")
    if len(parts) in (2, 3) and all(_NUMBER.fullmatch(part) for part in parts[:2]):
        low, high = map(float, parts[:2])
        count = int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else None
        if (
            math.isfinite(low)
            and math.isfinite(high)
            and low != high
            and (len(parts) == 2 or (count is not None and count >= 2))
        ):
            return _Range(low, high, count)
    raise argparse.ArgumentTypeError(
        f"expected LO:HI or LO:HI:N with finite LO and HI that differ and N of at least 2, "
        f"got {text!r}"
    )


def _target(text: str) -> tuple[tuple[float, ...], ...]:
    """Rows between semicolons, entries between commas; numbers only, nothing is evaluated."""
    rows = [[entry.strip() for entry in row.split(",")] for row in text.split(";")]
    if not all(_NUMBER.fullmatch(entry) for row in rows for entry in row):
        raise argparse.ArgumentTypeError(
            f"expected rows of numbers such as {DEFAULT_TARGET!r}, got {text!r}"
        )
    return tuple(tuple(float(entry) for entry in row) for row in rows)


def _shown(value: float | _Range | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, _Range):
        return f"{value.low:g}:{value.high:g}" + (f":{value.count}" if value.count else "")
    return repr(value)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``--option -1:2`` made ``--option=-1:2``, which argparse can not tell."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and re.match(r"-[\d.in]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _starts(names: Sequence[str]) -> list[str]:
    """The starts asked for, each once; ``all`` for all of them."""
    return list(STARTS if "all" in names else dict.fromkeys(names))


def _model(options: argparse.Namespace, omega: float | None = None) -> AttentionModel:
    from gamp_theory.model import AttentionModel

    try:
        AttentionModel.mixture(A=options.target)
    except ValueError as error:
        raise _BadInput(f"--target: {error}") from None
    return AttentionModel.mixture(
        omega=options.omega if omega is None else omega, sigma=options.sigma, A=options.target
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gamp-theory",
        description="State evolution of a solvable attention model: fixed points, transitions, "
        "and their check at finite dimension.",
        epilog="Exit code: 0 if all that was asked for converged or was found not to exist, 1 if "
        "not, 2 for bad input (nothing is computed), 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gamp-theory {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    output = _Parser(add_help=False, allow_abbrev=False)
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document on standard output; numbers that are not finite are null",
    )
    file = _Parser(add_help=False, allow_abbrev=False)
    file.add_argument("--out", metavar="FILE", help="write the JSON document to FILE as well")

    def add(
        name: str, run: Callable[[argparse.Namespace], Answer], text: str, *, to_file: bool = True
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text.split(". ")[0].lower(),
            description=text,
            parents=[output, file] if to_file else [output],
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        return command

    command = add("solve", _solve, "Fixed points at one set of parameters. Each quantity comes "
                  "with an error bar, in brackets in units of its last digit.")  # fmt: skip
    _add_alpha(command)
    _add_model(command)
    _add_branch(command)
    _add_tol(command)
    command.add_argument(
        "--check",
        action="store_true",
        help="recompute with an independent rule (randomised quasi-Monte Carlo); exit code 1 if "
        "the difference is more than four times its error",
    )

    command = add("curve", _curve, "Fixed points along a range of alpha or omega. A branch is "
                  "followed from the first value of the range to the last, so 2:0.1 goes down. "
                  "After Ctrl-C the points that are finished are printed.")  # fmt: skip
    command.add_argument(
        "--along", choices=("alpha", "omega"), default="alpha", help="the parameter that varies "
        "(default: %(default)s)"
    )  # fmt: skip
    command.add_argument(
        "--alpha",
        type=_number_or_range,
        required=True,
        metavar="LO:HI[:N]",
        help=f"sample ratio n/d, positive: N values from LO to HI (N is {DEFAULT_POINTS} if left "
        "out); one number with --along omega",
    )
    _add_model(command, omega=_number_or_range)
    _add_branch(command)
    _add_tol(command)

    command = add("threshold", _threshold, "Where a transition takes place along alpha. alpha_c: "
                  "the training losses of the semantic and the positional branch are equal. "
                  "alpha_l: the test error of the branch with the lowest training loss equals that "
                  "of the best linear layer.")  # fmt: skip
    command.add_argument(
        "kind",
        choices=(*KINDS, *LATER_KINDS),
        metavar="KIND",
        help=f"{' or '.join(KINDS)} (later versions: {', '.join(LATER_KINDS)})",
    )
    command.add_argument(
        "--alpha",
        type=_number_or_range,
        default=_Range(0.01, 4.0, None),
        metavar="LO:HI",
        help="where to search, as a range of the sample ratio n/d (default: 0.01:4)",
    )
    _add_model(command)
    _add_tol(command)

    command = add("simulate", _simulate, "Train at finite dimension d. Independent instances of "
                  "the task are drawn and the exact risk is minimised from one start; overlaps are "
                  "signed, means of m and theta are over absolute values.")  # fmt: skip
    command.add_argument("--d", type=_integer, default=1000, help="embedding dimension, at least 2 "
                         "(default: %(default)s)")  # fmt: skip
    _add_alpha(command)
    _add_model(command)
    command.add_argument("--start", choices=("semantic", "positional", "random"),
                         default="semantic", help="weights to start from: the teacher, the "
                         "position vector, or random ones (default: %(default)s)")  # fmt: skip
    command.add_argument("--optimizer", choices=(*OPTIMIZERS, *LATER_OPTIMIZERS), default="lbfgs",
                         help=f"{', '.join(OPTIMIZERS)} (later versions: "
                         f"{', '.join(LATER_OPTIMIZERS)}; default: %(default)s)")  # fmt: skip
    command.add_argument("--instances", type=_integer, default=8, metavar="N", help="independent "
                         "tasks (default: %(default)s)")  # fmt: skip
    command.add_argument("--seed", type=_integer, default=0, help="instance i is drawn from the "
                         "seed (SEED, i) (default: %(default)s)")  # fmt: skip
    command.add_argument("--jobs", type=_integer, default=2, metavar="N", help="instances at a "
                         "time, which changes no number (default: %(default)s)")  # fmt: skip

    command = add("validate", _validate, "Hold the theory against simulation. Runs the study "
                  "validation.first_check of the source checkout: training at finite d, from the "
                  "semantic start, z-scores against the fixed point.")  # fmt: skip
    command.add_argument("--quick", action="store_true", help="d = 500 and 6 instances")
    for name, text in (
        ("alpha", "sample ratio n/d (default: 1.5)"),
        ("omega", "weight of the positional part of the target (default: 0.3)"),
        ("sigma", "standard deviation of the token entries (default: 0.5)"),
        ("lam", "ridge (default: 0.01)"),
    ):
        command.add_argument(f"--{name}", type=_number, help=text)

    command = add("demo", _demo, "The phase transition at omega = 0.3. Computes the branches for "
                  "alpha from 0.1 to 2, prints what happens, and writes transition.png and "
                  "transition.nc; takes one or two minutes.", to_file=False)  # fmt: skip
    command.add_argument("--out", metavar="DIR", default="demo", help="directory of the two files, "
                         "made if need be (default: %(default)s)")  # fmt: skip
    return parser


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _add_alpha(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alpha",
        type=_number,
        required=True,
        help="sample ratio n/d (samples per dimension), positive; required",
    )


def _add_model(
    command: argparse.ArgumentParser, omega: Callable[[str], float | _Range] = _number
) -> None:
    group = command.add_argument_group("model")
    group.add_argument(
        "--omega",
        type=omega,
        default=0.3,
        help="weight of the positional part of the target, in [0, 1]"
        + ("; LO:HI[:N] with --along omega" if omega is not _number else "")
        + " (default: %(default)s)",
    )
    group.add_argument(
        "--sigma",
        type=_number,
        default=0.5,
        help="standard deviation of the token entries, positive (default: %(default)s)",
    )
    group.add_argument(
        "--lam",
        type=_number,
        default=0.01,
        help="ridge, on a risk that is a sum over samples; not negative (default: %(default)s)",
    )
    group.add_argument(
        "--target",
        type=_target,
        default=DEFAULT_TARGET,
        metavar="A",
        help="positional attention of the target, rows between semicolons, each summing to 1 "
        "(default: '%(default)s')",
    )


def _add_branch(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--branch",
        nargs="+",
        choices=(*STARTS, "all"),
        default=["semantic"],
        metavar="START",
        help=f"where to start from: any of {', '.join(STARTS)}, or all; a solution that ends on "
        "another branch says so (default: semantic)",
    )


def _add_tol(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tol",
        type=_number,
        default=1e-6,
        help="relative accuracy promised for the answer (default: 1e-6)",
    )
