"""How to fit: the choices that a result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from phdlspec.emulator.bridge import DEFAULT
from phdlspec.errors import UserError
from phdlspec.fitting.known import GivenValue, KnownStar
from phdlspec.fitting.priors import select_priors
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval, intervals_of

MODES = ("full", "fast")
SAMPLERS = ("emcee", "hmc")


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    mode : "full" (CMA-ES, then MCMC) or "fast" (look-up, exact-Jacobian optimiser, importance-corrected Laplace
        posterior that falls back to HMC where its diagnostic fails). sampler : of the full mode. seed : of everything
        random. priors : names of `phdlspec.fitting.priors`. masks : all wavelengths left out, as `MaskInterval` or
        pairs in vacuum Å. resolution_width : standard deviation of the logarithm of the factor on the resolving power;
        None is the survey's (`coordinates`), 0 trusts the spectrum's own.
    robust : leave out pixels that no noise explains, add noise where the model misfits, and widen errors of labels
        about which the windows of the spectrum disagree. refine : end with ab initio spectra. max_steps : of each
        walker or, after the warm-up, chain of the samplers at most. known : what is known of all stars from
        elsewhere, by name, as `KnownStar.of` takes it: {"TEFF": 5772.0, "FE_H": (-0.5, 0.1)}. known_table : of what
        is known of each star, see `phdlspec.fitting.known_table`. bridge : "default" (the shipped one), "none", or a
        file of `phdlspec bridge learn`.

    >>> masks = [*phdlspec.DEFAULT_INTERVALS, (4300, 4320)]
    >>> settings = phdlspec.FitSettings(mode="fast", priors=("vmic",), masks=masks)
    >>> settings.masks[-1].low
    4300.0
    """

    mode: str = "full"
    sampler: str = "emcee"
    seed: int = 1
    priors: tuple[str, ...] = ()
    masks: tuple[MaskInterval, ...] = DEFAULT_INTERVALS
    resolution_width: float | None = None
    robust: bool = True
    refine: bool = False
    max_steps: int = 4000
    known: Mapping[str, GivenValue] = field(default_factory=dict)
    known_table: str | None = None
    bridge: str = DEFAULT

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown mode {self.mode!r}, expected full or fast")
        if self.sampler not in SAMPLERS:
            raise UserError(f"unknown sampler {self.sampler!r}, expected emcee or hmc")
        if not isinstance(self.seed, Integral):
            raise UserError(f"the seed is {self.seed!r}, expected a whole number")
        if self.resolution_width is not None and not 0.0 <= self.resolution_width < np.inf:
            raise UserError(
                f"the width of the prior on the resolving power is {self.resolution_width:g}, expected a number that "
                "is not negative; 0 trusts the file"
            )
        object.__setattr__(self, "priors", (self.priors,) if isinstance(self.priors, str) else tuple(self.priors))
        object.__setattr__(self, "masks", intervals_of(self.masks))
        select_priors(self.priors)
        KnownStar.of(self.known)
