"""Optional astrophysical priors on the labels, by name. Without them every label is flat between its bounds.

Each prior is a set of residuals rho(labels), ln pi = -|rho|^2 / 2, so that optimisers can expand it. They are simple
on purpose: wide statements that any star of the sort obeys, not a model of the Galaxy.

`PRIORS` has them by name:

>>> list(phdlspec.PRIORS)
['vmic', 'abundances', 'alpha', 'kiel', 'rotation']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import torch
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.labels import STRUCTURE, LabelSet, Role, typical_vmic

PriorResiduals = Callable[[LabelSet, Tensor], Tensor]


class StatedPrior(Protocol):
    """What a fit asks of a prior: `Prior` is one, and what is known of single stars (`phdlspec.fitting.known`)."""

    @property
    def residuals(self) -> PriorResiduals:
        """Standardised residuals (S, ..., R) of labels (S, ..., L)."""

    def select(self, index: Tensor) -> StatedPrior:
        """The prior of some stars."""


@dataclass(frozen=True)
class Prior:
    """A named prior: `residuals(labels, theta (..., L))` gives (..., R) standardised residuals."""

    name: str
    description: str
    residuals: PriorResiduals

    def select(self, index: Tensor) -> Prior:
        """The prior of some stars: the same for all."""
        return self


def _column(labels: LabelSet, theta: Tensor, name: str) -> Tensor:
    return theta[..., labels.index(name)]


def _vmic(labels: LabelSet, theta: Tensor) -> Tensor:
    teff, logg, fe_h, vmic = (_column(labels, theta, n) for n in (*STRUCTURE, "VMIC"))
    return ((vmic - typical_vmic(teff, logg, fe_h)) / 0.3)[..., None]


def _abundances(labels: LabelSet, theta: Tensor) -> Tensor:
    return theta[..., labels.place(Role.ABUNDANCE)] / 0.3


def _alpha(labels: LabelSet, theta: Tensor) -> Tensor:
    names = [name for name in ("O_FE", "MG_FE", "SI_FE", "CA_FE", "TI_FE") if name in labels]
    alpha = torch.stack([_column(labels, theta, name) for name in names], dim=-1)
    return (alpha - alpha.mean(dim=-1, keepdim=True)) / 0.15


def _kiel(labels: LabelSet, theta: Tensor) -> Tensor:
    teff, logg, fe_h = (_column(labels, theta, name) for name in STRUCTURE)
    # Zero-age main sequence: logg 4.85 at 4000 K, 4.55 at 5500 K, 4.3 at 7000 K; metal-poor dwarfs 0.1 higher.
    main_sequence = 4.55 - 1.8e-4 * (teff - 5500.0) - 0.05 * fe_h.clamp(-2.0, 0.5)
    below = torch.relu(logg - main_sequence - 0.05) / 0.1
    # No old star is cool and of intermediate gravity: between the giants' branch and the main sequence.
    giants = 3.65 + (teff - 4900.0) / 1000.0
    gap = torch.relu(torch.minimum(logg - giants, main_sequence - 0.35 - logg)) / 0.15
    # Hot stars of low gravity are bright and rare: left of the giants' branch and above the subgiants.
    hottest = 5400.0 + 900.0 * (logg - 2.0) - 250.0 * fe_h.clamp(-2.0, 0.5)
    left = torch.relu(teff - hottest.clamp(min=5400.0)) * torch.sigmoid((3.2 - logg) / 0.1) / 300.0
    return torch.stack([below, gap * torch.sigmoid((4900.0 - teff) / 50.0), left], dim=-1)


def _rotation(labels: LabelSet, theta: Tensor) -> Tensor:
    return (_column(labels, theta, "VBROAD") / 15.0)[..., None]


PRIORS: dict[str, Prior] = {
    prior.name: prior
    for prior in (
        Prior(
            "vmic",
            "VMIC within 0.3 km/s of its relation with TEFF, LOGG, FE_H (Ramirez et al. 2013, eq. 1)",
            _vmic,
        ),
        Prior("abundances", "every [X/Fe] normal around 0 with 0.3 dex", _abundances),
        Prior("alpha", "O, Mg, Si, Ca, Ti scatter about their common mean by 0.15 dex", _alpha),
        Prior(
            "kiel",
            "no stars below the main sequence, in the gap of cool stars between giants and dwarfs, "
            "or far to the left of the giant branch (soft edges of 0.1 dex, 300 K)",
            _kiel,
        ),
        Prior("rotation", "VBROAD half-normal with 15 km/s: old cool stars rotate slowly", _rotation),
    )
}


def select_priors(names: Sequence[str]) -> tuple[Prior, ...]:
    """The priors of these names; an unknown name is refused with the known ones."""
    for name in names:
        if name not in PRIORS:
            near = get_close_matches(name, PRIORS, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown prior {name!r}{hint} Known priors are {', '.join(PRIORS)}")
    return tuple(PRIORS[name] for name in names)


def _residuals(priors: Sequence[StatedPrior], coordinates: Coordinates, z: Tensor) -> Tensor:
    theta = coordinates.split(coordinates.parameters(z))[0]
    return torch.cat([prior.residuals(coordinates.labels, theta) for prior in priors], dim=-1)


def prior_value(priors: Sequence[StatedPrior], coordinates: Coordinates, z: Tensor) -> Tensor:
    """ln pi (S, ...) of priors at coordinates (S, ..., D), without constants."""
    return -0.5 * (_residuals(priors, coordinates, z) ** 2).sum(-1)


def prior_expansion(
    priors: Sequence[StatedPrior], coordinates: Coordinates, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ln pi (S,), gradient (S, D) and minus the Gauss-Newton Hessian (S, D, D) at coordinates (S, D)."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        rho = _residuals(priors, coordinates, leaf)
        rows = [torch.autograd.grad(rho[:, i].sum(), leaf, retain_graph=True)[0] for i in range(rho.shape[1])]
    jacobian = torch.stack(rows, dim=1)  # (S, R, D)
    rho = rho.detach()
    gradient = -(rho[..., None] * jacobian).sum(dim=1)
    return -0.5 * (rho**2).sum(-1), gradient, jacobian.mT @ jacobian
