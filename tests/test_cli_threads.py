"""Branches side by side in threads."""

import types

from gamp_theory.cli import threads


def test_after_ctrl_c_the_other_branches_stop_at_their_next_point(monkeypatch):
    def trace(model, values, lam, start, *, progress, **options):
        if start == "semantic":
            raise KeyboardInterrupt
        for value in values:
            progress(value)

    class Pool(threads.ThreadPoolExecutor):
        """One that begins the second branch after the first has ended."""

        def __init__(self, jobs):
            super().__init__(1)

    monkeypatch.setattr("gamp_theory.tracing.trace", trace)
    monkeypatch.setattr(threads, "ThreadPoolExecutor", Pool)
    points, complete = threads.follow_branches(None, range(10**6), 0.01, ["semantic", "positional"])
    assert not complete
    assert len(points["positional"]) < 10**6


def test_a_branch_may_end_where_it_is_left(monkeypatch):
    def trace(model, values, lam, start, *, progress, tol, **options):
        for value in values:
            branch = start if value > 1 else "uninformed"
            progress(types.SimpleNamespace(alpha=value, branch=branch, converged=True, tol=tol))

    monkeypatch.setattr("gamp_theory.tracing.trace", trace)
    steps = []
    tol = {"semantic": 1e-3, "uninformed": 1e-2}
    points, complete = threads.follow_branches(
        None,
        [3, 2, 1, 0.5],
        0.01,
        list(tol),
        tol=tol,
        until_left=True,
        advance=lambda n=1: steps.append(n),
    )
    assert complete
    assert [point.alpha for point in points["semantic"]] == [3, 2, 1]
    assert {point.tol for point in points["semantic"]} == {1e-3}
    assert [point.alpha for point in points["uninformed"]] == [3, 2, 1, 0.5]
    assert sum(steps) == 8
