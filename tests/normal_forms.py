"""Problems with known bifurcations: ``R(x, p) = 0`` with two unknowns, and what there is to find.

The first unknown carries the normal form; the second follows it, ``x_2 = sin(x_1) + p/3``, so that
curves are bent and Jacobians full.
"""

from dataclasses import dataclass, field

import numpy as np

from gamp_theory.numerics.curves import Problem


@dataclass(frozen=True)
class NormalForm:
    """A scalar form ``f(u, p)`` with its derivatives, and where its special points are."""

    f: object
    f_u: object
    f_p: object
    folds: tuple = ()  # (u, p)
    branch_points: tuple = field(default=())  # (u, p)

    def residual(self, x, p):
        return np.array([self.f(x[0], p) + 0.5 * self.follower(x, p), self.follower(x, p)])

    @staticmethod
    def follower(x, p):
        return x[1] - np.sin(x[0]) - p / 3

    def jacobian(self, x, p, value):
        follower = np.array([-np.cos(x[0]), 1.0, -1 / 3])
        form = np.array([self.f_u(x[0], p), 0.0, self.f_p(x[0], p)])
        return np.array([form + 0.5 * follower, follower])

    def problem(self, analytic=True):
        return Problem(self.residual, self.jacobian if analytic else None)

    @staticmethod
    def at(u, p):
        """Both unknowns."""
        return np.array([u, np.sin(u) + p / 3])


FOLD = NormalForm(
    lambda u, p: p - 0.2 - u**2, lambda u, p: -2 * u, lambda u, p: 1.0, folds=((0.0, 0.2),)
)
PITCHFORK = NormalForm(
    lambda u, p: p * u - u**3,
    lambda u, p: p - 3 * u**2,
    lambda u, p: u,
    branch_points=((0.0, 0.0),),
)
TRANSCRITICAL = NormalForm(
    lambda u, p: (p - 0.1) * u - u**2,
    lambda u, p: p - 0.1 - 2 * u,
    lambda u, p: u,
    branch_points=((0.0, 0.1),),
)
S_CURVE = NormalForm(
    lambda u, p: p - u**3 + u,
    lambda u, p: 1 - 3 * u**2,
    lambda u, p: 1.0,
    folds=((-(3**-0.5), 2 * 3**-1.5), (3**-0.5, -2 * 3**-1.5)),
)
# The line u = -2, and a circle of radius .3 around (0, 0) that it never meets.
ISOLA = NormalForm(
    lambda u, p: (u + 2) * (u**2 + p**2 - 0.09),
    lambda u, p: u**2 + p**2 - 0.09 + 2 * u * (u + 2),
    lambda u, p: 2 * p * (u + 2),
    folds=((0.0, 0.3), (0.0, -0.3)),
)
