"""Newton's method across a curve of solutions."""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.numerics.curves import Problem, StepControl, Vector
from gamp_theory.numerics.differences import jacobian as difference_jacobian

__all__ = ["Corrector"]


class Corrector:
    """Residuals, their count, and Newton's method across the curve."""

    def __init__(self, problem: Problem, control: StepControl) -> None:
        self.problem, self.control = problem, control
        self.evaluations = 0

    def prepare(self, z: Vector) -> None:
        """Let the problem get ready for residuals near z."""
        if self.problem.prepare is not None:
            self.problem.prepare(z[:-1], float(z[-1]))

    def residual(self, z: Vector) -> Vector:
        """R at z, counted."""
        self.evaluations += 1
        return np.asarray(self.problem.residual(z[:-1], float(z[-1])), dtype=float)

    def slope(self, z: Vector, value: Vector, *, accurate: bool = False) -> Vector:
        """``[R_x, R_p]``; `accurate` where it is to be as good as it can be."""
        if accurate and self.problem.accurate is not None:
            return self.problem.accurate(z[:-1], float(z[-1]), value)
        if self.problem.jacobian is not None:
            return self.problem.jacobian(z[:-1], float(z[-1]), value)
        if accurate:
            return difference_jacobian(self.residual, z, 0.0, floor=1e-5)
        return difference_jacobian(self.residual, z, 0.0, floor=1e-7, method="forward", value=value)

    def correct(self, guess: Vector, across: Vector) -> tuple[Vector, Vector, float, int] | None:
        """Solve in the hyperplane through `guess` across a direction, with one Jacobian.

        Broyden's update makes up for its age.  Returns z, the Jacobian at `guess`, the residual
        and the number of steps; None if there is no convergence.
        """
        z, value = guess, self.residual(guess)
        if not np.all(np.isfinite(value)):
            return None
        slope = self.slope(z, value)
        if not np.all(np.isfinite(slope)):
            return None
        matrix = np.vstack([slope, across])
        first = float(np.max(np.abs(value)))
        for k in range(self.control.corrections + 1):
            size = float(np.max(np.abs(value)))
            if size <= self.control.tol:
                return z, slope, size, k
            if k == self.control.corrections or size > 2 * first:
                return None
            try:
                change = np.linalg.solve(matrix, -np.append(value, 0.0))
            except np.linalg.LinAlgError:
                return None
            z = z + change
            value = self.residual(z)
            if not np.all(np.isfinite(value)):
                return None
            matrix[:-1] += np.outer(value, change) / (change @ change)
        return None

    def newton(self, guess: Vector, across: Vector) -> Vector | None:
        """The same with a fresh and accurate Jacobian in each step, as far as it goes."""
        z, value = guess, self.residual(guess)
        last = math.inf
        for _ in range(20):
            size = float(np.max(np.abs(value)))
            if not math.isfinite(size):
                return None
            if size <= 1e-3 * self.control.tol or (size <= self.control.tol and size > 0.3 * last):
                return z
            last = size
            matrix = np.vstack([self.slope(z, value, accurate=True), across])
            # at a branch point the matrix is singular, and the equations still consistent
            z = z + np.linalg.lstsq(matrix, -np.append(value, 0.0), rcond=1e-12)[0]
            value = self.residual(z)
        return z if float(np.max(np.abs(value))) <= self.control.tol else None

    def tangent(self, slope: Vector, forward: Vector) -> Vector:
        """Unit null vector of ``[R_x, R_p]`` on the side of `forward`."""
        vector = np.linalg.svd(slope)[2][-1]
        return vector if vector @ forward >= 0 else -vector
