"""Write docs/api.md, the reference of the public names, from their docstrings.

Run ``python docs/make_api.py`` after a change of a public name, signature or summary; a test
compares the page with what this writes.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gamp_theory

PAGE = Path(__file__).with_name("api.md")

#: The public modules, by what a reader looks for.
SECTIONS = {
    "Models": (
        "model",
        "mechanisms",
        "spectrum",
        "overlaps",
        "token_model",
        "token_mechanisms",
        "token_overlaps",
        "model_file",
    ),
    "Fixed points": (
        "state_evolution",
        "result",
        "token_origin",
        "token_result",
        "stability",
        "observables",
        "solutions",
        "landscape",
        "trajectory",
    ),
    "Trust": (
        "check",
        "identities",
        "expansions",
        "expansions.origin",
        "expansions.constant",
        "expansions.ridge",
        "expansions.population",
        "expansions.sigma",
    ),
    "Branches and transitions": (
        "branches",
        "branch_result",
        "tracing",
        "transition_result",
        "transitions",
        "token_line_result",
        "token_branches",
        "token_transitions",
        "transition_lines",
        "phase_diagram",
    ),
    "Many points, files, figures": ("sweep", "datasets", "grids", "netcdf", "records", "plotting"),
    "Finite dimension": (
        "empirical.task",
        "empirical.training",
        "empirical.gamp",
        "empirical.curvature",
        "empirical.measure",
        "empirical.token_task",
    ),
}

HEAD = """# API reference

Written by `docs/make_api.py` from the docstrings: do not edit.  `help(name)` has parameters, shapes
and what is raised.  Names that `gamp_theory` itself exports are marked with a star; all others are
imported from their module.  What is not listed here may change without notice.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield HEAD
    for title, names in SECTIONS.items():
        yield f"## {title}\n"
        for name in names:
            module = importlib.import_module(f"gamp_theory.{name}")
            package = hasattr(module, "__path__")
            path = f"../gamp_theory/{name.replace('.', '/')}{'/__init__' if package else ''}.py"
            yield f"### [`gamp_theory.{name}`]({path})\n"
            yield f"{_summary(module)}\n"
            yield from _entries(module)
            yield ""


def _entries(module: ModuleType) -> Iterator[str]:
    """One item for each public name that is at home in the module, methods below their class."""
    constants = []
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            constants.append(f"`{name}`")
        elif value.__module__ == module.__name__:
            star = " ★" if name in gamp_theory.__all__ else ""
            yield f"* **`{name}{_signature(value)}`**{star}: {_summary(value)}"
            if inspect.isclass(value):
                yield from _members(value)
    if constants:
        yield f"* Constants: {', '.join(constants)}"


def _members(cls: type) -> Iterator[str]:
    """What a class defines beside its fields."""
    if issubclass(cls, enum.Enum):
        yield f"  * members: {', '.join(f'`{member.name}`' for member in cls)}"
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"  * `.{name}`: {_summary(member)}"
        elif isinstance(member, staticmethod | classmethod) or inspect.isfunction(member):
            bound = getattr(cls, name)
            yield f"  * `.{name}{_signature(bound)}`: {_summary(bound)}"


def _signature(value: object) -> str:
    """Names and defaults; what they are is in the docstring."""
    if inspect.isclass(value) and issubclass(value, enum.Enum | BaseException):
        return ""
    signature = inspect.signature(value)  # type: ignore[arg-type]
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        plain = parameter.replace(annotation=inspect.Parameter.empty)
        made_anew = type(parameter.default) not in (int, float, str, bool, tuple, type(None))
        if parameter.default is not inspect.Parameter.empty and made_anew:
            plain = plain.replace(default=_Ellipsis())
        parameters.append(plain)
    return str(inspect.Signature(parameters))


class _Ellipsis:
    """A default whose text would say nothing, or differ from run to run."""

    def __repr__(self) -> str:
        return "..."


def _summary(value: object) -> str:
    """The first paragraph of a docstring, as Markdown."""
    text = inspect.getdoc(value) or ""
    if dataclasses.is_dataclass(value) and text.startswith(f"{getattr(value, '__name__', '')}("):
        text = ""  # made up by dataclasses
    text = " ".join(text.split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
