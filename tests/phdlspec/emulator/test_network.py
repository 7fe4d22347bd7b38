"""What the network works out before it attends to anything."""

from __future__ import annotations

import pytest
import torch

from phdlspec.emulator.network import LOG_SOLAR_O, MAIN, SOLAR_C_TO_O, Architecture, CarbonMonoxide
from phdlspec.labels import LABELS, LabelSet

LABEL_SET = LabelSet(LABELS[:-1])
LOWER, UPPER = (torch.as_tensor(bound, dtype=torch.float32) for bound in (LABEL_SET.lower, LABEL_SET.upper))


@pytest.fixture(scope="module")
def carbon_monoxide() -> CarbonMonoxide:
    return CarbonMonoxide(Architecture(n_labels=32, n_patches=2, n_vectors=2, co_layers=3), LOWER, UPPER)


def main_labels(teff: float, logg: float, feh: float) -> torch.Tensor:
    half, middle = 0.5 * (UPPER - LOWER), 0.5 * (UPPER + LOWER)
    labels = torch.tensor([[teff, logg, 1.5, feh]])
    inverse = (LOWER[0] * UPPER[0] / teff - middle[0]) / half[0]
    return torch.cat([(labels - middle[MAIN]) / half[MAIN], inverse[None, None]], dim=1)


@pytest.mark.parametrize("carbon", [-0.7, 0.0, 0.26, 0.7])
@torch.no_grad()
def test_free_carbon_and_oxygen_obey_conservation_and_mass_action(carbon_monoxide, carbon):
    main, c, o = main_labels(4300.0, 2.0, -0.3), SOLAR_C_TO_O * 10.0 ** (carbon - 0.3), 10.0**-0.3
    free = 10.0 ** carbon_monoxide(main, torch.tensor([[carbon - 0.3]]), torch.tensor([[-0.3]])).double()
    free_c, free_o = c * free[0, :3], o * free[0, 3:]
    kappa = 1e-3 + 10.0 ** (carbon_monoxide.offset + main @ carbon_monoxide.slope)[0].double()
    assert torch.allclose(c - free_c, o - free_o, atol=2e-5)
    assert torch.allclose(free_c * free_o, kappa * (c - free_c), rtol=1e-3)


@torch.no_grad()
def test_the_dissociation_constant_is_that_of_the_literature(carbon_monoxide):
    """Lowest layer, 0.95 Teff: Tsuji's log K at 5040 K, 1.9 in dyn/cm2, at the pressure that the class assumes."""
    main = main_labels(5040.0 / 0.95, 2.0, 0.0)
    kappa = (carbon_monoxide.offset + main @ carbon_monoxide.slope)[0, -1]
    assert float(kappa) == pytest.approx(1.9 - 3.4 - LOG_SOLAR_O, abs=0.02)


@torch.no_grad()
def test_in_hot_gas_there_is_no_carbon_monoxide(carbon_monoxide):
    free = carbon_monoxide(main_labels(7400.0, 4.0, 0.0), torch.zeros(1, 1), torch.zeros(1, 1))
    assert (free.abs() < 0.02).all()
