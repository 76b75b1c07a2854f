"""``demo``: the phase transition at omega = 0.3, for someone who has just arrived.

Follows three branches along alpha, finds where the training losses of two of them cross, says in
words what that means, and leaves a figure and a labelled dataset behind.
"""

from __future__ import annotations

import argparse
import bisect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import Commands, add_command
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import concise, table
from gamp_theory.cli.threads import follow_branches, single_blas_thread
from gamp_theory.files import replacing
from gamp_theory.records import KNOWN, settled, transition_record

if TYPE_CHECKING:
    import xarray

    from gamp_theory.model import AttentionModel
    from gamp_theory.result import FixedPoint
    from gamp_theory.transition_result import Transition

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {}

# 0.1, 0.15, ..., 1.6, 1.7, ..., 2: nothing happens at the end that needs small steps.
ALPHAS = tuple(round(0.05 * k, 2) for k in (*range(2, 33), 34, 36, 38, 40))
SHOWN = (0.25, 0.5, 0.7, 0.8, 1.0, 1.2, 1.3, 1.5, 1.8, 2.0)  # rows of the table
LAM = 0.01
#: By start.  The uninformed branch is unstable and there for comparison, and costs most.
BRANCH_TOL = {"uninformed": 1e-3, "positional": 5e-5, "semantic": 5e-5}
STARTS = tuple(BRANCH_TOL)
TRANSITION_TOL = 1e-6
JOBS = 2


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "demo",
        "The phase transition at omega = 0.3. Computes the branches for alpha from 0.1 to 2, "
        "prints what happens, and writes transition.png and transition.nc; takes one or two "
        "minutes.",
        writes_document=False,
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        default="demo",
        help="directory of the two files, made if need be (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Compute the story and write ``transition.png`` and ``transition.nc``."""
    single_blas_thread()
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"out must be a directory that can be made, got {out}: {error}") from None
    with progress(len(STARTS) * len(ALPHAS) + 2, "fixed points") as advance:
        return _run(out, advance)


def _run(out: Path, advance: Callable[..., object]) -> Answer:
    from gamp_theory.datasets import transition_dataset
    from gamp_theory.model import AttentionModel

    began = time.perf_counter()
    model = AttentionModel.mixture()
    # Downwards: where there is enough data both informed branches are there to be followed.
    # What a start leaves its branch for is followed on its own.
    followed, complete = follow_branches(
        model,
        ALPHAS[::-1],
        LAM,
        STARTS,
        tol=BRANCH_TOL,
        until_left=True,
        advance=advance,
        jobs=JOBS,
    )
    if not complete:
        raise KeyboardInterrupt
    points = {start: followed[start][::-1] for start in STARTS}
    transitions = _transitions(model, points, advance)
    dataset = transition_dataset(model, points, transitions)
    dataset.attrs |= {"transition_tol": TRANSITION_TOL, "command": "gamp-theory demo"}
    files = {"figure": out / "transition.png", "data": out / "transition.nc"}
    _write(dataset, files)

    flat = [point for start in STARTS for point in points[start]]
    done = all(map(settled, flat)) and all(map(settled, transitions.values()))
    seconds = time.perf_counter() - began
    document: dict[str, Any] = {
        name: transition_record(transition, model, LAM) for name, transition in transitions.items()
    }
    document |= {
        "linear_error": float(dataset["linear_error"]),
        "points": len(flat),
        "unsettled": [
            {"start": p.start, "alpha": p.alpha, "status": p.status.token, "message": p.message}
            for p in flat
            if not settled(p)
        ],
        "files": [str(path) for path in files.values()],
        "seconds": seconds,
        "status": "converged" if done else "incomplete",
        "message": "Everything converged." if done else "Not everything converged.",
    }
    text = "\n".join(
        [_story(dataset, points, transitions), *_unsettled(document), _closing(files, seconds)]
    )
    return Answer(document, text, SUCCESS if done else UNSETTLED)


def _transitions(
    model: AttentionModel,
    points: Mapping[str, Sequence[FixedPoint]],
    advance: Callable[..., object],
) -> dict[str, Transition]:
    """Both thresholds, side by side, each between the neighbours where the branches cross."""
    from gamp_theory.transitions import find_transition

    def find(kind: str) -> Transition:
        span = _crossing(points, kind)
        found = find_transition(model, kind, alpha=span, lam=LAM, tol=TRANSITION_TOL)
        advance()
        return found

    kinds = ("alpha_c", "alpha_l")
    with ThreadPoolExecutor(JOBS) as pool:
        return dict(zip(kinds, pool.map(find, kinds), strict=True))


def _crossing(points: Mapping[str, Sequence[FixedPoint]], kind: str) -> tuple[float, float]:
    """The first pair of neighbours between which the difference that `kind` is about changes sign.

    The whole range if there is none: then it is searched, at length.
    """
    before: tuple[float, float] | None = None
    for alpha in sorted({point.alpha for branch in points.values() for point in branch}):
        here = [point for branch in points.values() for point in branch if point.alpha == alpha]
        there = [p for p in here if p.status.token in KNOWN and p.branch == p.start]
        difference = math.nan
        if kind == "alpha_c":
            loss = {point.start: point.train_loss for point in there}
            difference = loss.get("semantic", math.nan) - loss.get("positional", math.nan)
        elif there:
            lowest = min(there, key=lambda point: point.train_loss)
            difference = lowest.test_error - lowest.linear_error
        if before is not None and before[1] * difference <= 0:
            return before[0], alpha
        before = alpha, difference
    return ALPHAS[0], ALPHAS[-1]


def _write(dataset: xarray.Dataset, files: Mapping[str, Path]) -> None:
    from gamp_theory import plotting
    from gamp_theory.netcdf import save

    save(dataset, files["data"])
    with plotting.figure() as drawn, replacing(files["figure"]) as temporary:
        plotting.plot_transition(dataset, drawn.subplots(1, 3, sharex=True))
        plotting.save(drawn, temporary)


# ---------------------------------------------------------------------------------- in words


def _story(
    dataset: xarray.Dataset,
    points: Mapping[str, Sequence[FixedPoint]],
    transitions: Mapping[str, Transition],
) -> str:
    model = points[STARTS[0]][0].model
    lines = [
        f"An attention layer learns from n = alpha d sentences (omega = {model.omega:g}, "
        f"sigma = {model.sigma:g}, lam = {LAM:g}).",
        "Its teacher looks at what the words mean, and to a part omega at where they stand.",
        "The student can imitate either: a semantic solution (theta > 0, m = 0) or a positional",
        "one (m > 0, theta = 0). Training prefers the lower training loss:",
        "",
        _story_table(dataset, points),
        "",
    ]
    alpha_c, alpha_l = transitions["alpha_c"], transitions["alpha_l"]
    if math.isfinite(alpha_c.value):
        lines += [f"alpha_c = {concise(alpha_c.value, alpha_c.error)}"]
        lines += [f"    {sentence}" for sentence in _jump(dataset, alpha_c.value)]
    else:
        lines += [f"alpha_c: {alpha_c.message}"]
    linear = float(dataset["linear_error"])
    if math.isfinite(alpha_l.value):
        lines += [
            f"alpha_l = {concise(alpha_l.value, alpha_l.error)}",
            "    from here on attention generalises better than the best linear layer, whose test",
            f"    error is {linear:.9g}.",
        ]
    else:
        lines += [f"alpha_l: {alpha_l.message}"]
    return "\n".join(lines)


def _story_table(dataset: xarray.Dataset, points: Mapping[str, Sequence[FixedPoint]]) -> str:
    rows = [["alpha", "semantic loss", "positional loss", "lower", "its test error"]]
    for alpha in SHOWN:
        here = dataset.sel(alpha=alpha, method="nearest")
        rows.append(
            [
                f"{float(here['alpha']):.2f}",
                *(_loss_cell(here, branch) for branch in ("semantic", "positional")),
                str(here["lowest_branch"].values) or "-",
                concise(float(here["lowest_test_error"]), float(here["lowest_test_error_error"])),
            ]
        )
    return table(rows, left=0)


def _loss_cell(here: xarray.Dataset, branch: str) -> str:
    """The training loss of a branch, or that it is not there."""
    part = here.sel(branch=branch)
    status = str(part["status"].values)
    if status not in KNOWN:
        return "-" if status == "not_followed" else status
    if str(part["reached"].values) != branch:
        return f"({part['reached'].values})"
    return concise(float(part["train_loss"]), float(part["train_loss_error"]))


def _jump(dataset: xarray.Dataset, alpha_c: float) -> list[str]:
    """What happens to the lowest branch at alpha_c."""
    alphas = dataset["alpha"].values.tolist()
    right = min(max(bisect.bisect_left(alphas, alpha_c), 1), len(alphas) - 1)
    before, after = (dataset.isel(alpha=i) for i in (right - 1, right))
    names = [str(side["lowest_branch"].values) for side in (before, after)]
    errors = [float(side["lowest_test_error"]) for side in (before, after)]
    return [
        f"the lower loss changes hands, from the {names[0]} to the {names[1]} solution: a first-",
        f"order transition. The test error jumps, from {errors[0]:.3g} (alpha = "
        f"{float(before['alpha']):g}) to {errors[1]:.3g} (alpha = {float(after['alpha']):g}).",
    ]


def _unsettled(document: Mapping[str, Any]) -> list[str]:
    return [
        f"not converged: {p['start']}, alpha = {p['alpha']:g}: {p['status']}. {p['message']}"
        for p in document["unsettled"]
    ]


def _closing(files: Mapping[str, Path], seconds: float) -> str:
    return (
        "Digits in brackets are error bars, in units of the last digit.\n"
        f"Wrote {' and '.join(str(path) for path in files.values())} in {seconds:.0f} s."
    )
