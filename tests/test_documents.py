"""README and notebooks do what they say."""

import ast
import contextlib
import inspect
import io
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from gamp_theory.cli import _parser
from gamp_theory.grids import FLAGS
from gamp_theory.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent


def test_readme_example_prints_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, expected = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", text, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})  # the project's own text
    assert printed.getvalue() == expected


def test_readme_links_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def blocks(path, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_page_on_sweeps_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(ROOT / "docs/howto/sweep.md", "python"):
        exec(compile(code, "sweep.md", "exec"), names)  # the project's own text
    assert "left_branch" in capsys.readouterr().out
    assert names["reliable"]["q"].notnull().sum() > 0


def test_the_page_on_sweeps_lists_every_status():
    text = (ROOT / "docs/howto/sweep.md").read_text()
    found = re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)
    assert found == [(str(k), name) for k, name in enumerate(FLAGS["status"][1])]


@pytest.mark.parametrize("page", ["sweep", "cluster"])
def test_commands_on_pages_have_their_options(page):
    """Scripts for a cluster can not be run here, but what they call can be looked at."""
    path = ROOT / "docs" / "howto" / f"{page}.md"
    text = "\n".join(blocks(path, "console") + blocks(path, "bash")).replace("\\\n", " ")
    text = re.sub(r"\$\w+", "1", text)
    commands = re.findall(r"^(?:\$ )?gamp-theory (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        _parser().parse_args(shlex.split(command))


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
def test_notebook_runs(path, tmp_path):
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
