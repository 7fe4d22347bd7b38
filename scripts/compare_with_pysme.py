"""Our synthesis against PySME's (SMElib) on the same atmosphere, abundances and line list.

    python scripts/compare_with_pysme.py flux        --atmospheres A.npz --line-list L.npz --star sun --spacing 200
    python scripts/compare_with_pysme.py derivatives --atmospheres A.npz --line-list L.npz --star sun
    python scripts/compare_with_pysme.py cost        --atmospheres A.npz --line-list L.npz --star sun

`flux`: normalised flux at R = 1800 in windows of 40 Å. `derivatives`: our differential spectra against central
differences of PySME over 0.2 dex. `cost`: CPU seconds of flux and 32 derivatives against those of PySME.

PySME is driven through its SMElib with our layers, its own solution of the equation of state (all densities
adopted), three Gaussian angles and the wavelengths of our grid. It gets the widths that our reader made of the list
(ABO as cross section and exponent, others as log gamma at 10^4 K). Lines of species that SMElib's equation of state
gives no populations for (Ru, Pd, Mo, Nb, Th, ZrO ...) are left out: our synthesis has none of them, and PySME makes
those of Ru I and Pd I at 4213-4214 Å nearly black in a giant. Chemistry and continuous opacity are SMElib's on both
sides: what is compared are lines, profiles, cuts and transfer. Continuum scattering counts as absorption on both
sides, PySME's default; with `--scattering` both treat it as such, but then PySME's flux between lines does not reach
its own continuum (0.994 of it at 5000 K, logg 3, [M/H] -1.5, 4990 Å).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from harness import table_head
from numpy.typing import NDArray
from scipy.special import gamma as gamma_function

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.chemistry import BOLTZMANN
from kurucz_grids.hydrogen import hydrogen_lines
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.columnar import UNSOLD_EXPONENT
from kurucz_grids.opacity import FineGrid, Layers, LineData, LineState, select_lines
from kurucz_grids.stellar_model import StellarModel
from kurucz_grids.synthesis import REFERENCE_LOG_TAU, SynthesisSettings, Synthesizer
from kurucz_grids.transfer import RAYS
from phdlspec.labels import ELEMENTS
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.solar import ATOMIC_NUMBER, SOLAR_ABUNDANCES
from phdlspec.wavelength import vacuum_to_air

Array = NDArray[np.float64]

STARS = {  # Teff, logg, [M/H], vmic (km/s)
    "sun": (5777.0, 4.44, 0.0, 1.0),
    "giant": (4500.0, 2.0, 0.0, 1.6),
    "metal-poor": (5000.0, 3.0, -1.5, 1.4),
    "turn-off": (6250.0, 4.0, -1.0, 1.5),
}
WINDOW = 40.0  # Å
DERIVATIVE_WINDOWS = {
    "Fe": (5260.0, 5290.0), "Mg": (5165.0, 5195.0), "Na": (5880.0, 5910.0), "Ca": (6155.0, 6185.0),
    "Ti": (4990.0, 5020.0), "C": (4305.0, 4335.0),
}  # fmt: skip
COST_WINDOWS = ((4300.0, 4350.0), (5200.0, 5250.0), (6500.0, 6550.0), (8000.0, 8050.0))
STEP = 0.1  # dex
LOW_CUT = 3e-5  # lines given to PySME: a tenth of our own cut
WAVE_MIN, WAVE_MAX = 3900.0, 8900.0  # Å; Ca II H and K, whose wings reach far, are inside
LINE_RANGE = 1e-4  # PySME's `accrt`, its default
OPACITY_FLAGS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0])
BOHR_RADIUS_SQUARED = 2.80028e-17  # cm2


class PySme:
    """SMElib with the lines of a list that matter in one star."""

    def __init__(
        self, lines: LineList, model: StellarModel, star: tuple[float, ...], cut: float, synthesizer: Synthesizer
    ):
        from pysme.sme_synth import SME_DLL

        self._sme = SME_DLL()
        self._model, self._star = model, star
        self._grid, self._scattering = synthesizer.grid, synthesizer.settings.scattering
        known = np.isin(lines.species, list(model.equilibrium.population))
        self._lines = lines.select(known)
        self.state = _kept(self._lines, model, self._grid, cut)

    def wave(self, low: float, high: float) -> Array:
        """Wavelengths of our grid (P,) between two vacuum wavelengths, Å."""
        wave = self._grid.wave(torch.arange(self._grid.size)).numpy()
        return wave[(wave >= low) & (wave <= high)]

    def table(self, low: float, high: float) -> pd.DataFrame:
        """SMElib's line list for a window (vacuum Å): every kept line whose profile reaches it."""
        first, last = (np.log(x / self._grid.wave0) * self._grid.points for x in (low, high))
        centre, extent = self.state.centre.numpy(), self.state.extent.numpy().clip(min=40)
        near = (centre + extent >= first) & (centre - extent <= last)
        mine = self._lines.select(np.sort(self.state.index.numpy()[near]))
        return pd.concat([_rows(mine), _hydrogen_rows()]).sort_values("wlcent").reset_index(drop=True)

    def flux(
        self, table: pd.DataFrame, wave: Array | None, bounds: tuple[float, float], abundances: dict[str, float]
    ) -> Array:
        """Normalised flux at vacuum wavelengths, or on PySME's own adaptive grid."""
        from pysme.linelist.linelist import LineList as SmeLines

        sme, gas, (teff, logg, _, vmic) = self._sme, self._model.equilibrium, self._star
        sme.InputWaveRange(*vacuum_to_air(bounds))
        sme.InputLineList(SmeLines(table, lineformat="short", medium="air"))
        atoms = gas.gas_pressure / (BOLTZMANN * gas.temperature) - gas.electron_density
        atmosphere = {
            "depth": "RHOX", "RHOX": gas.rhox, "temp": gas.temperature, "xne": gas.electron_density, "xna": atoms,
            "rho": atoms * 2.1e-24, "wlstd": 5000.0, "opflag": OPACITY_FLAGS, "geom": "PP",
        }  # fmt: skip
        sme.InputModel(teff, logg, vmic, atmosphere)
        fractions = _number_fractions(abundances)
        sme.InputAbund(lambda kind, raw: fractions.copy())
        sme.Ionization(7)
        sme.SetVWscale(1.0)
        sme.SetH2broad(True)
        sme.SetContinuumScatteringSourceMode(self._scattering)
        sme.Opacity()
        mu, weight = np.array(RAYS[::-1]).T
        air = None if wave is None else vacuum_to_air(wave)
        _, _, line, continuum = sme.Transf(mu.copy(), wave=air, accrt=LINE_RANGE)
        return (weight * mu) @ line / ((weight * mu) @ continuum)


def _kept(lines: LineList, model: StellarModel, grid: FineGrid, cut: float) -> LineState:
    # The lines above a cut and how far they reach, by our own criterion.
    def put(x: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x), dtype=torch.float32)

    gas, data = model.equilibrium, LineData(lines, grid, torch.device("cpu"))
    nothing = np.zeros_like(gas.temperature)  # species that no line of ours is of
    layers = Layers(
        put(gas.temperature), put(gas.electron_density), put(gas.perturbers), put(gas.density),
        put(np.stack([gas.population.get(s, nothing) for s in data.species_names])), model.vmic,
    )  # fmt: skip
    column = np.diff(gas.rhox, prepend=0.0) * model.continuum.absorption.mean(0)
    log_tau = np.log10(np.cumsum(column))
    reference = torch.as_tensor(np.unique([np.abs(log_tau - x).argmin() for x in REFERENCE_LOG_TAU]))
    continuum = put(model.continuum.absorption + model.continuum.scattering)
    return select_lines(data, layers, continuum, reference, torch.ones(len(reference)), cut, cut)


def _rows(lines: LineList) -> pd.DataFrame:
    names = np.array([f"{name.rstrip('+')} {name.count('+') + 1}" for name in lines.species_names])
    log_vdw = np.log10(lines.gamma_vdw.astype(float))
    from_abo = np.abs(lines.vdw_exponent - UNSOLD_EXPONENT) > 1e-4
    return pd.DataFrame(
        {
            "species": names[lines.species_index], "wlcent": vacuum_to_air(lines.wave_vacuum),
            "excit": lines.elow_ev.astype(float), "gflog": lines.loggf.astype(float),
            "gamrad": np.log10(lines.gamma_rad.astype(float)), "gamqst": np.log10(lines.gamma_stark.astype(float)),
            "gamvw": np.where(from_abo, _abo(lines), log_vdw), "atom_number": 1.0, "ionization": lines.charge + 1.0,
        }
    )  # fmt: skip


def _abo(lines: LineList) -> Array:
    # Cross section (square Bohr radii, rounded) plus exponent alpha, from the width at 10^4 K: Anstee & O'Mara
    # (1995, MNRAS 276, 859), their equation for the width.
    alpha = 1.0 - 2.0 * lines.vdw_exponent.astype(float)
    reduced = 1.66053907e-24 / (1.0 / 1.008 + 1.0 / lines.mass)
    speed = np.sqrt(8.0 * BOLTZMANN * 1e4 / (np.pi * reduced))
    factor = 2.0 * (4.0 / np.pi) ** (alpha / 2) * gamma_function(2.0 - alpha / 2) * 1e6 * (speed / 1e6) ** (1 - alpha)
    return np.rint(lines.gamma_vdw / factor / BOHR_RADIUS_SQUARED) + alpha


def _hydrogen_rows() -> pd.DataFrame:
    rows = [
        ("H 1", float(vacuum_to_air(h.wave_vacuum)), h.elow_ev, h.loggf, 0.0, float(h.lower), float(h.upper), 1.0, 1.0)
        for h in hydrogen_lines(3600.0, 9400.0)
    ]
    names = "species wlcent excit gflog gamrad gamqst gamvw atom_number ionization".split()
    return pd.DataFrame(rows, columns=names)


def _number_fractions(abundances: dict[str, float]) -> Array:
    # SMElib's form: N(H)/N, then log10 N(X)/N up to Es.
    number = np.zeros(99)
    for element, value in abundances.items():
        number[ATOMIC_NUMBER[element] - 1] = 10.0 ** (value - 12.0)
    fractions = np.log10(np.maximum(number / number.sum(), 1e-99))
    fractions[0] = number[0] / number.sum()
    return fractions


def _abundances(metals: float) -> dict[str, float]:
    return {e: a + (0.0 if e in ("H", "He") else metals) for e, a in SOLAR_ABUNDANCES.items()}


def _seen(spectra: Array, low: float, high: float, points: float) -> Array:
    # Spectra (..., P) of a window at R = 1800 on 7200 pixels per ln(wave).
    out = NativeGrid(low * 1.0001, 1.0 / 7200.0, int(np.log(high / low * 0.9998) * 7200), 1800.0)
    return degrade(torch.as_tensor(spectra, dtype=torch.float32), 1.0 / points, low, float("inf"), out).numpy()


def _windows(first: float, spacing: float) -> Iterator[tuple[float, float]]:
    for low in np.arange(first, 8800.0, spacing):
        yield float(low), float(low + WINDOW)


def compare_flux(
    synthesizer: Synthesizer, model: StellarModel, pysme: PySme, first: float, spacing: float, metals: float
) -> None:
    """Print the rms by window, and over all windows."""
    ours_everywhere = synthesizer.solve(model)
    print(table_head("window (Å)", "lines", "mean depth", "rms", "mean difference", "PySME, CPU s"))
    done: list[tuple[float, Array]] = []
    for low, high in _windows(first, spacing):
        wave, table = pysme.wave(low, high), pysme.table(low, high)
        begun = time.process_time()
        theirs = pysme.flux(table, wave, (low, high), _abundances(metals))
        seconds = time.process_time() - begun
        inside = (ours_everywhere.wave.numpy() >= low) & (ours_everywhere.wave.numpy() <= high)
        spectra = np.stack([ours_everywhere.flux.numpy()[inside], theirs])
        ours, theirs = _seen(spectra, float(wave[0]), float(wave[-1]), synthesizer.settings.points)
        difference = ours - theirs
        done.append((low, difference))
        print(
            f"| {low:.0f}-{high:.0f} | {len(table)} | {1 - theirs.mean():.3f} | {np.sqrt(np.mean(difference**2)):.4f} "
            f"| {difference.mean():+.4f} | {seconds:.1f} |", flush=True,
        )  # fmt: skip
    for low, high in ((4000.0, 8800.0), (4200.0, 8400.0)):
        chosen = np.concatenate([d for w, d in done if low <= w < high])
        rms, bias = np.sqrt(np.mean(chosen**2)), chosen.mean()
        print(f"{low:.0f}-{high:.0f} Å: rms {rms:.4f}, mean {bias:+.4f}, rms about the mean {chosen.std():.4f}")


def compare_derivatives(synthesizer: Synthesizer, model: StellarModel, pysme: PySme, metals: float) -> None:
    """Print slope and correlation of our differential spectra on PySME's finite differences, R = 1800."""
    spectrum = synthesizer.solve(model)
    assert spectrum.jacobian is not None
    rows = dict(zip(spectrum.label_names, spectrum.jacobian.numpy()))
    # What [Fe/H] moves and no [X/Fe] does.
    rows["FE_FE"] = rows["FE_H"] - sum(rows[f"{e.upper()}_FE"] for e in ELEMENTS)
    without_label = [e for e in SOLAR_ABUNDANCES if e not in ("H", "He", *ELEMENTS)]
    print(table_head("element", "window (Å)", "rms of derivative", "slope", "correlation", "relative difference"))
    for element, (low, high) in DERIVATIVE_WINDOWS.items():
        wave, table = pysme.wave(low, high), pysme.table(low, high)
        ends = []
        for sign in (1, -1):
            abundances = _abundances(metals)
            for changed in without_label if element == "Fe" else [element]:
                abundances[changed] += sign * STEP
            ends.append(pysme.flux(table, wave, (low, high), abundances))
        inside = (spectrum.wave.numpy() >= low) & (spectrum.wave.numpy() <= high)
        both = np.stack([rows[f"{element.upper()}_FE"][inside], (ends[0] - ends[1]) / (2 * STEP)])
        ours, theirs = _seen(both, float(wave[0]), float(wave[-1]), synthesizer.settings.points)
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        print(
            f"| {element} | {low:.0f}-{high:.0f} | {np.sqrt(np.mean(theirs**2)):.4f} | "
            f"{ours @ theirs / (theirs @ theirs):.3f} | {np.corrcoef(ours, theirs)[0, 1]:.4f} | {100 * error:.1f}% |",
            flush=True,
        )


def compare_cost(
    synthesizer: Synthesizer, lines: LineList, star: tuple[float, ...], abundances: dict[str, float]
) -> None:
    """Print CPU seconds of a whole model of ours, and of PySME's on windows, scaled by the number of wavelengths."""
    labels = dict(zip(("TEFF", "LOGG", "FE_H", "VMIC"), star))
    ours = {}
    for derivatives in (False, False, True, True):  # each second one is the steady state: kernels compiled
        begun = time.process_time()
        model = synthesizer.prepare(labels, derivatives)
        prepared = time.process_time()
        synthesizer.solve(model)
        ours = {"chemistry": prepared - begun, "lines and transfer": time.process_time() - prepared}
        print(f"ours, {'with 32 derivatives' if derivatives else 'flux alone'}: {sum(ours.values()):.1f} s {ours}")
    settings = synthesizer.settings
    pysme = PySme(lines, model, star, settings.line_cut, synthesizer)
    whole = np.log(settings.wave_max / settings.wave_min)
    share = sum(np.log(high / low) for low, high in COST_WINDOWS) / whole
    for name in ("our wavelengths", "its own adaptive wavelengths"):
        begun = time.process_time()
        for low, high in COST_WINDOWS:
            wave = pysme.wave(low, high) if name == "our wavelengths" else None
            pysme.flux(pysme.table(low, high), wave, (low, high), abundances)
        seconds = (time.process_time() - begun) / share
        ratio = 33 * seconds / sum(ours.values())
        print(f"PySME, {name}: {seconds:.0f} s a spectrum, 33 spectra {33 * seconds:.0f} s, ratio {ratio:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("flux", "derivatives", "cost"))
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", required=True)
    parser.add_argument("--star", choices=STARS, default="sun")
    parser.add_argument("--first", type=float, default=4000.0, help="where the first window begins (vacuum Å)")
    parser.add_argument("--spacing", type=float, default=WINDOW, help="from one window to the next (Å)")
    parser.add_argument("--scattering", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    star = STARS[args.star]
    lines = read_line_list(args.line_list)
    atmospheres = AtmosphereGrid.load(args.atmospheres)
    atmosphere = atmospheres.interpolate(*star[:3])
    abundances = _abundances(star[2])
    settings = SynthesisSettings(scattering=args.scattering)
    if args.task != "cost":
        settings = replace(settings, wave_min=WAVE_MIN, wave_max=WAVE_MAX)
    synthesizer = Synthesizer(atmospheres, lines, settings)
    if args.task == "cost":
        compare_cost(synthesizer, lines, star, abundances)
        return
    model = synthesizer.prepare_atmosphere(atmosphere, abundances, star[3], derivatives=args.task != "flux")
    pysme = PySme(lines, model, star, LOW_CUT, synthesizer)
    if args.task == "flux":
        compare_flux(synthesizer, model, pysme, args.first, args.spacing, star[2])
    else:
        compare_derivatives(synthesizer, model, pysme, star[2])


if __name__ == "__main__":
    main()
