"""Fit many spectra into one catalogue.

  phdlspec catalog dr10/ --out catalogue.fits
  phdlspec catalog list.txt --out catalogue.fits --workers 8
  phdlspec catalog 'dr10/*.fits.gz' --out catalogue.fits --device cuda --resume
  phdlspec catalog survey.h5 --out catalogue.fits --scheduler tcp://head:8786

Inputs are files, folders, patterns, text files of paths (.txt, .lst), or an HDF5 of many spectra (see
phdlspec.catalog.inputs). Finished chunks lie in CATALOG.parts/ until all are done: stopped or killed, the same command
with --resume goes on. A catalogue that exists is replaced with --overwrite only. A file that cannot be read or fitted
is a row with FLAG and REASON. --columns percentiles xh flag-names adds columns. Beside the FITS table a quality page
CATALOG.html is written, on which one can point at stars; --reports flagged (all, or a number of stars) fits these
again and links their reports from it.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from phdlspec.catalog import CatalogJob, expand_inputs, make_catalog
from phdlspec.catalog.formats import ENDINGS, NEEDS, write_also
from phdlspec.catalog.quality import write_quality
from phdlspec.columns import ON_REQUEST
from phdlspec.commands.catalog_reports import chosen_rows, write_reports
from phdlspec.commands.fit import add_fit_arguments, settings_of
from phdlspec.console import say
from phdlspec.datadriven.scatter_vae.judge import AnomalyJudge
from phdlspec.errors import UserError
from phdlspec.flags import StarFlag, usable
from phdlspec.provenance import command_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, patterns, lists, packed HDF5")
    parser.add_argument("--out", required=True, metavar="CATALOG", help="the FITS table to write")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine (default 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster")
    parser.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace a catalogue that exists")
    parser.add_argument("--chunk", type=int, default=32, help="spectra fitted and stored together (default 32)")
    parser.add_argument("--no-report", action="store_true", help="no quality page")
    parser.add_argument("--reports", metavar="all|flagged|N",
                        help="reports of single stars, in CATALOG.reports/, linked from the quality page")  # fmt: skip
    parser.add_argument("--anomaly", metavar="MODEL", help="how strange a spectrum is: lamost, or one of vae train")
    parser.add_argument("--also", action="append", default=[], choices=("hdf5", "parquet"), help="another format")
    parser.add_argument("--columns", nargs="+", action="extend", default=[], choices=tuple(ON_REQUEST), metavar="NAME",
                        help="; ".join(f"{name}: {words}" for name, words in ON_REQUEST.items()))  # fmt: skip
    add_fit_arguments(parser, mode="fast")


def run(args: argparse.Namespace) -> int:
    if args.reports is not None and not (args.reports in ("all", "flagged") or args.reports.isdecimal()):
        raise UserError(f"--reports {args.reports}: expected all, flagged or a number of stars")
    if args.workers < 1 or args.chunk < 1:
        raise UserError("--workers and --chunk must be at least 1")
    _check_outputs(args)
    job = CatalogJob(
        references=tuple(expand_inputs(args.inputs, args.out)), out=args.out, settings=settings_of(args),
        emulator=args.emulator, device=args.device, medium=args.medium, resolving_power=args.resolving_power,
        chunk=args.chunk, judge=None if args.anomaly is None else AnomalyJudge.of(args.anomaly),
        columns=tuple(dict.fromkeys(args.columns)),
    )  # fmt: skip
    table = make_catalog(
        job, workers=args.workers, scheduler=args.scheduler, resume=args.resume, overwrite=args.overwrite,
        command=command_line(sys.argv[1:]),
    )  # fmt: skip
    for kind in args.also:
        write_also(table, args.out, kind)
    reports: dict[str, str] = {}
    if args.reports is not None:
        reports = write_reports(job, table, chosen_rows(table, args.reports), sys.argv[1:])
    if not args.no_report:
        write_quality(table, Path(args.out).with_suffix(".html"), reports)
    flag = np.asarray(table["FLAG"])
    missing = int(((flag & int(StarFlag.FAILED | StarFlag.UNREADABLE)) > 0).sum())
    good = int(usable(flag).sum())
    remarks = sum(bool(str(words).strip()) for words in table["WARNINGS"])
    say(
        f"{args.out}: {len(table)} stars, {good} that may be used, {missing} without a result (see REASON), "
        f"{remarks} with remarks (see WARNINGS)"
    )
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Raise `UserError` where an output cannot be written: asked before hours of fitting."""
    out = Path(args.out)
    if not out.name.lower().endswith((".fits", ".fit")):
        raise UserError(f"{out}: a catalogue is FITS that is not compressed, expected an --out that ends in .fits")
    folder = next(filter(os.path.exists, out.absolute().parents))  # those below it are made
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{out}: {folder} is no folder that you may write to; choose another --out")
    also = [out.with_suffix(ENDINGS[kind]) for kind in args.also]
    inputs = {Path(item).resolve() for item in args.inputs}
    for path in (out, *also, *([] if args.no_report else [out.with_suffix(".html")])):
        if path.is_dir():
            raise UserError(f"{path}: is a folder, expected a file to write; choose another --out")
        if path.resolve() in inputs:
            raise UserError(f"{path}: is an input and would be written over; choose another --out")
    for path in also:
        if path.exists() and not (args.resume or args.overwrite):
            raise UserError(f"{path}: exists already; choose another --out, or add --overwrite to replace it")
    for kind in args.also:
        if not find_spec(NEEDS[kind]):
            raise UserError(f"--also {kind}: needs {NEEDS[kind]}, which is not installed (extra [parquet])")
