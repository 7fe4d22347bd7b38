from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import wofz

from kurucz_grids.voigt import faddeeva, voigt


@pytest.mark.parametrize("damping", [1e-4, 1e-2, 0.1, 1.0, 5.0])
def test_faddeeva_agrees_with_scipy(damping):
    v = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    a = torch.full_like(v, damping)
    h, ell = faddeeva(a, v)
    exact = wofz(v.numpy() + 1j * damping)
    np.testing.assert_allclose(h.numpy(), exact.real, rtol=3e-4, atol=6e-6)
    np.testing.assert_allclose(ell.numpy(), exact.imag, rtol=3e-4, atol=6e-6)


def test_area_is_sqrt_pi():
    v = torch.linspace(-500, 500, 200001, dtype=torch.float64)
    area = torch.trapezoid(voigt(torch.full_like(v, 0.3), v), v)
    assert float(area) == pytest.approx(np.sqrt(np.pi), rel=1e-3)
