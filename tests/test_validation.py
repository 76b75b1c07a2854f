"""The validation runs, resumes, and fails where a line of the theory is broken."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from validation import runner
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


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick validation, once."""
    directory = tmp_path_factory.mktemp("quick")
    return runner.main(["--quick", "--results", str(directory)]), directory


def test_the_theory_agrees_and_a_second_run_says_the_same(quick, capsys, monkeypatch):
    code, directory = quick
    report = (directory / "REPORT.md").read_text()
    assert code == 0, report
    assert "**agree**" in report
    for name in runner.STUDIES:
        assert f"(`{name}`): agree" in report
    # Killed in between: the last instances are lost, the others are not simulated again.
    path = directory / "curve.json"
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
    capsys.readouterr()
    assert runner.main(["--quick", "--results", str(directory), "--jobs", "1", "--json"]) == 0
    assert sorted(seen, key=lambda case: case["seed"]) == lost
    assert path.read_text() == before
    assert (directory / "REPORT.md").read_text() == report
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["status"] == "agree"


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


def broken(tmp_path, records, file, old, new):
    """Exit code and output of the quick validation with one line changed."""
    # Only the theory changes, so the simulations that are recorded hold.
    shutil.copytree(records, tmp_path / "records")
    arguments = ["curve", "response", "dynamics", "--quick", "--results", tmp_path / "records"]
    run = subprocess.run(
        [sys.executable, "-c", CHANGED, f"gamp_theory/{file}", old, new, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_what_breaks_nothing_agrees(quick, tmp_path):
    code, output = broken(tmp_path, quick[1], "prior.py", "b b^T)]``.", "b b^T)]``. ")
    assert code == 0, output


@pytest.mark.parametrize("name", ["m: factor 2", "Phi: half of the envelope"])
def test_a_broken_line_makes_it_fail(name, quick, tmp_path):
    code, output = broken(tmp_path, quick[1], *MUTATIONS[name])
    assert code == 1, output
    assert "FAILED" in output
    assert "Traceback" not in output


@pytest.mark.slow  # a process for each line
@pytest.mark.parametrize("name", MUTATIONS)
def test_every_broken_line_makes_it_fail(name, quick, tmp_path):
    test_a_broken_line_makes_it_fail(name, quick, tmp_path)


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


def test_a_row_is_judged_by_the_quantile_of_its_instances():
    few, many = (Row(HERE, "", 0.0, 0.0, 5.0, 1.0, n, True) for n in (10, 100))
    assert few.z == many.z == 5.0
    assert few.agrees
    assert not many.agrees
