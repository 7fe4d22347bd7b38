r"""Distance modulus and extinction, marginalised once per star instead of once per point of the grid.

Magnitudes m_b = M_b + mu + k_b A + noise, with weights w_b = 1 / sigma_b^2. For a point with absolute magnitudes M_b
the misfit separates:

    sum_b w_b (m_b - M_b - mu - k_b A)^2 = rest^2 + L (u - mu - rho A)^2 + S (v - A)^2,
    L = sum w,  rho = sum w k / L,  S = sum w (k - rho)^2,
    u = sum w (m - M) / L,  v = sum w (k - rho) (m - M) / S.

Only u, v and the rest depend on the point. So the integral over mu and A under any prior p(mu) p(A), parallax included,

    W(u, v) = int int exp(-L (u - mu - rho A)^2 / 2 - S (v - A)^2 / 2) p(mu) p(A) d mu d A,

is a table of two numbers for each star, and a point costs one look-up. With one band S = 0 and v plays no part; the
rest is nothing for one or two bands, and for B of them the sum of B - 2 squares, each linear in the M_b: what of the
weighted residuals is orthogonal to both 1 and k. Kernels are integrated over cells of mu and of A, so that a prior
narrower or wider than the kernel is treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from phdlspec.ages.priors import LENGTH_KPC, MEAN_EXTINCTION, ln_space_density
from phdlspec.ages.stars import Photometry
from phdlspec.bolometric import BANDS

Array = NDArray[np.float64]

N_MODULUS, N_U, N_V, N_EXTINCTION = 512, 256, 32, 40
NO_MAGNITUDE = 1e6  # of points outside the bolometric corrections: farther than any table reaches
_REACH = 6.0  # sigma
_FARTHEST = 5.0 * float(np.log10(25.0 * LENGTH_KPC * 100.0))  # mu of 25 scale lengths: the prior is 1e-7 there
_NEAREST = -5.0
_MOST_EXTINCTION = -MEAN_EXTINCTION * float(np.log(1e-4))
_NARROWEST = 1e-3  # mag, of a cell of A: an extinction without an error
_SMALL = 1e-30
_NEVER = -1e8  # ln W beyond the table


@dataclass(frozen=True)
class DistanceTables:
    """Tables of a batch of n stars.

    Attributes
    ----------
    used : (n,) True where a star has a usable magnitude; the others are not touched
    x, y : (n, 1 + B) place of a point in the table: x = x[0] - sum_b x[b] M_b, in steps; the same for y
    rest : (n, max(B - 2, 0), 1 + B) the same for what neither mu nor A explains, in errors
    colour : (n,) standard deviation of v, infinite where S = 0
    corners : (n N_U N_V, 4) ln of W over its maximum, `_NEVER` at the borders, at a node and at the next in v, in u and
        in both
    modulus : (n, N_MODULUS) nodes of mu; extinction : (n, N_EXTINCTION + 1) edges of cells of A
    modulus_prior, extinction_kernel, modulus_table, spectrum, modulus_place : parts of W from which the posteriors of
        mu and A are made: p(mu) (n, N_MODULUS); p(A) times the mean over its cell of exp(-S (v - A)^2 / 2), over the
        maximum of W (n, N_V, N_EXTINCTION); the convolution of p(mu) with the kernel in u, averaged over u - rho A of
        the cells (n, N_U, N_EXTINCTION); the Fourier transform of that kernel; and u - rho A in steps of mu, of that
        shape too
    """

    used: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    rest: torch.Tensor
    sigma_v: torch.Tensor
    corners: torch.Tensor
    modulus: torch.Tensor
    extinction: torch.Tensor
    modulus_prior: torch.Tensor
    extinction_kernel: torch.Tensor
    modulus_table: torch.Tensor
    spectrum: torch.Tensor
    modulus_place: torch.Tensor

    def chi2(
        self, star: torch.Tensor, absolute: torch.Tensor, index: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Misfit of points, and their place in the table.

        star (b,); absolute (B, N) magnitudes of all points, of which index (b, M) are wanted. Returns the misfit
        (b, M): rest^2 - 2 ln W over its maximum, 0 for stars without magnitudes, huge for points beyond the table; and
        the place in it (b, M) each.
        """
        flat = index.reshape(-1)
        points = [row.index_select(0, flat).reshape(index.shape) for row in absolute]
        x = _linear(self.x[star], points).clamp(0.0, N_U - 1.001)
        y = _linear(self.y[star], points).clamp(0.0, N_V - 1.001)
        misfit = -2.0 * self._look_up(star[:, None], x, y)
        for k in range(self.rest.shape[1]):
            form = _linear(self.rest[star, k], points)
            misfit = torch.addcmul(misfit, form, form)
        return torch.where(self.used[star, None], misfit, 0.0), (x, y)

    def _look_up(self, star: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        i, j = x.floor(), y.floor()
        at = ((star.to(x.dtype) * N_U + i) * N_V + j).to(torch.int32)  # whole numbers below 2^24: exact
        corners = self.corners.index_select(0, at.reshape(-1)).reshape(*x.shape, 4)
        low, high = (torch.lerp(corners[..., k], corners[..., k + 1], y - j) for k in (0, 2))
        return torch.lerp(low, high, x - i)

    def posteriors(
        self, star: torch.Tensor, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior of mu (n, N_MODULUS) and A (n, N_EXTINCTION) from points of posterior `weight` (N,).

        They are not normalised. A point shares out its weight as p(mu, A | point) = kernels x priors / W.
        """
        share = weight * torch.exp(-self._look_up(star, x, y).clamp(min=-60.0))
        i, j = x.long(), y.long()
        a, b = (x - i).double(), (y - j).double()
        at = (star * N_U + i) * N_V + j
        table = torch.zeros(n * N_U * N_V, dtype=torch.float64, device=weight.device)
        for step, part in ((0, (1 - a) * (1 - b)), (1, (1 - a) * b), (N_V, a * (1 - b)), (N_V + 1, a * b)):
            table.scatter_add_(0, at + step, share * part)
        by_u = torch.bmm(table.reshape(n, N_U, N_V), self.extinction_kernel)
        extinction = (by_u * self.modulus_table).sum(dim=1)
        k = self.modulus_place.floor().clamp(0, N_MODULUS - 2).long()
        c = (self.modulus_place - k).clamp(0, 1)
        k = (k + torch.arange(n, device=weight.device)[:, None, None] * N_MODULUS).reshape(-1)
        on_modulus = torch.zeros(n * N_MODULUS, dtype=torch.float64, device=weight.device)
        on_modulus.scatter_add_(0, k, (by_u * (1 - c)).reshape(-1))
        on_modulus.scatter_add_(0, k + 1, (by_u * c).reshape(-1))
        smooth = _convolve(on_modulus.reshape(n, N_MODULUS), self.spectrum)
        return smooth * self.modulus_prior, extinction


def usable_parallax(photometry: Photometry) -> NDArray[np.bool_]:
    """True (n,) where the parallax says something: finite, with a positive error, not six errors below zero."""
    with np.errstate(all="ignore"):
        return np.asarray(
            np.isfinite(photometry.parallax) & (photometry.parallax_err > 0) & np.isfinite(photometry.parallax_err)
            & (photometry.parallax + _REACH * photometry.parallax_err > 10.0 ** (-0.2 * _FARTHEST + 2.0))
        )  # fmt: skip


def distance_tables(photometry: Photometry, own_errors: dict[str, float], device: torch.device) -> DistanceTables:
    """The tables of a batch of stars; `own_errors` (mag) of the isochrones add to those of the stars in quadrature."""
    slopes = np.array([BANDS[band].extinction for band in photometry.bands])
    errors = np.hypot(photometry.errors, [own_errors.get(band, 0.0) for band in photometry.bands])
    with np.errstate(all="ignore"):
        known = np.isfinite(photometry.magnitudes) & np.isfinite(photometry.errors) & (photometry.errors > 0)
        w = np.where(known, 1.0 / errors**2, 0.0)
    total = np.maximum(w.sum(axis=1), _SMALL)
    used = known.any(axis=1)
    rho = (w * slopes).sum(axis=1) / total
    levers = slopes - rho[:, None]
    colour = np.where(known.sum(axis=1) > 1, (w * levers**2).sum(axis=1), 0.0)
    sigma_u = np.where(used, 1.0 / np.sqrt(total), 1.0)
    sigma_v = np.where(colour > 0, 1.0 / np.sqrt(np.maximum(colour, _SMALL)), np.inf)
    modulus, modulus_prior = _modulus_prior(photometry, sigma_u)
    edges, extinction_prior = _extinction_prior(photometry)
    u_low = modulus[:, 0] + rho * edges[:, 0]
    u_step = (modulus[:, -1] + rho * edges[:, -1] - u_low) / (N_U - 1)
    margin = np.where(colour > 0, _REACH * np.where(colour > 0, sigma_v, 0.0), 1.0)
    v_low = edges[:, 0] - margin
    v_step = (edges[:, -1] + margin - v_low) / (N_V - 1)

    def put(values: Array) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float64, device=device)

    m = np.where(known, photometry.magnitudes, 0.0)
    x = w / total[:, None] / u_step[:, None]
    variance_v = np.where(colour > 0, sigma_v, 0.0) ** 2
    y = w * levers * (variance_v / v_step)[:, None]
    x0, y0 = (x * m).sum(axis=1) - u_low / u_step, (y * m).sum(axis=1) - v_low / v_step
    y0 = np.where(colour > 0, y0, 0.5 * N_V)
    kernel_a = _extinction_kernel(put(v_low), put(v_step), put(edges), put(extinction_prior), put(sigma_v))
    spectrum = _kernel_spectrum(put(sigma_u), put(modulus))
    u = put(u_low)[:, None] + put(u_step)[:, None] * torch.arange(N_U, device=device)
    table, modulus_place = _averaged(_convolve(put(modulus_prior), spectrum), u, put(rho), put(edges), put(modulus))
    w_table = torch.bmm(table, kernel_a.transpose(1, 2))
    top = w_table.amax(dim=(1, 2), keepdim=True).clamp(min=_SMALL)
    return DistanceTables(
        torch.as_tensor(used, device=device), put(np.column_stack([x0, x])).float(),
        put(np.column_stack([y0, y])).float(), put(_rest(w, slopes, m)).float(), put(sigma_v),
        _corners(torch.log(w_table / top)), put(modulus), put(edges), put(modulus_prior), kernel_a / top, table,
        spectrum, modulus_place,
    )  # fmt: skip


def _linear(form: torch.Tensor, points: list[torch.Tensor]) -> torch.Tensor:
    """form[0] - sum_b form[b] M_b: form (b, 1 + B), points B times (b, M)."""
    value = form[:, :1].expand(points[0].shape)
    for k, point in enumerate(points):
        value = torch.addcmul(value, form[:, k + 1, None], point, value=-1.0)
    return value


def _rest(w: Array, slopes: Array, magnitudes: Array) -> Array:
    """The forms of `DistanceTables.rest` (n, max(B - 2, 0), 1 + B)."""
    n, bands = w.shape
    if bands < 3:
        return np.zeros((n, 0, 1 + bands))
    root = np.sqrt(w)
    explained = np.stack([root, root * slopes], axis=2)
    basis = np.linalg.qr(explained, mode="complete")[0][:, :, 2:]  # (n, B, B - 2), orthogonal to what is explained
    form = basis.transpose(0, 2, 1) * root[:, None, :]
    return np.concatenate([np.einsum("nkb,nb->nk", form, magnitudes)[:, :, None], form], axis=2)


def _corners(ln_w: torch.Tensor) -> torch.Tensor:
    ln_w = ln_w.clamp(min=_NEVER).float()
    ln_w[:, 0], ln_w[:, -1], ln_w[:, :, 0], ln_w[:, :, -1] = _NEVER, _NEVER, _NEVER, _NEVER
    flat = ln_w.reshape(-1)
    return torch.stack([flat.roll(-step) for step in (0, 1, N_V, N_V + 1)], dim=1)


def _modulus_prior(photometry: Photometry, sigma_u: Array) -> tuple[Array, Array]:
    """Nodes of mu (n, N_MODULUS) and p(mu) times the likelihood of the parallax there, highest 1."""
    good = usable_parallax(photometry)
    with np.errstate(all="ignore"):
        near = 10.0 - 5.0 * np.log10(photometry.parallax + _REACH * photometry.parallax_err)
        least = np.maximum(photometry.parallax - _REACH * photometry.parallax_err, 10.0 ** (2.0 - 0.2 * _FARTHEST))
        far = 10.0 - 5.0 * np.log10(least)
    low = np.where(good, near, _NEAREST) - _REACH * sigma_u
    high = np.where(good, np.minimum(far, _FARTHEST), _FARTHEST) + _REACH * sigma_u
    modulus = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, N_MODULUS)
    ln_prior = ln_space_density(modulus)
    error = np.where(good, photometry.parallax_err, 1.0)[:, None]
    misfit = (10.0 ** (2.0 - 0.2 * modulus) - np.where(good, photometry.parallax, 0.0)[:, None]) / error
    ln_prior = np.where(good[:, None], ln_prior - 0.5 * misfit**2, ln_prior)
    return modulus, np.exp(ln_prior - ln_prior.max(axis=1, keepdims=True))


def _extinction_prior(photometry: Photometry) -> tuple[Array, Array]:
    """Edges of cells of A (n, N_EXTINCTION + 1) and their prior probabilities (n, N_EXTINCTION).

    A star's own value is a Gaussian cut at zero; without one the prior is exponential, its cells narrower near zero.
    """
    with np.errstate(all="ignore"):
        own = np.isfinite(photometry.av) & (photometry.av_err >= 0)
    centre, error = np.where(own, photometry.av, 0.0), np.where(own, photometry.av_err, 1.0)
    low = np.where(own, np.maximum(centre - 4.0 * error, 0.0), 0.0)
    high = np.where(own, np.maximum(centre + 4.0 * error, low), _MOST_EXTINCTION)
    high = np.maximum(high, low + _NARROWEST * N_EXTINCTION)
    share = np.linspace(0.0, 1.0, N_EXTINCTION + 1)
    edges = low[:, None] + (high - low)[:, None] * np.where(own[:, None], share, share**2)
    gaussian = ndtr((edges - centre[:, None]) / np.maximum(error, _NARROWEST)[:, None])
    cumulative = np.where(own[:, None], gaussian, -np.exp(-edges / MEAN_EXTINCTION))
    mass = np.maximum(np.diff(cumulative, axis=1), _SMALL)
    return edges, mass / mass.sum(axis=1, keepdims=True)


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.erfc(-x * (0.5**0.5))


def _extinction_kernel(
    v_low: torch.Tensor, v_step: torch.Tensor, edges: torch.Tensor, prior: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """p(A) times the mean over its cell of exp(-S (v - A)^2 / 2): (n, N_V, N_EXTINCTION); p(A) alone where S = 0."""
    v = v_low[:, None] + v_step[:, None] * torch.arange(N_V, device=v_low.device)
    has_colour = torch.isfinite(sigma)
    scale = torch.where(has_colour, sigma, torch.ones_like(sigma))[:, None, None]
    cumulative = _normal_cdf((edges[:, None, :] - v[:, :, None]) / scale)
    width = torch.diff(edges, dim=1)[:, None, :]
    mean = torch.diff(cumulative, dim=2) * (2.0 * np.pi) ** 0.5 * scale / width
    return torch.where(has_colour[:, None, None], mean, torch.ones_like(mean)) * prior[:, None, :]


def _kernel_spectrum(sigma: torch.Tensor, modulus: torch.Tensor) -> torch.Tensor:
    """Fourier transform of the kernel in u, integrated over cells of mu, on twice the number of nodes."""
    step = (modulus[:, 1] - modulus[:, 0])[:, None]
    edge = (torch.arange(-N_MODULUS, N_MODULUS + 1, device=sigma.device)[None, :] - 0.5) * step
    mass = torch.diff(_normal_cdf(edge / sigma[:, None]), dim=1)
    answer: torch.Tensor = torch.fft.rfft(torch.fft.ifftshift(mass, dim=1), dim=1)
    return answer


def _convolve(values: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
    padded = torch.fft.rfft(values, n=2 * N_MODULUS, dim=1)
    answer: torch.Tensor = torch.fft.irfft(padded * spectrum, n=2 * N_MODULUS, dim=1)[:, :N_MODULUS].clamp(min=0)
    return answer


def _averaged(
    smooth: torch.Tensor, u: torch.Tensor, rho: torch.Tensor, edges: torch.Tensor, modulus: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smoothed p(mu) averaged over u - rho A of each cell of A, and that place in steps of mu.

    Both are (n, N_U, N_EXTINCTION). From differences of its integral, linear between nodes; nothing beyond them.
    """
    step = (modulus[:, 1] - modulus[:, 0])[:, None, None]
    place = (u[:, :, None] - rho[:, None, None] * edges[:, None, :] - modulus[:, :1, None]) / step
    integral = torch.cumsum(smooth, dim=1)
    integral = torch.nn.functional.pad(integral[:, 1:] - 0.5 * smooth[:, 1:] - 0.5 * smooth[:, :1], (1, 0))
    inside = place.clamp(0.0, N_MODULUS - 1.0)
    k = inside.floor().clamp(max=N_MODULUS - 2).long()
    c = inside - k
    flat = integral.reshape(-1)
    at = k + torch.arange(len(smooth), device=k.device)[:, None, None] * N_MODULUS
    value = torch.lerp(flat[at], flat[at + 1], c)
    width = torch.diff(place, dim=2).abs()
    mean = torch.diff(value, dim=2).abs() / width.clamp(min=1e-6)
    return mean, 0.5 * (place[:, :, 1:] + place[:, :, :-1])
