"""The studies, one after the other: simulate what is missing, solve, compare, report."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gamp_theory.files import replacing
from validation import (
    convergence,
    crossing,
    curve,
    descent,
    dynamics,
    fixed_points,
    grid,
    parameters,
    random_starts,
    response,
    restarts,
    scaling,
    small_alpha,
)
from validation.records import Records, provenance
from validation.report import aligned, report, table
from validation.study import Study, Verdict

__all__ = ["RESULTS", "STUDIES", "document", "failures", "main", "run"]

STUDIES = {
    module.STUDY.name: module.STUDY
    for module in (
        curve,
        grid,
        parameters,
        scaling,
        dynamics,
        convergence,
        fixed_points,
        crossing,
        random_starts,
        response,
        restarts,
        descent,
        small_alpha,
    )
}
RESULTS = Path(__file__).parent / "results"


def run(
    study: Study, quick: bool, directory: Path, jobs: int, fresh: bool, adopt: bool = False
) -> Verdict:
    """Simulate what `directory` does not hold yet, and judge.

    Threads, not processes: the time goes into NumPy and kernels that release the lock, and no
    number depends on how many there are.
    """
    cases = study.cases(quick)
    records = Records(directory / f"{study.name}.json", study, fresh, adopt)
    waiting = [case for case in cases if records.get(case) is None]
    with (
        tqdm(total=len(cases), initial=len(cases) - len(waiting), desc=study.name) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        work = {pool.submit(study.measure, case): case for case in waiting}
        try:
            for future in as_completed(work):
                records.add(work[future], future.result())
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # What was computed is judged as it is read back, so that a second run says the same.
    return study.judge(cases, [records.get(case) or {} for case in cases])


def document(verdicts: dict[str, Verdict], quick: bool) -> dict[str, Any]:
    """Everything as one JSON document."""
    failed = [name for name, verdict in verdicts.items() if failures(verdict)]
    judged = sum(row.judged for verdict in verdicts.values() for row in verdict.rows)
    return {
        "quick": quick,
        "provenance": provenance(),
        "studies": {
            name: {
                "rows": [
                    {
                        **row._asdict(),
                        "where": str(row.where),
                        "z": row.z,
                        "z_limit": row.limit,
                        "agrees": row.agrees,
                    }
                    for row in verdict.rows
                ],
                "problems": failures(verdict),
                "notes": verdict.notes,
                "status": "disagree" if failures(verdict) else "agree",
            }
            for name, verdict in verdicts.items()
        },
        "status": "disagree" if failed else "agree",
        "message": (
            f"{', '.join(failed)}: theory and simulation disagree"
            if failed
            else f"theory and simulation agree in all {judged} rows that are judged"
        ),
    }


def failures(verdict: Verdict) -> list[str]:
    """Why a study fails: its problems, the rows outside their limits, or nothing to judge."""
    outside = [
        f"{row.where}: {row.quantity}: z = {row.z:.2f}, limit {row.limit:.2f}"
        for row in verdict.rows
        if row.judged and not row.agrees
    ]
    empty = [] if any(row.judged for row in verdict.rows) else ["no row was judged"]
    return [*verdict.problems, *outside, *empty]


def main(argv: Sequence[str] | None = None) -> int:
    """Run studies; the return value is the exit code: 0 agree, 1 not so, 2 bad input."""
    options = _parser().parse_args(argv)
    if options.jobs < 1:
        print(f"validation: jobs must be at least 1, got {options.jobs}", file=sys.stderr)
        return 2
    directory = options.results
    if directory is None:
        directory = RESULTS / "quick" if options.quick else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    try:
        for name in options.studies or STUDIES:
            verdicts[name] = run(
                STUDIES[name],
                options.quick,
                directory,
                options.jobs,
                options.fresh,
                options.adopt,
            )
            if not options.json:
                print(f"\n{STUDIES[name].title}\n\n{table(verdicts[name].rows)}\n")
                for extra in verdicts[name].tables:
                    print(f"{extra.title}\n\n{aligned(extra.head, extra.lines)}\n")
                for problem in failures(verdicts[name]):
                    print(f"FAILED  {problem}")
    except KeyboardInterrupt:
        print("validation: interrupted; what is finished is kept", file=sys.stderr)
        return 130
    found = document(verdicts, options.quick)
    if not options.studies:  # a report is of all of them
        full = options.results is None and not options.quick
        _write(verdicts, found, directory, (RESULTS.parent if full else directory) / "REPORT.md")
    print(json.dumps(_finite(found), indent=1) if options.json else found["message"])
    return 0 if found["status"] == "agree" else 1


def _write(
    verdicts: dict[str, Verdict], found: dict[str, Any], directory: Path, path: Path
) -> None:
    """A figure for each study, in `directory`, and the report that shows them."""
    from validation.figures import write  # matplotlib, which is slow to import

    figures = {}
    for name, verdict in verdicts.items():
        with replacing(directory / f"{name}.png") as temporary:
            write(verdict.rows, temporary)
        figures[name] = (directory / f"{name}.png").relative_to(path.parent).as_posix()
    with replacing(path) as temporary:
        text = report([STUDIES[name] for name in verdicts], verdicts, found, figures)
        temporary.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m validation", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "studies",
        nargs="*",
        choices=[*STUDIES, []],
        metavar="STUDY",
        help=f"any of {', '.join(STUDIES)} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="small d, few points: a minute or so")
    parser.add_argument("--jobs", type=int, default=2, help="instances at a time (default: 2)")
    parser.add_argument(
        "--results",
        type=Path,
        help="where records, figures and REPORT.md go (default: validation/results, and the "
        "report above it)",
    )
    parser.add_argument("--fresh", action="store_true", help="simulate anew what is recorded")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="keep records of other code if an instance of each point comes out the same again",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
