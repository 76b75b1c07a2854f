"""REPORT.md, and the tables in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from validation.study import Row, Study, Verdict

__all__ = ["aligned", "report", "table"]

HEAD = ("where", "quantity", "theory", "error", "simulation", "stderr", "N", "z", "limit", "")


def cells(row: Row) -> list[str]:
    """A row as text."""
    verdict = ("agrees" if row.agrees else "FAILS") if row.judged else "shown"
    return [
        str(row.where),
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
    return aligned(HEAD, list(map(cells, rows)), 2)


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells in columns as wide as they need, the first `left` of them flush left."""
    widths = [max(len(line[j]) for line in (head, *lines)) for j in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if j < left else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *lines)
    )


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = ["| " + " | ".join(line) + " |" for line in (head, *lines)]
    return [rows[0], "|" + "---|" * len(head), *rows[1:]]


def report(
    studies: Sequence[Study],
    verdicts: Mapping[str, Verdict],
    found: Mapping[str, Any],
    figures: Mapping[str, str],
) -> str:
    """The report, in Markdown; it holds no time, so that the same records give the same file.

    `figures` are paths from the report, by study.
    """
    versions = ", ".join(f"{name} {value}" for name, value in found["provenance"].items())
    lines = [
        "# Theory against finite dimension",
        "",
        "Written by `python -m validation" + (" --quick" if found["quick"] else "") + "`; do not "
        "edit. Every simulated instance is recorded with its seed and parameters, d included.",
        "",
        f"**{found['status']}**: {found['message']}.",
        "",
        "z is in combined standard errors; its limit is the quantile of Student's t that is as "
        "improbable as 4 standard deviations. Rows are judged where the fixed point is stable and "
        "its jump mass is at most .01; others are shown (docs/validation.md).",
        "",
        f"Versions: {versions}.",
    ]
    for study in studies:
        verdict, entry = verdicts[study.name], found["studies"][study.name]
        lines += ["", f"## {study.title} (`{study.name}`): {entry['status']}", "", study.text, ""]
        lines += [f"* **{problem}**" for problem in entry["problems"]]
        lines += [f"* {note}" for note in verdict.notes]
        for extra in verdict.tables:
            lines += ["", f"{extra.title}:", "", *_markdown(extra.head, extra.lines)]
        lines += ["", *_markdown(HEAD, list(map(cells, verdict.rows)))]
        if study.name in figures:
            lines += ["", f"![{study.title}]({figures[study.name]})"]
    return "\n".join(lines) + "\n"
