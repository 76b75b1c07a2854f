"""``reproduce``: names, refusals, one small figure with its data, the table, going on."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import run, run_json

import gamp_theory
from gamp_theory import load
from gamp_theory.cli import reproduce
from validation import plane
from validation.parameters import SECOND
from validation.reproduce import comparison, drawing, runner, simulation, theory
from validation.reproduce.labelled import dataset_of_rows
from validation.reproduce.published import RANK_TWO, THRESHOLDS
from validation.reproduce.store import Store, key_of


def small(monkeypatch):
    """The slice along omega with two values of it; what it was asked for goes to the list."""
    asked = {"parameter": "omega", "values": [0.2, 0.3], "base": 0.3, "tol": 1e-2}
    made = []

    def make(work, **arguments):
        made.append(arguments)
        return theory.along(work, **arguments)

    steps = theory.THEORIES["omega"].steps
    monkeypatch.setitem(theory.THEORIES, "omega", theory.Theory(make, lambda quick: asked, steps))
    return made


def test_every_figure_has_its_datasets_and_every_dataset_a_figure():
    needed = {name for figure in runner.FIGURES.values() for name in figure.needs}
    assert needed == theory.THEORIES.keys() | simulation.SIMULATIONS.keys()
    assert {name for needs, _ in runner.ROWS for name in needs} <= needed


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", theory.THEORIES)
def test_what_is_asked_for_can_be_a_key(name, quick):
    asked = theory.THEORIES[name].asked(quick)
    assert json.loads(json.dumps(asked)).keys() == asked.keys()
    assert theory.THEORIES[name].steps(**asked) >= 0
    assert theory.THEORIES[name].key(name, quick) == theory.THEORIES[name].key(name, quick)


def test_names_are_kept_in_order_and_all_if_there_is_none():
    assert runner.check_names([]) == list(runner.FIGURES)
    assert runner.check_names(["thresholds", "omega"]) == ["omega", "thresholds"]


def test_an_unknown_name_is_refused_before_any_work(capsys, tmp_path):
    out = tmp_path / "out"
    code, text, errors = run(capsys, "reproduce", "figure_2", "--out", out)
    assert (code, text) == (2, "")
    assert "figure must be one of scaling, omega, " in errors
    assert "got 'figure_2'" in errors
    assert not out.exists()


def test_a_folder_that_can_not_be_made_is_refused(capsys, tmp_path):
    (tmp_path / "file").touch()
    code, _, errors = run(capsys, "reproduce", "omega", "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "out must be a directory that can be made" in errors


def test_jobs_below_one_are_refused(capsys, tmp_path):
    code, _, errors = run(capsys, "reproduce", "omega", "--jobs", 0, "--out", tmp_path)
    assert code == 2
    assert "jobs must be at least 1, got 0" in errors


def test_without_the_checkout_it_says_so(capsys, monkeypatch, tmp_path):
    package = tmp_path / "gamp_theory" / "__init__.py"
    monkeypatch.setattr(gamp_theory, "__file__", str(package))
    code, document = run_json(capsys, "reproduce", "--out", tmp_path / "out")
    assert code == 1
    assert document["status"] == "not_available"
    assert "clone of the repository" in document["message"]
    assert document["figures"] == document["table"] == []


def test_a_figure_its_data_and_a_second_run(capsys, monkeypatch, tmp_path):
    made = small(monkeypatch)
    arguments = ("reproduce", "omega", "--quick", "--out", tmp_path)
    code, document = run_json(capsys, *arguments)
    assert code == 0
    assert document["status"] == "converged"
    (figure,) = document["figures"]
    assert (figure["name"], figure["status"]) == ("omega", "made")
    names = [Path(file).name for file in figure["files"]]
    assert names == ["omega.pdf", "omega.png", "omega.nc", "students_omega.nc"]
    assert (tmp_path / "omega.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "omega.png").read_bytes().startswith(b"\x89PNG")

    data = load(tmp_path / "data" / "omega.nc")
    assert data.attrs["kind"] == "curve"
    semantic = data.sel(branch="semantic", omega=0.3)
    assert float(semantic["train_loss"]) == pytest.approx(0.00305369, rel=1e-2)
    students = load(tmp_path / "data" / "students_omega.nc")
    assert students.attrs["kind"] == "simulation"
    assert set(np.unique(students["start"])) == {"semantic", "positional"}

    before = (tmp_path / "omega.png").stat().st_mtime_ns
    code, document = run_json(capsys, *arguments)
    assert code == 0
    assert document["figures"][0]["status"] == "reused"
    assert (tmp_path / "omega.png").stat().st_mtime_ns == before
    assert len(made) == 1

    (tmp_path / "omega.pdf").unlink()  # drawn again, from the same numbers
    assert run_json(capsys, *arguments)[1]["figures"][0]["status"] == "made"
    assert (tmp_path / "omega.pdf").exists()
    assert len(made) == 1


def test_ctrl_c_keeps_what_is_finished(capsys, monkeypatch, tmp_path):
    small(monkeypatch)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    broken = theory.Theory(interrupted, lambda quick: {}, lambda: 1)
    monkeypatch.setitem(theory.THEORIES, "lam", broken)
    code, document = run_json(capsys, "reproduce", "omega", "lam", "--out", tmp_path)
    assert code == 130
    assert document["status"] == "interrupted"
    assert [figure["name"] for figure in document["figures"]] == ["omega"]
    assert load(tmp_path / "data" / "omega.nc").attrs["kind"] == "curve"


def test_branches_that_are_interrupted_stop(monkeypatch, tmp_path):
    """A thread that is at work gives up at its next point; nothing is written."""

    def interrupted(steps):
        raise KeyboardInterrupt

    work = theory.Work(Store(tmp_path), True, 2, interrupted)
    values = [0.25, 0.3]
    with pytest.raises(KeyboardInterrupt):
        theory.along(work, "omega", values, 0.3, 1e-2)


def test_a_branch_is_followed_to_its_end_and_no_further():
    """The positional one leaves the uninformed one between omega = .1 and .3 at alpha = 1.5."""
    told = []
    work = theory.Work(None, True, 2, told.append)
    found = theory.along(work, "omega", [0.1, 0.2, 0.3, 0.4], 0.3, 1e-2)
    words = found["status"].attrs["flag_meanings"].split()
    positional = [words[k] for k in found["status"].sel(branch="positional").values]
    assert positional == ["left_branch", "converged", "converged", "converged"]
    assert bool(np.isfinite(found["theta"].sel(branch="semantic")).all())
    assert float(found["linear_error"].sel(branch="positional", omega=0.1)) == pytest.approx(
        float(found["linear_error"].sel(branch="semantic", omega=0.1))
    )
    assert sum(told) == theory.THEORIES["omega"].steps([0.1, 0.2, 0.3, 0.4])


def test_missing_records_are_said_and_other_figures_are_made(capsys, monkeypatch, tmp_path):
    small(monkeypatch)
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(simulation.RESULTS / "grid.json", results)
    monkeypatch.setattr(simulation, "RESULTS", results)
    code, document = run_json(capsys, "reproduce", "scaling", "omega", "--out", tmp_path / "out")
    assert code == 1
    status = {figure["name"]: figure["status"] for figure in document["figures"]}
    assert status == {"scaling": "no_records", "omega": "made"}
    assert "study 'scaling'" in document["figures"][0]["message"]


def test_a_dataset_is_found_by_its_key_if_it_is_whole(tmp_path):
    store = Store(tmp_path)
    row = {"alpha": 1.0, "status": "converged", "train_loss": 2.0}
    assert store.kept("x", "key") is None
    made = store.keep("x", "key", dataset_of_rows("general", [row]))
    assert store.kept("x", "key").identical(made)
    assert store.kept("x", "another") is None
    store.file("x").write_bytes(b"nothing")
    assert store.kept("x", "key") is None


def test_a_part_is_made_once_and_keeps_what_is_not_finite(tmp_path):
    store = Store(tmp_path)
    calls = []

    def make():
        calls.append(1)
        return {"alpha": math.nan, "status": "does_not_exist"}

    key = key_of("x", 0.1, modules=("theory",))
    assert math.isnan(store.part("threshold", key, make)["alpha"])
    assert store.part("threshold", key, make)["status"] == "does_not_exist"
    assert len(calls) == 1
    assert key != key_of("x", 0.2, modules=("theory",))
    assert key != key_of("x", 0.1, modules=("simulation",))


def threshold(kind, omega, alpha, status="converged"):
    return {
        "kind": kind,
        "omega": omega,
        "alpha": alpha,
        "alpha_error": 1e-6,
        "status": status,
        "jump_mass": 0.2,
    }


def test_rows_of_thresholds():
    found = dataset_of_rows(
        "thresholds",
        [
            threshold("alpha_c", 0.3, 1.25),
            threshold("alpha_l", 0.35, math.nan, "does_not_exist"),
            threshold("alpha_l", 0.3, 1.4923),
            threshold("alpha_l", 0.4, 2.0),  # of which nothing is published
        ],
    )
    first, second, third = comparison.threshold_rows(found)
    assert first.published == THRESHOLDS["alpha_c"][0.3]
    assert first.difference == pytest.approx((1.241 - 1.25) / 1.25)
    assert first.why.startswith("at the published value our two losses differ by 0.3 %; its tables")
    assert math.isnan(second.difference)
    assert "does_not_exist" in second.why
    assert third.why == (
        "the published rule, replayed, gives 1.46: -2.9 % by the state equations, -1.3 % by the "
        "test error, +2.0 % by the linear baseline; its prox: -0.02 %"
    )
    page = comparison.markdown([first, second], {"gamp_theory": "0"})
    assert "| alpha_c | omega = 0.3 | 1.241 | 1.250000(1) | -0.7 % |" in page
    assert "| alpha_l | omega = 0.35 | 1.75 | - | - |" in page


def students(alpha, steps, loss, bias_free=0):
    row = {"alpha": alpha, "d": 500, "steps": steps, "bias_free": bias_free}
    return row | {
        name: x
        for name, x in zip(
            ("train_loss", "train_loss_stderr", "test_error", "test_error_stderr"),
            (loss, 1e-5, 2 * loss, 1e-5),
            strict=True,
        )
    }


def test_rows_of_rank_two_take_the_students_with_the_bias():
    found = dataset_of_rows(
        "simulation",
        [
            students(2.0, 0, 0.001, 1),
            students(2.0, 0, 0.003),
            students(2.0, 5000, 0.004),
            students(2.0, 1000, 0.009),
            students(4.0, 0, 0.004),
            students(4.0, 5000, 0.00402),
        ],
    )
    point = {"alpha": 2.0, "train_loss": 0.0028, "train_loss_error": 1e-6}
    limit = dataset_of_rows("general", [point | {"test_error": 0.0014, "test_error_error": 1e-6}])
    rows = {row.where + row.quantity: row for row in comparison.rank_two_rows(found, limit)}
    assert len(rows) == 2 * len(RANK_TWO)
    row = rows["omega = 0.3, alpha = 2, d = 1000train_loss, rank 2"]
    assert (row.published, row.ours, row.error) == (RANK_TWO[2.0]["train_loss"], 0.003, 1e-5)
    assert row.difference == pytest.approx(0.13)
    assert "5000 steps of descent at d = 500 have not arrived there: 0.00400(1)" in row.why
    assert row.why.index("1000 steps") < row.why.index("5000 steps")
    assert "0.002800(1)" in row.why
    there = rows["omega = 0.3, alpha = 4, d = 1000train_loss, rank 2"]
    assert "descent at d = 500 arrive there: 0.00402(1)" in there.why
    assert math.isnan(rows["omega = 0.3, alpha = 1.005, d = 1000train_loss, rank 2"].ours)


def test_the_gap_is_taken_task_by_task_and_only_where_both_minima_are():
    data = simulation.plane()
    assert data.sizes["point"] == len(plane.ALPHAS) * len(plane.OMEGAS)
    here = data.isel(point=np.flatnonzero((data["omega"] == 0.3) & (data["alpha"] == 1.4)))
    assert float(here["train_loss_gap"][0]) < 0
    # the spread between tasks cancels: independent ones would have twice the error or more
    pairs = [(c, r) for c, r in simulation.read("plane") if c["omega"] == 0.3 and c["alpha"] == 1.4]
    loss = {s: [r["train_loss"] for c, r in pairs if c["start"] == s] for s in theory.INFORMED}
    apart = math.hypot(*(np.std(x, ddof=1) / math.sqrt(len(x)) for x in loss.values()))
    assert float(here["train_loss_gap_stderr"][0]) < apart
    lost = data["share"] < 0.5
    assert bool(np.isnan(data["train_loss_gap"].where(lost, drop=True)).all())


def test_the_plane_keeps_each_cut_and_is_a_sweep(monkeypatch, tmp_path):
    told = []
    work = theory.Work(Store(tmp_path), True, 2, told.append)
    asked = ([0.6, 1.0, 1.4], [0.3], 1e-2)
    found = work.store.keep("plane", "key", theory.plane(work, *asked))
    assert found.attrs["kind"] == "sweep"
    assert found["train_loss"].dims == ("alpha", "omega", "branch")
    gap = found["train_loss"].sel(branch="semantic") - found["train_loss"].sel(branch="positional")
    assert float(gap.sel(alpha=1.0, omega=0.3)) > 0 > float(gap.sel(alpha=1.4, omega=0.3))
    assert np.isfinite(found["linear_error"]).all()

    def never(*arguments):
        raise AssertionError("the cut is there")

    monkeypatch.setattr(theory, "_cut", never)
    assert theory.plane(work, *asked)["train_loss"].equals(found["train_loss"])
    assert told == [1, 1]


def test_a_figure_is_drawn_into_given_axes():
    """And without: then it makes a figure of its own; neither is kept by pyplot."""
    from gamp_theory import plotting

    data = simulation.along_parameter("omega")()
    work = theory.Work(None, True, 1, lambda steps: None)
    line = theory.along(work, "omega", [0.3], 0.3, 1e-2)
    with plotting.figure(7.0, 2.5) as drawn:
        axes = drawn.subplots(1, 3)
        artists = drawing.slice_along(line, data, axes, parameter="omega")
    assert artists
    assert axes[0].get_xlabel().startswith("positional weight")
    assert drawing.slice_along(line, data, parameter="omega")


def test_students_without_a_branch_in_the_theory_are_named():
    work = theory.Work(None, True, 1, lambda steps: None)
    line = theory.along(work, "omega", [0.1], 0.1, 1e-2, starts=["semantic"], A=SECOND)
    artists = drawing.slice_along(line, simulation.second_target(), parameter="omega")
    axes = artists[0].figure.axes
    named = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert any("positional" in text for text in named)
    assert any("semantic" in text for text in named)


@pytest.mark.slow  # minutes: all figures as a user makes them
def test_everything_quick(capsys, tmp_path):
    code, document = run_json(capsys, "reproduce", "--quick", "--out", tmp_path)
    assert code == 0, document["message"]
    assert [figure["name"] for figure in document["figures"]] == list(runner.FIGURES)
    assert len(document["table"]) == 17
    by_kind = {(r["quantity"], r["where"]): r for r in document["table"]}
    assert by_kind["alpha_c", "omega = 0.3"]["ours"] == pytest.approx(1.25154, abs=1e-3)
    for file in (tmp_path / "data").glob("*.nc"):
        assert load(file).attrs["key"]
    assert (tmp_path / runner.TABLE).exists()


def test_an_empty_answer_has_the_keys_of_a_full_one():
    assert set(reproduce.EMPTY) == {"figures", "table", "files"}
