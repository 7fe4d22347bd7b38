"""Kinds of files for `fuzz.py`, the second half: tables of labels, models and results of studies, small tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.table import Table

from calibration.binaries import read_pairs
from calibration.clusters import read_clusters
from calibration.pixel_influence import Diagnostics
from calibration.scales import read_solar_scale
from calibration.surveys import read_labels
from kurucz_grids.linelists.star_calibration import StarCalibration
from phdlspec.ages.readers.find import read_file
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.desa.light_curve import Segment, stitch
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.labels import LABELS
from phdlspec.masks import read_intervals
from phdlspec.resolution import resolving_power_at

ROWS = 20


def reference_labels(name: str) -> Callable[[Path], Path]:
    """A table of reference labels."""

    def make(folder: Path) -> Path:
        rows = np.arange(ROWS)
        table = Table({"ID": [f"star{i}" for i in rows], "RA": rows + 0.5, "DEC": rows - 5.0})
        for label in LABELS[:6]:
            table[label.name] = np.full(ROWS, 0.5 * (label.lower + label.upper)) + 0.01 * rows
            table[f"{label.name}_ERR"] = 0.05
        table.meta["solar_scale"] = "Asplund2009"
        table.write(folder / name, format={".csv": "ascii.csv", ".fits": "fits"}[Path(name).suffix])
        return folder / name

    return make


def read_reference_labels(path: Path) -> object:
    """What the calibration makes of it."""
    return len(read_labels(path, solar_scale="Asplund2009").stars)


def pairs(folder: Path) -> Path:
    """Wide pairs."""
    rows = np.arange(ROWS)
    Table({"ID_1": [f"a{i}" for i in rows], "ID_2": [f"b{i}" for i in rows], "P_PAIR": 0.9 + 0.001 * rows}).write(
        folder / "pairs.csv", format="ascii.csv"
    )
    return folder / "pairs.csv"


def members(folder: Path) -> Path:
    """Members of a cluster."""
    Table({"ID": [f"m{i}" for i in range(ROWS)], "CLUSTER": ["M67"] * ROWS, "P_MEMBER": np.linspace(0, 1, ROWS)}).write(
        folder / "m67.csv", format="ascii.csv"
    )
    return folder / "m67.csv"


def solar_scale(folder: Path) -> Path:
    """Abundances of a Sun."""
    Table({"element": ["Fe", "Mg", "Ca"], "a_x": [7.5, 7.6, 6.34]}).write(folder / "sun.csv", format="ascii.csv")
    return folder / "sun.csv"


def intervals(folder: Path) -> Path:
    """Masks."""
    (folder / "mask.csv").write_text("name,low,high,frame\nghost,5000,5005,observed\nhalpha,6550,6580,star\n")
    return folder / "mask.csv"


def resolution(folder: Path) -> Path:
    """A resolving power."""
    Table({"wave": np.linspace(3700, 9000, 9), "resolving_power": np.full(9, 1800.0)}).write(folder / "r.ecsv")
    return folder / "r.ecsv"


def read_resolution(path: Path) -> object:
    """At three wavelengths."""
    return resolving_power_at(path, np.array([4000.0, 5000.0, 6000.0]))


def corrections(folder: Path) -> Path:
    """Corrections to lines: the shipped ones, fewer of them."""
    found = StarCalibration.read()
    StarCalibration(found.lines[:30], found.bands[:10], found.veil, found.made).write(folder / "lines.fits")
    return folder / "lines.fits"


def read_corrections(path: Path) -> object:
    """Their number."""
    return len(StarCalibration.read(path).lines)


def diagnostics(folder: Path) -> Path:
    """Pulls of pixels."""
    random = np.random.default_rng(1)
    wave, jacobian = np.linspace(4000, 9000, 90), random.normal(size=(2, 90, 3))
    one = Diagnostics(wave, ("FE_H", "MG_FE", "TEFF"), random.normal(size=(2, 90)), np.ones((2, 90)), jacobian,
                      random.normal(size=(2, 3)))  # fmt: skip
    one.write(folder / "pulls.h5")
    return folder / "pulls.h5"


def read_diagnostics(path: Path) -> object:
    """Mean influence."""
    return Diagnostics.read(path).mean_influence().shape


def dataset(folder: Path) -> Path:
    """Spectra on one grid for models from data."""
    names, nan = tuple(f"star{i}" for i in range(4)), np.full(4, np.nan)
    flux = np.ones((4, 50), np.float32)
    Dataset(
        np.linspace(5000, 5300, 50), flux, flux, np.full(50, 1800.0), names, names, names, nan, nan, np.zeros(4),
        np.full(4, 40.0), ("",) * 4,
    ).write(folder / "data.h5")  # fmt: skip
    return folder / "data.h5"


def read_packed_dataset(path: Path) -> object:
    """Its size."""
    return len(read_dataset([path]))


def light_curves(folder: Path) -> Path:
    """Views of two light curves."""
    time = np.arange(0.0, 60.0, 0.1)
    segments = [Segment(n, n, time, 1.0 + 0.01 * np.sin(time)) for n in ("a", "b")]
    LightCurveSet.from_light_curves([stitch([segment]) for segment in segments]).write(folder / "curves.h5")
    return folder / "curves.h5"


def read_light_curve_set(path: Path) -> object:
    """Its views."""
    return len(LightCurveSet.read(path).views)


def yrec(folder: Path) -> Path:
    """Isochrones in YREC's columns."""
    lines = ["Age_gyr,Metallicity_input,Mass_input,Mass_msun,log_Teff,Log_g,LogL_lsun,X_cen"]
    lines += [f"4.0,0.0,{0.8 + 0.01 * i},0.8,{3.7 + 0.001 * i},4.4,{-0.1 + 0.02 * i},0.3" for i in range(ROWS)]
    (folder / "yrec.csv").write_text("\n".join(lines))
    return folder / "yrec.csv"


# name, maker, reader, so many times fewer inputs
MORE: tuple[tuple[str, Callable[[Path], Path], Callable[[Path], object], int], ...] = (
    ("reference labels: CSV", reference_labels("labels.csv"), read_reference_labels, 1),
    ("reference labels: FITS", reference_labels("labels.fits"), read_reference_labels, 1),
    ("wide pairs", pairs, lambda path: len(read_pairs(path).probability), 1),
    ("members of clusters", members, lambda path: len(read_clusters(path)), 1),
    ("solar scale", solar_scale, read_solar_scale, 1),
    ("masks", intervals, read_intervals, 1),
    ("resolving power", resolution, read_resolution, 1),
    ("isochrones: text", yrec, read_file, 1),
    ("corrections to lines", corrections, read_corrections, 1),
    ("pulls of pixels: HDF5", diagnostics, read_diagnostics, 20),
    ("spectra of models from data: HDF5", dataset, read_packed_dataset, 20),
    ("light curves: HDF5", light_curves, read_light_curve_set, 20),
)
