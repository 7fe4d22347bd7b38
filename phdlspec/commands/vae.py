"""Spectra explained without labels, with a scatter for every pixel: is this one like anything seen before? (ScatterVAE)

  phdlspec vae train dr10/ --out mine.safetensors
  phdlspec vae train xp.csv.gz --out xp.safetensors                   # Gaia XP continuous coefficients
  phdlspec vae apply lamost new_spectra/ --out strange.fits           # the shipped model of LAMOST spectra
  phdlspec vae check lamost other/ --labels labels.csv --out report/

SPECTRA are files, folders, patterns, lists of paths or packed HDF5, as for `phdlspec catalog`; XP are tables (CSV,
ECSV, FITS, VOTable, Parquet) with source_id, bp_coefficients, bp_coefficient_errors, the same of rp, and
phot_g_mean_flux or phot_g_mean_mag, or these in --photometry TABLE. Labels are looked at by `check`, never learned
from.

`train` on spectra learns emulated stars first, then the real ones, and judges itself on stars that it had not seen; on
XP it keeps one source in ten apart. Stopped or killed, the same command goes on (MODEL.parts).
The table of `apply` has LATENTS, CHI2, RCHI2, SCATTER, ANOMALY (-log10 of the probability of the strangest sign among
ordinary stars, less its handicap), ANOMALY_PCT, SIGN, WORST (the windows that deviate most) and FLAG: 1 stranger than
99% of ordinary stars, 2 latents outside the training set, 4 few pixels, 8 no spectrum (REASON). No draw is made: the
same input gives the same output. A model of spectra serves `phdlspec catalog --anomaly` too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from phdlspec.commands.device import DEVICES, chosen_device
from phdlspec.commands.reading import add_reading_arguments
from phdlspec.console import say
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.rest_frame import VELOCITIES
from phdlspec.datadriven.scatter_vae import (
    SpectrumModel,
    SpectrumSettings,
    XPModel,
    XPSettings,
    load_model,
    read_xp,
    train_spectra,
    train_xp,
)
from phdlspec.datadriven.scatter_vae.check import check_spectra, check_xp
from phdlspec.datadriven.scatter_vae.xp_table import NORMALISATIONS, XPSet, is_xp
from phdlspec.errors import UserError
from phdlspec.files import only_writer, parts_folder
from phdlspec.tables import check_table_name, write_table
from phdlspec.tensor_file import check_model_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare train, apply and check."""
    actions = parser.add_subparsers(dest="action", metavar="train|apply|check", required=True)
    learn = actions.add_parser("train", help="learn from spectra or XP coefficients")
    _add_input(learn)
    learn.add_argument("--out", required=True, type=Path, metavar="MODEL", help="safetensors file to write")
    learn.add_argument("--form", choices=("xp", "spectrum"), help="by default told from the input")
    learn.add_argument("--latents", type=int, help="number (default: 6 for xp, chosen for spectra)")
    learn.add_argument("--epochs", type=int, help="passes through the data (default 500 for xp, 40 for spectra)")
    learn.add_argument(
        "--normalise", choices=NORMALISATIONS, default="gflux",
        help="xp: coefficients over the flux in G, or over the root of the sum of their squares",
    )  # fmt: skip
    learn.add_argument("--seed", type=int, default=0, help="of everything random")
    apply_ = actions.add_parser("apply", help="latents, reconstruction, how strange a spectrum is and where")
    apply_.add_argument("model", type=Path, metavar="MODEL")
    _add_input(apply_)
    apply_.add_argument("--out", required=True, type=Path, metavar="TABLE", help="FITS or ECSV table to write")

    check = actions.add_parser("check", help="one page: reconstruction, calibration, latents, the strangest")
    check.add_argument("model", type=Path, metavar="MODEL")
    _add_input(check)
    check.add_argument("--labels", nargs="+", default=(), metavar="TABLE", help="spectra: labels to colour latents by")
    check.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page and its table")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="SPECTRA|XP", help="spectra, or tables of XP coefficients")
    parser.add_argument("--photometry", type=Path, metavar="TABLE", help="xp: source_id and the flux or magnitude in G")
    parser.add_argument("--velocity", choices=VELOCITIES, default="auto",
                        help="spectra: of the header, else measured (auto); zero: they are at rest")  # fmt: skip
    add_reading_arguments(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto")


def run(args: argparse.Namespace) -> int:
    """Run one action; 0 when done."""
    return {"train": _train, "apply": _apply, "check": _check}[args.action](args)


def _read_xp(args: argparse.Namespace) -> XPSet:
    data = read_xp(args.inputs)
    data = data if args.photometry is None else data.with_photometry(args.photometry)
    _tell(data.reasons, "sources")
    return data


def _read_spectra(args: argparse.Namespace, model: SpectrumModel | None = None) -> Dataset:
    data = read_dataset(
        args.inputs, getattr(args, "labels", ()), grid=None if model is None else model.wave, velocity=args.velocity,
        medium=args.medium, resolving_power=args.resolving_power, progress=True,
    )  # fmt: skip
    _tell(data.reasons, "spectra")
    return data


def _tell(reasons: tuple[str, ...], what: str) -> None:
    lost = [reason for reason in reasons if reason]
    if lost:
        say(f"{len(lost)} of {len(reasons)} {what} cannot be used; the first: {lost[0]}")


def _train(args: argparse.Namespace) -> int:
    check_model_name(args.out)
    for name in ("latents", "epochs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected a positive number")
    form = args.form or ("xp" if all(is_xp(path) for path in args.inputs) else "spectrum")
    parts = parts_folder(args.out)
    chosen = {name: value for name in ("latents", "epochs") if (value := getattr(args, name)) is not None}
    with only_writer(args.out):
        model: SpectrumModel | XPModel
        if form == "xp":
            settings = XPSettings(normalisation=args.normalise, seed=args.seed, **chosen)
            model = train_xp(_read_xp(args), settings, device=chosen_device(args.device), parts=parts, progress=True)
        else:
            wanted = SpectrumSettings(seed=args.seed, **chosen)
            model = train_spectra(
                _read_spectra(args), wanted, device=chosen_device(args.device), parts=parts, progress=True
            )  # fmt: skip
        model.save(args.out)
    told = {k: v for k, v in model.metadata.items() if k not in ("settings", "versions", "files")}
    say(f"{args.out}: {', '.join(f'{k} {v}' for k, v in told.items())}")
    return 0


def _apply(args: argparse.Namespace) -> int:
    check_table_name(args.out)
    model = load_model(args.model).to(chosen_device(args.device))
    table = model.apply(_read_xp(args)) if isinstance(model, XPModel) else model.apply(_read_spectra(args, model))
    write_table(table, args.out)
    strange = int((table["FLAG"] & 1).sum())
    say(f"{args.out}: {len(table)} rows, {strange} strange, {sum(map(bool, table['REASON']))} without a result")
    return 0


def _check(args: argparse.Namespace) -> int:
    model = load_model(args.model).to(chosen_device(args.device))
    name = str(args.model)
    if isinstance(model, XPModel):
        say(check_xp(model, _read_xp(args), args.out, name))
    else:
        say(check_spectra(model, _read_spectra(args, model), args.out, name))
    return 0
