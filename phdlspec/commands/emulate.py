"""Emulate spectra: one star or a table of labels.

  phdlspec emulate --set TEFF=5777 LOGG=4.44 FE_H=0 --out sun.fits
  phdlspec emulate --labels stars.ecsv --out spectra.h5 --resolving-power 1500
  phdlspec emulate --set TEFF=4800 LOGG=2.5 --out giant.ecsv --plot giant.png
  phdlspec emulate --set TEFF=4800 LOGG=2.5 --out giant.fits --ab-initio --atmospheres A.npz --line-list L.npz

Labels that are not given are scaled solar with a typical VMIC. The format follows from the name: .fits, .ecsv (one star
a column) or .h5. With --ab-initio the same stars are synthesised directly and the difference is written beside.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import h5py
import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table

from phdlspec.default_emulator import load_emulator
from phdlspec.direct_synthesis import load_direct_synthesis
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.preparation import MIN_RESOLVING_POWER
from phdlspec.labels import GRID_ROLES, Role
from phdlspec.lsf import kernel_half_width, project
from phdlspec.wavelength import log_grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--set", nargs="+", metavar="LABEL=VALUE", help="labels of one star")
    what.add_argument("--labels", metavar="TABLE", help="table with a column for each label, a row for each star")
    parser.add_argument("--out", required=True, metavar="FILE", help=".fits, .ecsv or .h5")
    parser.add_argument("--emulator", metavar="CKPT", help="checkpoint of `phdlspec train` (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--resolving-power", type=float, default=1800.0, metavar="R", help="default 1800")
    parser.add_argument("--wave-min", type=float, default=3750.0, help="vacuum Å (default 3750)")
    parser.add_argument("--wave-max", type=float, default=9050.0, help="vacuum Å (default 9050)")
    parser.add_argument("--plot", metavar="PNG", help="draw the spectra")
    parser.add_argument("--ab-initio", action="store_true", help="synthesise them as well and compare")
    parser.add_argument("--atmospheres", help="for --ab-initio, as in `phdlspec grid build`")
    parser.add_argument(
        "--line-list", nargs="+", action="extend", metavar="PATH", help="for --ab-initio, as in `phdlspec grid build`"
    )


def run(args: argparse.Namespace) -> int:
    if not args.resolving_power >= MIN_RESOLVING_POWER:
        raise UserError(f"--resolving-power {args.resolving_power:g}: expected at least {MIN_RESOLVING_POWER:.0f}")
    if args.plot:
        _make_folder(args.plot)
    emulator = load_emulator(args.emulator, args.device, args.resolving_power)
    native = emulator.native
    # The kernel of a pixel must not leave the native grid.
    margin = 1.0 + max(0.003, native.dlnlam * kernel_half_width(native, args.resolving_power))
    low, high = native.wave0 * margin, native.wave[-1] / margin
    if not low <= args.wave_min < args.wave_max <= high:
        raise UserError(
            f"--wave-min {args.wave_min:g} and --wave-max {args.wave_max:g} must be increasing and lie within "
            f"{low:.0f}-{high:.0f} Å"
        )
    # 2.5 pixels for a resolution element.
    emulator.wave = log_grid(args.wave_min, args.wave_max, 1.0 / (2.5 * args.resolving_power))
    theta = _labels(args, emulator)
    flux = torch.cat([emulator.flux(part) for part in np.array_split(theta, -(-len(theta) // 256))]).cpu().numpy()
    direct = _ab_initio(args, emulator, theta) if args.ab_initio else None
    if args.plot:
        _plot(args.plot, emulator.wave, flux, direct)
    _write(args.out, emulator, theta, flux, direct)
    print(f"{args.out}: {len(flux)} spectra at R = {args.resolving_power:g}, {args.wave_min:g}-{args.wave_max:g} Å")
    outside = int((~emulator.trusted(theta)).sum())
    if outside:
        print(f"  ! {outside} of them lie outside the range where the model is trusted (model card)")
    if direct is not None:
        for i, row in enumerate(flux - direct):
            rms, most = np.sqrt((row**2).mean()), np.abs(row).max()
            print(f"  star {i}: emulator minus ab initio, rms {rms:.1e}, most {most:.1e}")
    return 0


def _labels(args: argparse.Namespace, emulator: Emulator) -> np.ndarray:
    if args.set:
        values = {}
        for item in args.set:
            name, _, text = item.partition("=")
            try:
                values[name.upper()] = float(text)
            except ValueError as error:
                raise UserError(f"--set {item}: expected LABEL=VALUE with a number") from error
        return emulator.labels.complete(values)[None]
    try:
        table = Table.read(args.labels)
    except Exception as error:
        raise UserError(f"{args.labels}: cannot be read as a table ({first_line(error)})") from error
    names = [name for name in table.colnames if name.upper() in emulator.labels]
    if not names or not len(table):
        raise UserError(f"{args.labels}: no column is named as a label (TEFF, LOGG, FE_H, MG_FE ...)")
    columns = {}
    for name in names:
        try:
            column = np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan).reshape(len(table))
        except (TypeError, ValueError) as error:
            raise UserError(f"{args.labels}: the column {name} does not hold one number a row") from error
        columns[name.upper()] = column
    return np.stack([emulator.labels.complete({n: v[i] for n, v in columns.items()}) for i in range(len(table))])


def _ab_initio(args: argparse.Namespace, emulator: Emulator, theta: np.ndarray) -> np.ndarray:
    direct = load_direct_synthesis(args.atmospheres, args.line_list, emulator.metadata["grid"])
    of_grid, broadening = emulator.labels.place(*GRID_ROLES), emulator.labels.place(Role.BROADENING)
    rows = []
    for row in theta:
        native, vbroad = direct.native_flux(row[of_grid], emulator.native), torch.as_tensor(row[broadening])
        rows.append(project(native[None], emulator.native, emulator.wave, emulator.resolving_power, vbroad)[0].numpy())
    return np.stack(rows)


def _write(out: str, emulator: Emulator, theta: np.ndarray, flux: np.ndarray, direct: np.ndarray | None) -> None:
    path = Path(out)
    meta = {
        "medium": "vacuum", "resolving_power": emulator.resolving_power, "checkpoint": emulator.checkpoint_hash,
        "solar_scale": emulator.metadata["solar_scale"],
    }  # fmt: skip
    labels = Table(theta, names=emulator.labels.names)
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        if path.suffix in (".h5", ".hdf5"):
            with h5py.File(temporary, "w") as file:
                file.attrs.update(meta)
                file["wave"], file["flux"], file["labels"] = emulator.wave, flux, theta
                file["label_names"] = [name.encode() for name in emulator.labels.names]
                if direct is not None:
                    file["ab_initio"] = direct
        elif path.suffix == ".ecsv":
            stars = [dict(zip(labels.colnames, map(float, row))) for row in theta]
            table = Table({"wave": emulator.wave}, meta={**meta, "labels": stars})
            table["wave"].unit = "Angstrom"
            for i, row in enumerate(flux):
                table[f"flux_{i}" if len(flux) > 1 else "flux"] = row
                if direct is not None:
                    table[f"ab_initio_{i}" if len(flux) > 1 else "ab_initio"] = direct[i]
            table.write(temporary, format="ascii.ecsv", overwrite=True)
        elif path.name.endswith((".fits", ".fits.gz")):
            header = fits.Header({"MEDIUM": "vacuum", "RESPOWER": meta["resolving_power"]})
            header["EMUHASH"] = emulator.checkpoint_hash[:16]
            spectra = Table({"WAVE": emulator.wave})
            spectra["WAVE"].unit = "Angstrom"
            hdus = [fits.PrimaryHDU(header=header), fits.table_to_hdu(spectra), fits.table_to_hdu(labels)]
            hdus[1].name, hdus[2].name = "WAVELENGTH", "LABELS"
            hdus.append(fits.ImageHDU(flux, name="FLUX"))
            if direct is not None:
                hdus.append(fits.ImageHDU(direct, name="AB_INITIO"))
            fits.HDUList(hdus).writeto(temporary, overwrite=True)
        else:
            raise UserError(f"{path}: unknown format, expected a name that ends in .fits, .ecsv or .h5")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: its folder cannot be made ({error.strerror}); choose another --plot") from error


def _plot(path: str, wave: np.ndarray, flux: np.ndarray, direct: np.ndarray | None) -> None:
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
