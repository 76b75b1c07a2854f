"""Results for people: numbers with their error bars, aligned tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gamp_theory.records import OVERLAPS

__all__ = ["concise", "number_cell", "quantity_cell", "stability_cell", "table"]


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


def quantity_cell(record: Mapping[str, Any], name: str) -> str:
    """A quantity of the record of a point, with its error bar."""
    part, error = record, record["error"]
    if name in OVERLAPS:
        part, error = record["overlaps"], error["overlaps"]
    return concise(part[name], error[name])


def number_cell(value: float | None, digits: int = 3) -> str:
    """A number that has no error bar; ``-`` where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def stability_cell(record: Mapping[str, Any], name: str) -> str:
    """An entry of the ``stability`` of the record of a point."""
    if record["stability"] is None:
        return "-"
    value = record["stability"][name]
    if name == "stable":
        return "yes" if value else "no"
    return number_cell(value)
