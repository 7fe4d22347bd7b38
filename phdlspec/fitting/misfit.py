"""What noise and emulator do not explain: errors of line lists, atmospheres and calibration, star by star.

Ab initio spectra miss real ones by a per cent or two, window by window, and at high signal-to-noise ratio that is far
more than photons and emulator account for. Where the residuals of a first fit are significantly larger than the stated
noise, noise is added, so that such windows lose weight and errors are not those of a perfect model. A line that is too
strong is too strong in all its pixels: the noise of the missing size is enlarged by the number of pixels that err
together, as the star's own residuals show it, and then counts as independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phdlspec.likelihood import ErrorFloor, Likelihood

WINDOW = 0.025  # in ln(wavelength): 120 Å at 5000 Å, some hundred pixels
SIGNIFICANCE = 3.0  # excess of the mean squared residual, in units of its own error
LEAST_PIXELS = 30
LAGS = 10  # pixels, beyond which residuals are not compared


def misfit(likelihood: Likelihood, flux: Tensor, wave: Tensor, n_parameters: int) -> Tensor:
    """Additional independent error (S, P) in normalised flux of the models (S, P), fitted with `n_parameters`.

    wave : (P,) pixels, cut into windows that all stars share.
    """
    used = likelihood.weight > 0
    z = likelihood.standardised_residuals(flux[:, None])[:, 0].double()
    z = z / (1.0 - n_parameters / used.sum(-1, keepdim=True)).clamp(min=0.5).sqrt()
    continuum = likelihood.continuum(flux[:, None])[:, 0].double()
    noise2 = torch.where(used, 1.0 / likelihood.weight.clamp(min=1e-30), torch.zeros_like(continuum)) / continuum**2
    window = ((torch.log(wave) - torch.log(wave[0])) / WINDOW).long()
    n_windows = int(window[-1]) + 1

    def mean(x: Tensor) -> Tensor:
        # Over the used pixels of each window (S, W).
        total = torch.zeros(len(x), n_windows, dtype=torch.float64, device=x.device)
        return total.index_add_(1, window, torch.where(used, x, torch.zeros_like(x)).double()) / count.clamp(min=1.0)

    count = torch.zeros(len(z), n_windows, dtype=torch.float64, device=z.device)
    count.index_add_(1, window, used.double())
    excess = mean(z**2) - 1.0
    significant = (excess > SIGNIFICANCE * (2.0 / count.clamp(min=1.0)).sqrt()) & (count >= LEAST_PIXELS)
    variance = torch.where(significant, excess * mean(noise2), torch.zeros_like(excess))
    variance = variance * _pixels_together(z, used & significant[:, window])[:, None]
    return variance.sqrt()[:, window].to(flux.dtype)


def _pixels_together(z: Tensor, where: Tensor) -> Tensor:
    """How many neighbouring pixels err as one (S,), at least 1, from standardised residuals (S, P) where they misfit.

    One and twice the sum of the correlations at growing distance, as far as these are positive; the noise in z^2, which
    is not correlated, does not count.
    """

    def product(lag: int) -> Tensor:
        both = where[:, : where.shape[1] - lag] & where[:, lag:]
        products = z[:, : z.shape[1] - lag] * z[:, lag:]
        return (products * both).sum(-1) / both.sum(-1).clamp(min=1)

    excess = (product(0) - 1.0).clamp(min=1e-6)
    correlation = torch.stack([product(lag) for lag in range(1, LAGS + 1)], dim=-1) / excess[:, None]
    positive = torch.cumprod((correlation > 0).double(), dim=-1)
    return 1.0 + 2.0 * (correlation.clamp(max=1.0) * positive).sum(-1)


def enlarged(floor: ErrorFloor, extra: Tensor) -> ErrorFloor:
    """An error floor with additional independent errors (S, P)."""
    return ErrorFloor((floor.sigma**2 + extra**2).sqrt(), floor.factor)
