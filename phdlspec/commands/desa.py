"""Spectra and light curves of stars in one embedding (DESA).

  phdlspec desa train --spectra dr10/ --light-curves kepler/ --pairs pairs.csv --out stars.safetensors
  phdlspec desa embed stars.safetensors --spectra new/ --light-curves tess/ --pairs pairs.csv --out embedding.fits
  phdlspec desa embed stars.safetensors --light-curves k2/ --out embedding.fits     # one modality is enough
  phdlspec desa check stars.safetensors --light-curves kepler/ --labels periods.csv --out report/

SPECTRA are files, folders, patterns, lists of paths, or packed HDF5, as for `phdlspec lux`. Light curves are files of
Kepler, K2 and TESS (with the extra "light-curves"), KEPSEISMIC images, tables with columns TIME (days) and FLUX,
folders of them, lists of paths (.lst), or the HDF5 of --save-light-curves; those of one target are stitched. A table of
pairs has columns SPECTRUM (file or OBSID) and LIGHT_CURVE (file or target), and STAR if it likes. Tables of labels are
those of `phdlspec lux`: FILE or OBSID (here also a light curve's file or target), any column X with its error X_ERR; a
class is a column of 0 and 1.

`train` learns both encoders alone and then what they have in common; a fifth of the stars (--hold-out) is kept from it.
Rotation periods are learned from simulated light curves alone. Labels given to
`train` are learned by the spectrum encoder, so that `check` will not score them: give none for an embedding that knows
none. Stopped or killed, the same command goes on (MODEL.parts). The table of `embed` has EMBEDDING, the encoders' own
features, PROT_ACF and PROT_LS (classical rotation periods) and FLAG: 1 no spectrum, 2 no light curve, 4 outside the
training set, 8 a short light curve, 16 neither (REASON). `check` fits linear probes on the model's training stars and
scores them on the others.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from phdlspec.commands.reading import add_reading_arguments
from phdlspec.console import say
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.desa import Desa, DesaSettings, LightCurveSet, gather, read_light_curves, train
from phdlspec.datadriven.desa.check import write_check
from phdlspec.datadriven.rest_frame import VELOCITIES
from phdlspec.errors import UserError
from phdlspec.files import only_writer, parts_folder
from phdlspec.tables import check_table_name, write_table
from phdlspec.tensor_file import check_model_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare train, embed and check."""
    actions = parser.add_subparsers(dest="action", metavar="train|embed|check", required=True)
    learn = actions.add_parser("train", help="learn an embedding from pairs of spectra and light curves")
    _add_stars(learn, required=True)
    learn.add_argument(
        "--labels", nargs="+", default=(), metavar="TABLE", help="labels for the spectrum encoder to learn"
    )
    learn.add_argument("--out", required=True, type=Path, metavar="MODEL", help="safetensors file to write")
    learn.add_argument("--epochs", type=int, metavar="N",
                       help="of each stage (default: periods 10, spectra 20, light curves 5, pairs 4)")  # fmt: skip
    learn.add_argument("--hold-out", type=float, default=0.2, metavar="SHARE",
                       help="of the stars, on which check will score (default 0.2)")  # fmt: skip
    learn.add_argument("--attention", choices=("both", "self", "cross"), default="both", help="of the DualFormer")
    learn.add_argument("--objective", choices=("dual", "contrastive"), default="dual", help="contrastive: CLIP's loss")
    learn.add_argument("--seed", type=int, default=0, help="of weights, batches and the held-out stars")
    learn.add_argument("--save-spectra", type=Path, metavar="HDF5", help="keep what was read, to be given later")
    learn.add_argument("--save-light-curves", type=Path, metavar="HDF5", help="the same")
    embed = actions.add_parser("embed", help="embeddings of stars with a spectrum, a light curve, or both")
    embed.add_argument("model", type=Path, metavar="MODEL")
    _add_stars(embed, required=False)
    embed.add_argument("--out", required=True, type=Path, metavar="TABLE", help="FITS or ECSV table to write")
    check = actions.add_parser("check", help="a page: neighbours, HR and Kiel diagram, binaries, rotation, ages")
    check.add_argument("model", type=Path, metavar="MODEL")
    _add_stars(check, required=False)
    check.add_argument("--labels", nargs="+", required=True, metavar="TABLE", help="tables of labels to score")
    check.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page and its table")


def _add_stars(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--spectra", nargs="+", required=required, default=(), metavar="SPECTRA")
    parser.add_argument("--light-curves", nargs="+", required=required, default=(), metavar="FILES")
    parser.add_argument("--pairs", type=Path, required=required, metavar="TABLE", help="SPECTRUM and LIGHT_CURVE")
    parser.add_argument("--velocity", choices=VELOCITIES, default="auto",
                        help="of the spectra; auto: of the header, else measured; zero: at rest")  # fmt: skip
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run one action; 0 when done."""
    return {"train": _train, "embed": _embed, "check": _check}[args.action](args)


def _read(args: argparse.Namespace, model: Desa | None = None) -> tuple[Dataset | None, LightCurveSet | None]:
    if not args.spectra and not args.light_curves:
        raise UserError("give --spectra, --light-curves, or both")
    grid = None if model is None else model.wave
    spectra = None
    if args.spectra:
        spectra = read_dataset(args.spectra, grid=grid, velocity=args.velocity, medium=args.medium,
                               resolving_power=args.resolving_power, progress=True)  # fmt: skip
    curves = read_light_curves(args.light_curves, progress=True) if args.light_curves else None
    for kind, reasons in (
        ("spectra", spectra.reasons if spectra else ()),
        ("light curves", curves.reasons if curves else ()),
    ):
        lost = [reason for reason in reasons if reason]
        if lost:
            say(f"{len(lost)} of {len(reasons)} {kind} cannot be used; the first: {lost[0]}")
    return spectra, curves


def _train(args: argparse.Namespace) -> int:
    check_model_name(args.out)
    if args.epochs is not None and args.epochs < 1:
        raise UserError(f"--epochs {args.epochs}: expected at least 1")
    if not 0.0 < args.hold_out < 1.0:
        raise UserError(f"--hold-out {args.hold_out:g}: expected a share between 0 and 1")
    settings = DesaSettings(attention=args.attention, objective=args.objective, seed=args.seed, hold_out=args.hold_out)
    if args.epochs is not None:
        stages = ("period", "spectrum", "curve", "dual")
        settings = replace(settings, **{f"{stage}_epochs": args.epochs for stage in stages})
    with only_writer(args.out):
        spectra, curves = _read(args)
        if spectra is None or curves is None:
            raise UserError("give both --spectra and --light-curves")
        if args.save_spectra:
            spectra.write(args.save_spectra)
        if args.save_light_curves:
            curves.write(args.save_light_curves)
        parts = parts_folder(args.out)
        model = train(spectra, curves, args.pairs, args.labels, settings, parts=parts, progress=True)
        model.save(args.out)
    found = model.metadata
    say(
        f"{args.out}: {found['stars']} stars, {found['pairs']} pairs of them, {len(found['held_out'])} stars held out; "
        f"{found['training_seconds']:.0f} s"
    )
    return 0


def _embed(args: argparse.Namespace) -> int:
    check_table_name(args.out)
    model = Desa.load(args.model)
    spectra, curves = _read(args, model)
    table = model.apply(gather(spectra, curves, args.pairs), spectra, curves)
    write_table(table, args.out)
    say(f"{args.out}: {len(table)} stars, {int((table['FLAG'] == 0).sum())} with both modalities and no flag")
    return 0


def _check(args: argparse.Namespace) -> int:
    model = Desa.load(args.model)
    spectra, curves = _read(args, model)
    stars = gather(spectra, curves, args.pairs)
    say(write_check(model, stars, spectra, curves, args.labels, args.out, str(args.model)))
    return 0
