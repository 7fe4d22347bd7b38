"""Learn the systematic errors of a catalogue from reference stars, and take them out.

  phdlspec calibrate learn --catalog C.fits --wide-binaries pairs.csv --cluster m67.csv \\
        --reference apogee.fits galah.fits --out calibration.json
  phdlspec calibrate apply --catalog C.fits --calibration calibration.json --out C_calibrated.fits
  phdlspec calibrate report --calibration calibration.json --out report/

A calibration is bound to the emulator checkpoint that made the catalogue. The first table of --reference that
has a label sets its scale (or the one named by --anchor). Table forms: docs/calibration.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.actions import learn, report
from calibration.catalog import Catalog
from calibration.clusters import Diffusion, read_diffusion_template
from calibration.correction import check_applicable, correct
from calibration.learning import LearnSettings
from calibration.second_opinion import second_opinion
from calibration.store import Calibration
from calibration.summary import summary
from calibration.tables import check_output, write_like
from phdlspec.aliases import renames
from phdlspec.console import say
from phdlspec.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare learn, apply and report."""
    actions = parser.add_subparsers(dest="action", metavar="learn|apply|report", required=True)
    learn = actions.add_parser("learn", help="fit the corrections to reference stars")
    learn.add_argument("--catalog", required=True, type=Path, help="raw catalogue of phdlspec catalog")
    learn.add_argument("--wide-binaries", nargs="+", type=Path, default=[], metavar="TABLE", help="pairs of stars")
    learn.add_argument("--cluster", nargs="+", type=Path, default=[], metavar="TABLE", help="cluster members")
    learn.add_argument("--reference", nargs="+", type=Path, default=[], metavar="TABLE",
                       help="labels from elsewhere: APOGEE, GALAH, IRFM, benchmark stars or the own "
                            "schema")  # fmt: skip
    learn.add_argument("--out", required=True, type=Path, help="calibration file (JSON) to write")
    learn.add_argument("--solar-scale", help="solar scale of reference tables that do not state theirs")
    learn.add_argument("--rename", action="append", default=[], metavar="OLD=NEW",
                       help="a column of the tables under another name; OLD=- leaves it out")  # fmt: skip
    learn.add_argument("--anchor", help="name (file stem) of the reference that sets the scale")
    learn.add_argument("--labels", nargs="+", help="labels to calibrate (all that the references constrain)")
    learn.add_argument("--only-cluster", nargs="+", default=[], metavar="NAME", help="clusters to use (all)")
    learn.add_argument("--diffusion", default="template", help="template, none, range (with --cluster-logg) or a table")
    learn.add_argument("--cluster-logg", nargs=2, type=float, metavar=("LOW", "HIGH"), default=(0.0, 3.7),
                       help="logg range for --diffusion range")  # fmt: skip
    learn.add_argument("--exclude", nargs="+", default=[], metavar="SET:LABEL",
                       help="labels that a reference must not constrain, as M67:NA_FE")  # fmt: skip
    learn.add_argument("--match", choices=("auto", "id", "sky"), default="auto", help="how stars are found")
    learn.add_argument("--radius", type=float, default=3.0, help="matching radius in arcsec")
    learn.add_argument("--id-column", help="the catalogue's column of identifiers")
    learn.add_argument("--seed", type=int, default=0, help="of the cross-validation")
    apply_ = actions.add_parser("apply", help="correct a catalogue")
    apply_.add_argument("--catalog", required=True, type=Path)
    apply_.add_argument("--calibration", required=True, type=Path)
    apply_.add_argument("--out", required=True, type=Path, help="calibrated catalogue (FITS or ECSV)")
    report = actions.add_parser("report", help="one HTML page of what was learned")
    report.add_argument("--calibration", required=True, type=Path)
    report.add_argument("--out", required=True, type=Path, help="folder")
    report.add_argument("--diagnostics", type=Path, help="HDF5 of fits with Jacobians (docs/calibration.md)")
    report.add_argument("--second-opinion", type=Path, metavar="MODEL",
                        help="a model of phdlspec lux train: its labels of the same spectra beside ours")  # fmt: skip
    report.add_argument("--catalog", type=Path, help="for --second-opinion; by default the one calibrated")


def run(args: argparse.Namespace) -> int:
    """Run one action; 0 when done."""
    return {"learn": _learn, "apply": _apply, "report": _report}[args.action](args)


def _learn(args: argparse.Namespace) -> int:
    check_output(args.out, ".json")
    if args.diffusion in ("template", "none", "range"):
        diffusion = Diffusion(args.diffusion, logg_range=tuple(args.cluster_logg))
    else:
        diffusion = Diffusion("template", table=read_diffusion_template(args.diffusion))
    exclude = frozenset(_set_and_label(text) for text in args.exclude)
    wanted = tuple(args.labels) if args.labels else None
    calibration = learn(
        args.catalog,
        wide_binaries=args.wide_binaries,
        clusters=args.cluster,
        references=args.reference,
        settings=LearnSettings(diffusion, exclude, args.anchor, wanted, args.seed),
        solar_scale=args.solar_scale,
        rename=renames(args.rename),
        only_clusters=args.only_cluster,
        match=args.match,
        radius_arcsec=args.radius,
        id_column=args.id_column,
        progress=True,
    )
    calibration.write(args.out)
    say(f"{args.out}: {len(calibration.labels)} labels calibrated, {len(calibration.skipped)} not")
    say(summary(calibration))
    for name, reason in calibration.skipped.items():
        say(f"  {name}: {reason}")
    return 0


def _set_and_label(text: str) -> tuple[str, str]:
    name, separator, label = text.rpartition(":")
    if not separator or not name:
        raise UserError(f"--exclude {text}: expected SET:LABEL, as M67:NA_FE")
    return name, label


def _apply(args: argparse.Namespace) -> int:
    check_output(args.out, ".fits", ".fits.gz", ".ecsv")
    if args.out.resolve() == args.catalog.resolve():
        raise UserError(f"{args.out}: is the catalogue to be calibrated and would be lost; choose another --out")
    calibration = Calibration.read(args.calibration)
    catalog = Catalog.read(args.catalog)
    check_applicable(catalog, calibration)
    calibrated = correct(catalog, calibration)
    left_out = write_like(args.catalog, calibrated.table, args.out)
    say(f"{args.out}: {len(calibrated)} stars calibrated with {args.calibration} ({calibration.identity})")
    if left_out:
        say(f"  ! left out, because ECSV holds one table only: {', '.join(left_out)}")
    return 0


def _report(args: argparse.Namespace) -> int:
    opinion = None
    if args.second_opinion:
        opinion = second_opinion(Calibration.read(args.calibration), args.second_opinion, args.catalog)
    say(report(args.calibration, args.out, args.diagnostics, opinion))
    return 0
