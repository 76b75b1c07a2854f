"""What a command returns, and how it leaves the process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "BAD_INPUT",
    "INTERRUPTED",
    "SUCCESS",
    "UNSETTLED",
    "Answer",
    "BadInput",
    "as_json",
]

SUCCESS, UNSETTLED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class BadInput(Exception):
    """What was asked for can not be: exit code 2, nothing computed."""


class Answer(NamedTuple):
    """What a command found.

    Attributes
    ----------
    document : dict
        What ``--json`` prints; may hold NaN, which is written as null.
    text : str
        The same for people.
    exit_code : int
        0 if all that was asked for is settled, 1 if not, 130 after Ctrl-C.
    """

    document: dict[str, Any]
    text: str
    exit_code: int


def as_json(document: Mapping[str, Any]) -> str:
    """The document as text; numbers that are not finite become null: JSON has no NaN."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by None: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
