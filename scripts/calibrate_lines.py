"""Line data from real stars: oscillator strengths and widths of all lines fitted at once, by the adjoint.

    python scripts/calibrate_lines.py DATA --atmospheres atlas9.npz --line-list LIST... --work DIR \\
        --out kurucz_grids/data/lines.fits.gz [--fold 0|1] [--without STAR...]

Five high-resolution stars (the Sun, Procyon, alpha Tau, 38 Vir, HD 140283) first, then together with stars of MILES:
benchmark stars with fundamental labels, and as many again with labels from the literature, in absolute flux. Every
star's spectrum is synthesized with its response to every single line (`kurucz_grids.line_calibration`), lines, veil
and bands are solved for, and all is repeated with the new lines. Responses are kept in --work, so that a run that is
stopped goes on, and that other parts of the stars cost a solution only: --fold 0 leaves out every second star of MILES
beginning with the first, --fold 1 the others, --without the named ones: what the table does to stars that it was not
fitted to is measured with those (`scripts/physics_bench.py`).

Priors (dex): 0.05 for laboratory log gf, 0.35 for others; van der Waals widths 0.08 where ABO theory gives them, 0.2
elsewhere; molecules 0.1 for each 50 Å (TiO 0.15, SiH 0.3); the veil 0.6.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from reference_spectra import CLASSES, HIGH_RESOLUTION, KnownStar, high_resolution, low_resolution, miles
from scipy.sparse import csr_array
from tqdm import tqdm

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.line_calibration import (
    CalibrationStar,
    Linearised,
    LineDataFit,
    Solution,
    group_lines,
    grouping,
    linearise,
)
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.silicon_hydride import silicon_hydride
from kurucz_grids.linelists.star_calibration import StarCalibration, bands_of
from kurucz_grids.linelists.veil import BIN, EXCITATION, WAVE_MIN, bins, classes, veil
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.labels import GRID_LABELS
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S, air_to_vacuum

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

ROUNDS = 7  # the first with the high-resolution stars alone
SETTINGS = SynthesisSettings(wave_min=3690.0, wave_max=7420.0)
DEX = float(np.log(10.0))
LABORATORY, CALCULATED = 0.05 * DEX, 0.35 * DEX
ABO, APPROXIMATE = 0.08 * DEX, 0.2 * DEX
MOLECULES: Mapping[str, float] = {"TiO": 0.15 * DEX, "SiH": 0.3 * DEX}
MOLECULE, VEIL, FIXED = 0.1 * DEX, 0.6 * DEX, 1e-4
LARGEST = 1.2, 0.7  # of one round's changes of ln gf and ln vdW
KNOTS, SHAPE_ERROR = 140.0, 0.03  # Å and relative: of the flux calibration of MILES, and how smooth its errors are
TOLD = 0.02  # dex; smaller changes of single lines are left out of the table
LITERATURE = 9  # stars of each class beside the benchmark stars
# Left out: benchmark stars whose spectrum, colour and fundamental labels do not agree among themselves; then, chosen
# after the first rounds, stars whose literature labels the fit would change by two to five of their errors.
DOUBTFUL = {"HD209369", "HD136202", "HD006755", "HD198149", "HD221170", "HD101501", "HD002665", "HD175305", "HD124897",
            "HD111631", "MS1558.4-2232", "HD012014", "HD121130", "BD+151305", "M79 160 Cl", "HD063302"}  # fmt: skip


@dataclass(frozen=True)
class Lines:
    """All lines that are fitted, the group of each, and the priors of the groups (ln).

    part : (N,) 0 of the list, 1 added (SiH), 2 veil
    """

    lines: LineList
    part: Indices
    member: Indices
    gf_prior: Array
    vdw_prior: Array

    @classmethod
    def assembled(cls, paths: Sequence[str]) -> Lines:
        """The list of the files with what is added, grouped."""
        listed = Synthesizer(None, read_line_list(paths), SETTINGS).line_list  # in range, of species that are followed
        pieces = [listed, silicon_hydride(), veil()]
        lines = LineList.joined(pieces)
        order = np.argsort(np.concatenate([piece.wave_vacuum for piece in pieces]), kind="stable")
        part = np.repeat(np.arange(3), [len(piece) for piece in pieces])[order]
        is_veil = part == 2
        member = np.zeros(len(lines), dtype=np.intp)
        member[~is_veil] = group_lines(lines.select(~is_veil))
        offset = member.max() + 1
        for _, _, which, _ in bands_of(lines):
            member[which] = offset
            offset += 1
        member[is_veil] = offset + classes(lines.select(is_veil))
        _, member = np.unique(member, return_inverse=True)
        gf, vdw = _priors(lines, is_veil, paths[0])
        return cls(lines, part, member, _smallest(gf, member), _smallest(vdw, member))

    def changed(self, gf: Array, vdw: Array) -> LineList:
        """The list with ln gf and ln vdW of the groups changed."""
        return replace(
            self.lines, loggf=(self.lines.loggf + gf[self.member] / DEX).astype(np.float32),
            gamma_vdw=self.lines.gamma_vdw * np.exp(vdw[self.member]),
        )  # fmt: skip


def _priors(lines: LineList, is_veil: NDArray[np.bool_], main_list: str) -> tuple[Array, Array]:
    # Standard deviations (N,) of ln gf and ln vdW line by line, by what the main list says of its sources.
    with np.load(main_list) as file:
        rows = file["lines"]
    measured = np.isin(rows["src"].astype(str), ("LM_good", "LM_hfs"))
    molecule, atom = lines.z2 > 0, (lines.z2 == 0) & ~is_veil
    gf = np.where(atom & _at(lines, rows["wl_air"][measured]), LABORATORY, CALCULATED)
    gf[molecule] = [MOLECULES.get(name, MOLECULE) for name in lines.species[molecule]]
    gf[is_veil] = VEIL
    vdw = np.where(_at(lines, rows["wl_air"][np.isfinite(rows["abo_loggam1e4K"])]), ABO, APPROXIMATE)
    return gf, np.where(atom, vdw, FIXED)


def _at(lines: LineList, wave_air: Array) -> NDArray[np.bool_]:
    known = np.sort(air_to_vacuum(wave_air))
    next_one = known[np.minimum(np.searchsorted(known, lines.wave_vacuum - 1e-4), len(known) - 1)]
    return np.abs(next_one - lines.wave_vacuum) < 1e-4


def _smallest(values: Array, member: Indices) -> Array:
    least = np.full(member.max() + 1, np.inf)
    np.minimum.at(least, member, values)
    return least


# --- stars -----------------------------------------------------------------------------------------------------------


def chosen(data: Path, atmospheres: str) -> list[KnownStar]:
    """The stars of MILES that are fitted: benchmark stars, and from each class `LITERATURE` others far apart."""
    grid = AtmosphereGrid.load(atmospheres)
    stars = [star for star in miles(data) if star.name not in DOUBTFUL and grid.contains(*star.labels)]
    picked = [star for star in stars if star.fundamental]
    for kind in CLASSES:
        others = [star for star in stars if star.kind == kind and not star.fundamental]
        picked += _far_apart(others, [star for star in picked if star.kind == kind], LITERATURE)
    return sorted(picked, key=lambda star: (CLASSES.index(star.kind), star.fundamental, star.labels[0]))


def _far_apart(others: list[KnownStar], taken: list[KnownStar], count: int) -> list[KnownStar]:
    found: list[KnownStar] = []
    scale = np.array([400.0, 0.7, 0.4])
    for _ in range(min(count, len(others))):
        known = np.array([star.labels for star in [*taken, *found]]).reshape(-1, 3)
        gap = [np.min(np.sum(((known - s.labels) / scale) ** 2, axis=1), initial=9.0) for s in others]
        found.append(others.pop(int(np.argmax(gap))))
    return found


_worker: dict[bool, tuple[Synthesizer, csr_array]] = {}


def _start(atmospheres: str, lines: LineList, member: Indices, is_veil: NDArray[np.bool_]) -> None:
    torch.set_num_threads(1)
    grid, groups = AtmosphereGrid.load(atmospheres), grouping(member)
    _worker[False] = Synthesizer(grid, lines, SETTINGS), groups
    _worker[True] = Synthesizer(grid, lines.select(~is_veil), SETTINGS), groups[:, ~is_veil]


def _linearised(task: tuple[CalibrationStar, Path]) -> None:
    star, path = task
    # The lines of the veil are at random places: they mean something where single lines are not seen.
    synthesizer, groups = _worker[star.name in HIGH_RESOLUTION]
    model = linearise(synthesizer, star, groups)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        pickle.dump(model, file, protocol=5)
    partial.replace(path)


@dataclass
class State:
    """What a round begins with: changes of the groups, and velocity and blur of the stars by name."""

    gf: Array
    vdw: Array
    velocity: dict[str, float]
    blur: dict[str, float]


def models_of(
    stars: Sequence[CalibrationStar], lines: Lines, state: State, atmospheres: str, folder: Path, workers: int
) -> list[Linearised]:
    """The linearised models of the stars, those in the folder as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{star.name.replace(' ', '_')}.pickle" for star in stars]
    tasks = [(star, path) for star, path in zip(stars, paths) if not path.exists()]
    if tasks:
        current = lines.changed(state.gf, state.vdw)
        setting = atmospheres, current, lines.member, lines.part == 2
        with ProcessPoolExecutor(workers, initializer=_start, initargs=setting) as pool:
            list(tqdm(pool.map(_linearised, tasks), total=len(tasks), desc=folder.name))
    models = []
    for path in paths:
        with path.open("rb") as file:
            models.append(pickle.load(file))
    return models


def with_model(star: CalibrationStar, model: Linearised, absolute: bool) -> CalibrationStar:
    """A star with the error that its model has in deep lines; for absolute flux over the computed continuum.

    Of the shape of an absolute flux a slope is free, as reddening changes it; beyond, it is good to `SHAPE_ERROR`.
    """
    if absolute:
        star = replace(star, flux=star.flux / model.continuum, continuum_step=KNOTS, continuum_error=SHAPE_ERROR)
    deep = 0.05 * (1.0 - np.clip(model.flux, 0.0, 1.0)) ** 1.5  # saturated cores: non-LTE, chromospheres
    return replace(star, sigma=np.hypot(star.sigma, deep))


# --- rounds ----------------------------------------------------------------------------------------------------------


def one_round(number: int, args: argparse.Namespace, lines: Lines, known: list[KnownStar], state: State) -> Solution:
    """Linearise all stars at the state and solve for the changes."""
    sharp = [moved(high_resolution(args.data, name), state) for name in HIGH_RESOLUTION]
    blunt = [low_resolution(star, state.velocity.get(star.name, 0.0)) for star in known] if number else []
    stars = [*sharp, *blunt]
    models = models_of(stars, lines, state, args.atmospheres, args.work / f"round{number}", args.workers)
    stars = [with_model(star, model, star.name not in HIGH_RESOLUTION) for star, model in zip(stars, models)]
    left_out = set(args.without) | {star.name for star in known[args.fold :: 2] if args.fold is not None}
    if number == ROUNDS - 1 and left_out:
        kept = [i for i, star in enumerate(stars) if star.name not in left_out]
        stars, models = [stars[i] for i in kept], [models[i] for i in kept]
    solution = LineDataFit(lines.gf_prior, lines.vdw_prior).solve(stars, models, state.gf, state.vdw)
    tell(stars, solution)
    for star, velocity, blur in zip(stars, solution.velocity, solution.broadening):
        state.velocity[star.name] = state.velocity.get(star.name, 0.0) + velocity
        state.blur[star.name] = state.blur.get(star.name, 0.0) + blur
    return solution


def moved(star: CalibrationStar, state: State) -> CalibrationStar:
    """A high-resolution star with the velocity and blur found so far."""
    wave = star.wave * (1.0 - state.velocity.get(star.name, 0.0) / SPEED_OF_LIGHT_KM_S)
    return replace(star, wave=wave, gaussian=star.gaussian * np.exp(state.blur.get(star.name, 0.0)))


def tell(stars: Sequence[CalibrationStar], solution: Solution) -> None:
    """Print what is left of each star and what became of its labels."""
    shown = ("TEFF", "LOGG", "VMIC", "FE_H", "C_FE", "N_FE", "MG_FE", "SI_FE", "CA_FE", "TI_FE", "CR_FE", "NI_FE")
    for star, labels, left in zip(stars, solution.labels, solution.residuals):
        robust = 1.4826 * np.nanmedian(np.abs(left))
        text = " ".join(f"{name} {labels[GRID_LABELS.index(name)]:+.2f}" for name in shown)
        print(f"{star.name:12s} rms {np.nanstd(left):.4f} robust {robust:.4f} | {text}")


def table_of(lines: Lines, gf: Array, vdw: Array, error: Array, made: Mapping[str, str]) -> StarCalibration:
    """The shipped form of the changes (G,) of the groups."""
    base, member = lines.lines, lines.member
    change, width, error = gf[member] / DEX, vdw[member] / DEX, error[member] / DEX
    told = (base.z2 == 0) & (lines.part < 2) & (np.maximum(np.abs(change), np.abs(width)) > TOLD)
    single = Table(
        {
            "species": base.species[told], "wave_vacuum": base.wave_vacuum[told], "elow_ev": base.elow_ev[told],
            "loggf": base.loggf[told], "gf_change": change[told].astype(np.float32),
            "vdw_change": width[told].astype(np.float32), "gf_error": error[told].astype(np.float32),
        }
    )  # fmt: skip
    bands = [(s, low, strength, change[which[0]], error[which[0]]) for s, low, which, strength in bands_of(base)
             if change[which[0]]]  # fmt: skip
    by_class = np.zeros((2, len(EXCITATION) * bins()))
    is_veil = lines.part == 2
    by_class[:, classes(base.select(is_veil))] = change[is_veil], error[is_veil]
    veiled = Table(
        {
            "elow_ev": np.repeat(EXCITATION, bins()), "wave_min": np.tile(WAVE_MIN + BIN * np.arange(bins()), 3),
            "gf_change": by_class[0], "gf_error": by_class[1],
        }
    )  # fmt: skip
    names = ("species", "wave_min", "strength", "gf_change", "gf_error")
    return StarCalibration(single, Table(rows=bands, names=names), veiled, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, choices=(0, 1))
    parser.add_argument("--without", nargs="+", default=[], metavar="STAR")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    lines, known = Lines.assembled(args.line_list), chosen(args.data, args.atmospheres)
    count = len(lines.gf_prior)
    print(f"{len(lines.lines)} lines in {count} groups; {len(known)} stars of MILES: {' '.join(s.name for s in known)}")
    state, error = State(np.zeros(count), np.zeros(count), {}, {}), lines.gf_prior
    for number in range(ROUNDS):
        kept = args.work / f"round{number}.pickle"
        if kept.exists() and number < ROUNDS - 1:
            state = pickle.loads(kept.read_bytes())
            continue
        solution = one_round(number, args, lines, known, state)
        state.gf += np.clip(solution.gf, -LARGEST[0], LARGEST[0])
        state.vdw += np.clip(solution.vdw, -LARGEST[1], LARGEST[1])
        error = solution.gf_error
        kept.write_bytes(pickle.dumps(state))
    made = {
        "XMADE": str(date.today()), "XLIST": lines.lines.checksum[:16],
        "XSTARS": f"HARPS, MIKE: {len(HIGH_RESOLUTION)}; MILES: {len(known)}",
        "XLEFT": " ".join(args.without) + ("" if args.fold is None else f"fold {args.fold}"),
    }  # fmt: skip
    table = table_of(lines, state.gf, state.vdw, error, made)
    table.write(args.out)
    print(f"{args.out}: {len(table.lines)} lines, {len(table.bands)} bands, {len(table.veil)} bins of the veil")


if __name__ == "__main__":
    main()
