"""Cost of the general channel: time and error against samples, tokens and ranks.

``python -m benchmarks.bench_general`` prints the table; ``--solve`` adds two fixed points.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from gamp_theory import GeneralModel, JointLaw, solve
from gamp_theory.channel.general import general_rule, rule_bytes
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax
from gamp_theory.token_starts import token_start


def model(tokens, rank):
    A = 0.5 * np.eye(tokens) + 0.5 / tokens
    law = JointLaw.isotropic(0.5, np.eye(tokens))
    return GeneralModel(FixedMixture(0.3, A), RowSoftmax(), law, rank)


def one(tokens, rank, samples, scrambles=8):
    """CPU seconds of a search and of an evaluation, and the relative error of V_hat."""
    which = model(tokens, rank)
    x = token_start("semantic", which, 1.5, 0.01)
    began = time.process_time()
    rule = general_rule(which, x, samples, scrambles, audit=False)
    searched = time.process_time()
    averages = rule.averages(x)
    evaluated = time.process_time()
    traces = [np.einsum("laa->", averages.conjugates(1.0, v).V_hat) for v in averages.values]
    error = np.std(traces, ddof=1) / np.sqrt(scrambles) / abs(np.mean(traces))
    return searched - began, evaluated - searched, error, rule_bytes(which, samples, scrambles)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solve", action="store_true")
    options = parser.parse_args()
    one(2, 1, 16)  # compiles
    print(" L  r  samples  search/us  follow/us  error of V_hat     MiB")
    for tokens in (2, 3, 4, 8):
        for rank in (1, 2, 3):
            for samples in (2**5, 2**7) if tokens * rank > 6 else (2**6, 2**8, 2**10):
                search, follow, error, size = one(tokens, rank, samples)
                proxes = 16 * samples
                print(
                    f"{tokens:2d} {rank:2d} {samples:8d} {1e6 * search / proxes:10.1f} "
                    f"{1e6 * follow / proxes:10.1f} {error:15.2g} {size / 2**20:7.1f}",
                    flush=True,
                )
    if options.solve:
        for tokens, rank, tol in ((3, 1, 1e-3), (4, 2, 1e-3)):
            cpu = time.process_time()
            point = solve(
                model(tokens, rank), 1.5, 0.01, tol=tol, with_stability=False, on_failure="return"
            )
            print(
                f"L={tokens} r={rank} tol={tol:g}: {point.status.token}, "
                f"{point.seconds:.1f} s, {time.process_time() - cpu:.1f} s of CPU, "
                f"{point.samples} points a scramble",
                flush=True,
            )


if __name__ == "__main__":
    main()
