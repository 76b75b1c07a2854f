"""Numbers with error bars, and tables, as people read them."""

import math

import numpy as np
import pytest

from gamp_theory.cli.text import concise, table


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.081624751, 2.1e-7, "0.0816248(3)"),  # .0000002.1 and the rounding of the value
        (18.3211, 9.6e-5, "18.3211(1)"),
        (1.25154, 0.0, "1.25154"),
        (0.0, 0.0, "0"),
        (123.4, 17.0, "120(30)"),
        (2.5e-9, 1e-11, "2.50(1)e-9"),
        (0.0, 3e-9, "0(3)e-9"),
        (math.nan, 1e-3, "-"),
        (None, None, "-"),
        (0.25, math.nan, "0.25(?)"),
        (1.0, 1e-30, "1.000000000000000(1)"),
    ],
)
def test_concise(value, error, expected):
    assert concise(value, error) == expected


def test_concise_covers_what_was_reported():
    rng = np.random.default_rng(0)
    for _ in range(500):
        value = rng.normal() * 10 ** rng.uniform(-3, 3)
        error = 10 ** rng.uniform(-12, 0) * abs(value)
        text = concise(value, error)
        digits, rest = text.split("(")
        bar, exponent = rest.split(")")
        scale = 10.0 ** int(exponent[1:] or 0)
        places = len(digits.split(".")[1]) if "." in digits else 0
        half = int(bar) * 10.0**-places * scale
        slack = 1e-5 * half
        assert abs(float(digits) * scale - value) + error <= half + slack, (value, error, text)
        assert half <= 3 * error + 1e-14 * abs(value) + slack, (value, error, text)


def test_a_table_is_aligned():
    rows = [["name", "x", "longer"], ["a", "12.5", "3"]]
    assert table(rows) == "name     x  longer\na     12.5       3"
    assert table(rows, left=2) == "name  x     longer\na     12.5       3"
