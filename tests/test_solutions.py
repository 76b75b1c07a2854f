"""The search for all fixed points: what it finds, how it counts, and that deflation repels."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gamp_theory import solutions as module
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.solutions import Solutions, find_solutions
from gamp_theory.state_evolution import solve

MODEL = AttentionModel.mixture(0.3, 0.5)
# the four solutions at alpha = 1.25, lam = .01 as 200 random starts have found them
KNOWN = {
    "positional": np.array([0.0471005, 0.252411, 14.9034, 0.0]),
    "semantic": np.array([0.0816248, 0.0, 18.3211, 0.117926]),
    "mixed": np.array([0.0704508, 0.131901, 22.2377, 0.0583663]),
    "uninformed": np.array([0.0785537, 0.0, 27.7809, 0.0]),
}


@pytest.fixture
def search():
    return module._Search(MODEL, 1.25, 0.01, seed=0)


def test_all_solutions_at_a_large_ridge():
    """At lam = .1 there are two: Q = 0, unstable, and the positional one that leaves it."""
    found = find_solutions(MODEL, 1.5, 0.1, starts=9, idle_rounds=1, tol=1e-5)
    assert [point.branch for point in found.points] == ["positional", "zero"]
    assert [point.stability.stable for point in found.points] == [True, False]
    assert min(found.reached) > 1
    assert sum(found.reached) + sum(found.lost.values()) == found.starts == 9
    assert found.unpolished == ()
    # two minima, +-m, and a saddle between them
    assert found.degree == 1
    assert found.rounds == found.idle_rounds == 1
    assert found.points[0].overlaps.m == pytest.approx(0.136490, abs=1e-6)


def test_degree_counts_images_and_needs_stability():
    template = solve(MODEL, 1.5, 0.1, "zero")
    above = {"positional": 0, "semantic": 0, "mixed": 1, "uninformed": 2}  # eigenvalues beyond 1
    points = {
        name: replace(
            template,
            overlaps=Overlaps.from_array(x),
            stability=replace(
                template.stability,
                eigenvalues=(2 + 0j,) * above[name] + (0.3 + 1j, 0.3 - 1j, -2 + 0j),
            ),
        )
        for name, x in KNOWN.items()
    }

    def degree(*names):
        some = tuple(points[name] for name in names)
        return Solutions(some, (0,) * len(some), 1, {}, 0, 0, (), 0).degree

    # 2 + 2 minima, 4 saddles, 1 of index 2
    assert degree(*points) == 1
    assert degree("positional", "semantic") == 4
    assert degree("mixed") == -4
    assert degree("uninformed") == 1
    bare = replace(points["mixed"], stability=None)
    assert Solutions((bare,), (0,), 1, {}, 0, 0, (), 0).degree is None


def test_random_starts_find_minima_and_saddles():
    search = module._Search(MODEL, 1.25, 0.01, seed=1)
    for _ in range(9):
        search.random_start(zero_exists=False)
    names = {
        name
        for name, x in KNOWN.items()
        for y in search.found
        if module._distance(MODEL, Overlaps.from_array(x), y) < module.SAME
    }
    assert names == KNOWN.keys()
    assert len(search.found) == len(KNOWN)
    assert sum(search.counts) + sum(search.lost.values()) == 9


def test_a_seed_is_a_search():
    searches = [module._Search(MODEL, 1.5, 0.1, seed) for seed in (0, 1, 0)]
    states = [search.random_state() for search in searches]
    np.testing.assert_array_equal(states[0], states[2])
    assert not np.array_equal(states[0], states[1])
    for search in searches:
        search.random_start(zero_exists=True)
    assert searches[0].counts == searches[2].counts
    for one, other in zip(searches[0].found, searches[2].found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_candidates_are_fixed_points(search):
    for name in ("mixed", "uninformed"):
        point = solve(
            MODEL, 1.25, 0.01, Overlaps.from_array(KNOWN[name]), 1e-4, with_stability=False
        )
        assert point.branch == name
        assert module._distance(MODEL, point.overlaps, KNOWN[name]) < 1e-4
        image = search.cheap_map()(KNOWN[name])
        # good to the level of the plane that the search uses
        np.testing.assert_allclose(image, KNOWN[name], rtol=3e-3)


def test_deflation_repels_from_what_is_known(search):
    """From beside the semantic solution: to it while it is unknown, to another one after."""
    beside = KNOWN["semantic"].copy()
    beside[1] = 0.08 * math.sqrt(beside[0] / MODEL.rho)
    beside[2] *= 1.05
    end = search.deflated_newton(beside)
    assert module._distance(MODEL, Overlaps.from_array(np.abs(end)), KNOWN["semantic"]) < 0.01
    for name in ("semantic", "positional", "uninformed"):
        assert search.book(KNOWN[name], 0)
    ends = []
    rng = np.random.default_rng(1)
    for _ in range(6):
        u = module._coordinates(MODEL, KNOWN["semantic"]) + rng.normal(scale=0.1, size=4)
        end = search.deflated_newton(module._state(MODEL, u))
        if end is not None:
            ends.append(Overlaps.from_array(np.abs(end)))
    assert ends
    for end in ends:
        assert module._distance(MODEL, end, KNOWN["mixed"]) < 0.01


def test_mirror_images_are_one_solution(search):
    assert search.book(KNOWN["mixed"], 1)
    for signs in ((1, -1, 1, 1), (1, 1, 1, -1), (1, -1, 1, -1)):
        assert not search.book(KNOWN["mixed"] * signs, 1)
    assert search.counts == [4]
    # what a search brings to within its tolerance of a subspace is on it
    assert search.book(KNOWN["semantic"] + [0, 1e-4, 0, 0], 1)
    assert search.found[1][1] == 0


def test_slope_of_the_deflation(search):
    for x in KNOWN.values():
        search.book(x, 0)
    u = np.array([-2.9, 0.4, 2.5, 0.3])
    value, slope = search.deflation(u)
    for j in range(4):
        h = 1e-6 * (np.arange(4) == j)
        difference = (search.deflation(u + h)[0] - search.deflation(u - h)[0]) / 2e-6
        assert slope[j] == pytest.approx(difference, rel=1e-6, abs=1e-9)
    # even in m and theta, infinite at a solution, 0 far from all
    assert search.deflation(u * [1, -1, 1, -1])[0] == pytest.approx(value, rel=1e-12)
    assert search.deflation(module._coordinates(MODEL, KNOWN["mixed"]))[0] > 100
    assert search.deflation(u + 1e6)[0] < 1e-9


def test_coordinates_there_and_back():
    for x in KNOWN.values():
        got = module._state(MODEL, module._coordinates(MODEL, x))
        np.testing.assert_allclose(got, x, rtol=1e-12)


def test_random_states_lie_in_the_domain(search):
    kinds = set()
    for _ in range(60):
        x = search.random_state()
        Overlaps.from_array(x).check_domain(MODEL.rho)
        assert search.admissible(x)
        assert MODEL.rho * x[1] ** 2 + x[3] ** 2 / MODEL.rho <= x[0] * (1 + 1e-12)
        kinds.add((x[1] == 0, x[3] == 0))
    assert len(kinds) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_solutions(MODEL, -1.0, 0.1), "alpha must be > 0 and finite, got -1.0"),
        (lambda: find_solutions(MODEL, 1.0, 0.0), "lam must be > 0 for a search, got 0.0"),
        (lambda: find_solutions(MODEL, 1.0, 0.1, 0), "starts must be at least 1, got 0"),
        (lambda: find_solutions(MODEL, 1.0, 0.1, idle_rounds=-1), "idle_rounds must be >= 0"),
        (lambda: find_solutions(MODEL, 1.0, 0.1, tol=1.0), "tol must be in"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
