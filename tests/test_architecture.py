"""The layout of the package, read off its syntax trees: what imports what, and when."""

import ast
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import gamp_theory

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gamp_theory"

# An import may only go down this list, or stay within one entry's own files.
LAYERS = [
    {"numerics", "files"},
    {"mechanisms", "spectrum", "overlaps", "model", "starts"}
    | {"token_mechanisms", "token_mechanism_kernels", "token_overlaps", "token_model"}
    | {"token_starts", "model_file"},
    {"channel", "prior", "token_prior"},
    {"state_evolution", "result", "stability", "observables", "empirical", "expansions"}
    | {
        "pair_search",
        "token_evolution",
        "token_map",
        "token_origin",
        "token_result",
        "token_search",
    },
    {
        "transitions",
        "transition_result",
        "transition_search",
        "transition_equations",
        "transition_lines",
        "branch_map",
        "branch_result",
        "branch_run",
        "branches",
        "check",
        "identities",
        "landscape",
        "records",
        "solutions",
        "token_branch_map",
        "token_branches",
        "token_line_result",
        "token_transition_equations",
        "token_transitions",
        "tracing",
        "trajectory",
    },
    {
        "phase_diagram",
        "sweep",
        "sweep_folder",
        "sweep_lines",
        "sweep_plans",
        "datasets",
        "grids",
        "netcdf",
    },
    {"cli", "plotting", "diagram_drawing", "__main__"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# Evidence is worth something only if it comes from elsewhere.
INDEPENDENT = {
    "empirical": {
        "state_evolution",
        "stability",
        "observables",
        "prior",
        "expansions",
        "trajectory",
        "token_evolution",
        "token_prior",
    },
    "expansions": {"state_evolution", "stability", "observables", "channel", "prior"},
}

LATE = {"sympy", "matplotlib", "xarray"}  # too slow to import before they are needed

MODULES = sorted(PACKAGE.rglob("*.py"))
PUBLIC_CLIENTS = [
    *sorted((ROOT / "validation").rglob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module):
    """The entry of the list that ``gamp_theory.x.y`` belongs to: x."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def for_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def imports(tree, at_import_time=False):
    """All ``(module, name or None)`` that a tree imports; names of modules resolved.

    With `at_import_time`, only what runs when the file is imported.
    """
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from ((node.module, alias.name) for alias in node.names)
        elif at_import_time and for_type_checking(node):
            waiting.extend(node.orelse)
        elif not (
            at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ):
            waiting.extend(ast.iter_child_nodes(node))


def own_modules(tree, at_import_time=False):
    """The modules of this package that a tree imports."""
    for module, name in imports(tree, at_import_time):
        if module.split(".")[0] != "gamp_theory":
            continue
        if name is not None and is_module(f"{module}.{name}"):
            module = f"{module}.{name}"
        yield module


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_module(module):
    return file_of(module).exists()


def parse(path):
    """The syntax tree of a module, or of the code cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    return ast.parse(text, filename=str(path))


def public_names(module):
    """The literal ``__all__`` of a module of this package."""
    for node in parse(file_of(module)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_down(path):
    here = part(dotted(path))
    if not here:
        return  # the package itself: test_the_package_names_are_lazy
    assert here in LEVEL, f"{here} has no place in the list of layers"
    for module in own_modules(parse(path)):
        there = part(module)
        allowed = (
            not there  # a name of the package itself, checked below
            or there == here
            or LEVEL[there] < LEVEL[here]
            or (LEVEL[there] == LEVEL[here] and not {here, there} & INDEPENDENT.keys())
        )
        assert allowed, f"{dotted(path)} imports {module}"
        assert there not in INDEPENDENT.get(here, ()), f"{dotted(path)} imports {module}"
    # Through the package's lazy names an import could go anywhere.
    lazy = {name for module, name in imports(parse(path)) if module == "gamp_theory"}
    lazy = {name for name in lazy if not is_module(f"gamp_theory.{name}")} - {"__version__"}
    assert not lazy or here in ("cli", "__main__", "plotting"), f"{dotted(path)}: {lazy}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_imports_itself_in_a_circle(path):
    seen, waiting = set(), [dotted(path)]
    while waiting:
        reached = set(own_modules(parse(file_of(waiting.pop())), at_import_time=True)) - seen
        assert dotted(path) not in reached
        seen |= reached
        waiting.extend(reached)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name.endswith("kernels.py")], ids=dotted
)
def test_kernels_import_nothing_that_the_cache_does_not_watch(path):
    """A constant from any other file would be compiled in, and stay when it changes."""
    for module in own_modules(parse(path)):
        assert module.endswith("kernels") or module == "gamp_theory.numerics.jit", module


@pytest.mark.parametrize("path", PUBLIC_CLIENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_studies_and_notebooks_use_public_names_only(path):
    for module, name in imports(parse(path)):
        if module.split(".")[0] != "gamp_theory":
            continue
        if name is not None and is_module(f"{module}.{name}"):
            module, name = f"{module}.{name}", None
        assert part(module) != "numerics", f"{path.name} imports {module}"
        assert not module.endswith("kernels"), f"{path.name} imports {module}"
        assert not any(piece.startswith("_") for piece in module.split(".")), module
        if name is not None:
            known = public_names(module) | ({"__version__"} if module == "gamp_theory" else set())
            assert name in known, f"{name} is not in __all__ of {module}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_matplotlib_is_imported_by_plotting_alone(path):
    if path.name == "plotting.py":
        return
    tree = parse(path)
    if path.name == "diagram_drawing.py":  # draws into axes that it is given: types only
        imported = imports(tree, at_import_time=True)
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for f in ast.walk(tree)
                       if isinstance(f, ast.FunctionDef) for node in ast.walk(f))  # fmt: skip
    else:
        imported = imports(tree)
    assert "matplotlib" not in {module.split(".")[0] for module, _ in imported}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_slow_packages_are_imported_late(path):
    if path.name == "plotting.py":
        return  # itself imported late
    early = {module.split(".")[0] for module, _ in imports(parse(path), at_import_time=True)}
    assert not early & LATE
    assert "gamp_theory.plotting" not in {
        f"{module}.{name}" if module == "gamp_theory" else module
        for module, name in imports(parse(path), at_import_time=True)
    }


def test_the_package_names_are_lazy():
    tree = parse(PACKAGE / "__init__.py")
    early = {module for module, _ in imports(tree, at_import_time=True)}
    assert early <= {"__future__", "importlib", "typing"}


def test_importing_the_package_and_its_solver_stays_light():
    code = (
        "import sys, gamp_theory\n"
        "print('numpy' in sys.modules)\n"
        "gamp_theory.solve\n"
        f"print(*(name for name in {sorted(LATE)} if name in sys.modules))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize("name", gamp_theory.__all__)
def test_public_names_exist(name):
    assert getattr(gamp_theory, name).__name__ == name
    assert name in dir(gamp_theory)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'transformers'"):
        _ = gamp_theory.transformers


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_public_modules_list_their_names(path):
    """Every module with something to import says what is public, and has it."""
    tree = parse(path)
    defined = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    } - {"__getattr__", "__dir__"}
    if path.name != "__init__.py" and any(not name.startswith("_") for name in defined):
        assert public_names(dotted(path)), f"{dotted(path)} has no __all__"


@pytest.mark.parametrize(
    "path", [*MODULES, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: path.stem
)
def test_nothing_is_left_for_later(path):
    with tokenize.open(path) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.COMMENT:
                assert not re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", token.string), (
                    f"{path.name}, line {token.start[0]}: {token.string}"
                )
