"""Emulate spectra: one star or a table of labels.

  phdlspec emulate --set TEFF=5777 LOGG=4.44 FE_H=0 --out sun.fits
  phdlspec emulate --labels stars.ecsv --out spectra.h5 --resolving-power 1500
  phdlspec emulate --set TEFF=4800 LOGG=2.5 RV=-37 --out giant.ecsv --plot giant.png
  phdlspec emulate --set TEFF=4800 LOGG=2.5 --out giant.fits --ab-initio --atmospheres A.npz --line-list L.npz

Labels that are not given are scaled solar with a typical VMIC. A table has a column for each label that is not, under
its name or another usual one ([Fe/H], feh, Teff), a column RV (km/s) and a column of names (NAME, OBSID, ID) if you
like; a column that only comes near a label (M_H) is refused: --rename M_H=FE_H. The format follows from the name:
.fits, .ecsv or .h5; `phdlspec fit` reads the first two, `phdlspec catalog` the third, with the S/N of --snr. No noise
is added. With --ab-initio the same stars are synthesised directly and the difference is written beside. A resolving
power that varies with wavelength, as LAMOST's, is written for each pixel.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.aliases import IDENTIFIERS, label_columns, refuse_near, renamed, renames
from phdlspec.columns import RV
from phdlspec.commands.reading import RESOLVING_POWER_HELP, number_or_name
from phdlspec.console import say
from phdlspec.default_emulator import load_emulator
from phdlspec.direct_synthesis import load_direct_synthesis
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.preparation import MIN_RESOLVING_POWER
from phdlspec.io.model_spectra import ModelSpectra, check_ending
from phdlspec.labels import GRID_ROLES, Role, squashed
from phdlspec.lsf import kernel_half_width, project
from phdlspec.resolution import resolving_power_at
from phdlspec.tables import find_column, number_column, read_any_table, text_column
from phdlspec.wavelength import log_grid

_RV_NAMES = (RV, "RADIAL_VELOCITY", "VRAD", "RV_KM_S")
_AT_ONCE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--set", nargs="+", metavar="LABEL=VALUE", help="labels of one star, and RV (km/s)")
    what.add_argument("--labels", metavar="TABLE", help="table with a column for each label, a row for each star")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW",
                        help="a column of --labels under another name; OLD=- leaves it out")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".fits, .ecsv or .h5")
    parser.add_argument("--emulator", metavar="CKPT", help="checkpoint of `phdlspec train` (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--resolving-power", type=number_or_name, default=1800.0, metavar="R",
                        help=f"{RESOLVING_POWER_HELP} (default 1800)")  # fmt: skip
    parser.add_argument("--wave-min", type=float, default=3750.0, help="vacuum Å (default 3750)")
    parser.add_argument("--wave-max", type=float, default=9050.0, help="vacuum Å (default 9050)")
    parser.add_argument("--snr", type=float, default=200.0, help="that the written errors state (default 200)")
    parser.add_argument("--plot", metavar="PNG", help="draw the spectra")
    parser.add_argument("--ab-initio", action="store_true", help="synthesise them as well and compare")
    parser.add_argument("--atmospheres", help="for --ab-initio, as in `phdlspec grid build`")
    parser.add_argument(
        "--line-list", nargs="+", action="extend", metavar="PATH", help="for --ab-initio, as in `phdlspec grid build`"
    )


@dataclass(frozen=True)
class _StarsToEmulate:
    """What to emulate: theta (N, L), rv (N,) in km/s, names (N,)."""

    theta: NDArray[np.float64]
    rv: NDArray[np.float64]
    names: tuple[str, ...]


def run(args: argparse.Namespace) -> int:
    """Emulate, write, and say what was done."""
    if not 0.0 < args.snr < np.inf:
        raise UserError(f"--snr {args.snr:g}: expected a positive number")
    check_ending(args.out)
    if args.plot:
        _make_folder(args.plot)
    emulator = load_emulator(args.emulator, args.device, args.resolving_power)
    emulator.wave = _pixels(args, emulator)
    stars = _one_star(args.set, emulator) if args.set else _of_table(args.labels, renames(args.rename), emulator)
    flux = _emulated(emulator, stars)
    direct = _ab_initio(args, emulator, stars) if args.ab_initio else None
    if args.plot:
        _plot(args.plot, emulator.wave, flux, direct)
    _spectra(emulator, stars, flux, direct, args.snr).write(args.out)
    say(f"{args.out}: {len(flux)} spectra at R = {_told(emulator)}, {args.wave_min:g}-{args.wave_max:g} Å")
    outside = int((~emulator.trusted(stars.theta)).sum())
    if outside:
        reason = emulator.distrust or "they lie outside the range where the emulator is trusted (phdlspec info)"
        say(f"  ! {outside} of them are not to be trusted: {reason}")
    if direct is not None:
        for name, row in zip(stars.names, flux - direct):
            rms, most = np.sqrt((row**2).mean()), np.abs(row).max()
            say(f"  {name}: emulator minus ab initio, rms {rms:.1e}, most {most:.1e}")
    return 0


def _pixels(args: argparse.Namespace, emulator: Emulator) -> NDArray[np.float64]:
    """2.5 pixels for the sharpest resolution element, where the kernel of none leaves the native grid."""
    native = emulator.native
    power = np.atleast_1d(resolving_power_at(args.resolving_power, native.wave))
    if not power.min() >= MIN_RESOLVING_POWER:
        raise UserError(f"--resolving-power {power.min():g}: expected at least {MIN_RESOLVING_POWER:.0f}")
    margin = 1.0 + max(0.003, native.dlnlam * kernel_half_width(native, power))
    low, high = native.wave0 * margin, native.wave[-1] / margin
    if not low <= args.wave_min < args.wave_max <= high:
        raise UserError(
            f"--wave-min {args.wave_min:g} and --wave-max {args.wave_max:g} must be increasing and lie within "
            f"{low:.0f}-{high:.0f} Å"
        )
    return log_grid(args.wave_min, args.wave_max, 1.0 / (2.5 * power.max()))


def _told(emulator: Emulator) -> str:
    power = np.atleast_1d(emulator.resolving_power)
    low, high = f"{power.min():.0f}", f"{power.max():.0f}"
    return low if low == high else f"{low}-{high}"


def _one_star(items: list[str], emulator: Emulator) -> _StarsToEmulate:
    values: dict[str, float] = {}
    for item in items:
        name, _, text = item.partition("=")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise UserError(f"--set {item}: expected LABEL=VALUE with a number") from error
    rv = next((values.pop(name) for name in list(values) if squashed(name) in map(squashed, _RV_NAMES)), 0.0)
    return _StarsToEmulate(
        _checked(emulator.labels.complete(values)[None], emulator), _velocities(np.array([rv])), ("star 0",)
    )


def _of_table(path: str, names: dict[str, str], emulator: Emulator) -> _StarsToEmulate:
    table = renamed(read_any_table(path), names, path)
    found = label_columns(table, path)
    refuse_near(table, path, found, need_error=False)
    if not found or not len(table):
        raise UserError(f"{path}: no column is named as a label (TEFF, LOGG, FE_H, MG_FE ...), or there is no row")
    values = {label: _numbers(table, columns.value, path) for label, columns in found.items()}
    rows = [emulator.labels.complete({n: float(v[i]) for n, v in values.items()}) for i in range(len(table))]
    velocity, name = find_column(table, *_RV_NAMES), find_column(table, "NAME", *IDENTIFIERS)
    rv = np.zeros(len(table)) if velocity is None else _numbers(table, velocity, path)
    called = [f"star {i}" for i in range(len(table))] if name is None else text_column(table, name)
    return _StarsToEmulate(_checked(np.stack(rows), emulator), _velocities(rv), tuple(map(str, called)))


def _numbers(table: Table, column: str, path: str) -> NDArray[np.float64]:
    if table[column].ndim != 1:
        raise UserError(f"{path}: the column {column} does not hold one number a row")
    return number_column(table, column, path)


def _checked(theta: NDArray[np.float64], emulator: Emulator) -> NDArray[np.float64]:
    """The labels; `UserError` where one lies outside the emulator's range."""
    for label, values, low, high in zip(emulator.labels, theta.T, emulator.labels.lower, emulator.labels.upper):
        bad = ~((values >= low) & (values <= high))
        if bad.any():
            raise UserError(
                f"{label.name} = {values[bad][0]:g} is outside the emulator's range {low:g} to {high:g} "
                f"{label.unit}".rstrip()
            )
    return theta


def _velocities(rv: NDArray[np.float64]) -> NDArray[np.float64]:
    if not (np.abs(rv) <= 1000.0).all():
        raise UserError(f"RV = {rv[~(np.abs(rv) <= 1000.0)][0]:g}: expected -1000 to 1000 km/s")
    return rv


def _emulated(emulator: Emulator, stars: _StarsToEmulate) -> NDArray[np.float32]:
    wave = torch.as_tensor(emulator.wave, device=emulator.device)
    parts = []
    with torch.no_grad():
        for start in range(0, len(stars.theta), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            theta, rv = (torch.as_tensor(x[rows], dtype=torch.float32, device=emulator.device)
                         for x in (stars.theta, stars.rv))  # fmt: skip
            parts.append(emulator.observe(theta, wave, emulator.resolving_power, rv).cpu().numpy())
    return np.concatenate(parts)


def _ab_initio(args: argparse.Namespace, emulator: Emulator, stars: _StarsToEmulate) -> NDArray[np.float32]:
    direct = load_direct_synthesis(args.atmospheres, args.line_list, emulator.metadata["grid"])
    of_grid, broadening = emulator.labels.place(*GRID_ROLES), emulator.labels.place(Role.BROADENING)
    wave, power = emulator.wave, emulator.resolving_power
    rows = []
    for row, rv in zip(stars.theta, stars.rv):
        native, vbroad = direct.native_flux(row[of_grid], emulator.native), torch.as_tensor(row[broadening])
        rows.append(project(native[None], emulator.native, wave, power, vbroad, torch.tensor([rv]))[0].numpy())
    return np.stack(rows).astype(np.float32)


def _spectra(
    emulator: Emulator,
    stars: _StarsToEmulate,
    flux: NDArray[np.float32],
    direct: NDArray[np.float32] | None,
    snr: float,
) -> ModelSpectra:
    labels = Table(stars.theta, names=emulator.labels.names, units=[label.unit or None for label in emulator.labels])
    labels[RV] = stars.rv
    labels[RV].unit = "km/s"
    header = {
        "MEDIUM": "vacuum", "EMUHASH": emulator.checkpoint_hash[:16], "SOLSCALE": emulator.metadata["solar_scale"],
    }  # fmt: skip
    if len(stars.names) == 1:
        header["OBJECT"] = stars.names[0]
    power = emulator.resolving_power
    return ModelSpectra(emulator.wave, flux, stars.names, labels, 1.0 / snr, power, header, direct)


def _make_folder(path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: its folder cannot be made ({error.strerror}); choose another --plot") from error


def _plot(path: str, wave: NDArray[np.float64], flux: NDArray[np.float32], direct: NDArray[np.float32] | None) -> None:
    from matplotlib.figure import Figure  # heavy, and needed for --plot alone

    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(flux[:10]):
        axes.plot(wave, row, lw=0.7, label=f"star {i}")
        if direct is not None:
            axes.plot(wave, direct[i], lw=0.7, ls=":", color="k")
    axes.set_xlabel("wavelength in vacuum (Å)")
    axes.set_ylabel("flux / continuum")
    axes.legend(fontsize=8)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: no such format
        raise UserError(f"{path}: the plot cannot be written ({first_line(error)}); choose another --plot") from error
