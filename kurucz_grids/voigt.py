"""The Voigt function and its derivatives, in plain tensor arithmetic that `torch.compile` can fuse."""

from __future__ import annotations

import torch
from torch import Tensor

# Rational approximation of order 6 to the Faddeeva function (Hui, Armstrong & Wray 1978, JQSRT 19, 509).
_A = (122.607931777104326, 214.382388694706425, 181.928533092181549, 93.155580458138441,
      30.180142196210589, 5.912626209773153, 0.564189583562615)  # fmt: skip
_B = (122.607931773875350, 352.730625110963558, 457.334478783897737, 348.703917719495792,
      170.354001821091472, 53.992906912940207, 10.479857114260399)  # fmt: skip
TWO_OVER_SQRT_PI = 1.1283791670955126
ONE_OVER_SQRT_PI = 0.5641895835477563
_FAR = 36.0  # |z|^2 beyond which the continued fraction takes over


def faddeeva(a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Real part H(a, v) (the Voigt function) and imaginary part L(a, v) of w(v + ia), for a >= 0.

    Inside |z| < 6 the rational approximation of Hui et al. (error below 6e-6 of the peak), outside three terms
    of the continued fraction (relative error below 1e-4).
    """
    y = -v
    nr, ni = torch.full_like(v, _A[6]), torch.zeros_like(v)
    dr, di = a + _B[6], y
    for k in range(5, -1, -1):
        nr, ni = nr * a - ni * y + _A[k], nr * y + ni * a
        dr, di = dr * a - di * y + _B[k], dr * y + di * a
    scale = 1.0 / (dr * dr + di * di)
    near_h = (nr * dr + ni * di) * scale
    near_l = (ni * dr - nr * di) * scale
    # i z (z^2 - 5/2) / (sqrt(pi) (z^2 (z^2 - 3) + 3/4))
    zr, zi = v * v - a * a, 2.0 * v * a
    pr, pi = zr - 2.5, zi
    qr, qi = v * pr - a * pi, v * pi + a * pr
    er, ei = zr * (zr - 3.0) - zi * zi + 0.75, zi * (2.0 * zr - 3.0)
    far_scale = ONE_OVER_SQRT_PI / (er * er + ei * ei).clamp(min=1e-20)
    far = v * v + a * a > _FAR
    h = torch.where(far, -(qi * er - qr * ei) * far_scale, near_h)
    ell = torch.where(far, (qr * er + qi * ei) * far_scale, near_l)
    return h, ell


def voigt(a: Tensor, v: Tensor) -> Tensor:
    """H(a, v), peak 1 for a = 0."""
    return faddeeva(a, v)[0]
