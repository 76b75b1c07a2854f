"""README, pages and notebooks do what they say."""

import ast
import contextlib
import inspect
import io
import os
import re
import runpy
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import gamp_theory
from gamp_theory.cli import _parser, main
from gamp_theory.grids import FLAGS
from gamp_theory.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(path):
    """The calls of gamp-theory in the blocks of a page for the shell."""
    text = "\n".join(blocks(path, "console") + blocks(path, "bash")).replace("\\\n", " ")
    text = re.sub(r"\$\w+", "1", text)
    return re.findall(r"^(?:\$ )?(?:\.venv/bin/)?gamp-theory (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


#: Run by the last tests of this file, and by test_model_file.py.
ELSEWHERE = {"cluster.md", "your_own_model.md"}
SLOW = {"solutions.md"}
RUN_HERE = [
    pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else [], id=name_of(page))
    for page in PAGES
    if blocks(page, "python") and page.name not in ELSEWHERE
]


@pytest.mark.parametrize("page", RUN_HERE)
def test_python_on_pages_prints_what_they_say(page, monkeypatch, tmp_path):
    """Blocks are run one after the other; one that a ``text`` block follows has to print it."""
    monkeypatch.chdir(tmp_path)
    pairs = re.findall(
        r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```)?",
        page.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    names = {}
    for code, expected in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)  # the project's own text
        if expected:
            assert printed.getvalue() == expected


def test_the_page_on_thresholds_shows_what_the_command_prints(capsys):
    """The words; numbers to six digits, since the last ones may depend on the processor."""
    page = ROOT / "docs/howto/threshold.md"
    (shown,) = re.findall(
        r"^```console\n.*?^```\s*```text\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    (command,) = commands(page)
    assert main(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    number = r"\d+\.\d+(?:\(\d+\))?"
    assert re.sub(number, "#", printed) == re.sub(number, "#", shown)
    got, expected = (
        [float(x.split("(")[0]) for x in re.findall(number, text)] for text in (printed, shown)
    )
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_on_pages_have_their_options(page):
    """Not all can be run here (scripts for a cluster, hours of work), but all can be parsed."""
    for command in commands(page):
        _parser().parse_args(shlex.split(command, comments=True))


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    for page in PAGES[2:]:
        target = str(page.relative_to(ROOT / "docs"))
        assert target == "README.md" or f"({target})" in index, target


def test_the_reference_is_what_its_program_writes():
    """Else: python docs/make_api.py."""
    path = ROOT / "docs/make_api.py"
    program = runpy.run_path(str(path))
    text = program["page"]()
    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == text
    for name in gamp_theory.__all__:
        assert re.search(rf"^\* \*\*`{name}\b.*?`\*\* ★", text, re.MULTILINE), name


def test_the_page_on_sweeps_lists_every_status():
    text = (ROOT / "docs/howto/sweep.md").read_text()
    found = re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)
    assert found == [(str(k), name) for k, name in enumerate(FLAGS["status"][1])]


def test_scripts_for_a_cluster_call_sweep_as_it_is():
    """They differ by their executor only; processes and dask are run in test_sweep.py."""
    scripts = blocks(ROOT / "docs/howto/cluster.md", "python")
    assert len(scripts) == 3
    for code in scripts:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        (call,) = (node for node in calls if ast.unparse(node.func) == "sweep")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.keys() <= inspect.signature(sweep).parameters.keys()
        assert given["executor"] in ("pool", "client")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """In the kernel this checkout is imported, and long training is cut short."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("GAMP_THEORY_QUICK", "1")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert figures
