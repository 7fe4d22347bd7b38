"""The lengths, sizes and scatters of Gaussian processes in three labels that explain measured amplitudes best."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from phdlspec.emulator.label_process import LabelProcess, covariance_shape, scaled

Array = NDArray[np.float64]

# In 5040 K / Teff, log g and [Fe/H]. Shorter lengths would follow the errors of single stars, longer ones would carry
# the bridge far beyond all of them.
SHORTEST, LONGEST = (0.08, 0.7, 0.5), (0.15, 1.2, 0.9)
LEAST = 0.02  # of the scatter of the amplitudes, for sizes and scatters


def fitted_process(stars: Array, amplitudes: Array, variances: Array) -> LabelProcess:
    """Of N stars with labels (N, 3), K amplitudes (N, K) and the variances (N, K) of their errors.

    The lengths are shared by all amplitudes; sizes and scatters are each one's own. All maximise the marginal
    likelihood.
    """
    at = scaled(torch.as_tensor(stars))
    values, noise = torch.as_tensor(amplitudes), torch.as_tensor(variances)
    spread = values.pow(2).mean(0).sqrt().clamp(min=1e-9)
    k = len(spread)
    low = np.log(np.concatenate([SHORTEST, np.full(2 * k, LEAST)]))
    high = np.log(np.concatenate([LONGEST, np.full(2 * k, 3.0)]))

    def minus_evidence(x: Array) -> tuple[float, Array]:
        leaf = torch.tensor(x, requires_grad=True)
        length, size, scatter = leaf[:3].exp(), leaf[3 : 3 + k].exp() * spread, leaf[3 + k :].exp() * spread
        value = -_evidence(at, values, noise, length, size, scatter)
        (slope,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), slope.numpy()

    start = np.concatenate([0.5 * (low[:3] + high[:3]), np.full(2 * k, np.log(0.7))])
    best = minimize(minus_evidence, start, jac=True, method="L-BFGS-B", bounds=list(zip(low, high)),
                    options={"maxiter": 60})  # fmt: skip
    found = torch.as_tensor(best.x).exp()
    return LabelProcess.of(at, values, noise, found[:3], found[3 : 3 + k] * spread, found[3 + k :] * spread)


def _evidence(at: Tensor, values: Tensor, noise: Tensor, length: Tensor, size: Tensor, scatter: Tensor) -> Tensor:
    shape = covariance_shape(at, at, length)
    covariance = size[:, None, None] ** 2 * shape + torch.diag_embed(noise.T + scatter[:, None] ** 2)
    cholesky = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(cholesky, values.T[..., None], upper=False)
    answer: Tensor = -0.5 * whitened.pow(2).sum() - torch.diagonal(cholesky, dim1=1, dim2=2).log().sum()
    return answer
