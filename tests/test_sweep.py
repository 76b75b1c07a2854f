"""Sweeps: the same numbers whatever runs them and however often they are ended, and no numbers
where there are none."""

import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from command import run, run_json

from gamp_theory import AttentionModel, sweep_folder, sweep_lines
from gamp_theory.grids import FLAGS
from gamp_theory.netcdf import load, save
from gamp_theory.result import Status
from gamp_theory.state_evolution import solve
from gamp_theory.sweep import SweepError, merge, sweep

MODEL = AttentionModel.mixture()
#: Points that converged, that do not exist, and that are not on the branch of their start.
GRID = {
    "alpha": [2.0, 1.0],
    "omega": 0.3,
    "lam": [0.1, 0.05],
    "branches": ("semantic", "positional", "zero"),
    "tol": 1e-3,
}
LINES = 6
#: The same as a command.
COMMAND = (
    *("sweep", "--alpha", "2:1:2", "--omega", "0.3", "--lam", "0.1:0.05:2"),
    *("--branch", "semantic", "positional", "zero", "--tol", "1e-3"),
)
#: The points of GRID as a list, out of order, and one that the grid has not.
POINTS = [
    {"alpha": 1.0, "lam": 0.05},
    {"alpha": 2.0, "lam": 0.1},
    {"alpha": 2.0, "lam": 0.05},
    {"alpha": 1.0, "lam": 0.1},
    {"alpha": 1.5, "lam": 0.1, "omega": 0.1, "sigma": 0.55, "tol": 1e-4},
]
LIST = {"points": POINTS, "branches": GRID["branches"], "tol": GRID["tol"]}
SMALL = {"alpha": [1.0, 2.0], "omega": [0.1, 0.3], "branches": ("zero",)}  # milliseconds


@pytest.fixture(scope="module")
def reference():
    """The sweep of GRID, in this thread's order."""
    return sweep(MODEL, **GRID)


def assert_same(one, other):
    """Equal to the last bit, NaN and names included."""
    assert one.identical(other)
    for name in one.variables:
        if one[name].dtype.kind == "f":
            assert one[name].values.tobytes() == other[name].values.tobytes(), name


def status(dataset, **where):
    """The status of points in words."""
    meanings = dataset["status"].attrs["flag_meanings"].split()
    return [meanings[k] for k in dataset["status"].sel(where).values.ravel()]


def files_of(folder):
    """The lines in a folder: not the plan, nor what a process that was killed was writing."""
    return sorted(path for path in folder.glob("[!.]*-*.json"))


# --------------------------------------------------------------------------------- the numbers


def test_a_sweep_has_the_numbers_of_solve(reference):
    found = 0
    for branch in GRID["branches"]:
        for alpha in GRID["alpha"]:
            for lam in GRID["lam"]:
                here = reference.sel(alpha=alpha, lam=lam, branch=branch).squeeze()
                point = solve(MODEL, alpha, lam, branch, 1e-6, on_failure="return")
                (word,) = status(here)
                if word != "converged":
                    assert math.isnan(here["q"].item())
                    assert word == ("left_branch" if point.converged else point.status.token)
                    continue
                found += 1
                assert point.branch == branch
                for name in ("q", "m", "V", "theta"):
                    value = getattr(point.overlaps, name)
                    assert here[name].item() == pytest.approx(value, rel=GRID["tol"])
                assert here["train_loss"].item() == pytest.approx(point.train_loss, rel=GRID["tol"])
                assert here["linear_error"].item() == point.linear_error
                assert here["stable"].item() == 1 + int(point.stability.stable)
    assert found > 4


def test_each_point_says_how_it_went(reference):
    assert reference["q"].dims == ("alpha", "omega", "lam", "branch")
    assert reference["sigma"].ndim == 0
    assert reference["alpha"].values.tolist() == GRID["alpha"]  # in the order given
    words = status(reference)
    assert set(words) == {"converged", "does_not_exist", "left_branch"}
    known = reference["status"] == 0
    assert (reference["q"].notnull() == known).all()
    assert (reference["train_loss_error"].notnull() == known).all()
    where = {"lam": 0.1, "branch": "semantic"}
    assert status(reference, **where) == ["left_branch"] * 2
    assert reference["reached"].sel(where).values.ravel().tolist() == [1, 1]
    assert FLAGS["reached"][1][1] == "zero"


def test_every_status_has_a_flag():
    assert {status.token for status in Status} < set(FLAGS["status"][1])


def test_a_branch_is_found_though_its_start_leads_elsewhere_first():
    """Up from alpha = .9 the semantic start leads to a stable solution without semantics."""
    line = sweep_lines.solve_line(MODEL, [0.9, 1.5, 2.0], 0.03, "semantic", 1e-3)
    assert FLAGS["status"][1][line.columns["status"][2]] == "converged"
    again = sweep_lines.solve_line(MODEL, [2.0, 0.9, 1.5], 0.03, "semantic", 1e-3)
    assert again.columns["q"] == [line.columns["q"][k] for k in (2, 0, 1)]


def test_what_was_found_is_followed_up(monkeypatch):
    """Where the named start fails at a large alpha, the branch from below is taken there."""
    real = sweep_lines.solve

    def elsewhere(model, alpha, lam, start, tol, **options):
        return real(model, alpha, lam, "zero" if alpha > 1.6 else start, tol, **options)

    monkeypatch.setattr(sweep_lines, "solve", elsewhere)
    line = sweep_lines.solve_line(MODEL, [1.5, 1.7, 2.0], 0.05, "semantic", 1e-3)
    assert line.columns["status"] == [0, 0, 0]
    theta = [real(MODEL, a, 0.05, "semantic", 1e-4).overlaps.theta for a in (1.5, 1.7, 2.0)]
    assert line.columns["theta"] == pytest.approx(theta, rel=2e-3)


def test_a_point_that_raises_is_flagged_and_takes_no_other_with_it(monkeypatch, tmp_path):
    real = sweep_lines.solve

    def fails(model, alpha, *arguments, **options):
        if alpha == 2.0 and model.omega == 0.3:
            raise np.linalg.LinAlgError("singular")
        return real(model, alpha, *arguments, **options)

    monkeypatch.setattr(sweep_lines, "solve", fails)
    dataset = sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    assert status(dataset, omega=0.3) == ["converged", "solve_failed"]
    assert status(dataset, omega=0.1) == ["converged", "converged"]
    assert math.isnan(dataset["train_loss"].sel(alpha=2.0, omega=0.3).item())
    assert "alpha = 2.0: LinAlgError: singular" in dataset.attrs["failures"]
    assert_same(merge(tmp_path), dataset)


def test_axes_are_what_was_given_as_lists():
    dataset = sweep(MODEL, alpha=1.0, sigma=[0.5], lam=0.1, branches="zero")
    assert dataset["q"].dims == ("alpha", "omega", "sigma", "branch")
    assert float(dataset["omega"][0]) == MODEL.omega
    assert float(dataset["lam"]) == 0.1


# ----------------------------------------------------------------------------- lists of points


@pytest.fixture(scope="module")
def listed():
    """The sweep of LIST, in this thread's order."""
    return sweep(MODEL, **LIST)


def test_a_list_of_points_has_the_numbers_of_the_grid(reference, listed):
    assert listed["q"].dims == ("point", "branch")
    assert listed.sizes == {"point": 5, "branch": 3}
    for name, default in (("alpha", None), ("omega", 0.3), ("sigma", 0.5), ("lam", None)):
        assert listed[name].dims == ("point",)
        assert listed[name].values.tolist() == [point.get(name, default) for point in POINTS]
    assert listed["tol"].values.tolist() == [1e-3] * 4 + [1e-4]
    assert listed.attrs["tol"] == 1e-3
    for k, point in enumerate(POINTS[:4]):
        there = reference.sel(alpha=point["alpha"], lam=point["lam"]).squeeze("omega")
        for name in reference.data_vars:
            assert listed[name][k].values.tobytes() == there[name].values.tobytes(), name
    alone = sweep_lines.solve_line(
        AttentionModel.mixture(0.1, 0.55), [1.5], 0.1, "positional", 1e-4
    )
    for name, values in alone.columns.items():
        np.testing.assert_array_equal(listed[name].sel(branch="positional")[4], values[0])
    assert status(listed[{"point": 4}], branch="positional") == ["converged"]


def test_points_as_columns_are_the_same(listed):
    columns = {
        "lam": [0.05, 0.1, 0.05, 0.1, 0.1],
        "alpha": np.array([1.0, 2.0, 2.0, 1.0, 1.5]),
        "omega": (0.3, 0.3, 0.3, 0.3, 0.1),
        "sigma": [0.5, 0.5, 0.5, 0.5, 0.55],
        "tol": [1e-3, 1e-3, 1e-3, 1e-3, 1e-4],
    }
    zero = {"branches": "zero"}
    found = sweep(MODEL, points=columns, **zero)
    rows = listed[list(columns)].to_dataframe().to_dict("records")
    assert_same(found, sweep(MODEL, points=rows, **zero))
    assert_same(found, sweep(MODEL, points=POINTS, **zero, tol=1e-3))


@pytest.mark.slow
def test_a_list_does_not_depend_on_what_runs_it(listed):
    """Slow: new processes; what runs a grid, which is the same code, is in the default tests."""
    assert_same(sweep(MODEL, **LIST, executor=2), listed)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same(sweep(MODEL, **LIST, executor=pool), listed)


def test_a_list_is_resumed_and_its_parts_make_the_whole(listed, monkeypatch, tmp_path):
    part = sweep(MODEL, **LIST, out=tmp_path, shard=(2, 2))
    assert status(part).count("not_computed") == 8  # of three lines with two, two and one points
    files = files_of(tmp_path)
    assert len(files) == 4
    content = [file.read_bytes() for file in files]
    damage(files[0], "cut")
    with pytest.warns(UserWarning, match="is damaged .* computed again"):
        assert_same(sweep(MODEL, **LIST, out=tmp_path, resume=True), listed)
    assert [file.read_bytes() for file in files] == content
    assert_same(merge(tmp_path), listed)

    def fails(*arguments, **options):
        raise AssertionError("a line was computed again")

    monkeypatch.setattr("gamp_theory.sweep.solve_line", fails)
    assert_same(sweep(MODEL, **LIST, out=tmp_path, resume=True), listed)
    other = LIST | {"points": POINTS[:4]}
    with pytest.raises(ValueError, match="holds another: alpha is"):
        sweep(MODEL, **other, out=tmp_path, resume=True)


def test_a_list_in_a_file(listed, tmp_path):
    save(listed, tmp_path / "list.nc")
    assert_same(load(tmp_path / "list.nc"), listed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": []}, r"points must hold at least one point, got \[\]"),
        ({"points": [1.0]}, "points must be mappings with keys among alpha, omega, .* got 1.0"),
        ({"points": 1.0}, "points must be mappings"),
        ({"points": "points"}, "points must be mappings"),
        ({"points": [{"alpha": 1.0, "beta": 1.0}]}, "points must be mappings .* 'beta'"),
        ({"points": [{"lam": 1.0}]}, "points must hold numbers, and alpha for each of them"),
        ({"points": [{"alpha": "one"}]}, "points must hold numbers, got .* as number 0"),
        ({"points": [{"alpha": [1.0]}]}, "points must hold numbers"),
        ({"points": [{"alpha": 1.0}] * 2}, "points must differ, got {'alpha': 1.0} twice"),
        ({"points": {"alpha": [1.0, 2.0], "lam": [0.1]}}, "points must have columns of one length"),
        ({"points": [{"alpha": -1.0}]}, "alpha must be > 0 and finite, got -1.0"),
        ({"points": [{"alpha": 1.0, "omega": 2.0}]}, r"omega must lie in \[0, 1\], got 2.0"),
        ({"points": [{"alpha": 1.0, "tol": 1.0}]}, "tol must be in"),
        ({"lam": [0.1, 0.2]}, r"lam must be one number beside points, got \[0.1, 0.2\]"),
        ({"points": None}, "alpha must be given, as an argument or in points"),
    ],
)
def test_bad_points_are_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(MODEL, **{"points": [{"alpha": 1.0}], "out": tmp_path / "new", **changes})
    assert not (tmp_path / "new").exists()


def test_a_list_from_the_shell(capsys, tmp_path):
    table = tmp_path / "points.csv"
    table.write_text("alpha, lam\n1, 0.1\n2, 0.1\n1, 0.2\n")
    arguments = ("sweep", "--points", table, "--branch", "zero", "--out", tmp_path / "sweep")
    code, document = run_json(capsys, *arguments)
    assert (code, document["lines"], document["finished"]) == (0, 2, 2)
    assert document["counts"] == {"zero": {"converged": 3}}
    rows = [{"alpha": 1.0, "lam": 0.1}, {"alpha": 2.0, "lam": 0.1}, {"alpha": 1.0, "lam": 0.2}]
    assert_same(merge(tmp_path / "sweep"), sweep(MODEL, points=rows, branches="zero"))


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("alpha,lam\n1\n", "row 1: expected 2 numbers"),
        ("alpha,lam\n1,2,3\n", "row 1: expected 2 numbers"),
        ("alpha\none\n", "row 1: expected a number such as 0.25, got 'one'"),
        ("alpha,alpha\n1,2\n", "names of columns must differ"),
        ("alpha,beta\n1,2\n", "points must be mappings with keys among"),
        ("alpha\n", "points must hold at least one point"),
        (None, "can not be read"),
    ],
)
def test_bad_tables_are_refused(capsys, tmp_path, content, fragment):
    table = tmp_path / "points.csv"
    if content is not None:
        table.write_text(content)
    code, _, err = run(capsys, "sweep", "--points", table, "--out", tmp_path / "new")
    assert code == 2
    assert fragment in err
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------- what runs them


def test_threads_change_nothing(reference):
    assert_same(sweep(MODEL, **GRID, executor=2), reference)
    with ThreadPoolExecutor(3) as pool:
        own = sweep(MODEL, **SMALL, lam=0.1, executor=pool)
        assert_same(own, sweep(MODEL, **SMALL, lam=0.1))
        assert pool.submit(int).result() == 0  # whoever made it shuts it down


def test_processes_change_nothing_and_lose_nothing_when_they_die(reference, tmp_path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same(sweep(MODEL, **GRID, executor=pool), reference)

        def kill(finished, lines):
            if finished == 1:
                for process in list((pool._processes or {}).values()):
                    process.kill()

        with pytest.raises(SweepError, match=rf"a worker failed \(Broken.* [1-5] of {LINES} lines"):
            sweep(MODEL, **GRID, executor=pool, out=tmp_path, progress=kill)
        kept = files_of(tmp_path)
        assert 1 <= len(kept) < LINES
        with pytest.raises(SweepError, match=f"{len(kept)} of {LINES} lines are finished"):
            sweep(MODEL, **GRID, executor=pool, out=tmp_path, resume=True)  # it is broken now
    assert_same(sweep(MODEL, **GRID, out=tmp_path, resume=True), reference)


def test_dask_changes_nothing(reference, tmp_path):
    """A real cluster of two processes; failed points and NaN are the same."""
    import distributed  # slow to import, and needed here only

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        dataset = sweep(MODEL, **GRID, executor=client, out=tmp_path)
    assert_same(dataset, reference)
    assert_same(merge(tmp_path), reference)


def test_parts_make_the_whole(tmp_path):
    lam = [0.1, 0.2, 0.01]
    parts = [sweep(MODEL, **SMALL, lam=lam, out=tmp_path, shard=(i, 3)) for i in (3, 1, 2)]
    assert [status(part).count("not_computed") for part in parts] == [8, 8, 8]
    whole = sweep(MODEL, **SMALL, lam=lam)
    assert_same(merge(tmp_path), whole)
    assert set(status(whole)) == {"converged", "does_not_exist"}


# -------------------------------------------------------------------------------- what ends them


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_sweep_that_is_killed_gives_the_same_file(capsys, reference, tmp_path):
    """At random moments, twice; where in its work that finds it is up to the machine."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "killed"
    save(reference, tmp_path / "whole.nc")
    command = [sys.executable, "-m", "gamp_theory", *COMMAND, "--resume", "--jobs", "1", "--out"]
    for _ in range(2):
        before = len(files_of(folder)) if folder.exists() else 0
        with subprocess.Popen([*command, folder], stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                if folder.exists() and len(files_of(folder)) > before:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
    assert len(files_of(folder)) >= 2
    assert run(capsys, *COMMAND, "--resume", "--out", folder)[0] == 0
    assert run(capsys, "merge", folder, "--out", tmp_path / "killed.nc")[0] == 0
    assert (tmp_path / "killed.nc").read_bytes() == (tmp_path / "whole.nc").read_bytes()


def test_ctrl_c_keeps_finished_lines_and_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    real = sweep_folder.Folder.write
    written = []

    def interrupted(self, number, result):
        if len(written) == 2:
            written.append("interrupted")
            raise KeyboardInterrupt
        written.append(number)
        real(self, number, result)

    monkeypatch.setattr(sweep_folder.Folder, "write", interrupted)
    folder = tmp_path / "sweep"
    arguments = ("sweep", "--alpha", "1:2:2", "--omega", "0.1:0.3:9", "--lam", "0.1")
    arguments += ("--branch", "zero", "--jobs", "1", "--out", folder)
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 130
    document = json.loads(out)
    assert document["status"] == "interrupted"
    assert document["lines"] == 9
    # the line that was about to be written is not lost, nor any other that was finished
    assert document["finished"] == len(files_of(folder)) >= 3
    assert "the same command with --resume" in err
    monkeypatch.undo()
    code, document = run_json(capsys, *arguments, "--resume")
    assert (code, document["finished"], document["counts"]) == (0, 9, {"zero": {"converged": 18}})


def test_threads_of_a_sweep_that_is_ended_do_not_go_on(monkeypatch):
    """Ctrl-C is not followed by the rest of the line."""
    asked = threading.Event()
    points = []

    def slow(model, alpha, *arguments, **options):
        points.append(alpha)
        asked.wait(30)
        return solve(model, alpha, *arguments, **options)

    def interrupted(futures):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_lines, "solve", slow)
    monkeypatch.setattr("gamp_theory.sweep.as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(MODEL, **SMALL, lam=0.1)
    asked.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(30)
    assert len(points) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing_that_was_written(capsys, monkeypatch, tmp_path, number):
    from pathlib import Path

    real = Path.write_text
    left = [3]  # the plan and two lines

    def full(self, *arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            real(self, "half of ", **options)
            raise OSError(number, os.strerror(number))
        return real(self, *arguments, **options)

    folder = tmp_path / "sweep"
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SweepError, match=rf"{os.strerror(number)}.*2 of 4 lines .*kept in"):
        sweep(MODEL, **SMALL, lam=[0.1, 0.2], out=folder)
    assert len(files_of(folder)) == 2
    left[0] = 1
    arguments = ("sweep", "--alpha", "1:2:2", "--omega", "0.1:0.3:2", "--lam", "0.1:0.2:2")
    arguments += ("--branch", "zero", "--out", folder, "--resume")
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, json.loads(out)["status"]) == (1, "failed")
    assert "3 of 4 lines are finished" in err
    assert "--resume" in err
    monkeypatch.undo()
    dataset = sweep(MODEL, **SMALL, lam=[0.1, 0.2], out=folder, resume=True)
    assert_same(dataset, sweep(MODEL, **SMALL, lam=[0.1, 0.2]))


def test_a_folder_that_can_not_be_written_to_is_refused(capsys, monkeypatch, tmp_path):
    def refused(**options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:  # permissions do not stop a superuser
        patch.setattr("gamp_theory.sweep_folder.tempfile.TemporaryFile", refused)
        with pytest.raises(ValueError, match=r"out must be a folder .*Permission denied"):
            sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
        assert run(capsys, *COMMAND, "--out", tmp_path)[0] == 2
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out must be a folder that can be written to"):
        sweep(MODEL, **SMALL, lam=0.1, out=tmp_path / "file")


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not text":
        path.write_bytes(b"\xff\xfe" + content)
    else:  # a digit of a number
        at = content.index(b"train_loss")
        at = next(k for k in range(at, len(content)) if content[k : k + 1] in b"123456")
        path.write_bytes(content[:at] + b"7" + content[at + 1 :])


@pytest.mark.parametrize("how", ["cut", "empty", "not text", "digit"])
def test_a_damaged_line_is_computed_again(capsys, tmp_path, how):
    whole = sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    line = files_of(tmp_path)[1]
    content = line.read_bytes()
    damage(line, how)
    with pytest.raises(ValueError, match=rf"{line.name}' is damaged .*: resume the sweep"):
        merge(tmp_path)
    with pytest.warns(UserWarning, match=rf"{line.name}' is damaged .* computed again"):
        again = sweep(MODEL, **SMALL, lam=0.1, out=tmp_path, resume=True)
    assert_same(again, whole)
    assert line.read_bytes() == content
    damage(line, how)
    arguments = ("sweep", "--alpha", "1:2:2", "--omega", "0.1:0.3:2", "--lam", 0.1)
    code, _, err = run(
        capsys, *arguments, "--branch", "zero", "--tol", "1e-6", "--out", tmp_path, "--resume"
    )
    assert code == 0
    assert "computed again" in err


def test_a_line_under_the_name_of_another_is_damaged(tmp_path):
    sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    first, second = files_of(tmp_path)
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=f"{first.name}' is damaged"):
        merge(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "key": "", "plan": {}}', "\0"])
def test_a_damaged_plan_is_refused(tmp_path, content):
    sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep.json' is damaged"):
        merge(tmp_path)
    with pytest.raises(ValueError, match=r"sweep.json' is damaged"):
        sweep(MODEL, **SMALL, lam=0.1, out=tmp_path, resume=True)


def test_a_plan_that_was_changed_by_hand_or_comes_from_the_future(tmp_path):
    sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    plan = tmp_path / "sweep.json"
    content = plan.read_text()
    plan.write_text(content.replace("1e-06", "1e-05"))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        merge(tmp_path)
    plan.write_text(content.replace('"format": 1', '"format": 4'))
    with pytest.raises(ValueError, match="has format 4; this version of gamp_theory reads 1 to 3"):
        merge(tmp_path)


def test_two_runs_in_one_folder_at_once(tmp_path):
    """They do the same twice, at worst."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(sweep, MODEL, **SMALL, lam=[0.1, 0.2, 0.3], out=tmp_path, resume=True)
            for _ in range(2)
        ]
        one, other = (run.result() for run in runs)
    assert_same(one, other)
    assert_same(merge(tmp_path), one)
    assert len(files_of(tmp_path)) == 6


def test_a_folder_is_not_taken_twice(capsys, tmp_path):
    sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    with pytest.raises(ValueError, match=r"out must be a new folder .* with 2 lines"):
        sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    with pytest.raises(ValueError, match=r"holds another: lam is \(0.1,\) there and \(0.2,\) here"):
        sweep(MODEL, **SMALL, lam=0.2, out=tmp_path, resume=True)


def test_other_code_does_not_go_on_with_a_sweep(monkeypatch, tmp_path):
    whole = sweep(MODEL, **SMALL, lam=0.1, out=tmp_path)
    monkeypatch.setattr("gamp_theory.sweep_plans.versions", lambda: "gamp_theory 9.0.0")
    with pytest.raises(ValueError, match=r"versions is .* there and 'gamp_theory 9.0.0' here"):
        sweep(MODEL, **SMALL, lam=0.1, out=tmp_path, resume=True)
    assert_same(merge(tmp_path), whole)  # which only reads


def test_an_executor_that_fails_is_reported():
    class Failing(ThreadPoolExecutor):
        def submit(self, *arguments):
            future = Future()
            future.set_exception(RuntimeError("no workers"))
            return future

    with (
        Failing(1) as pool,
        pytest.raises(SweepError, match=r"RuntimeError: no workers\); 0 of 2 .* no folder"),
    ):
        sweep(MODEL, **SMALL, lam=0.1, executor=pool)


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": []}, r"alpha must be a number or a list of numbers that differ, got \[\]"),
        ({"alpha": [1.0, 1.0]}, "alpha must be a number or a list of numbers that differ"),
        ({"alpha": [[1.0]]}, "alpha must be"),
        ({"alpha": ["one"]}, "alpha must be"),
        ({"alpha": [1.0, -1.0]}, "alpha must be > 0 and finite, got -1.0"),
        ({"omega": [0.1, 1.1]}, r"omega must lie in \[0, 1\], got 1.1"),
        ({"sigma": 0}, "sigma must be positive and finite"),
        ({"lam": [0.1, math.nan]}, "lam must be >= 0 and finite, got nan"),
        ({"tol": 1.0}, "tol must be in"),
        ({"branches": ()}, "branches must be one or more"),
        ({"branches": ("zero", "zero")}, "branches must be one or more that differ"),
        ({"branches": ("one",)}, "branches must be among semantic"),
        ({"shard": (0, 2)}, r"shard must be \(i, n\) with 1 <= i <= n, got \(0, 2\)"),
        ({"shard": (3, 2)}, "shard must be"),
        ({"executor": 0}, "executor must be a number of threads >= 1"),
        ({"executor": "dask"}, "executor must be"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(MODEL, **{"alpha": 1.0, "out": tmp_path / "new", **changes})
    assert not (tmp_path / "new").exists()


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="model must be an AttentionModel or a GeneralModel, got"):
        sweep("model", alpha=1.0)


# ---------------------------------------------------------------------------------- the commands


def test_the_commands(capsys, reference, tmp_path):
    folder, file = tmp_path / "sweep", tmp_path / "sweep.nc"
    code, document = run_json(capsys, *COMMAND, "--out", folder, "--shard", "1/2")
    assert (code, document["lines"], document["finished"]) == (0, 3, 3)
    assert document["shard"] == [1, 2]
    code, document = run_json(capsys, "merge", folder, "--out", file)
    assert (code, document["status"], document["complete"]) == (1, "incomplete", False)
    code, out, err = run(capsys, *COMMAND, "--out", folder, "--shard", "2/2")
    assert code == 0
    assert "left_branch" in out
    assert f"3 of 3 lines are in {str(folder)!r}" in out
    code, document = run_json(capsys, "merge", folder, "--out", file)
    assert (code, document["status"], document["files"]) == (0, "converged", [str(file)])
    assert sum(document["counts"]["zero"].values()) == 4
    assert "wrote" in run(capsys, "merge", folder, "--out", file)[1]
    save(reference, tmp_path / "python.nc")
    assert file.read_bytes() == (tmp_path / "python.nc").read_bytes()


def test_an_unsettled_point_is_no_success(capsys, monkeypatch, tmp_path):
    def fails(*arguments, **options):
        raise ArithmeticError("overflow")

    monkeypatch.setattr(sweep_lines, "solve", fails)
    arguments = ("sweep", "--alpha", 1, "--omega", 0.3, "--out", tmp_path / "sweep")
    code, document = run_json(capsys, *arguments)
    assert (code, document["status"]) == (1, "incomplete")
    assert document["counts"]["semantic"] == {"solve_failed": 1}
    assert "ArithmeticError: overflow" in document["failures"][0]
    assert run(capsys, "merge", tmp_path / "sweep", "--out", tmp_path / "sweep.nc")[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "--alpha", "1:2:2"),
        ("sweep", "--out", "new"),
        ("sweep", "--alpha", "1:2:2", "--out", "new", "--shard", "2"),
        ("sweep", "--alpha", "1:2:2", "--out", "new", "--shard", "3/2"),
        ("sweep", "--alpha", "1:2:2", "--out", "new", "--jobs", "0"),
        ("sweep", "--alpha", "-1:2:2", "--out", "new"),
        ("merge", "nowhere", "--out", "new.nc"),
        ("merge", "nowhere", "--out", "nowhere/new.nc"),
    ],
)
def test_the_commands_refuse(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    code, document = run_json(capsys, *arguments)
    assert (code, document["status"]) == (2, "bad_input")
    assert list(tmp_path.iterdir()) == []
