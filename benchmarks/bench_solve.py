"""A fixed point: maps and seconds when warm; `solve` as a process; the import.

Run ``python -m benchmarks.bench_solve``.  Wall-clock seconds suffer from other work on the
machine, so processor seconds stand beside them.
"""

from __future__ import annotations

import subprocess
import sys
import time

from gamp_theory import AttentionModel, solve

RUNS = 3
POINTS = (
    (1.25, "semantic"),
    (1.25, "positional"),
    (1.0, "semantic"),
    (1.0, "positional"),
    (2.0, "semantic"),
    (2.0, "positional"),
)


def warm(alpha: float, start: str, with_stability: bool = False):
    """The fixed point, and the least wall-clock and processor seconds of a few solves."""
    model = AttentionModel.mixture()
    wall = cpu = float("inf")
    solve(model, alpha, 0.01, start, with_stability=with_stability, on_failure="return")
    for _ in range(RUNS):
        began, began_cpu = time.perf_counter(), time.process_time()
        point = solve(model, alpha, 0.01, start, with_stability=with_stability, on_failure="return")
        wall = min(wall, time.perf_counter() - began)
        cpu = min(cpu, time.process_time() - began_cpu)
    return point, wall, cpu


def process(*arguments: str) -> tuple[float, float]:
    """Least wall-clock and processor seconds of a fresh interpreter."""
    import resource

    wall = cpu = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        wall = min(wall, time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu = min(cpu, used)
    return wall, cpu


def main() -> None:
    """Print the tables."""
    print("\nfixed points at the default tolerance, warm, from a named start")
    print(
        f"  {'alpha':>5} {'start':<11}{'status':<11}{'maps':>5}"
        f"{'with J, bars':>13}{'wall s':>8}{'CPU s':>8}{'with stability':>15}"
    )
    for alpha, start in POINTS:
        point, wall, cpu = warm(alpha, start)
        _, _, full = warm(alpha, start, with_stability=True)
        print(
            f"  {alpha:5g} {start:<11}{point.status.token:<11}{point.iterations:5d}"
            f"{point.map_evaluations:13d}{wall:8.3f}{cpu:8.3f}{full:13.2f} s"
        )
    print("\nfresh processes, least of a few")
    for name, arguments in (
        ("import gamp_theory", ("-c", "import gamp_theory")),
        ("from gamp_theory import solve", ("-c", "from gamp_theory import solve")),
        (
            "gamp-theory solve --alpha 1.25",
            ("-m", "gamp_theory", "solve", "--alpha", "1.25", "--json"),
        ),
    ):
        wall, cpu = process(*arguments)
        print(f"  {name:<32}{wall:7.2f} s wall{cpu:7.2f} s CPU")


def test_solve(capsys):
    """For ``make bench``: prints, and passes whatever the clock says."""
    with capsys.disabled():
        main()


if __name__ == "__main__":
    main()
