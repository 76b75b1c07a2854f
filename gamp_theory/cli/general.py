"""General models on the command line: the options, the model they make, and text."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import BadInput
from gamp_theory.cli.arguments import DEFAULT_TARGET, Parser, integer

if TYPE_CHECKING:
    from gamp_theory.token_model import GeneralModel
    from gamp_theory.token_result import GeneralFixedPoint

__all__ = [
    "add_general",
    "add_general_start",
    "asks_general",
    "build_general",
    "general_record",
    "general_starts",
    "general_text",
    "overlap_norms",
    "refuse_general_start",
]

PAIR_STARTS = ("semantic", "positional", "random")


def add_general(
    command: Parser,
    about: str = "solved by randomised quasi-Monte Carlo, with standard errors,",
) -> None:
    """``--tokens --rank --teacher-rank --model``; `about` says what a general model is then."""
    group = command.add_argument_group(
        "general model",
        f"With any of these the model is {about} and overlaps are nested lists with the token "
        "first.",
    )
    group.add_argument("--tokens", type=integer, metavar="L", help="number of tokens (default: 2)")
    group.add_argument("--rank", type=integer, metavar="R", help="rank of the student (default: 1)")
    group.add_argument(
        "--teacher-rank", type=integer, metavar="T", help="rank of the teacher (default: 1)"
    )
    group.add_argument(
        "--model",
        metavar="FILE.toml",
        help="mechanisms, covariances and positions from a file; see docs/howto/your_own_model.md",
    )


def add_general_start(command: Parser) -> None:
    """``--start`` of commands at finite dimension."""
    command.add_argument(
        "--start",
        choices=(*PAIR_STARTS, "mixed", "uninformed"),
        default="semantic",
        help="weights to start from: the teacher, the position vector, or random ones; for a "
        "general model near the branch of the name, where there are mixed and uninformed, too "
        "(default: %(default)s)",
    )


def refuse_general_start(start: str) -> None:
    """Refuse what is a start of a general model only.

    Raises
    ------
    BadInput
    """
    if start not in PAIR_STARTS:
        raise BadInput(
            f"start must be one of {', '.join(PAIR_STARTS)} for the two-token model, got {start!r}"
        )


def asks_general(options: argparse.Namespace) -> bool:
    """Whether any of the options of a general model was given."""
    names = ("model", "tokens", "rank", "teacher_rank")
    return any(getattr(options, name) is not None for name in names)


def build_general(options: argparse.Namespace) -> GeneralModel | None:
    """The general model that the options describe; None for the two-token one.

    Without a file: ``softmax`` mixed with the target's matrix, isotropic tokens, a teacher of
    independent columns, and positions that are unit vectors at equal angles, with the sum zero.

    Raises
    ------
    BadInput
        If a number is out of range, or options and file disagree.
    """
    if not asks_general(options):
        return None
    numbers = {"tokens": options.tokens, "rank": options.rank, "teacher rank": options.teacher_rank}
    for name, value in numbers.items():
        low = 2 if name == "tokens" else 1
        if value is not None and value < low:
            raise BadInput(f"{name} must be at least {low}, got {value}")
    if options.model is not None:
        return _from_file(options, numbers)
    import numpy as np

    from gamp_theory.spectrum import JointLaw
    from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax
    from gamp_theory.token_model import GeneralModel

    L = options.tokens or 2
    A = options.target
    if len(A) != L and _matrix(DEFAULT_TARGET) == A:
        raise BadInput(
            f"--target must be given with --tokens {L}: {L} rows of {L} numbers, each summing to 1"
        )
    centred = np.eye(L) - 1 / L
    return GeneralModel(
        target=FixedMixture(options.omega, A),
        student=RowSoftmax(),
        law=JointLaw.isotropic(
            options.sigma,
            centred / np.linalg.norm(centred, axis=1, keepdims=True),
            np.eye(options.teacher_rank or 1),
        ),
        rank=options.rank or 1,
    )


def _from_file(options: argparse.Namespace, numbers: dict[str, int | None]) -> GeneralModel:
    from gamp_theory.model_file import read_model

    for name, default in (("omega", 0.3), ("sigma", 0.5), ("target", _matrix(DEFAULT_TARGET))):
        if getattr(options, name) != default:
            raise BadInput(f"--{name} does not go with --model: the file says it")
    model = read_model(options.model)
    own = {"tokens": model.tokens, "rank": model.rank, "teacher rank": model.teacher_rank}
    for name, value in numbers.items():
        if value is not None and value != own[name]:
            raise BadInput(f"--{name.replace(' ', '-')} {value}, but the file has {own[name]}")
    return model


def _matrix(text: str) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row.split(",")) for row in text.split(";"))


def general_starts(names: Sequence[str]) -> list[str]:
    """The starts asked for; ``all`` for those that a general model has."""
    from gamp_theory.token_starts import GENERAL_STARTS

    return list(GENERAL_STARTS if "all" in names else dict.fromkeys(names))


def general_record(model: GeneralModel, lam: float) -> dict[str, Any]:
    """What a document repeats of a general model and the ridge."""
    return {
        "lam": lam,
        "tokens": model.tokens,
        "rank": model.rank,
        "teacher_rank": model.teacher_rank,
    }


def overlap_norms(overlaps: Mapping[str, Any]) -> dict[str, float]:
    """One number for each overlap of a record, in any gauge.

    The mean over tokens of the traces of q and V, and ``sqrt(sum |m_l|**2 / L)``, likewise theta.
    """
    import numpy as np

    norms = {}
    for name, value in overlaps.items():
        array = np.asarray(value, dtype=float)
        if name in ("q", "V"):
            norms[name] = float(np.trace(array, axis1=1, axis2=2).mean())
        else:
            norms[name] = float(np.sqrt(np.sum(array**2) / len(array)))
    return norms


def general_text(points: Sequence[GeneralFixedPoint]) -> str:
    """One paragraph a fixed point."""
    paragraphs = []
    for point in points:
        lines = [repr(point).strip("<>")]
        if point.status.token == "does_not_exist":
            paragraphs.append(f"{lines[0].splitlines()[0]}\n  {point.message}")
            continue
        lines.append(
            f"  linear baseline {point.linear_error:.6g} +- {point.errors.linear_error:.1g}; "
            f"{point.scrambles} x {point.samples} points, {point.seconds:.1f} s, "
            f"missed wells {point.missed_wells:.2g}"
        )
        if point.stability is not None:
            s = point.stability
            lines.append(
                f"  {'stable' if s.stable else 'unstable'}: leading eigenvalue "
                f"{s.eigenvalues[0].real:.3g} +- {s.leading_error:.1g}, replicon "
                f"{s.replicon:.3g} +- {s.replicon_error:.1g}, jump mass {s.jump_mass:.3g} +- "
                f"{s.jump_mass_error:.1g}"
            )
        lines.append(f"  {point.message}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)
