"""Fit the bolometric corrections of phdlspec.ages, and hold them to stars with measured angular diameters.

  pip download --no-deps astrolachesis     # its wheel holds MIST's tables: lachesis/Datafiles/BC_tables/bc_tables.h5
  python scripts/bolometric_corrections.py bc_tables.h5 --benchmarks gbs_v3.fits [--write]

The tables: C3K synthetic photometry (Choi et al. 2016, ApJ 823, 102). The check: stars of the Gaia FGK benchmark
sample v3 (Soubiran et al. 2024) have F_bol = (theta/2)^2 sigma Teff^4, so that BC_G = m_bol - G without any model of
the flux in G.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import product
from pathlib import Path

import h5py
import numpy as np
from astropy import constants
from astropy import units as u
from astropy.table import Table

from phdlspec.bolometric import FILE, LOGG_RANGE, MH_RANGE, TEFF_RANGE, Corrections, scaled

NAMES = {"G": "Gaia_G_EDR3", "BP": "Gaia_BP_EDR3", "RP": "Gaia_RP_EDR3", "KS": "2MASS_Ks"}
DEGREES = (6, 3, 3)
FLUX_OF_ZERO = 2.518021002e-8  # W/m2, m_bol = 0 (IAU 2015 Resolution B2)


def nodes(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Teff, log g, [Fe/H] (n, 3) and the corrections (n,) by band, without extinction and within the range."""
    with h5py.File(path) as file:
        group = file["UBVRIplus"]
        bands = [name.decode() for name in group["band_names"][:]]
        rows = group["data"][:].reshape(-1, 5 + len(bands)).astype(float)
    use = rows[:, 3] == 0
    for column, (low, high) in zip((0, 1, 2), (TEFF_RANGE, LOGG_RANGE, MH_RANGE)):
        use &= (rows[:, column] >= low) & (rows[:, column] <= high)
    rows = rows[use]
    return rows[:, :3], {band: rows[:, 5 + bands.index(name)] for band, name in NAMES.items()}


def fit(labels: np.ndarray, values: dict[str, np.ndarray]) -> Corrections:
    """Least squares; total degree bounded so that i/6 + j/3 + k/3 <= 1."""
    exponents = np.array(
        [e for e in product(*(range(d + 1) for d in DEGREES)) if sum(n / d for n, d in zip(e, DEGREES)) <= 1 + 1e-9]
    )
    x, y, z = scaled(np.log10(labels[:, 0]), labels[:, 1], labels[:, 2])
    terms = np.stack([x**i * y**j * z**k for i, j, k in exponents], axis=-1)
    found = {band: np.linalg.lstsq(terms, v, rcond=None)[0] for band, v in values.items()}
    return Corrections(exponents, found, {band: float((v - terms @ found[band]).std()) for band, v in values.items()})


def check(corrections: Corrections, path: Path) -> None:
    """Print the polynomial minus the measured correction of the benchmark stars."""
    stars = Table.read(path)

    def column(name: str) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(stars[name], dtype=float), np.nan)

    teff, logg, feh = column("teff"), column("logg"), column("fe_h")
    theta = (column("theta_ld") * u.mas).to_value(u.rad)
    error = 2.5 / np.log(10) * np.hypot(2 * column("e_theta_ld") / column("theta_ld"), 4 * column("e_teff") / teff)
    flux = (theta / 2) ** 2 * constants.sigma_sb.value * teff**4
    m_bol = -2.5 * np.log10(flux / FLUX_OF_ZERO)
    faint = np.array([bool(re.match(r"A", str(q)[-1:])) for q in stars["ph_qual_tmass"]])
    print("band  kind       stars  median difference  scatter  expected from the stars' errors (mag)")
    for band, name in (("G", "phot_g_mean_mag"), ("KS", "ks_m")):
        own = column("ks_msigcom") if band == "KS" else np.full(len(stars), 0.005)
        made = corrections.correction(band, np.log10(teff), logg, feh)
        difference = made - (m_bol - column(name))
        total = np.hypot(error, own)
        for kind, low, high in (("dwarfs", 4.0, 6.0), ("subgiants", 3.4, 4.0), ("giants", 0.0, 3.4)):
            use = (logg > low) & (logg <= high) & np.isfinite(difference) & (total < 0.15) & ((band == "G") | faint)
            if use.sum() < 3:
                continue
            spread = 1.4826 * np.median(np.abs(difference[use] - np.median(difference[use])))
            print(
                f"{band:4s}  {kind:9s}  {use.sum():4d}  {np.median(difference[use]):+16.3f}  {spread:9.3f}"
                f"  {np.median(total[use]):8.3f}"
            )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--benchmarks", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the file that is shipped")
    args = parser.parse_args()
    labels, values = nodes(args.tables)
    corrections = fit(labels, values)
    print(f"{len(labels)} nodes, {len(corrections.exponents)} terms")
    for band, scatter in corrections.scatter.items():
        sun = float(corrections.correction(band, np.log10(5772.0), 4.438, 0.0))
        print(f"{band:3s} scatter {scatter:.4f} mag, the Sun's absolute magnitude {4.74 - sun:.3f}")
    if args.benchmarks:
        check(corrections, args.benchmarks)
    if args.write:
        content = {
            "source": "C3K tables of MIST (Choi et al. 2016), scripts/bolometric_corrections.py",
            "exponents": corrections.exponents.tolist(),
            "coefficients": {b: [round(float(c), 6) for c in v] for b, v in corrections.coefficients.items()},
            "scatter": {b: round(v, 4) for b, v in corrections.scatter.items()},
        }
        target = Path(__file__).resolve().parents[1] / "phdlspec" / "data" / FILE
        target.write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(f"{target}: written")


if __name__ == "__main__":
    main()
