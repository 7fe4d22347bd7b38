"""Three ways to the labels of LAMOST spectra, in one run: rvspecfit, a Payne-like least-squares fit, and ours.

rvspecfit (Koposov 2019; `pip install rvspecfit`) gets a regular grid in Teff, log g, [Fe/H] and [alpha/Fe] that our
emulator fills, two set-ups for LAMOST's two arms, cross-correlation first, then its maximum-likelihood fit with v sin i
free. The Payne-like fit (Ting et al. 2019) is scipy's `curve_fit` on the emulator's flux: spectrum and model divided by
themselves smoothed over 50 Å, the survey's resolving power as it is stated, 18 labels and the velocity, Jacobian by
finite differences, the start a fixed one. Ours is `phdlspec.fit` in fast mode, without a bridge. All three see the same
models of stars and the same masks, so that what differs is the fit.

    python scripts/peers.py DATA/lamost/repeats.csv grid.h5 --split test --out peers

Spectra are the first --n of the table of repeated ones, and --n mocks of ab initio models (`mock_study.py`). Printed:
CPU seconds a star; scatter of pairs of spectra of one star over sqrt(2) and over the stated error; bias and scatter of
mocks, over the spectra that all methods have. What is done is kept in the folder --out, so that the same command goes
on where it was stopped; --methods makes some of them, or, given nothing, the table alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table, vstack
from mock_study import choose, robust
from rvspecfit import fitter_ccf, make_ccf, make_interpol, make_nd, serializer, spec_fit, utils, vel_fit
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import curve_fit
from tqdm import tqdm

from phdlspec import fit, load_emulator, read_spectrum
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.preparation import prepare
from phdlspec.gridfile import Grid
from phdlspec.io.lamost import ARMS
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.resolution import default_resolving_power
from phdlspec.spectrum import Spectrum

LABELS = ("TEFF", "LOGG", "FE_H", "RV", "MG_FE")
METHODS = ("ours", "payne", "rvspecfit")
Found = dict[str, tuple[float, float]]  # value and error by label
NODES = (np.arange(4000.0, 7501.0, 250.0), np.arange(0.5, 5.01, 0.5), np.arange(-2.5, 0.51, 0.25), (0.0, 0.2, 0.4))
ALPHA = ("O_FE", "MG_FE", "SI_FE", "S_FE", "CA_FE", "TI_FE")
STEP = 1e-4  # of ln(wavelength), of the templates
SETUPS = {"blue": (3780.0, 5900.0), "red": (5900.0, 8900.0)}  # Å
PAYNE_LABELS = (
    *("TEFF", "LOGG", "VMIC", "FE_H", "C_FE", "N_FE", "O_FE", "NA_FE", "MG_FE", "AL_FE", "SI_FE", "CA_FE", "TI_FE"),
    *("CR_FE", "MN_FE", "CO_FE", "NI_FE", "VBROAD"),
)
PAYNE_START = {"TEFF": 5300.0, "LOGG": 3.5, "VMIC": 1.3, "FE_H": -0.4, "VBROAD": 8.0}
PAYNE_STEP = {"TEFF": 10.0, "LOGG": 0.02, "VMIC": 0.05, "VBROAD": 1.0, "RV": 1.0}  # of differences; 0.02 dex otherwise
SMOOTHING = 50.0  # Å, standard deviation


class RvSpecFit:
    """rvspecfit with templates of the emulator in a folder."""

    def __init__(self, emulator: Emulator, folder: Path):
        vectors = np.array(list(product(*NODES)))
        theta = np.array([emulator.labels.complete(self._labels(*v)) for v in vectors])
        for name, (low, high) in SETUPS.items():
            wave = np.exp(np.arange(np.log(low / 1.004), np.log(high * 1.004), STEP))
            specs = self._spectra(emulator, theta, wave)
            told = {
                "vec": vectors.T, "lam": wave, "parnames": ("teff", "logg", "feh", "alpha"), "git_rev": "",
                "mapper_module": "rvspecfit.read_grid", "mapper_class_name": "LogParamMapper", "mapper_args": ([0],),
                "revision": "", "cmdline": "", "lognorms": np.zeros(len(specs)), "log_step": True, "log_spec": True,
            }  # fmt: skip
            serializer.save_dict_to_hdf5(f"{folder}/{make_interpol.SPECS_H5_NAME % name}", {**told, "specs": specs})
            # The regular grid is written here: version 0.9.0 cannot write nodes of unequal number under numpy 2.
            nodes = [np.log10(NODES[0]), *map(np.asarray, NODES[1:-1]), list(NODES[-1])]
            regular = {
                "vec": np.vstack([np.log10(vectors.T[:1]), vectors.T[1:]]), "uvecs": nodes, "regular": True,
                "idgrid": np.arange(len(vectors)).reshape([len(axis) for axis in NODES]),
                "interpolation_type": "regulargrid",
            }  # fmt: skip
            serializer.save_dict_to_hdf5(f"{folder}/{make_nd.INTERPOL_H5_NAME % name}", {**told, **regular})
            np.save(folder / (make_nd.INTERPOL_DAT_NAME % name), specs)
            make_ccf.main(
                ["--setup", name, "--prefix", str(folder), "--oprefix", str(folder), "--lambda0", str(low),
                 "--lambda1", str(high), "--step", "1.0", "--every", "30", "--vsinis", "0,60", "--nthreads", "1"]
            )  # fmt: skip
        self.config = utils.freezeDict({**utils.get_default_config(), "template_lib": f"{folder}/"})

    @staticmethod
    def _labels(teff: float, logg: float, fe_h: float, alpha: float) -> dict[str, float]:
        return {"TEFF": teff, "LOGG": logg, "FE_H": fe_h, **dict.fromkeys(ALPHA, alpha)}

    @staticmethod
    def _spectra(emulator: Emulator, theta: np.ndarray, wave: np.ndarray) -> np.ndarray:
        power = torch.as_tensor(default_resolving_power("LAMOST", np.clip(wave, *_inside(wave))))
        at = torch.as_tensor(wave)
        with torch.no_grad():
            parts = torch.as_tensor(theta, dtype=torch.float32).split(64)
            return np.concatenate([torch.log(emulator.observe(p, at, power)).numpy() for p in parts])

    def __call__(self, spectrum: Spectrum) -> Found:
        """Labels of a spectrum."""
        data = []
        for name, (low, high) in SETUPS.items():
            part = (spectrum.wave > low) & (spectrum.wave < high)
            level = np.median(spectrum.flux[part & spectrum.good])
            bad = ~spectrum.good[part]
            error = np.where(bad, 1e3, 1.0 / np.sqrt(np.where(bad, 1.0, spectrum.ivar[part])) / level)
            flux = np.where(bad, 1.0, spectrum.flux[part] / level)
            data.append(spec_fit.SpecData(name, spectrum.wave[part], flux, error, badmask=bad))
        options = {"npoly": 15}
        first = fitter_ccf.fit(data, self.config)
        start = {**first["best_par"], "vsini": max(first["best_vsini"] or 0.0, 1.0)}
        found = vel_fit.process(data, start, options=options, config=self.config)
        values, errors = found["param"], found["param_err"]
        names = {"TEFF": "teff", "LOGG": "logg", "FE_H": "feh"}
        told = {label: (float(values[name]), float(errors[name])) for label, name in names.items()}
        return told | {"RV": (float(found["vel"]), float(found["vel_err"])), "MG_FE": (np.nan, np.nan)}


def _inside(wave: np.ndarray) -> tuple[float, float]:
    # The arm that most of the wavelengths lie in: templates reach beyond it, where the resolving power jumps.
    low, high = ARMS[int(np.median(wave) > ARMS[1][0])]
    return low, float(np.nextafter(high, 0.0))


class Payne:
    """A least-squares fit of smoothed-away continua on the emulator's flux."""

    def __init__(self, emulator: Emulator):
        self.emulator, self.names = emulator, (*PAYNE_LABELS, "RV")
        self.columns = [emulator.labels.index(name) for name in PAYNE_LABELS]
        self.base = emulator.labels.complete(PAYNE_START)
        self.step = np.array([PAYNE_STEP.get(name, 0.02) for name in self.names])
        self.lower = np.append(emulator.labels.lower[self.columns], -300.0)
        self.upper = np.append(emulator.labels.upper[self.columns], 300.0)

    def flux(self, wave: np.ndarray, power: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Normalised fluxes (N, P) of labels and velocities (N, 19)."""
        theta = np.tile(self.base, (len(labels), 1))
        theta[:, self.columns] = labels[:, :-1]
        with torch.no_grad():
            made = self.emulator.observe(
                torch.as_tensor(theta, dtype=torch.float32), torch.as_tensor(wave), torch.as_tensor(power),
                torch.as_tensor(labels[:, -1]),
            )  # fmt: skip
        return np.asarray(made.double().numpy())

    def __call__(self, spectrum: Spectrum) -> Found:
        """Labels of a spectrum."""
        inside = (spectrum.wave > 3780.0) & (spectrum.wave < 8900.0)
        wave, power = spectrum.wave[inside].copy(), spectrum.resolving_power_by_pixel[inside].copy()
        good = spectrum.good[inside]
        flux = np.where(good, spectrum.flux[inside], 0.0)
        arms = [(wave >= low) & (wave < high) for low, high in ARMS]
        width = SMOOTHING / np.median(np.diff(wave))

        def smooth(x: np.ndarray) -> np.ndarray:
            made = np.ones_like(x)
            for arm in arms:
                weight = gaussian_filter1d(good[arm].astype(float), width).clip(1e-3)
                made[..., arm] = gaussian_filter1d(np.where(good[arm], x[..., arm], 0.0), width, axis=-1) / weight
            return made

        level = smooth(flux)
        error = 1.0 / np.sqrt(spectrum.ivar[inside][good]) / level[good]

        def models(labels: np.ndarray) -> np.ndarray:
            made = self.flux(wave, power, labels)
            return np.asarray(made[:, good] / smooth(made)[:, good])

        def model(_: object, *labels: float) -> np.ndarray:
            return models(np.array([labels]))[0]

        def jacobian(_: object, *labels: float) -> np.ndarray:
            around = np.array([labels, *(labels + np.diag(self.step))])
            made = models(around)
            return np.asarray(((made[1:] - made[0]) / self.step[:, None]).T)

        start = np.append(self.base[self.columns], 0.0)
        values, covariance = curve_fit(  # type: ignore[call-overload]
            model, None, flux[good] / level[good], start, error, absolute_sigma=True, bounds=(self.lower, self.upper),
            jac=jacobian, x_scale=self.upper - self.lower, ftol=1e-4, xtol=1e-4,
        )  # fmt: skip
        errors = np.sqrt(np.diag(covariance))
        return {name: (float(v), float(e)) for name, v, e in zip(self.names, values, errors) if name in LABELS}


class Ours:
    """The fast mode."""

    def __init__(self, emulator: Emulator):
        self.emulator = emulator

    def __call__(self, spectrum: Spectrum) -> Found:
        """Labels of a spectrum."""
        found = fit(spectrum, self.emulator, mode="fast", bridge=NONE)
        places = [found.names.index(name) for name in LABELS]
        return {name: (float(found.value[i]), float(found.err[i])) for name, i in zip(LABELS, places)}


def mocks(path: str, split: str, n: int) -> tuple[list[Spectrum], dict[str, np.ndarray]]:
    """LAMOST spectra of ab initio models, S/N 60, and their true labels."""
    grid, random = Grid(path), np.random.default_rng(17)
    native, rows = NativeGrid.from_wave(grid.wave, grid.resolving_power), choose(grid, split, n)
    truth = {name: grid.labels[rows, grid.label_names.index(name)] for name in LABELS if name != "RV"}
    truth["RV"], cores = random.normal(0.0, 60.0, n), CorePriors.shipped(grid.attrs)
    spectra = [
        mock_lamost(grid.flux(int(row)), native, truth["TEFF"][i], 60.0, 3000 + i, rv=truth["RV"][i],
                    vbroad=random.uniform(0.0, 15.0), red_velocity=random.normal(5.0, 3.0), logg=truth["LOGG"][i],
                    cores=cores, identifier=f"mock-{i}")
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return spectra, truth


def masked(spectrum: Spectrum, emulator: Emulator) -> Spectrum:
    """The spectrum with the masks that our fit uses, which the others get too."""
    prepared = prepare(spectrum, emulator.native)
    return replace(prepared.spectrum, mask=prepared.ivar <= 0)


def run(name: str, make: Callable[[], Callable[[Spectrum], Found]], spectra: list[Spectrum], out: Path) -> None:
    """Fit what is not in the table `out` yet; a fit that raises is a row of NaN."""
    done = {str(r["spectrum"]) for r in Table.read(out)} if out.exists() else set()
    todo = [s for s in spectra if s.stem not in done]
    if not todo:
        return
    method = make()
    method(todo[0])  # tables that are made once
    for spectrum in tqdm(todo, desc=name):
        start = time.process_time()
        try:
            found = method(spectrum)
        except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            tqdm.write(f"{name}, {spectrum.stem}: {error}")
            found = {}
        row: dict[str, list[Any]] = {"spectrum": [spectrum.stem]}
        row["seconds"] = [time.process_time() - start]
        for label in LABELS:
            row[label], row[f"{label}_ERR"] = ([x] for x in found.get(label, (np.nan, np.nan)))
        rows = Table(row)
        (vstack([Table.read(out), rows]) if out.exists() else rows).write(out, overwrite=True)


def report(found: dict[str, Table], star: dict[str, str], truth: dict[str, dict[str, float]]) -> None:
    """Print the table in Markdown."""
    every = set.intersection(*({str(name) for name in table["spectrum"]} for table in found.values()))
    print("| method | CPU s | label | pairs | scatter of a spectrum | over stated error | mocks | bias | scatter "
          "| over stated error |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, table in found.items():
        rows = {str(r["spectrum"]): r for r in table if str(r["spectrum"]) in every}
        seconds = np.median([r["seconds"] for r in rows.values()])
        real = [s for s in rows if s in star]
        pairs = [(rows[a], rows[b]) for a, b in combinations(real, 2) if star[a] == star[b]]
        for label in LABELS:
            error = f"{label}_ERR"
            change = np.array([a[label] - b[label] for a, b in pairs])
            stated = np.array([np.hypot(a[error], b[error]) for a, b in pairs])
            off = np.array([rows[s][label] - truth[s][label] for s in rows if s in truth])
            told = np.array([rows[s][error] for s in rows if s in truth])
            if not np.isfinite(off).any():
                continue
            known, seen = np.isfinite(change), np.isfinite(off)
            pulls = [robust(pull[np.isfinite(pull)]) for pull in (change / stated, off / told)]  # some state no error
            print(
                f"| {name} | {seconds:.2f} | {label} | {known.sum()} | {robust(change[known]) / np.sqrt(2):.3g} | "
                f"{pulls[0]:.2f} | {seen.sum()} | {np.median(off[seen]):+.3g} | "
                f"{robust(off[seen]):.3g} | {pulls[1]:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repeats", type=Path, help="table with the columns file and star")
    parser.add_argument("grid")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS, help="to run (default all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits, gone on with where it exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(None, "cpu")
    table = Table.read(args.repeats)[: args.n]
    real = [masked(read_spectrum(args.repeats.parent / str(row["file"])), emulator) for row in table]
    made, truth = mocks(args.grid, args.split, args.n)
    made = [masked(spectrum, emulator) for spectrum in made]
    both = [spectrum for pair in zip(real, made) for spectrum in pair]
    args.out.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[], Callable[[Spectrum], Found]]] = {
            "ours": lambda: Ours(emulator), "payne": lambda: Payne(emulator),
            "rvspecfit": lambda: RvSpecFit(emulator, Path(folder)),
        }  # fmt: skip
        for name in args.methods:
            run(name, makers[name], both, args.out / f"{name}.ecsv")
    star = {spectrum.stem: str(row["star"]) for spectrum, row in zip(real, table)}
    true = {s.stem: {label: float(truth[label][i]) for label in LABELS} for i, s in enumerate(made)}
    files = {name: args.out / f"{name}.ecsv" for name in METHODS}
    report({name: Table.read(file) for name, file in files.items() if file.exists()}, star, true)


if __name__ == "__main__":
    main()
