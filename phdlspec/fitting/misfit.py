"""What noise and emulator do not explain: errors of line lists, atmospheres and calibration, star by star.

Ab initio spectra miss real ones by a per cent or two, and at high signal-to-noise ratio that is far more than photons
and emulator account for. The residuals of a first fit tell how, in two steps.

* **Contrast**: over a stretch of the spectrum all lines are too strong or too weak by some share, for want of
  continuous opacity, of the haze of faint lines, or for stray light. How far the shares of the windows scatter is a
  number of the star; each window's contrast is then free by that much, so that no stretch decides by the depth of its
  lines alone.
* **The rest**: where the residuals that remain are significantly larger than the stated noise, noise is added. A line
  that is too strong is too strong in all its pixels: the noise of the missing size is enlarged by the number of pixels
  that err together, and then counts as independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phdlspec.likelihood import ErrorFloor, Likelihood

CONTRAST_WINDOW = 0.05  # in ln(wavelength)
LARGEST_ERROR = 0.1  # of a window's contrast, beyond which it tells nothing
TYPICAL_SCATTER = 0.05  # of contrasts, for the weights of the windows
WINDOW = 0.025  # in ln(wavelength): 120 Å at 5000 Å, some hundred pixels
SIGNIFICANCE = 3.0  # of an excess, in units of its own error
LEAST_PIXELS = 30
TYPICAL_MISFIT = 0.01  # in normalised flux
LAGS = 10  # pixels, beyond which residuals are not compared


def with_misfit(floor: ErrorFloor, likelihood: Likelihood, flux: Tensor, wave: Tensor, n_parameters: int) -> ErrorFloor:
    """The error floor, and what the residuals of S stars show besides.

    Parameters
    ----------
    likelihood : with the stated noise and `floor`
    flux : (S, P) models fitted with `n_parameters`
    wave : (P,) pixels, cut into windows that all stars share
    """
    share, size, templates = contrast(likelihood, flux, wave)
    extra = misfit(likelihood, flux + share * (1.0 - flux), wave, n_parameters)
    factor = torch.cat([floor.factor, size[:, None, None] * templates], dim=1)
    return ErrorFloor((floor.sigma**2 + extra**2).sqrt(), factor)


def contrast(likelihood: Likelihood, flux: Tensor, wave: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By which share lines are too weak in the models (S, P), window by window.

    Returns
    -------
    the share at each pixel (S, P); its scatter (S,) from window to window, 0 where noise explains it; the change of the
    normalised flux (S, W, P) by a share of 1 in each window
    """
    window = window_of(wave, CONTRAST_WINDOW)
    member = torch.nn.functional.one_hot(window).T.to(flux.dtype)  # (W, P)
    templates = (1.0 - flux)[:, None] * member
    continuum = likelihood.continuum(flux)[:, None]
    weight = (likelihood.weight[:, None] * member).double()  # (S, W, P)
    residual = (likelihood.data.flux[:, None] - flux[:, None] * continuum).double()
    total = weight.sum(-1, keepdim=True).clamp(min=1e-30)

    def centred(x: Tensor) -> Tensor:
        # Each window's continuum is its own affair.
        return x - (weight * x).sum(-1, keepdim=True) / total

    depth, residual = centred(((1.0 - flux)[:, None] * continuum).double()), centred(residual)
    information = (weight * depth**2).sum(-1).clamp(min=1e-12)
    share = (weight * depth * residual).sum(-1) / information
    left = (weight * (residual - share[..., None] * depth) ** 2).sum(-1) / (weight > 0).sum(-1).clamp(min=1)
    variance = left.clamp(min=1.0) / information
    known = (variance < LARGEST_ERROR**2) & ((weight > 0).sum(-1) >= LEAST_PIXELS)
    chi2, number = (torch.where(known, x, 0.0 * x).sum(-1) for x in (share**2 / variance, torch.ones_like(share)))
    precision = torch.where(known, 1.0 / (variance + TYPICAL_SCATTER**2), torch.zeros_like(variance))
    scatter = (precision * (share**2 - variance)).sum(-1) / precision.sum(-1).clamp(min=1e-12)
    significant = chi2 - number > SIGNIFICANCE * (2.0 * number).sqrt()
    size = torch.where(significant, scatter.clamp(min=0.0), torch.zeros_like(scatter)).sqrt()
    taken = torch.where(known & significant[:, None], share, torch.zeros_like(share))
    return taken[:, window].to(flux.dtype), size.to(flux.dtype), templates


def misfit(likelihood: Likelihood, flux: Tensor, wave: Tensor, n_parameters: int) -> Tensor:
    """Additional independent error (S, P) in normalised flux of the models (S, P), fitted with `n_parameters`.

    wave : (P,) pixels, cut into windows that all stars share.
    """
    used = likelihood.weight > 0
    z = likelihood.standardised_residuals(flux).double()
    z = z / (1.0 - n_parameters / used.sum(-1, keepdim=True)).clamp(min=0.5).sqrt()
    continuum = likelihood.continuum(flux).double()
    noise2 = torch.where(used, 1.0 / likelihood.weight.clamp(min=1e-30), torch.zeros_like(continuum)) / continuum**2
    window = window_of(wave, WINDOW)
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


def unexplained(stated: Likelihood, flux: Tensor) -> Tensor:
    """What the stated noise does not explain of the residuals of the models (S, P): rms over pixels (S,) in normalised
    flux, each weighted as its noise deserves; 0 where noise explains all."""
    used = stated.weight > 0
    continuum = stated.continuum(flux).double()
    variance = (1.0 / stated.weight.clamp(min=1e-30)).double() / continuum**2
    square = stated.standardised_residuals(flux).double() ** 2 * variance
    weight = torch.where(used, (variance + TYPICAL_MISFIT**2) ** -2, torch.zeros_like(variance))
    excess = (weight * torch.where(used, square - variance, torch.zeros_like(square))).sum(-1)
    return (excess / weight.sum(-1).clamp(min=1e-30)).clamp(min=0.0).sqrt()


def window_of(wave: Tensor, width: float) -> Tensor:
    """The window (P,) of each pixel (P,); widths are in ln(wavelength)."""
    return ((torch.log(wave) - torch.log(wave[0])) / width).long()


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
