"""The general model: L tokens, ranks r and t, covariances and mechanisms of one's own."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np

from gamp_theory.model import AttentionModel
from gamp_theory.spectrum import JointLaw
from gamp_theory.token_mechanisms import (
    FixedMixture,
    RowSoftmax,
    TokenMechanism,
    check_mechanism,
    is_even,
    is_flat_at_rest,
    is_rotation_invariant,
)

__all__ = ["GeneralModel"]


@dataclass(frozen=True, eq=False)
class GeneralModel:
    """Teacher and student of L tokens, any ranks, covariances and mechanisms (docs/theory.md, 1).

    The pair route of :class:`gamp_theory.AttentionModel` is faster and far more accurate where it
    applies; :func:`gamp_theory.solve` takes either.

    Attributes
    ----------
    target : TokenMechanism
        The teacher's mechanism T: fields (L, t) to a matrix (L, L).
    student : TokenMechanism
        The student's mechanism S: fields (L, r) to a matrix (L, L).
    law : JointLaw
        Covariances, positions and teacher; it says what L and t are.
    rank : int
        Rank r of the student.
    even_target, even_student : bool
        Whether the mechanism does not change with the sign of its fields.
    flat_student : bool
        Whether the first derivatives of the student's mechanism vanish at h = 0, as those of an
        even one do.
    rotation_invariant : bool
        Whether the student's mechanism does not change under h -> h O; always so in spirit at
        rank 1 with an even mechanism, and reported there as `even_student`.

    Raises
    ------
    ValueError
        If the rank is not a positive integer, or a mechanism has another shape, returns what is
        not finite, or has wrong derivatives (naming the entry).
    """

    target: TokenMechanism
    student: TokenMechanism
    law: JointLaw
    rank: int = 1
    even_target: bool = field(init=False)
    even_student: bool = field(init=False)
    flat_student: bool = field(init=False)
    rotation_invariant: bool = field(init=False)

    def __post_init__(self) -> None:
        try:
            rank = operator.index(self.rank)
        except TypeError:
            raise ValueError(f"rank must be an integer, got {self.rank!r}") from None
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank!r}")
        object.__setattr__(self, "rank", rank)
        for name, mechanism, k in (
            ("target", self.target, self.teacher_rank),
            ("student", self.student, rank),
        ):
            try:
                check_mechanism(mechanism, self.tokens, k)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        even = is_even(self.student, self.tokens, rank)
        turns = is_rotation_invariant(self.student, self.tokens, rank)
        object.__setattr__(
            self, "even_target", is_even(self.target, self.tokens, self.teacher_rank)
        )
        object.__setattr__(self, "even_student", even)
        object.__setattr__(self, "flat_student", is_flat_at_rest(self.student, self.tokens, rank))
        object.__setattr__(self, "rotation_invariant", turns)

    @property
    def tokens(self) -> int:
        """Number of tokens L."""
        return self.law.tokens

    @property
    def teacher_rank(self) -> int:
        """Rank t of the teacher."""
        return self.law.teacher_rank

    @property
    def positions_independent(self) -> bool:
        """Whether positions and teacher are uncorrelated in every atom of the law."""
        cross = self.law.moments[:, : self.tokens, self.tokens :]
        return not np.any(cross)

    @classmethod
    def from_pair(cls, model: AttentionModel) -> GeneralModel:
        """The two-token, rank-one model, to be solved by the general method."""
        return cls(
            target=FixedMixture(model.omega, model.target.A),
            student=RowSoftmax(),
            law=JointLaw.isotropic(model.sigma, [[1.0], [-1.0]]),
        )
