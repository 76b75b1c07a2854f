"""Models in TOML files: data only, nothing in them is evaluated (docs/howto/your_own_model.md)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gamp_theory.spectrum import JointLaw
from gamp_theory.token_mechanisms import (
    FixedMixture,
    LinearAttention,
    RowSoftmax,
    TokenMechanism,
)
from gamp_theory.token_model import GeneralModel

__all__ = ["read_model"]

MECHANISMS: Mapping[str, tuple[Callable[..., TokenMechanism], set[str]]] = {
    "softmax": (RowSoftmax, {"temperature", "causal"}),
    "linear": (LinearAttention, {"scale", "causal"}),
}
LAWS: Mapping[str, tuple[Callable[..., JointLaw], set[str]]] = {
    "isotropic": (JointLaw.isotropic, {"sigma", "positions", "teacher", "correlation"}),
    "power_law": (
        JointLaw.power_law,
        {"exponent", "sigma", "positions", "teacher", "alignment", "nodes"},
    ),
    "atoms": (JointLaw, {"weights", "gamma", "moments"}),
    "discrete": (JointLaw.discrete, {"weights", "gamma", "tau", "pi"}),
}


def read_model(path: str | Path) -> GeneralModel:
    """The model that a TOML file describes.

    Raises
    ------
    ValueError
        If the file can not be read or is not TOML, a key is unknown or missing, or what it holds
        is refused by the model: naming the table and the key.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"model file {str(path)!r} can not be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"model file {str(path)!r} is not TOML: {error}") from None
    _known("the file", document, {"rank", "target", "student", "law"})
    for name in ("target", "student", "law"):
        if not isinstance(document.get(name), dict):
            raise ValueError(f"the file must have a table [{name}]")
    rank = document.get("rank", 1)
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise ValueError(f"rank must be a whole number, got {rank!r}")
    return GeneralModel(
        target=_mechanism("target", document["target"]),
        student=_mechanism("student", document["student"]),
        law=_called("law", document["law"], LAWS),
        rank=rank,
    )


def _mechanism(name: str, entries: Mapping[str, Any]) -> TokenMechanism:
    """``kind`` and its keys; with ``omega`` and ``A``, mixed with a fixed matrix."""
    inner = {key: value for key, value in entries.items() if key not in ("omega", "A")}
    mechanism: TokenMechanism = _called(name, inner, MECHANISMS)
    mixed = {"omega", "A"} & set(entries)
    if not mixed:
        return mechanism
    if len(mixed) == 1:
        raise ValueError(f"[{name}] must have both omega and A, or neither")
    try:
        return FixedMixture(entries["omega"], entries["A"], mechanism)
    except (TypeError, ValueError) as error:
        raise ValueError(f"[{name}]: {error}") from None


def _called(name: str, entries: Mapping[str, Any], makers: Mapping[str, tuple[Any, Any]]) -> Any:
    """What the maker of this ``kind`` makes of the other keys."""
    kind = entries.get("kind")
    if not isinstance(kind, str) or kind not in makers:
        raise ValueError(f"[{name}] kind must be one of {', '.join(makers)}, got {kind!r}")
    maker, keys = makers[kind]
    arguments = {key: value for key, value in entries.items() if key != "kind"}
    _known(f"[{name}] of kind {kind!r}", arguments, keys)
    try:
        return maker(**arguments)
    except TypeError as error:  # a key that is missing, or a value of another type
        raise ValueError(f"[{name}]: {str(error).split('() ')[-1]}") from None
    except ValueError as error:
        raise ValueError(f"[{name}]: {error}") from None


def _known(where: str, entries: Mapping[str, Any], keys: set[str]) -> None:
    unknown = sorted(set(entries) - keys)
    if unknown:
        raise ValueError(
            f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(keys))}"
        )
