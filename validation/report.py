"""REPORT.md, and the tables in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from validation.study import Row, Study, Verdict

__all__ = ["report", "table"]

HEAD = ("where", "quantity", "theory", "error", "simulation", "stderr", "N", "z", "limit", "")


def cells(row: Row) -> list[str]:
    """A row as text."""
    verdict = ("agrees" if row.agrees else "FAILS") if row.judged else "shown"
    return [
        row.where,
        row.quantity,
        f"{row.theory:.6g}",
        f"{row.theory_error:.1g}",
        f"{row.simulation:.5g}",
        f"{row.stderr:.2g}",
        str(row.instances),
        f"{row.z:.2f}",
        f"{row.limit:.2f}",
        verdict,
    ]


def table(rows: Sequence[Row]) -> str:
    """Aligned columns, for a terminal."""
    lines = [list(HEAD), *map(cells, rows)]
    widths = [max(len(line[j]) for line in lines) for j in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if j < 2 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def report(
    studies: Sequence[Study], verdicts: Mapping[str, Verdict], found: Mapping[str, Any]
) -> str:
    """The report, in Markdown; it holds no time, so that the same records give the same file."""
    versions = ", ".join(f"{name} {value}" for name, value in found["provenance"].items())
    lines = [
        "# Theory against finite dimension",
        "",
        "Written by `python -m validation" + (" --quick" if found["quick"] else "") + "`; do not "
        "edit. Simulations are recorded beside this file with their seeds and parameters.",
        "",
        f"**{found['status']}**: {found['message']}.",
        "",
        "z is in combined standard errors; its limit is the quantile of Student's t that is as "
        "improbable as 4 standard deviations. Rows are judged where the jump mass of the fixed "
        "point is at most .01; others are shown (docs/validation.md).",
        "",
        f"Versions: {versions}.",
    ]
    for study in studies:
        verdict, entry = verdicts[study.name], found["studies"][study.name]
        lines += ["", f"## {study.title} (`{study.name}`): {entry['status']}", "", study.text, ""]
        lines += [f"* **{problem}**" for problem in entry["problems"]]
        lines += [f"* {note}" for note in verdict.notes]
        lines += ["", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in verdict.rows]
    return "\n".join(lines) + "\n"
