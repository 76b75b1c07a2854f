"""The validation runs, resumes, and fails where a line of the theory is broken."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gamp_theory.stability import Stability
from validation import random_starts, runner
from validation.branches import branch_reached
from validation.convergence import confusion, predict
from validation.crossing import crossing
from validation.random_starts import wilson
from validation.records import Records
from validation.study import Place, Row, Study, Verdict, row

ROOT = Path(__file__).resolve().parent.parent

#: File, the line's own text, and what it is turned into: a sign, a factor 2, a lost term.
MUTATIONS = {
    "q: no theta_hat": ("prior.py", " + (rho * theta_hat) ** 2) / D**2", ") / D**2"),
    "q: no m_hat": ("prior.py", "(rho * q_hat + m_hat**2 +", "(rho * q_hat +"),
    "q: factor 2 of q_hat": ("prior.py", "rho * (rho * q_hat +", "rho * (2 * rho * q_hat +"),
    "D: factor 2 of V_hat": ("prior.py", "D = lam + rho * V_hat\n", "D = lam + 2 * rho * V_hat\n"),
    "m: factor 2": ("prior.py", "m_hat / D, rho / D", "2 * m_hat / D, rho / D"),
    "V: factor 2": ("prior.py", "m_hat / D, rho / D,", "m_hat / D, 2 * rho / D,"),
    "theta: power of sigma": ("prior.py", "rho**2 * theta_hat / D", "rho * theta_hat / D"),
    "q_hat: no alpha": ("channel/base.py", "            alpha * self.q_hat,", "self.q_hat,"),
    "m_hat: sign": ("channel/base.py", "alpha * self.m_hat,", "-alpha * self.m_hat,"),
    "theta_hat: no V_hat term": (
        "channel/plane.py",
        "(gy + overlaps.theta * V_hat) / model.rho",
        "gy / model.rho",
    ),
    "V_hat: factor 2": ("channel/plane.py", "V_hat=float(V_hat)", "V_hat=2 * float(V_hat)"),
    "V_hat: sign": ("channel/plane.py", "V_hat = -gx / state", "V_hat = gx / state"),
    # without any the iteration goes where the plane rule gives way to slices, which are not broken
    "w given y: less theta in its mean": (
        "channel/plane.py",
        "slope=overlaps.theta / rho,",
        "slope=0.8 * overlaps.theta / rho,",
    ),
    "w given y: no theta in its variance": (
        "channel/plane.py",
        "variance=overlaps.q - overlaps.theta**2 / rho,",
        "variance=overlaps.q,",
    ),
    "prox: factor 2 of the loss": ("channel/plane.py", "        c=0.5 * rho,", "        c=rho,"),
    "T: sign of A": (
        "channel/plane.py",
        "Target(model.omega, a1, a2)",
        "Target(model.omega, -a1, -a2)",
    ),
    "loss: factor 2": ("channel/plane.py", "loss = 0.5 * c * ((t1", "loss = c * ((t1"),
    "eps_t: no ridge": ("observables.py", " + lam * overlaps.q / (2 * model.rho)\n", "\n"),
    "Phi: sign of a hat": (
        "observables.py",
        "- hats.theta_hat * x.theta",
        "+ hats.theta_hat * x.theta",
    ),
    "Phi: half of the envelope": ("channel/base.py", "self.loss + 0.5 * V", "self.loss + V"),
    "eps_g: no cross term": ("observables.py", "square_t - 2 * cross", "square_t - cross"),
    "eps_lin: factor 2": (
        "observables.py",
        "model.rho / 4 * square.sum()",
        "model.rho / 2 * square.sum()",
    ),
}


LONG = ("crossing", "random_starts", "descent", "dynamics")


def quick_run(directory, *studies):
    return runner.main([*studies, "--quick", "--results", str(directory)])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What some quick studies record; a module's tests may be spread over several workers."""
    directory = tmp_path_factory.mktemp("records")
    assert quick_run(directory, "curve", "scaling") == 0
    return directory


def test_the_theory_agrees(tmp_path, capsys):
    studies = [name for name in runner.STUDIES if name not in LONG]
    assert quick_run(tmp_path, *studies) == 0
    assert "theory and simulation agree in all" in capsys.readouterr().out
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == sorted(studies)


@pytest.mark.slow  # a minute beside other tests: half of it the four long studies
def test_the_report_of_all_studies_says_that_the_theory_agrees(tmp_path):
    code = quick_run(tmp_path)
    report = (tmp_path / "REPORT.md").read_text()
    assert code == 0, report
    assert "**agree**" in report
    for name in runner.STUDIES:
        assert f"(`{name}`): agree" in report
        assert f"({name}.png)" in report
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_what_is_recorded_is_not_simulated_again(records, tmp_path, capsys, monkeypatch):
    path = Path(shutil.copy(records / "curve.json", tmp_path))
    before = path.read_text()
    document = json.loads(before)
    lost = [entry["case"] for entry in document["instances"][-2:]]
    del document["instances"][-2:]
    path.write_text(json.dumps(document))
    study = runner.STUDIES["curve"]
    seen = []
    monkeypatch.setitem(
        runner.STUDIES,
        "curve",
        study._replace(measure=lambda case: seen.append(case) or study.measure(case)),
    )
    options = ["curve", "--quick", "--results", str(tmp_path), "--jobs", "1", "--json"]
    capsys.readouterr()
    assert runner.main(options) == 0
    assert sorted(seen, key=lambda case: case["seed"]) == lost
    assert path.read_text() == before
    assert not (tmp_path / "REPORT.md").exists()  # one study is no report of all
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["status"] == "agree"


@pytest.mark.slow  # simulates and judges all studies twice
def test_jobs_and_a_second_run_make_no_difference(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert runner.main(["--quick", "--results", str(tmp_path / "one"), "--jobs", "1"]) == 0
    assert quick_run(tmp_path / "two") == 0
    report = (tmp_path / "one" / "REPORT.md").read_text()
    assert (tmp_path / "two" / "REPORT.md").read_text() == report
    for name in runner.STUDIES:
        one, two = ((tmp_path / x / f"{name}.json").read_text() for x in ("one", "two"))
        assert one == two
    (tmp_path / "two" / "REPORT.md").unlink()
    assert quick_run(tmp_path / "two") == 0
    assert (tmp_path / "two" / "REPORT.md").read_text() == report


#: Runs the validation with one file of the package read as if it had been changed: the kernels,
#: which are compiled from the files themselves, need not be compiled again.
CHANGED = """
import sys
from importlib.machinery import SourceFileLoader

file, old, new, *arguments = sys.argv[1:]
original = SourceFileLoader.get_code

def get_code(loader, name):
    if not loader.path.endswith(file):
        return original(loader, name)
    text = loader.get_source(name)
    assert text.count(old) == 1, (file, old, text.count(old))
    return compile(text.replace(old, new), loader.path, "exec")

SourceFileLoader.get_code = get_code
from validation.runner import main
sys.exit(main(arguments))
"""


def broken(tmp_path, records, studies, file, old, new):
    """Exit code and output of quick studies with one line changed."""
    # Only the theory changes, so the simulations that are recorded hold.
    shutil.copytree(records, tmp_path / "records")
    arguments = [*studies, "--quick", "--results", tmp_path / "records"]
    run = subprocess.run(
        [sys.executable, "-c", CHANGED, f"gamp_theory/{file}", old, new, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_what_breaks_nothing_agrees(records, tmp_path):
    nothing = ("prior.py", "b b^T)]``.", "b b^T)]``. ")
    code, output = broken(tmp_path, records, ["curve"], *nothing)
    assert code == 0, output


def assert_that_it_fails(tmp_path, records, studies, name):
    code, output = broken(tmp_path, records, studies, *MUTATIONS[name])
    assert code == 1, output
    assert "Traceback" not in output
    reasons = [line for line in output.splitlines() if line.startswith("FAILED")]
    # The simulation says so, unless the broken theory has no answer to be compared with it.
    seen = ("z = ", "jointly", "no fixed point", "the theory ended on")
    assert any(text in line for line in reasons for text in seen), reasons


@pytest.mark.parametrize("name", ["m: factor 2", "Phi: half of the envelope"])
def test_a_broken_line_makes_it_fail(name, records, tmp_path):
    assert_that_it_fails(tmp_path, records, ["curve"], name)


@pytest.mark.slow  # a process that solves the theory anew for each line
@pytest.mark.parametrize("name", MUTATIONS)
def test_every_broken_line_makes_it_fail(name, records, tmp_path):
    assert_that_it_fails(tmp_path, records, ["curve", "response", "dynamics"], name)


HERE = Place("here", "x", 1.0)


def example(values, theory=0.0, judged=True, problems=()):
    """A study of one quantity."""

    def judge(cases, records):
        x = [record["x"] for record in records]
        return Verdict([row(HERE, "x", (theory, 0.0), x, judged)], list(problems), [])

    return Study(
        "curve", "", "", lambda quick: [{"i": i} for i in range(len(values))],
        lambda case: {"x": values[case["i"]]}, judge, (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("study", "code"),
    [
        (example([-1.0, 1.0, 0.5]), 0),
        (example([10.0, 10.1, 9.9]), 1),
        (example([math.nan, 1.0, 2.0]), 1),
        (example([10.0, 10.1, 9.9], judged=False), 1),  # nothing was judged
        (example([-1.0, 1.0], problems=["it does not converge"]), 1),
    ],
)
def test_exit_codes(study, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(runner.STUDIES, "curve", study)
    assert runner.main(["curve", "--results", str(tmp_path)]) == code
    assert ("FAILED" in capsys.readouterr().out) == (code == 1)


def scaling(directory, *options):
    arguments = [sys.executable, "-m", "validation", "scaling", "--quick", "--results", directory]
    return subprocess.Popen(
        [*arguments, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def test_a_killed_study_goes_on_and_says_the_same_whatever_jobs(records, tmp_path):
    uninterrupted = (records / "scaling.json").read_text()  # with two jobs
    path = tmp_path / "scaling.json"
    with scaling(tmp_path, "--jobs", "1") as process:
        while not (path.exists() and path.read_text().count('"case"') >= 5):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    done = json.loads(path.read_text())["instances"]
    assert 5 <= len(done) < uninterrupted.count('"case"')
    with scaling(tmp_path, "--jobs", "1") as process:
        text = process.communicate()[0].decode()
    assert process.returncode == 0
    assert path.read_text() == uninterrupted
    with scaling(records) as process:
        assert process.communicate()[0].decode() == text


def test_bad_input(capsys, tmp_path):
    assert runner.main(["--jobs", "0", "--results", str(tmp_path)]) == 2
    assert "jobs must be at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        runner.main(["kurve"])
    assert stopped.value.code == 2


def test_records_of_another_program_are_not_used(tmp_path, capsys):
    path = tmp_path / "x.json"
    study = example([])
    Records(path, study).add({"seed": 1}, {"x": 2.0})
    assert Records(path, study).get({"seed": 1}) == {"x": 2.0}
    assert Records(path, study).get({"seed": 2}) is None
    assert Records(path, study, fresh=True).get({"seed": 1}) is None
    document = json.loads(path.read_text())
    document["provenance"]["simulation"] = "0"
    path.write_text(json.dumps(document))
    assert capsys.readouterr().err == ""
    assert Records(path, study).get({"seed": 1}) is None
    assert "the 1 instances in it were made by other code" in capsys.readouterr().err
    assert not path.exists()
    assert json.loads((tmp_path / "x.old.json").read_text()) == document


@pytest.mark.parametrize(("value", "kept"), [(2.0, True), (2.0 + 1e-12, False)])
def test_records_are_adopted_if_they_come_out_the_same_again(value, kept, tmp_path, capsys):
    path = tmp_path / "x.json"
    study = example([value, 5.0])
    case = {"i": 0, "d": 3, "seed": 1}
    Records(path, study).add(case, {"x": 2.0})
    document = json.loads(path.read_text())
    document["provenance"]["simulation"] = "0"
    path.write_text(json.dumps(document))
    assert (Records(path, study, adopt=True).get(case) is not None) == kept
    assert path.exists() == kept
    if kept:  # from now on, without asking
        assert Records(path, study).get(case) == {"x": 2.0}
    assert ("same again" in capsys.readouterr().err) == kept


@pytest.mark.parametrize(
    ("eigenvalue", "damping"),
    [(-3.0, 0.0), (-3.0, 0.5), (-9.5, 0.5), (0.4 + 0.3j, 0.5), (1.1, 0.5)],
)
def test_modulus_under_damping_is_that_of_the_iteration(eigenvalue, damping):
    matrix = np.array(
        [[damping, (1 - damping) * eigenvalue], [(1 - damping) * damping, damping]], dtype=complex
    )
    matrix[1, 1] += (1 - damping) ** 2 * eigenvalue  # g first, then Q with the new g
    stability = Stability((eigenvalue,), abs(eigenvalue), {}, 0.2, 0.0, 1e-3, True)
    found = predict(stability, 1.5, 1000, damping)
    assert found.modulus == pytest.approx(max(abs(np.linalg.eigvals(matrix))))
    assert found.converges == (found.modulus < 1)
    assert found.jumping == pytest.approx(2 / math.pi * 1.5 * 1000 * 1e-6 / 0.8)
    assert found.near == pytest.approx(1.0)


def test_heavy_jumps_or_a_replicon_above_one_are_predicted_to_stall():
    calm = Stability((0.5,), 0.5, {}, 0.2, 0.0, 1e-6, True)
    assert predict(calm, 1.5, 1000, 0.5).converges_simpler
    for change in ({"replicon": 1.2}, {"jump_mass": 0.1}, {"eigenvalues": (1.2,)}):
        found = predict(dataclasses.replace(calm, **change), 1.5, 1000, 0.5)
        assert not found.converges
        assert not found.converges_simpler


def test_confusion_counts_points():
    outcomes = [(True, 3, 3), (True, 1, 3), (False, 0, 3), (False, 3, 3), (False, 0, 2)]
    assert confusion("x", outcomes).lines == [
        ("converges", "1", "1", "0"),
        ("stalls", "1", "0", "2"),
    ]


def test_crossing_of_a_parabola():
    alphas = np.linspace(1, 1.5, 6)
    errors = np.full(6, 1e-3)
    rng = np.random.default_rng(5)
    truth = -(alphas - 1.2) * (1 + 0.3 * alphas)
    value, error = crossing(alphas, truth, errors, 2)
    assert value == pytest.approx(1.2, abs=1e-12)
    found = [
        crossing(alphas, truth + 1e-3 * rng.standard_normal(6), errors, 2)[0] for _ in range(400)
    ]
    assert error == pytest.approx(np.std(found), rel=0.15)
    assert math.isnan(crossing(alphas, truth + 5, errors, 2)[0])


@pytest.mark.parametrize(
    ("q", "m", "theta", "name"),
    [
        (0.05, 0.25, 0.001, "positional"),
        (0.08, -0.01, -0.12, "semantic"),
        (0.08, 0.2, 0.1, "mixed"),
        (0.08, 0.01, 0.005, "uninformed"),
        (1e-9, 0.0, 0.0, "zero"),
    ],
)
def test_branch_reached(q, m, theta, name):
    assert branch_reached({"q": q, "m": m, "theta": theta}, 0.5) == name


def random_ends(shift, distance, every):
    """Quick random starts near the positional branch, each `every`-th with m off by `shift`."""
    rng = np.random.default_rng(11)
    cases = random_starts.cases(quick=True)
    records = []
    for number in range(len(cases)):
        named = {
            "q": 0.0386288 + 1e-4 * rng.standard_normal(),
            "m": 0.294587 + 1e-3 * rng.standard_normal(),
            "theta": 0.0,
            "train_loss": 0.00358684 + 1e-6 * rng.standard_normal(),
            "train_loss_bias": 0.0,
            "distance": 1e-6,
            "status": "converged",
        }
        away = number % every == every - 1
        end = {**named, "m": -(named["m"] + shift * away)}  # the sign of a random start
        named["distance"] = distance if away else 1e-6
        semantic = {**named, "m": 0.0, "theta": 0.15, "distance": 1.8}
        records.append({"lowest": 0.005, "random": end, "positional": named, "semantic": semantic})
    return random_starts.judge(cases, records)


def test_random_starts_are_compared_in_the_minimum_of_the_named_start():
    apart = random_ends(shift=-0.05, distance=0.3, every=2)
    judged = [r for r in apart.rows if r.judged]
    assert {(r.where.x, r.quantity) for r in judged} == {
        (x, name) for x in (250, math.inf) for name in ("m", "q", "train_loss")
    }
    assert all(r.agrees for r in judged)
    assert not apart.problems
    fractions, minima = apart.tables
    assert [line[2][:5] for line in fractions.lines] == ["1.000"] * 3
    assert [line[4] for line in minima.lines] == ["12 of 24", "12 of 24", "8 of 16"]
    together = random_ends(shift=-0.02, distance=1e-6, every=1)
    assert {r.quantity for r in together.rows if r.judged and not r.agrees} == {"m"}


def test_wilson_intervals():
    assert wilson(0, 10) == "0.000 (0.000 to 0.091)"
    assert wilson(5, 10, 2.0) == "0.500 (0.233 to 0.767)"


def test_a_row_is_judged_by_the_quantile_of_its_instances():
    few, many = (Row(HERE, "", 0.0, 0.0, 5.0, 1.0, n, True) for n in (10, 100))
    assert few.z == many.z == 5.0
    assert few.agrees
    assert not many.agrees
