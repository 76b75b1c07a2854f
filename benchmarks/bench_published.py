"""The published way of solving these equations, replayed, against this package.

Run ``python -m benchmarks.bench_published``.  What is replayed, at omega = 0.3, alpha = 1.25, is
said in `validation.published_scheme`.  The truth is this package at a tolerance of 1e-8.
"""

from __future__ import annotations

import time
import warnings

import numpy as np

from gamp_theory import AttentionModel, Overlaps, solve
from validation.published_scheme import scheme_solve

ALPHA, LAM = 1.25, 0.01
NAMES = ("q", "m", "V", "theta")


def main() -> None:
    """Both branches, both schemes."""
    model = AttentionModel.mixture()
    print(f"\nalpha={ALPHA:g}, omega={model.omega:g}, sigma={model.sigma:g}, lam={LAM:g}; (errors)")
    for start in ("semantic", "positional"):
        true = solve(model, ALPHA, LAM, start, tol=1e-8, with_stability=False, on_failure="return")
        exact = np.append(true.overlaps.as_array(), true.train_loss)
        began = time.perf_counter()
        ours = solve(model, ALPHA, LAM, start, with_stability=False)
        seconds = time.perf_counter() - began
        first = Overlaps(q=0.9 * exact[0], m=0.9 * exact[1], V=exact[2], theta=0.9 * exact[3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            x, loss, maps = scheme_solve(model, first.as_array(), ALPHA, LAM)
            theirs = time.perf_counter() - began
        print(f"\n{start} (truth: {true.overlaps}, train_loss={true.train_loss:.9g})")
        _line(
            "this package",
            ours.iterations,
            seconds,
            [*ours.overlaps.as_array(), ours.train_loss],
            exact,
        )
        _line("published", maps, theirs, [*x, loss], exact)
        print(f"  published / this package: {theirs / seconds:.0f} times the time")


def _line(name: str, maps: int, seconds: float, values: list[float], exact: np.ndarray) -> None:
    parts = [
        f"{label}={value:.7g} ({abs(value / e - 1):.0e})"
        for label, value, e in zip((*NAMES, "eps_t"), values, exact, strict=True)
        if e
    ]
    print(f"  {name:<13}{maps:4d} maps {seconds:8.2f} s  " + "  ".join(parts))


def test_published(capsys):
    """For ``make bench``: prints, and passes whatever the clock says."""
    with capsys.disabled():
        main()
