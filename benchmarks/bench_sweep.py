"""A sweep on one thread and on two, and one of 2,000 points, killed three times and not at all.

Run ``python -m benchmarks.bench_sweep [speed] [thousands] [killed]``; all three by default, some
twenty minutes.  Processor seconds stand beside wall-clock seconds, which suffer from other work on
the machine: two threads can not show what they are worth where two cores are not free.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gamp_theory import AttentionModel, load
from gamp_theory.sweep import sweep

POINTS = (
    *("--alpha", "2.5:0.5:25", "--omega", "0.05:0.4:8", "--lam", "0.04:0.2:5"),
    *("--branch", "semantic", "positional", "--tol", "1e-3"),
)
LINES = 8 * 5 * 2
SEED = 0


def speed() -> None:
    """One thread, two threads, and again: the second pair shows how far to trust the first."""
    model = AttentionModel.mixture()
    grid = {"omega": np.linspace(0.1, 0.4, 8), "lam": 0.02, "tol": 1e-4}
    sweep(model, alpha=2.0, **grid)  # compiles
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    for threads in (1, 2, 1, 2):
        began, began_cpu = time.perf_counter(), time.process_time()
        sweep(model, alpha=np.linspace(2.5, 1.5, 6), executor=threads, **grid)
        wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        print(f"  {threads} threads{wall:>8.1f} s wall{cpu:>8.1f} s CPU", flush=True)


def command(folder: Path) -> list[str]:
    """The sweep of 2,000 points."""
    arguments = [*POINTS, "--resume", "--out", str(folder)]
    return [sys.executable, "-m", "gamp_theory", "sweep", *arguments]


def merged(folder: Path) -> bytes:
    """The file of a folder, and what is in it."""
    file = folder.with_suffix(".nc")
    subprocess.run(
        [sys.executable, "-m", "gamp_theory", "merge", str(folder), "--out", str(file)], check=False
    )
    dataset = load(file)
    print(f"  {dataset['status'].size} points, {file.stat().st_size} bytes")
    return file.read_bytes()


def thousands(folder: Path) -> None:
    """2,000 points at one go."""
    began = time.perf_counter()
    began_cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    print(f"\nload {os.getloadavg()[0]:.1f} before: {' '.join(command(folder)[2:])}", flush=True)
    subprocess.run(command(folder), check=False)
    wall = time.perf_counter() - began
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began_cpu
    print(f"  {wall:.0f} s wall, {cpu:.0f} s CPU, 2 threads", flush=True)


def killed(folder: Path) -> None:
    """The same, with SIGKILL at three random moments."""
    moments = random.Random(SEED)
    print(flush=True)
    for k in range(3):
        until = round(LINES * (k + moments.uniform(0.1, 0.9)) / 4)
        with subprocess.Popen(command(folder), stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(folder.glob("[!.]*-*.json"))) < until:
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 2))
            process.kill()
        print(
            f"  killed with {len(list(folder.glob('[!.]*-*.json')))} of {LINES} lines", flush=True
        )
    subprocess.run(command(folder), check=False)


def main() -> None:
    """Run what is asked for."""
    asked = sys.argv[1:] or ["speed", "thousands", "killed"]
    if "speed" in asked:
        speed()
    with tempfile.TemporaryDirectory() as name:
        whole, pieces = Path(name, "whole"), Path(name, "pieces")
        if "thousands" in asked:
            thousands(whole)
            merged(whole)
        if "killed" in asked:
            killed(pieces)
            merged(pieces)
        if {"thousands", "killed"} <= set(asked):
            print(f"  identical files: {merged(whole) == merged(pieces)}")


if __name__ == "__main__":
    main()
