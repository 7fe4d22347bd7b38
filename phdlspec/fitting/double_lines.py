r"""Is there a second star in the spectrum? A score test against the residuals of the best single star.

Two stars of one spectrum s at velocities v and v + u, the second with a share q of the light, are

    (1 - q) s(v) + q s(v + u) = s(v) + q [s(v + u) - s(v)],

so that a double-lined spectrum differs from the best single one along d(u) = s(v + u) - s(v), as far as the single fit
has not followed it: with labels, broadening, resolving power, velocity and continuum. Along what is left of d(u) when
all these are free (their priors and the noise that the fit found for its misfit included, which makes the test one
against the errors of models, not of photons alone), q and its significance are

    q = <d, r> / <d, d>,    z = <d, r> / <d, d>^(1/2),    <a, b> = a^T N^-1 b - a^T N^-1 X (X^T N^-1 X + P)^-1 X^T N^-1 b,

with residuals r, noise N, what is free X (for the continuum, each label, and the low-rank part of the noise) and its
prior precision P. Second stars of another temperature have much of the same lines. The spectrum of the second star is
the first one's without broadening: a pair that is not resolved has broadened the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem
from phdlspec.labels import Role
from phdlspec.lsf import project
