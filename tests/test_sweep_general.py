"""Sweeps of general models: overlaps with the token first, and the guarantees of other sweeps."""

import dataclasses
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from command import run, run_json

from gamp_theory import AttentionModel, GeneralModel, JointLaw, load, sweep_lines
from gamp_theory.grids import FLAGS, general_point_columns, no_general_point
from gamp_theory.netcdf import save
from gamp_theory.result import Status
from gamp_theory.state_evolution import solve
from gamp_theory.sweep import merge, sweep
from gamp_theory.sweep_plans import model_fingerprint
from gamp_theory.token_mechanisms import FixedMixture, LinearAttention, RowSoftmax
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_result import GeneralFixedPoint, TokenErrors

MODEL = GeneralModel.from_pair(AttentionModel.mixture())
GRID = {"alpha": [2.0], "lam": [0.1, 0.12], "branches": "positional", "tol": 0.1}  # two lines
#: Three tokens, ranks 2 and 1.
OTHER = GeneralModel(
    FixedMixture(0.3, [[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]),
    RowSoftmax(),
    JointLaw.isotropic(0.5, [[1.0], [0.0], [-1.0]]),
    rank=2,
)


def stand_in(model, alpha, lam, branch="positional", status=Status.CONVERGED, value=1.0):
    """A fixed point that nobody has solved for."""
    L, r, t = model.tokens, model.rank, model.teacher_rank
    eye = np.broadcast_to(np.eye(r), (L, r, r))
    overlaps = TokenOverlaps(value * eye, np.full((L, r), value), eye, np.zeros((L, r, t)))
    errors = TokenErrors(eye, np.ones((L, r)), eye, np.ones((L, r, t)), 1.0, 1.0, 1.0, 1.0)
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(GeneralFixedPoint)), value)
    return GeneralFixedPoint(
        **numbers
        | {
            "model": model,
            "alpha": alpha,
            "lam": lam,
            "branch": branch,
            "overlaps": overlaps,
            "errors": errors,
            "status": status,
            "stability": None,
        }
    )


def assert_same(one, other):
    """Equal to the last bit, NaN and names included."""
    assert one.identical(other)
    for name in one.variables:
        if one[name].dtype.kind == "f":
            assert one[name].values.tobytes() == other[name].values.tobytes(), name


def status(dataset):
    meanings = dataset["status"].attrs["flag_meanings"].split()
    return [meanings[k] for k in dataset["status"].values.ravel()]


@pytest.fixture(scope="module")
def reference():
    return sweep(MODEL, **GRID)


def test_a_general_sweep_has_the_numbers_of_solve(reference):
    assert reference["train_loss"].dims == ("alpha", "lam", "branch")
    assert reference["q"].dims == ("alpha", "lam", "branch", "token", "column", "other_column")
    assert reference["theta_error"].dims[3:] == ("token", "column", "teacher_column")
    assert status(reference) == ["converged"] * 2
    here = reference.sel(alpha=2.0, lam=0.1, branch="positional")
    point = solve(MODEL, 2.0, 0.1, "positional", 0.1)
    for name in ("q", "m", "V", "theta"):
        np.testing.assert_array_equal(here[name], getattr(point.overlaps, name))
        np.testing.assert_array_equal(here[f"{name}_error"], getattr(point.errors, name))
    assert here["train_loss"].item() == point.train_loss
    assert here["jump_mass"].item() == point.stability.jump_mass
    assert here["stable"].item() == 2


@pytest.mark.slow
def test_a_line_is_followed_from_point_to_point():
    """Of three tokens, to within the error bars of solves from the named start."""
    data = sweep(OTHER, alpha=[2.0, 3.0], lam=0.02, branches="mixed", tol=0.02)
    assert status(data) == ["converged"] * 2
    for alpha in (2.0, 3.0):
        point = solve(OTHER, alpha, 0.02, "mixed", 0.02)
        here = data.sel(alpha=alpha, branch="mixed")
        for name in ("train_loss", "test_error"):
            bar = np.hypot(getattr(point.errors, name), here[f"{name}_error"].item())
            assert abs(here[name].item() - getattr(point, name)) < 4 * bar
        np.testing.assert_allclose(here["q"], point.overlaps.q, rtol=0.1, atol=0.01)


@pytest.mark.slow  # processes of their own, each of which loads the kernels
def test_it_does_not_depend_on_what_runs_it(reference):
    assert_same(sweep(MODEL, **GRID, executor=2), reference)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same(sweep(MODEL, **GRID, executor=pool), reference)


def test_it_is_resumed_in_parts_and_merged(reference, monkeypatch, tmp_path):
    part = sweep(MODEL, **GRID, out=tmp_path, shard=(2, 2))
    assert status(part) == ["not_computed", "converged"]
    assert part["q"].isnull().sum() == 2
    assert_same(sweep(MODEL, **GRID, out=tmp_path, resume=True), reference)
    assert_same(merge(tmp_path), reference)
    save(reference, tmp_path / "sweep.nc")
    assert_same(load(tmp_path / "sweep.nc"), reference)

    def fails(*arguments, **options):
        raise AssertionError("a line was computed again")

    monkeypatch.setattr("gamp_theory.sweep.solve_general_line", fails)
    assert_same(sweep(MODEL, **GRID, out=tmp_path, resume=True), reference)
    other = GeneralModel.from_pair(AttentionModel.mixture(omega=0.31))
    with pytest.raises(ValueError, match="holds another: model is"):
        sweep(other, **GRID, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds another: format is 3 there and 1 here"):
        sweep(AttentionModel.mixture(), **GRID | {"tol": 1e-3}, out=tmp_path, resume=True)


def test_what_happens_to_points_that_are_not_found(monkeypatch):
    """Named starts fail at alpha = 2 and 1; the branch is followed down and up."""
    asked = []

    def chosen(model, alpha, lam, start, tol, **options):
        asked.append((alpha, start if isinstance(start, str) else start.q[0, 0, 0]))
        if alpha == 4.0:
            raise ArithmeticError("overflow")
        if start == "mixed" and alpha in (1.0, 2.0):
            return stand_in(model, alpha, lam, "semantic")
        if alpha == 0.5:
            return stand_in(model, alpha, lam, "zero", Status.LEFT_DOMAIN)
        return stand_in(model, alpha, lam, "mixed", value=alpha)

    monkeypatch.setattr(sweep_lines, "solve", chosen)
    data = sweep(OTHER, alpha=[0.5, 1.0, 1.5, 2.0, 4.0], branches="mixed", lam=0.1)
    assert asked == [
        *((4.0, "mixed"), (2.0, "mixed"), (1.5, "mixed"), (1.0, 1.5)),
        *((0.5, 1.0), (0.5, "mixed"), (2.0, 1.5), (4.0, 2.0)),
    ]
    assert status(data) == ["left_domain", "converged", "converged", "converged", "solve_failed"]
    assert data["q"].shape == (5, 1, 3, 2, 2)
    assert data["theta"].shape == (5, 1, 3, 2, 1)
    assert np.isnan(data["q"][[0, 4]]).all()
    assert data["q"][3, 0, 1, 1, 1].item() == 2.0
    assert data.attrs["failures"].count("ArithmeticError: overflow") == 2
    assert float(data["lam"]) == 0.1


def test_a_point_on_another_branch_has_no_numbers():
    columns = general_point_columns(stand_in(OTHER, 1.0, 0.1, "semantic"), "mixed")
    assert FLAGS["status"][1][columns["status"]] == "left_branch"
    assert FLAGS["reached"][1][columns["reached"]] == "semantic"
    empty = no_general_point("left_branch", (3, 2, 1))
    assert columns.keys() == empty.keys()
    assert np.shape(columns["q"]) == (3, 2, 2)
    assert np.isnan(columns["q"]).all()
    assert math.isnan(columns["train_loss"])


def test_a_fingerprint_sees_every_part_of_a_model():
    def model(sigma=0.5, temperature=1.0, target=None, rank=2):
        return GeneralModel(
            target or OTHER.target,
            RowSoftmax(temperature),
            JointLaw.isotropic(sigma, [[1.0], [0.0], [-1.0]]),
            rank,
        )

    models = [model(), model(sigma=0.51), model(temperature=1.01), model(rank=1)]
    models += [model(target=LinearAttention()), model(target=OTHER.student)]
    assert len(set(map(model_fingerprint, models))) == len(models)
    assert model_fingerprint(model()) == model_fingerprint(OTHER)


def test_the_command(capsys, monkeypatch, tmp_path):
    def solved(model, alpha, lam, start, tol, **options):
        return stand_in(model, alpha, lam, "mixed", value=alpha * tol)

    monkeypatch.setattr(sweep_lines, "solve", solved)
    arguments = ("sweep", "--alpha", "1:2:2", "--lam", "0.1:0.2:2", "--tokens", 2, "--rank", 2)
    arguments += ("--branch", "mixed", "--out", tmp_path / "sweep")
    code, document = run_json(capsys, *arguments)
    assert (code, document["lines"], document["finished"]) == (0, 2, 2)
    assert document["counts"] == {"mixed": {"converged": 4}}
    assert run(capsys, "merge", tmp_path / "sweep", "--out", tmp_path / "sweep.nc")[0] == 0
    data = load(tmp_path / "sweep.nc")
    assert data.attrs["kind"] == "general_sweep"
    assert data["q"].shape == (2, 2, 1, 2, 2, 2)
    assert data["train_loss"].values.ravel().tolist() == [0.01, 0.01, 0.02, 0.02]
    for changes, fragment in (
        (("--omega", "0.1:0.2:2"), "omega must be one number for a general model, got 0.1:0.2:2"),
        (("--points", "points.csv"), "--points is for the two-token model"),
    ):
        code, _, err = run(capsys, *arguments, *changes)
        assert code == 2
        assert fragment in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": None}, "alpha must be given"),
        ({"alpha": [1.0, 1.0]}, "alpha must be a number or a list of numbers that differ"),
        ({"alpha": 0.0}, "alpha must be > 0 and finite"),
        ({"lam": 0.0}, "lam must be > 0 for a general model"),
        ({"tol": 1e-6}, "tol must be in"),
        ({"branches": "nought"}, "branches must be among semantic, positional, mixed, uninformed"),
        ({"omega": 0.3}, "omega must be left out for a general model, got 0.3"),
        ({"sigma": [0.3]}, "sigma must be left out for a general model"),
        ({"points": [{"alpha": 1.0}]}, "points must be left out for a general model"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(MODEL, **{"alpha": 1.0, "out": tmp_path / "new", **changes})
    assert not (tmp_path / "new").exists()
