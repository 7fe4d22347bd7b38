"""Learning a bridge: fits at known labels, what they leave, a few spectra and their amplitudes, and once more.

1. Reference stars are fitted with their labels held close to what is known of them; abundances, vmic, velocity,
   resolving power and continuum are free within what is expected.
2. What is left of all spectra becomes K corrections with amplitudes (`low_rank`), these functions of three labels
   (`processes`), and what remains in the pixels an error.
3. In a further round, if one is asked for, the stars are fitted again with this bridge and their labels free within
   their errors, and the bridge is learned again from what the plain model leaves there.

Held at first, because labels that are free would go where the plain model wants them, and the bridge would keep it; a
second round lowers the scatter of held-out stars, but lets their Teff drift by 20 to 40 K (docs/real_stars.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec.bridge.low_rank import LowRank
from phdlspec.bridge.processes import fitted_process
from phdlspec.bridge.references import ReferenceStar
from phdlspec.bridge.residuals import Residual, spline_basis
from phdlspec.emulator.bridge import NONE, Bridge, BridgedEmulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.labels import STRUCTURE

Array = NDArray[np.float64]

HELD = 0.1  # of the labels' errors, in the first fits
RANK = 8
LEAST_STARS = 25
BATCH = 32
FIRST_LEFT = 0.01  # of the continuum, before anything is known
WILD = 6.0  # errors from the corrections
SMOOTHING = 40  # splines over which the rest is taken together
LEAST_SHARE, LEAST_REST = 0.02, 1e-4  # of the stars that must have a pixel; of the continuum
REST_ROUNDS = 4
AMPLITUDE = (0.3, 4.0)  # of a star's rest, against all stars'
LAGS = 8  # pixels, beyond which what is left is not compared


@dataclass(frozen=True)
class Step:
    """What one round saw: the residuals, and what the fits failed in."""

    residuals: list[Residual]
    failed: list[str]


def learn(
    stars: Sequence[ReferenceStar], emulator: Emulator, settings: FitSettings, rounds: int = 1, progress: bool = False
) -> Bridge:
    """The bridge of an emulator, from stars with known labels. Raises `UserError` for too few of them.

    stars : with Teff (K), log g, [Fe/H] (dex) and their errors; settings : of the fits, fast ones without a bridge
    rounds : 1 for labels held close to what is known, each further one with the bridge before and labels free
    """
    if len(stars) < LEAST_STARS:
        raise UserError(
            f"{len(stars)} reference stars with labels and errors, expected {LEAST_STARS} or more across the range "
            "that the bridge is for"
        )
    bridge = learned(residuals_of(stars, emulator, settings, progress=progress), emulator)
    for _ in range(rounds - 1):
        bridge = learned(residuals_of(stars, emulator, settings, bridge, progress), emulator)
    return bridge


def residuals_of(
    stars: Sequence[ReferenceStar],
    emulator: Emulator,
    settings: FitSettings,
    bridge: Bridge | None = None,
    progress: bool = False,
) -> Step:
    """Residuals of the stars at their known labels, or, with a bridge, at labels that are free within their errors."""
    splines = spline_basis(emulator.native)
    residuals, failed = [], []
    for star, fitted in fits(stars, emulator, settings, bridge, progress):
        try:
            residuals.append(Residual.of(star, fitted, splines, emulator.native, held=bridge is None))
        except UserError as error:
            failed.append(str(error))
    return Step(residuals, failed)


def fits(
    stars: Sequence[ReferenceStar], emulator: Emulator, settings: FitSettings, bridge: Bridge | None, progress: bool
) -> list[tuple[ReferenceStar, Fitted]]:
    """The stars' fits with what is known of them."""
    model = emulator if bridge is None else BridgedEmulator(emulator, bridge)
    settings = replace(settings, mode="fast", bridge=NONE)
    trust = HELD if bridge is None else 1.0
    found: list[tuple[ReferenceStar, Fitted]] = []
    with tqdm(total=len(stars), desc="fits", unit="star", disable=not progress) as bar:
        for first in range(0, len(stars), BATCH):
            part = stars[first : first + BATCH]
            known = [star.known(trust) for star in part]
            found += zip(part, fit_batch([s.spectrum for s in part], model, settings, keep=True, known=known))
            bar.update(len(part))
    return found


def learned(step: Step, emulator: Emulator, rank: int = RANK) -> Bridge:
    """The bridge that a round's residuals teach."""
    residuals = step.residuals
    if len(residuals) < LEAST_STARS:
        first = f"; the first: {step.failed[0]}" if step.failed else ""
        raise UserError(f"only {len(residuals)} reference stars can be used, expected {LEAST_STARS} or more{first}")
    residuals = at_own_labels(residuals)
    left = np.full(residuals[0].seen.shape[1], FIRST_LEFT)
    rank = min(rank, len(residuals) // 5)
    for _ in range(2):
        told = [one.told(left) for one in residuals]
        found = LowRank.of(told, rank)
        residuals = [
            one.without_wild(found.vectors @ amplitudes, left, WILD)
            for one, amplitudes in zip(residuals, found.amplitudes)
        ]
        left, sizes = _rest(residuals, found)
    told = [one.told(left) for one in residuals]
    found = LowRank.of(told, rank)
    left, sizes = _rest(residuals, found)
    variances = np.array([
        np.diag(covariance) + _of_labels(one, found.vectors, covariance, left)
        for one, covariance in zip(residuals, found.covariances)
    ])  # fmt: skip
    labels = np.array([one.labels for one in residuals])
    amplitudes = np.column_stack([found.amplitudes, np.log(sizes)])
    process = fitted_process(labels, amplitudes, np.column_stack([variances, np.zeros(len(sizes))]))
    splines = spline_basis(emulator.native)
    spectra = torch.as_tensor((splines @ found.vectors).T.copy(), dtype=torch.float32)
    metadata = _metadata(residuals, step.failed, emulator, labels)
    return Bridge(process, spectra, torch.as_tensor(splines @ left, dtype=torch.float32), metadata)


def at_own_labels(residuals: Sequence[Residual]) -> list[Residual]:
    """The residuals at labels that agree with each other as well as the spectra do.

    Labels are known to 45 K or 100 K, spectra tell stars apart to a few; a bridge of residuals at the known labels
    would hold what errors of labels look like, and its scatter would hide labels from fits. What each star wants to
    change is split: its trend with the labels, weighed by how well these are known, is what the models lack and stays;
    the star's own departure from the trend is the error of its labels.
    """
    shifts, covariances = (np.array(x) for x in zip(*(one.shift(FIRST_LEFT) for one in residuals)))
    labels = np.array([one.labels for one in residuals])
    known = np.array([np.diag(one.covariance) for one in residuals])
    trend = fitted_process(labels, shifts, known).mean(torch.as_tensor(labels)).numpy()
    return [one.shifted(own, error) for one, own, error in zip(residuals, shifts - trend, covariances)]


def _metadata(
    residuals: Sequence[Residual], failed: Sequence[str], emulator: Emulator, labels: Array
) -> dict[str, Any]:
    ranges = {
        name: f"{low:.4g} to {high:.4g}" for name, low, high in zip(STRUCTURE, labels.min(0), labels.max(0))
    }  # fmt: skip
    before = float(np.median([np.std(one.value[np.isfinite(one.sigma)]) for one in residuals]))
    return {
        "checkpoint": emulator.checkpoint_hash,
        "stars": [one.name for one in residuals],
        "told": {
            **ranges, "residuals before, rms of the continuum": f"{before:.4f}",
            "stars that could not be used": len(failed),
        },
    }  # fmt: skip


def _of_labels(one: Residual, vectors: Array, covariance: Array, left: Array) -> Array:
    """Variance (K,) of a star's amplitudes by the errors of its labels."""
    weight = 1.0 / (one.sigma**2 + (one.seen @ left) ** 2)
    by_label = covariance @ (vectors.T @ (one.seen.T @ (weight[:, None] * one.by_label)))
    return np.asarray(np.einsum("kc,cd,kd->k", by_label, one.covariance, by_label))


def _rest(residuals: Sequence[Residual], found: LowRank) -> tuple[Array, Array]:
    """The rest that remains in pixels besides noise (Q,), and each star's against it (N,), as products of the two.

    Neighbouring pixels err together; a variance that is counted as independent is larger by their number. Where no star
    has pixels the rest is taken to be as large as at the nearest that have: models are no better there, and a fit of a
    spectrum that reaches further would else believe those pixels most.
    """
    pixels = [_excess(one, amplitudes, found.vectors) for one, amplitudes in zip(residuals, found.amplitudes)]
    count = np.sum([one.seen.T @ good.astype(float) for one, (_, good) in zip(residuals, pixels)], axis=0)
    known = _smooth(count) > LEAST_SHARE * count.max()
    sizes = np.ones(len(residuals))
    for _ in range(REST_ROUNDS):
        parts = [one.seen.T @ excess / size**2 for one, (excess, _), size in zip(residuals, pixels, sizes)]
        variance = _smooth(np.sum(parts, axis=0)) / np.maximum(_smooth(count), 1e-12)
        left = np.sqrt(np.maximum(variance, LEAST_REST**2))
        left = np.interp(np.arange(len(left)), np.flatnonzero(known), left[known])
        ratios = [
            np.mean((excess / (one.seen @ left) ** 2)[good]) for one, (excess, good) in zip(residuals, pixels)
        ]  # fmt: skip
        sizes = np.clip(np.sqrt(np.maximum(ratios, 0.0)), *AMPLITUDE)
    middle = np.exp(np.log(sizes).mean())
    return left * middle, sizes / middle


def _excess(one: Residual, amplitudes: Array, vectors: Array) -> tuple[Array, NDArray[np.bool_]]:
    # Variance of a star's pixels that neither corrections nor noise explain (P,), and which pixels count.
    good = np.isfinite(one.sigma)
    off = np.where(good, one.value - one.seen @ (vectors @ amplitudes), 0.0)
    return np.where(good, off**2 - one.noise**2, 0.0) * _together(off, good), good


def _smooth(values: Array) -> Array:
    box = np.ones(SMOOTHING) / SMOOTHING
    return np.convolve(np.pad(values, SMOOTHING, mode="edge"), box, "same")[SMOOTHING:-SMOOTHING]


def _together(off: Array, good: NDArray[np.bool_]) -> float:
    """How many neighbouring pixels of a star's rest err as one, at least 1."""
    total = 1.0
    variance = max(float((off[good] ** 2).mean()), 1e-30)
    for lag in range(1, LAGS + 1):
        both = good[lag:] & good[:-lag]
        correlation = float((off[lag:] * off[:-lag])[both].mean()) / variance
        if not correlation > 0:
            break
        total += 2.0 * min(correlation, 1.0)
    return total
