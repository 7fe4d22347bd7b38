"""Measure phdlspec.ages: simulated subgiants, sets against each other, real stars with known ages, speed and memory.

  python scripts/ages_study.py DATA [PART ...]      # DATA: isochrones/, labels/, reference/ (see docs/ages.md)

Parts: convergence simulated sets sun m67 delgado benchmarks giants speed memory (all).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table

from phdlspec.ages import make_ages, read_isochrones
from phdlspec.ages.composition import metallicity_term
from phdlspec.ages.fine_grid import LEVELS, IsochroneGrids
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.inference import AgeSettings
from phdlspec.ages.photometry import with_magnitudes
from phdlspec.ages.posterior import AgePosteriors, posteriors
from phdlspec.ages.priors import PRIORS
from phdlspec.ages.selection import subgiants
from phdlspec.ages.simulation import Errors, Mock, simulate
from phdlspec.ages.stages import Stage
from phdlspec.ages.stars import AgeStars, Photometry, no_photometry

SETS = ("mist", "parsec", "basti", "dartmouth", "yapsi")
# Median errors of the fit of mocks at S/N 100 (docs/fitting.md) scale with 1/SNR; "sky" are those of held-out LAMOST
# stars after calibration.
CASES = {
    "S/N 100": Errors(11.0, 0.039, 0.018), "S/N 50": Errors(22.0, 0.078, 0.036), "S/N 30": Errors(36.0, 0.13, 0.06),
    "sky": Errors(69.0, 0.14, 0.07),
}  # fmt: skip
FLAGGED = AgeFlag.OUTSIDE_SET | AgeFlag.CONFLICT


def grids_of(data: Path, name: str, bands: tuple[str, ...] = (), prior: str = "flat") -> IsochroneGrids:
    """The fine grids of a set cut from lachesis-grids."""
    path = next((data / "isochrones").glob(f"lachesis_{name}*.npz"))
    isochrones, errors, _ = with_magnitudes(read_isochrones(path))
    return IsochroneGrids(isochrones, PRIORS[prior], bands, errors)


def mock_subgiants(grids: IsochroneGrids, n: int, errors: Errors, seed: int) -> Mock:
    """n simulated stars of [M/H] > -1 that the lines of phdlspec.ages.selection choose, by their observed labels."""
    mock = simulate(grids, 60 * n, errors, seed)
    chosen, _ = subgiants(mock.stars.labels, mock.stars.photometry)
    rows = np.flatnonzero(chosen & (mock.stars.labels[:, 2] > -1.0))[:n]
    return Mock(
        mock.stars.take(rows), mock.age[rows], mock.modulus[rows], mock.extinction[rows], mock.stage[rows],
        mock.labels[rows],
    )  # fmt: skip


def relative_error(found: AgePosteriors) -> np.ndarray:
    """Half the 68% interval over the median (n,)."""
    return 0.5 * (found.age[:, 4] - found.age[:, 2]) / found.age[:, 3]


def line(name: str, found: AgePosteriors, truth: np.ndarray) -> None:
    """Print precision, coverage and bias of ages."""
    good = np.isfinite(found.age[:, 0]) & (found.flag & int(FLAGGED) == 0)
    inside = (truth > found.age[:, 2]) & (truth < found.age[:, 4])
    pull = (found.age[:, 0] - truth) / found.age[:, 1]
    scatter = np.median(np.abs(found.age[good, 3] / truth[good] - 1.0))
    print(
        f"| {name} | {good.sum()} | {100 * np.median(relative_error(found)[good]):.1f} | {100 * scatter:.1f} | "
        f"{100 * inside[good].mean():.0f} | {np.median(pull[good]):+.2f} | "
        f"{100 * np.median(found.mass[good, 1] / found.mass[good, 0]):.1f} |"
    )


def simulated(data: Path) -> None:
    """Coverage and precision, the set being right."""
    print("| labels as at | stars | median age error, % | median |deviation|, % | 68% holds | bias / error | mass, % |")
    print("|---|---|---|---|---|---|---|")
    for bands, words in ((("KS",), "parallax and Ks"), (("G", "KS"), "parallax, G and Ks"), ((), "labels alone")):
        grids = grids_of(data, "mist", bands)
        for case, errors in CASES.items():
            source = grids if bands else grids_of(data, "mist", ("KS",))
            mock = mock_subgiants(source, 1500, errors, seed=11)
            stars = mock.stars if bands else without_photometry(mock.stars)
            line(f"{words}, {case}", posteriors(stars, grids), mock.age)


def without_photometry(stars: AgeStars) -> AgeStars:
    """The labels alone."""
    return AgeStars(stars.labels, stars.covariance, no_photometry(len(stars)))


def sets(data: Path) -> None:
    """Stars of one set aged with the others."""
    print("| true set | fitted with | stars | median difference, % | 16-84%, % | 68% holds | in conflict, % |")
    print("|---|---|---|---|---|---|---|")
    for true in ("mist", "parsec"):
        mock = mock_subgiants(grids_of(data, true, ("KS",)), 800, CASES["S/N 50"], seed=12)
        rows = np.flatnonzero(np.abs(mock.labels[:, 2] + 0.15) < 0.45)
        for name in SETS:
            found = posteriors(mock.stars.take(rows), grids_of(data, name, ("KS",)))
            age = mock.age[rows]
            good = np.isfinite(found.age[:, 0]) & (found.flag & int(FLAGGED) == 0)
            relative = 100.0 * (found.age[good, 3] / age[good] - 1.0)
            low, high = np.percentile(relative, [16, 84])
            inside = (age > found.age[:, 2]) & (age < found.age[:, 4])
            conflict = (found.flag & int(AgeFlag.CONFLICT)) > 0
            print(
                f"| {true} | {name} | {good.sum()} | {np.median(relative):+.1f} | {low:+.0f} to {high:+.0f} | "
                f"{100 * inside[good].mean():.0f} | {100 * conflict.mean():.1f} |"
            )


def convergence(data: Path) -> None:
    """Levels of the fine grid against the finest."""
    print("| case | level | stars | median |shift| / error | 95% | width ratio |")
    print("|---|---|---|---|---|---|")
    for words, bands in (("labels", ()), ("parallax and Ks", ("KS",))):
        every, fine = grids_of(data, "mist", bands), grids_of(data, "mist", bands)
        fine.levels = LEVELS[:1]
        for level, errors in ((1, Errors(31.0, 0.1, 0.036)), (2, Errors(100.0, 0.15, 0.1))):
            mock = mock_subgiants(grids_of(data, "mist", ("KS",)), 150, errors, seed=13)
            stars = mock.stars if bands else without_photometry(mock.stars)
            a, b = posteriors(stars, every), posteriors(stars, fine)
            shift = np.abs(a.age[:, 3] - b.age[:, 3]) / b.age[:, 1]
            ratio = np.nanmedian(a.age[:, 1] / b.age[:, 1])
            print(
                f"| {words} | {level} | {len(stars)} | {np.nanmedian(shift):.3f} | {np.nanquantile(shift, 0.95):.3f} | "
                f"{ratio:.3f} |"
            )


def real(labels: np.ndarray, errors: np.ndarray, photometry: Photometry | None = None) -> AgeStars:
    """Real stars (n, 3) with independent errors (n, 3)."""
    covariance = np.einsum("ni,ij->nij", errors**2, np.eye(3))
    return AgeStars(labels, covariance, photometry or no_photometry(len(labels)))


def sun(data: Path) -> None:
    """The Sun by its labels, and by its luminosity."""
    labels = np.array([[5772.0, 4.438, 0.0]])
    one = np.ones(1)
    print("| set | labels (errors 50 K, 0.02, 0.02) | with M_Ks = 3.27 +- 0.02 | labels (20 K, 0.01, 0.01) |")
    print("|---|---|---|---|")
    for name in SETS:
        cells = []
        for bands, errors in (
            ((), [50.0, 0.02, 0.02]), (("KS",), [50.0, 0.02, 0.02]), ((), [20.0, 0.01, 0.01]),
        ):  # fmt: skip
            photometry = Photometry(bands, 100.0 * one, 0.01 * one, np.full((1, len(bands)), 3.27),
                                    np.full((1, len(bands)), 0.02), 0.0 * one, 0.001 * one)  # fmt: skip
            found = posteriors(real(labels, np.array([errors]), photometry), grids_of(data, name, bands))
            cells.append(f"{found.age[0, 3]:.1f} ({found.age[0, 2]:.1f}-{found.age[0, 4]:.1f})")
        print(f"| {name} | {' | '.join(cells)} |")


def column(table: Table, name: str) -> np.ndarray:
    """A column as floats, NaN where masked."""
    return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)


def m67(data: Path) -> None:
    """Subgiants of M67: GALAH's labels (its log g rests on Gaia's parallaxes), members by OCCAM."""
    galah = Table.read(data / "labels" / "galah_dr3_allstar_m67_lite.csv")
    members = Table.read(data / "labels" / "occam_member-DR17.fits.gz")
    near = np.array([str(c).strip() == "NGC 2682" for c in members["CLUSTER"]])
    near &= (column(members, "PM_PROB") > 0.1) & (column(members, "RV_PROB") > 0.1)
    names = {str(name).strip()[2:] for name in members["APOGEE_ID"][near]}
    use = np.array([str(name) in names for name in galah["tmass_id"]]) & (column(galah, "flag_sp") == 0)
    galah = galah[use]
    labels = np.column_stack([column(galah, c) for c in ("teff", "logg", "fe_h")])
    chosen, _ = subgiants(labels, no_photometry(len(labels)))
    labels = labels[chosen]
    print("| set | errors | stars | median age | standard deviation | mean error | weighted mean | chi2 / dof |")
    print("|---|---|---|---|---|---|---|---|")
    for words, errors in (("GALAH's own", None), ("80 K, 0.05, 0.05", [80.0, 0.05, 0.05])):
        own = np.column_stack([column(galah, f"e_{c}") for c in ("teff", "logg", "fe_h")])[chosen]
        sigma = own if errors is None else np.tile(errors, (len(labels), 1))
        for name in SETS:
            found = posteriors(real(labels, sigma), grids_of(data, name))
            good = np.isfinite(found.age[:, 0]) & (found.flag & int(FLAGGED) == 0) & (found.stages[:, 1] > 0.5)
            age, error = found.age[good, 3], 0.5 * (found.age[good, 4] - found.age[good, 2])
            weight = 1.0 / error**2
            mean = (weight * age).sum() / weight.sum()
            chi2 = (weight * (age - mean) ** 2).sum() / max(len(age) - 1, 1)
            print(
                f"| {name} | {words} | {good.sum()} | {np.median(age):.2f} | {age.std():.2f} | {error.mean():.2f} | "
                f"{mean:.2f} +- {weight.sum() ** -0.5:.2f} | {chi2:.2f} |"
            )


def delgado(data: Path) -> None:
    """HARPS stars of Delgado Mena et al. (2019) against their ages (PARAM, PARSEC, Hipparcos parallaxes)."""
    table = Table.read(data / "labels" / "DelgadoMena20172019.fits")
    logg = column(table, "loggHIP")
    error = column(table, "e_loggHIP") if "e_loggHIP" in table.colnames else np.full(len(table), 0.05)
    alpha = np.nanmean(np.column_stack([column(table, f"__{e}I_Fe_") for e in ("Mg", "Si", "Ca")]), axis=1)
    mh = column(table, "__Fe_H_") + metallicity_term(np.nan_to_num(alpha))
    labels = np.column_stack([column(table, "Teff"), logg, mh])
    sigma = np.column_stack([np.maximum(column(table, "e_Teff"), 30.0), np.maximum(error, 0.02),
                             np.maximum(column(table, "e__Fe_H_"), 0.02)])  # fmt: skip
    theirs, their_error = column(table, "Age"), column(table, "e_Age")
    usable = np.isfinite(labels).all(axis=1) & np.isfinite(theirs) & (their_error < 1.5)
    chosen, _ = subgiants(labels, no_photometry(len(labels)))
    print(f"log g of {np.isfinite(logg).sum()} stars from parallaxes, their median error {np.nanmedian(error):.3f}")
    print("| set | kind | stars | median difference (Gyr) | robust scatter (Gyr) | mean of both errors | correlation |")
    print("|---|---|---|---|---|---|---|")
    for name in ("parsec", "mist"):
        found = posteriors(real(labels, sigma), grids_of(data, name))
        own = found.age[:, 3]
        good = usable & np.isfinite(own) & (found.flag & int(FLAGGED | AgeFlag.PRIOR_DOMINATED) == 0)
        for kind, of_kind in (("subgiants", chosen), ("dwarfs", ~chosen)):
            both = good & of_kind
            difference = own[both] - theirs[both]
            spread = 1.4826 * np.median(np.abs(difference - np.median(difference)))
            expected = np.mean(np.hypot(0.5 * (found.age[both, 4] - found.age[both, 2]), their_error[both]))
            together = np.corrcoef(own[both], theirs[both])[0, 1]
            print(
                f"| {name} | {kind} | {both.sum()} | {np.median(difference):+.2f} | {spread:.2f} | {expected:.2f} | "
                f"{together:.2f} |"
            )


def benchmarks(data: Path) -> None:
    """Subgiants of the Gaia benchmark stars v3: fundamental Teff and log g, Gaia's G and parallaxes."""
    table = Table.read(next((data / "reference").glob("gbs_v3*.fits")))
    feh = column(table, "fe_h")
    alpha = np.clip(-0.4 * feh, 0.0, 0.4)  # the Milky Way's trend, no [alpha/Fe] in the table
    labels = np.column_stack([column(table, "teff"), column(table, "logg"), feh + metallicity_term(alpha)])
    sigma = np.column_stack([np.maximum(column(table, "e_teff"), 30.0), np.maximum(column(table, "e_logg"), 0.02),
                             np.full(len(table), 0.06)])  # fmt: skip
    parallax = column(table, "parallax")
    gaia = np.isfinite(parallax)
    parallax = np.where(gaia, parallax, column(table, "parallax_hip"))
    error = np.where(gaia, column(table, "parallax_error"), column(table, "parallax_error__hip"))
    magnitude = np.where(column(table, "phot_g_mean_mag") > 3.6, column(table, "phot_g_mean_mag"), np.nan)
    n = len(table)
    near = parallax > 5.0
    photometry = Photometry(
        ("G",), parallax, error, magnitude[:, None], np.full((n, 1), 0.03), np.where(near, 0.0, np.nan),
        np.where(near, 0.02, np.nan),
    )  # fmt: skip
    chosen, _ = subgiants(labels, no_photometry(n))
    rows = np.flatnonzero(chosen & np.isfinite(labels).all(axis=1))
    order = rows[np.argsort(labels[rows, 2])]
    first = posteriors(real(labels, sigma, photometry).take(order), grids_of(data, "mist", ("G",)))
    second = posteriors(real(labels, sigma).take(order), grids_of(data, "mist"))
    third = posteriors(real(labels, sigma, photometry).take(order), grids_of(data, "parsec", ("G",)))
    print("| star | Teff | log g | [M/H] | age, parallax and G | labels alone | PARSEC | mass | P(SGB) | flag |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for k, row in enumerate(order):
        cells = [f"{f.age[k, 3]:.1f} ({f.age[k, 2]:.1f}-{f.age[k, 4]:.1f})" for f in (first, second, third)]
        print(
            f"| {str(table['hd'][row]).strip()} | {labels[row, 0]:.0f} | {labels[row, 1]:.2f} | {labels[row, 2]:+.2f} "
            f"| {' | '.join(cells)} | {first.mass[k, 0]:.2f} | {first.stages[k, 1]:.2f} | {first.flag[k]} |"
        )


def giants(data: Path) -> None:
    """Seismic giants of APOKASC-3: stage and mass from labels alone, with the seismic log g and with a spectrum's."""
    table = Table.read(data / "labels" / "APOKASC3_Table4_Apoor_RGB+RC_Gold.csv")
    feh, alpha = column(table, "[Fe/H]"), column(table, "[Alp/Fe]")
    logg, mass = column(table, "Logg_Seis"), column(table, "Mass")
    state = np.array([str(s).strip() for s in table["Evol_State"]])
    labels = np.column_stack([column(table, "Teff"), logg, feh + metallicity_term(alpha)])
    use = np.isfinite(labels).all(axis=1) & (logg > 2.35) & np.isfinite(mass)
    rng = np.random.default_rng(5)
    rows = rng.choice(np.flatnonzero(use), min(1500, int(use.sum())), replace=False)
    print(
        "| set | error of log g | seismic state | stars | called giant, % | median mass ratio | scatter, % | error, % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in ("mist", "parsec"):
        for error in (0.02, 0.1):
            sigma = np.tile([50.0, error, 0.06], (len(rows), 1))
            found = posteriors(real(labels[rows], sigma), grids_of(data, name))
            for kind in ("RGB", "RC"):
                of_kind = (state[rows] == kind) & np.isfinite(found.mass[:, 0])
                called = found.stages[of_kind, Stage.GIANT] > 0.5
                ratio = found.mass[of_kind, 3] / mass[rows][of_kind]
                spread = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
                own = np.median(found.mass[of_kind, 1] / found.mass[of_kind, 0])
                print(
                    f"| {name} | {error} | {kind} | {of_kind.sum()} | {100 * called.mean():.0f} "
                    f"| {np.median(ratio):.2f} | {100 * spread:.0f} | {100 * own:.0f} |"
                )


def speed(data: Path) -> None:
    """Stars a second of one core, by CPU time, the grids being there."""
    print("| case | stars | points a star | CPU ms a star | stars/s a core |")
    print("|---|---|---|---|---|")
    for words, bands in (("labels", ()), ("parallax, Ks", ("KS",)), ("parallax, G, Ks", ("G", "KS")),
                         ("parallax, G, BP, RP, Ks", ("G", "BP", "RP", "KS"))):  # fmt: skip
        grids = grids_of(data, "mist", bands)
        for case in ("S/N 100", "S/N 50", "S/N 30", "sky"):
            mock = mock_subgiants(grids if bands else grids_of(data, "mist", ("KS",)), 500, CASES[case], seed=14)
            stars = mock.stars if bands else without_photometry(mock.stars)
            posteriors(stars.take(np.arange(64)), grids)
            start = time.process_time()
            found = posteriors(stars, grids)
            each = (time.process_time() - start) / len(stars)
            count = np.median(found.points)
            print(f"| {words}, {case} | {len(stars)} | {count:.0f} | {1e3 * each:.2f} | {1 / each:.0f} |")


def memory(data: Path) -> None:
    """A catalogue of 100,000 stars through the command's own function."""
    path = next((data / "isochrones").glob("lachesis_mist*.npz"))
    mock = mock_subgiants(grids_of(data, "mist", ("KS",)), 2000, CASES["sky"], seed=15)
    with tempfile.TemporaryDirectory() as folder:
        for n in (10_000, 100_000):
            rows = np.arange(n) % len(mock.stars)
            stars = mock.stars.take(rows)
            table = Table({"OBSID": np.arange(n)})
            for k, name in enumerate(("TEFF", "LOGG", "FE_H")):
                table[name] = stars.labels[:, k]
                table[f"{name}_ERR"] = np.sqrt(stars.covariance[:, k, k])
            table["PARALLAX"], table["PARALLAX_ERR"] = stars.photometry.parallax, stars.photometry.parallax_err
            table["KS"], table["KS_ERR"] = stars.photometry.magnitudes[:, 0], stars.photometry.errors[:, 0]
            table.write(Path(folder) / f"{n}.fits")
            start, wall = time.process_time(), time.perf_counter()
            make_ages(
                Path(folder) / f"{n}.fits", Path(folder) / f"{n}_ages.fits", AgeSettings(str(path)), progress=False
            )
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
            spent, clock = time.process_time() - start, time.perf_counter() - wall
            print(f"{n} stars: {spent:.0f} s of CPU, {clock:.0f} s by the clock, peak memory so far {peak:.0f} MB")


PARTS: dict[str, Callable[[Path], None]] = {
    "convergence": convergence, "simulated": simulated, "sets": sets, "sun": sun, "m67": m67, "delgado": delgado,
    "benchmarks": benchmarks, "giants": giants, "speed": speed, "memory": memory,
}  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in args.parts or PARTS:
        print(f"\n## {name}")
        PARTS[name](args.data)


if __name__ == "__main__":
    main()
