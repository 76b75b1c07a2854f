"""``python -m validation.reproduce [STUDY...]``: record the students that only figures are made of.

The figures themselves are made by ``gamp-theory reproduce``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from validation import plane, rank_two
from validation.report import aligned, table
from validation.runner import RESULTS, failures, run

__all__ = ["STUDIES", "main"]

STUDIES = {module.STUDY.name: module.STUDY for module in (rank_two, plane)}


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate what is not recorded, and compare; 0 if all that is judged agrees, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.reproduce", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], metavar="STUDY")
    parser.add_argument("--quick", action="store_true", help="small d, few points, kept apart")
    parser.add_argument("--jobs", type=int, default=2, help="instances at a time (default: 2)")
    parser.add_argument(
        "--adopt", action="store_true", help="keep records that come out the same again"
    )
    options = parser.parse_args(argv)
    directory = RESULTS / "quick" if options.quick else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.studies or STUDIES:
        study = STUDIES[name]
        verdict = run(study, options.quick, directory, options.jobs, False, options.adopt)
        print(f"\n{study.title}\n\n{table(verdict.rows)}\n")
        for extra in verdict.tables:
            print(f"{extra.title}\n\n{aligned(extra.head, extra.lines)}\n")
        for problem in failures(verdict):
            print(f"FAILED  {problem}")
        failed |= bool(failures(verdict))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
