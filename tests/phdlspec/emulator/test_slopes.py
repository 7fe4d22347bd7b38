"""The closed-form Jacobian of the network is that of automatic differentiation."""

from __future__ import annotations

import copy

import pytest
import torch

from phdlspec.emulator.network import Architecture, Network
from phdlspec.emulator.slopes import coefficients_and_slopes
from phdlspec.labels import GRID_LABELS


@pytest.mark.parametrize("co_layers", [0, 2])
def test_closed_form_is_the_exact_jacobian(co_layers):
    torch.manual_seed(3)
    n = len(GRID_LABELS)
    sizes = {"n_labels": n, "n_patches": 7, "n_vectors": 5, "width": 16, "heads": 4, "hidden": 12, "second_hidden": 10}
    architecture = Architecture(**sizes, token_hidden=6, co_layers=co_layers)
    lower, upper = (torch.as_tensor(x) for x in (GRID_LABELS.lower, GRID_LABELS.upper))
    energy = torch.rand(7, n) + 0.1
    network = copy.deepcopy(Network(architecture, lower, upper, energy, torch.rand(7, 5) + 0.5)).double()
    x = 1.8 * torch.rand(3, n, dtype=torch.float64) - 0.9
    with torch.no_grad():
        found = coefficients_and_slopes(network, x)
        assert torch.allclose(found[:, :, 0], network.by_patch(x), atol=1e-12)
    for star in range(3):
        exact = torch.autograd.functional.jacobian(lambda v: network.by_patch(v[None])[:, 0], x[star])
        assert torch.allclose(found[:, star, 1:].transpose(1, 2), exact, atol=1e-10)
