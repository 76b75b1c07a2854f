"""The joint spectral law of token covariances, position vectors and teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Isotropic"]


@dataclass(frozen=True)
class Isotropic:
    """All tokens share ``Sigma = sigma**2 I`` and the teacher has i.i.d. N(0, 1) entries.

    Raises
    ------
    ValueError
        If `sigma` is not a positive finite number.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be positive and finite, got {self.sigma!r}")
        object.__setattr__(self, "sigma", float(self.sigma))

    @property
    def variance(self) -> float:
        """``sigma**2``: the eigenvalue of Sigma and, per token, the teacher overlap rho."""
        return self.sigma**2
