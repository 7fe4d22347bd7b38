"""Does ScatterVAE see what is wrong? Anomalies planted into real spectra that the model has not learned from.

Each spectrum is read as it is and with an anomaly planted into its flux, before continuum and rest frame are taken out;
the area under the curve (AUC) is the probability that a planted spectrum scores higher than a clean one. Beside it the
same for two simpler scores on the same residuals and for the misfit of principal components (as many as latents,
learned from the training spectra by weighted least squares, fitted to each spectrum the same way).

    python scripts/vae_anomalies.py lamost.safetensors test.txt --train train.txt --out anomalies.ecsv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from scipy.interpolate import CubicSpline

from phdlspec.catalog.inputs import expand_inputs, read_reference
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.scatter_vae import SpectrumModel, load_spectrum_model
from phdlspec.datadriven.scatter_vae.basis import principal_components, project_onto
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

ARM = 5900.0  # Å, where LAMOST's arms meet
SKY = (8401.5, 8432.5, 8467.7, 8507.0, 8780.7, 8793.6, 8829.5, 8852.6, 8888.3)  # OH, vacuum
SWAN = (4738.0, 5166.7, 5637.0)  # heads of C2's bands, degraded to the blue


def shifted(spectrum: Spectrum, velocity: float) -> np.ndarray:
    """The flux moved by a velocity (km/s) by cubic splines, which broaden no line; bad pixels bridged."""
    good = spectrum.good
    filled = np.interp(spectrum.wave, spectrum.wave[good], spectrum.flux[good])
    at = np.clip(spectrum.wave / (1.0 + velocity / SPEED_OF_LIGHT_KM_S), spectrum.wave[0], spectrum.wave[-1])
    return CubicSpline(spectrum.wave, filled)(at)


def level(spectrum: Spectrum) -> np.ndarray:
    """A running median of 201 pixels."""
    from scipy.ndimage import median_filter

    return median_filter(shifted(spectrum, 0.0), 201, mode="nearest")


def rest(spectrum: Spectrum) -> np.ndarray:
    """Wavelengths at rest."""
    return spectrum.wave / (1.0 + float(spectrum.meta.get("Z") or 0.0))


def with_flux(spectrum: Spectrum, flux: np.ndarray) -> Spectrum:
    """The same spectrum with another flux."""
    return replace(spectrum, flux=flux)


def binary(difference: float) -> Callable[[Spectrum, np.random.Generator], Spectrum]:
    """Two stars of this kind whose velocities differ by this much (km/s), the fainter with 0.4 to 1 of the light."""

    def plant(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
        ratio = random.uniform(0.4, 1.0)
        share = ratio / (1.0 + ratio)
        pair = (1.0 - share) * shifted(spectrum, -difference * share)
        pair += share * shifted(spectrum, difference * (1.0 - share))
        lost = 1.0 - (1.0 - share) ** 2 - share**2  # of the variance, by averaging two copies of one noise
        sigma = np.where(spectrum.ivar > 0, 1.0 / np.sqrt(np.where(spectrum.ivar > 0, spectrum.ivar, 1.0)), 0.0)
        return with_flux(spectrum, pair + np.sqrt(lost) * sigma * random.standard_normal(len(pair)))

    return plant


def emission(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """Hα with an equivalent width of 1 to 4 Å, Hβ with a third of it, 300 km/s wide."""
    width = random.uniform(1.0, 4.0)
    flux = spectrum.flux.copy()
    for line, strength in ((6564.6, width), (4862.7, width / 3.0)):
        sigma = line * 300.0 / SPEED_OF_LIGHT_KM_S / 2.355
        profile = np.exp(-0.5 * ((rest(spectrum) - line) / sigma) ** 2)
        flux += level(spectrum) * strength / (sigma * np.sqrt(2.0 * np.pi)) * profile
    return with_flux(spectrum, flux)


def carbon(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """C2 bands 10 to 40% deep at their heads, gone 150 Å to the blue."""
    depth = random.uniform(0.1, 0.4)
    factor = np.ones(len(spectrum))
    for head in SWAN:
        from_head = head - rest(spectrum)
        factor -= np.where(from_head >= 0, depth * np.exp(-from_head / 60.0), 0.0)
    return with_flux(spectrum, spectrum.flux * factor)


def cosmic(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """Two to four hits, one to three pixels wide, of 0.3 to 2 times the level."""
    flux, base = spectrum.flux.copy(), level(spectrum)
    places = random.choice(np.flatnonzero(spectrum.good & (spectrum.wave > 4000.0)), random.integers(2, 5))
    for place in places:
        hit = slice(place, place + random.integers(1, 4))
        flux[hit] += random.uniform(0.3, 2.0) * base[hit]
    return with_flux(spectrum, flux)


def sky(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """Lines of OH left or taken twice, 10 to 50% of the level, as wide as the instrument."""
    flux = spectrum.flux.copy()
    strength = random.choice([-1.0, 1.0]) * random.uniform(0.1, 0.5)
    for line in SKY:
        flux += (
            strength * random.uniform(0.5, 1.0) * level(spectrum) * np.exp(-0.5 * ((spectrum.wave - line) / 2.0) ** 2)
        )
    return with_flux(spectrum, flux)


def displaced(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """The red arm displaced by 60 km/s."""
    sign = random.choice([-1.0, 1.0])
    return with_flux(spectrum, np.where(spectrum.wave > ARM, shifted(spectrum, 60.0 * sign), spectrum.flux))


def ripple(low: float, high: float) -> Callable[[Spectrum, np.random.Generator], Spectrum]:
    """Flux calibrated with a wave in the response of one arm: a period between these (Å), 5 to 20%."""

    def plant(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
        period, phase = random.uniform(low, high), random.uniform(0.0, 2.0 * np.pi)
        arm = spectrum.wave < ARM if random.random() < 0.5 else spectrum.wave >= ARM
        wave = 1.0 + random.uniform(0.05, 0.2) * np.sin(2.0 * np.pi * spectrum.wave / period + phase)
        return with_flux(spectrum, spectrum.flux * np.where(arm, wave, 1.0))

    return plant


KINDS: dict[str, Callable[[Spectrum, np.random.Generator], Spectrum]] = {
    **{f"double-lined, {v} km/s": binary(float(v)) for v in (100, 150, 200, 250, 300)},
    "emission in Hα and Hβ": emission, "carbon bands": carbon, "cosmic-ray hits": cosmic, "sky residuals": sky,
    "red arm displaced by 60 km/s": displaced, "wrong flux calibration, 100-300 Å": ripple(100.0, 300.0),
    "wrong flux calibration, 300-600 Å": ripple(300.0, 600.0),
    "wrong flux calibration, 600-1500 Å": ripple(600.0, 1500.0),
}  # fmt: skip


def area(clean: np.ndarray, planted: np.ndarray) -> float:
    """Area under the curve of two sets of scores."""
    above = (planted[:, None] > clean).mean() + 0.5 * (planted[:, None] == clean).mean()
    return float(above)


class Scores:
    """Scores of data sets by the model and by principal components."""

    def __init__(self, model: SpectrumModel, train: Dataset):
        self.model = model
        flux, ivar = (torch.as_tensor(x) for x in model.arrays(train))
        weight = ivar / (1.0 + ivar * 1e-4)
        self.mean, self.basis = principal_components(flux, weight, model.network.shape.latents)

    def of(self, data: Dataset) -> dict[str, np.ndarray]:
        """By name, each (N,)."""
        found = self.model.find(data)
        flux, ivar = (torch.as_tensor(x) for x in self.model.arrays(data))
        model = project_onto(flux, ivar, self.mean, self.basis)
        misfit = ((flux - model).square() * ivar).sum(1) / (ivar > 0).sum(1)
        return {
            "score": self.model.reference.score(found.signs, found.snr)[0],
            "misfit alone": found.chi2 / found.pixels,
            "latents alone": found.signs[:, self.model.reference.names.index("latents")],
            "components": misfit.numpy(),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("spectra", nargs="+", help="not of the model's training")
    parser.add_argument("--train", nargs="+", required=True, help="the model's training spectra")
    parser.add_argument("--snr", type=float, default=50.0, help="least median signal-to-noise ratio")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    model = load_spectrum_model(args.model)
    scores = Scores(model, read_dataset(args.train, grid=model.wave))
    spectra = [read_reference(r) for r in expand_inputs(args.spectra)]
    known = set(model.metadata["files"])
    spectra = [s for s in spectra if s.snr >= args.snr and Path(s.path).name not in known]
    clean = scores.of(read_dataset(spectra, grid=model.wave))
    alarms = float((clean["score"] > model.reference.threshold).mean())
    print(f"{len(spectra)} spectra with S/N >= {args.snr:g}; above the threshold as they are: {100 * alarms:.1f}%\n")
    print(
        "| planted | AUC | above the threshold | misfit alone | latents alone | components |\n|---|---|---|---|---|---|"
    )
    rows = []
    for number, (kind, plant) in enumerate(KINDS.items()):
        random = np.random.default_rng([args.seed, number])
        planted = scores.of(read_dataset([plant(s, random) for s in spectra], grid=model.wave))
        row: dict[str, Any] = {"kind": kind, **{name: area(clean[name], planted[name]) for name in clean}}
        row["found"] = float((planted["score"] > model.reference.threshold).mean())
        rows.append(row)
        print(f"| {kind} | {row['score']:.3f} | {100 * row['found']:.0f}% | {row['misfit alone']:.3f} | "
              f"{row['latents alone']:.3f} | {row['components']:.3f} |", flush=True)  # fmt: skip
    Table(rows).write(args.out, overwrite=True)


if __name__ == "__main__":
    main()
