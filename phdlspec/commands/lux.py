"""Labels learned from stars whose labels are known, by a latent vector that explains spectrum and labels (Lux).

  phdlspec lux train dr10/ --labels apogee.fits --out apogee.safetensors
  phdlspec lux train dr10/ --labels APOGEE=apogee.fits GALAH=galah.fits --out both.safetensors   # two sets
  phdlspec lux apply apogee.safetensors new_spectra/ --out labels.fits
  phdlspec lux check apogee.safetensors dr10/ --labels apogee.fits --out report/

SPECTRA are files, folders, patterns, lists of paths, or packed HDF5, as for `phdlspec catalog`. A table of labels has
FILE or OBSID (or RA and DEC), and any column X with its error X_ERR; usual names of labels (Teff, e_Teff, [Fe/H]) are
understood. An empty or NaN value is missing and stays so. Give the solar scale of its abundances in its header
(SOLSCALE) or with --solar-scale; it is kept. STAR, where it is there, says which spectra are of one star.

`train` chooses the number of latents by cross-validation that keeps the spectra of a star together, judges its errors
on stars that it had not seen, and then learns from all. Give it all spectra of a star, with or without labels: a dozen
pairs tell it how much noise there really is. Stopped or killed, the same command goes on (MODEL.parts).
`apply` looks at the flux alone. Its table has <LABEL>, <LABEL>_ERR, <LABEL>_NOISE (the part of the error that another
spectrum of the star would change), COVARIANCE, LATENTS, CHI2, DISTANCE and FLAG:
1 outside the training set, 2 a poor fit, 4 labels outside those trained on, 8 few pixels, 16 no spectrum (REASON).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from phdlspec.commands.device import DEVICES, chosen_device
from phdlspec.commands.reading import add_reading_arguments
from phdlspec.console import say
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.lux import Lux, train
from phdlspec.datadriven.lux.check import write_check
from phdlspec.datadriven.rest_frame import VELOCITIES
from phdlspec.errors import UserError
from phdlspec.files import only_writer, parts_folder
from phdlspec.tables import check_table_name, write_table
from phdlspec.tensor_file import check_model_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare train, apply and check."""
    actions = parser.add_subparsers(dest="action", metavar="train|apply|check", required=True)
    learn = actions.add_parser("train", help="learn from spectra and a table of labels")
    _add_spectra(learn)
    _add_labels(learn)
    learn.add_argument("--out", required=True, type=Path, metavar="MODEL", help="safetensors file to write")
    learn.add_argument("--latents", default="auto", help="number of latents, at least that of labels (default auto)")
    learn.add_argument("--restarts", type=int, default=1, help="starts to try (default 1: principal components)")
    learn.add_argument("--seed", type=int, default=0, help="of the folds and the restarts")
    learn.add_argument(
        "--save-data", type=Path, metavar="HDF5", help="keep what was read, to be given as SPECTRA later"
    )
    apply_ = actions.add_parser("apply", help="labels of spectra")
    apply_.add_argument("model", type=Path, metavar="MODEL")
    _add_spectra(apply_)
    apply_.add_argument("--out", required=True, type=Path, metavar="TABLE", help="FITS or ECSV table to write")
    check = actions.add_parser(
        "check", help="one page: held-out labels against the given ones, pulls, S/N, missing labels"
    )
    check.add_argument("model", type=Path, metavar="MODEL")
    _add_spectra(check)
    _add_labels(check)
    check.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page and its table")


def _add_spectra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spectra", nargs="+", metavar="SPECTRA", help="files, folders, patterns, lists, packed HDF5")
    parser.add_argument("--velocity", choices=VELOCITIES, default="auto",
                        help="auto: of the header, else measured; zero: spectra are at rest")  # fmt: skip
    parser.add_argument(
        "--fits", type=Path, metavar="DIR", help="results of phdlspec fit: their velocity and continuum"
    )
    add_reading_arguments(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", nargs="+", required=True, metavar="TABLE", help="tables of labels, or NAME=TABLE")
    parser.add_argument("--solar-scale", help="of tables that do not state theirs")


def run(args: argparse.Namespace) -> int:
    """Run one action; 0 when done."""
    return {"train": _train, "apply": _apply, "check": _check}[args.action](args)


def _read(args: argparse.Namespace, model: Lux | None = None) -> Dataset:
    data = read_dataset(
        args.spectra, getattr(args, "labels", ()), None if model is None else model.wave, velocity=args.velocity,
        fits=args.fits, solar_scale=getattr(args, "solar_scale", None), medium=args.medium,
        resolving_power=args.resolving_power, progress=True,
    )  # fmt: skip
    lost = [reason for reason in data.reasons if reason]
    if lost:
        say(f"{len(lost)} of {len(data)} spectra cannot be used; the first: {lost[0]}")
    return data


def _train(args: argparse.Namespace) -> int:
    check_model_name(args.out)
    if args.latents != "auto" and not (args.latents.isdigit() and int(args.latents) > 0):
        raise UserError(f"--latents {args.latents}: expected a positive number or auto")
    if args.restarts < 1:
        raise UserError(f"--restarts {args.restarts}: expected at least 1")
    with only_writer(args.out):
        data = _read(args)
        if args.save_data:
            data.write(args.save_data)
        model = train(
            data, latents=None if args.latents == "auto" else int(args.latents), seed=args.seed, restarts=args.restarts,
            device=chosen_device(args.device), parts=parts_folder(args.out), progress=True,
        )  # fmt: skip
        model.save(args.out)
    count = model.metadata["settings"]["latents"]
    say(f"{args.out}: {model.metadata['stars']} spectra, {count} latents; held-out stars:")
    for row in model.metadata["held_out"]:
        say(
            f"  {row['set']} {row['label']:8s} scatter {row['scatter']:.4g}, over its error {row['pull']:.2f} "
            f"({row['stars']})"
        )
    return 0


def _apply(args: argparse.Namespace) -> int:
    check_table_name(args.out)
    model = Lux.load(args.model)
    table = model.apply(_read(args, model), chosen_device(args.device))
    write_table(table, args.out)
    say(f"{args.out}: {len(table)} spectra, {int((table['FLAG'] == 0).sum())} without flags")
    return 0


def _check(args: argparse.Namespace) -> int:
    model = Lux.load(args.model)
    say(write_check(model, _read(args, model), args.out, str(args.model)))
    return 0
