from __future__ import annotations

import numpy as np
import pytest
import torch

from kurucz_grids.transfer import _optical_steps, emergent_flux, flux_and_adjoint, planck


def grey(n_layers: int = 60):
    tau = torch.logspace(-5, 2.5, n_layers, dtype=torch.float64)
    opacity = torch.ones(1, n_layers, dtype=torch.float64)
    return tau, opacity


def test_isothermal_atmosphere_radiates_as_a_black_body():
    rhox, opacity = grey()
    b = torch.full_like(opacity, 3.0)
    flux = emergent_flux(opacity, 1e-9 * opacity, b, rhox)
    assert float(flux) == pytest.approx(3.0 * np.pi, rel=3e-3)


def test_source_linear_in_depth_obeys_eddington_barbier():
    rhox, opacity = grey(120)
    flux = emergent_flux(opacity, 1e-9 * opacity, (1.0 + 1.5 * rhox)[None], rhox)
    assert float(flux) == pytest.approx(np.pi * (1.0 + 1.5 * 2 / 3), rel=5e-3)


def test_pure_scattering_slab_loses_light():
    rhox, opacity = grey()
    b = torch.ones_like(opacity)
    thermal = emergent_flux(opacity, 1e-9 * opacity, b, rhox)
    scattered = emergent_flux(0.1 * opacity, 0.9 * opacity, b, rhox)
    # Two-stream: the emissivity of an isothermal half space is about 2 sqrt(eps) / (1 + sqrt(eps)).
    assert float(scattered / thermal) == pytest.approx(2 * np.sqrt(0.1) / (1 + np.sqrt(0.1)), rel=0.1)


def test_adjoint_is_the_derivative():
    generator = torch.Generator().manual_seed(1)
    n_layers = 30
    rhox = torch.logspace(-4, 2, n_layers, dtype=torch.float64)
    absorption = 0.5 + torch.rand(2, n_layers, generator=generator, dtype=torch.float64)
    scattering = 0.3 * torch.rand(2, n_layers, generator=generator, dtype=torch.float64) + 0.01
    b = (1.0 + rhox).log1p()[None].repeat(2, 1)
    flux, adjoint = flux_and_adjoint(absorption, scattering, b, rhox)
    assert torch.allclose(flux, emergent_flux(absorption, scattering, b, rhox))
    step = 1e-6
    for layer in (2, 10, 20, 28):
        for gradient, position in ((adjoint.absorption, 0), (adjoint.scattering, 1), (adjoint.planck, 2)):
            ends = []
            for sign in (-1, 1):
                inputs = [absorption.clone(), scattering.clone(), b.clone()]
                inputs[position][:, layer] += sign * step
                ends.append(emergent_flux(*inputs, rhox))
            numeric = (ends[1] - ends[0]) / (2 * step)
            assert torch.allclose(gradient[:, layer], numeric, rtol=1e-5, atol=1e-9)
    columns = torch.diff(rhox)
    stretched = torch.cat([rhox[:1], rhox[0] + torch.cumsum(columns * (1 + step), 0)])
    numeric = (emergent_flux(absorption, scattering, b, stretched) - flux) / step
    assert torch.allclose(adjoint.log_column[:, 1:].sum(1), numeric, rtol=1e-4, atol=1e-8)


def test_planck_function_and_its_slope():
    wave = torch.tensor([5000.0], dtype=torch.float64)
    b, slope = planck(wave, torch.tensor([5777.0, 5777.0 * 1.001], dtype=torch.float64))
    assert float(b[0, 0]) == pytest.approx(2.64e6, rel=0.02)  # erg/cm2/s/Å/sr, 2.6e13 W/m3/sr
    assert float(slope[0, 0]) == pytest.approx(float((b[0, 1] / b[0, 0]).log() / np.log(1.001)), rel=2e-3)


@pytest.mark.parametrize("power", [0.5, 1.5, 2.5])
def test_optical_depth_on_layers_as_far_apart_as_in_atlas(power):
    # Mass grows by a fourth from layer to layer, opacity as a power of it: where the trapezoidal rule errs.
    rhox = torch.logspace(-3.0, 2.0, 52, dtype=torch.float64)
    opacity = rhox**power
    exact = (rhox ** (power + 1.0) / (power + 1.0))[20:49]
    steps = _optical_steps(opacity[:, None], rhox).steps
    error = torch.cumsum(steps, 0)[20:49, 0] / exact - 1.0
    trapezoid = torch.cumulative_trapezoid(opacity, rhox)[19:48] / exact - 1.0
    assert error.abs().max() < 0.6 * trapezoid.abs().max()
