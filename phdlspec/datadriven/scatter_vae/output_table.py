"""The table that applying a model gives, the same columns for both forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.scatter_vae.flags import VAE_WORDS, VaeFlag
from phdlspec.datadriven.scatter_vae.score import OrdinaryStars

Array = NDArray[np.float64]
OUTSIDE = 3.0  # -log10 of the probability of latents that far out


@dataclass(frozen=True)
class Inferred:
    """What a model finds of N spectra or sources.

    latents (N, K); chi2 (N,) with the scatter, pixels (N,) used, scatter (N,) median; signs (N, F); snr (N,);
    worst (N,) in words.
    """

    latents: Array
    chi2: Array
    pixels: NDArray[np.int64]
    scatter: Array
    signs: Array
    snr: Array
    worst: Sequence[str]


def output_table(
    identity: Table, found: Inferred, reasons: Sequence[str], reference: OrdinaryStars, most_pixels: int
) -> Table:
    """One row each: the columns of `identity`, LATENTS, CHI2, RCHI2, NPIX, SCATTER, ANOMALY, ANOMALY_PCT, SIGN, WORST,
    FLAG (`VaeFlag`), REASON."""
    lost = np.array([bool(reason) for reason in reasons])
    improbable = reference.improbability(found.signs, found.snr)
    score, sign = reference.score(found.signs, found.snr)
    flag = np.zeros(len(lost), dtype=np.int32)
    for bit, where in (
        (VaeFlag.STRANGE, score > reference.threshold),
        (VaeFlag.OUTSIDE_TRAINING, improbable[:, reference.names.index("latents")] > OUTSIDE),
        (VaeFlag.FEW_PIXELS, found.pixels < 0.5 * most_pixels),
    ):
        flag[where] |= int(bit)
    flag[lost] = int(VaeFlag.UNREADABLE)
    table = identity.copy()

    def add(name: str, values: NDArray[Any] | Sequence[str], words: str) -> None:
        table[name] = values
        table[name].description = words

    def known(values: Array) -> Array:
        return np.where(lost.reshape(-1, *([1] * (values.ndim - 1))), np.nan, values)

    add("SNR", known(found.snr), "median signal-to-noise ratio of what was used")
    add("LATENTS", known(found.latents).astype(np.float32), "mean latents")
    add("CHI2", known(found.chi2), "of the reconstruction, noise and scatter together")
    add("RCHI2", known(found.chi2 / np.maximum(found.pixels, 1)), "CHI2 over NPIX; 1 for an ordinary star")
    add("NPIX", found.pixels, "pixels or coefficients used")
    add("SCATTER", known(found.scatter), "median scatter of the model for such a star, in units of what is modelled")
    add(
        "ANOMALY",
        known(score),
        "-log10 of the probability of the strangest sign among ordinary stars, less its handicap",
    )
    add("ANOMALY_PCT", known(reference.percentile(score)), "percentage of ordinary stars that are less strange")
    add("SIGN", ["" if r else reference.names[s] for r, s in zip(reasons, sign)], "the strangest sign")
    add(
        "WORST",
        ["" if r else w for r, w in zip(reasons, found.worst)],
        "windows that deviate most: where, sigma, width",
    )
    add("FLAG", flag, "; ".join(f"{int(b)} {w}" for b, w in VAE_WORDS.items()))
    add("REASON", list(reasons), "why there is no result")
    table.meta["ANOTHRES"] = round(reference.threshold, 4)
    return table
