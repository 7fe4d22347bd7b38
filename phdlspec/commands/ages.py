"""Ages and masses of the stars of a catalogue, from isochrones.

  phdlspec ages catalogue.fits --out ages.fits
  phdlspec ages catalogue.fits --photometry gaia.fits --isochrones parsec_tables/ --out ages.fits
  phdlspec ages calibrated.fits --raw --prior universe --compare parsec --out ages.fits
  phdlspec ages info --isochrones mist           what a set covers, and how well it is interpolated

The catalogue is that of `phdlspec catalog`, raw or calibrated, or any table with TEFF, LOGG, FE_H and errors. Sets by
name (mist, parsec, basti, dartmouth, yapsi) come from the package lachesis-grids (extra [ages]); a path is a file or a
folder of MIST .iso or .iso.cmd, tables of PARSEC's CMD web form, or YREC tables. With parallaxes and magnitudes (G, BP,
RP, KS), in the catalogue or in --photometry, luminosity tells the age far better than log g. Stopped or killed, the
same command goes on. Beside the table a page OUT.html is written. Method and figures: docs/ages.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from phdlspec.ages.describe import describe
from phdlspec.ages.inference import AgeSettings, make_ages
from phdlspec.ages.page import write_page
from phdlspec.ages.priors import PRIORS
from phdlspec.ages.readers import read_isochrones
from phdlspec.console import say
from phdlspec.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("catalog", metavar="CATALOG", help="table of labels, or the word info")
    parser.add_argument("--out", type=Path, help="table to write (.fits or .ecsv)")
    parser.add_argument("--isochrones", default="mist", metavar="SET", help="name or path (default mist)")
    parser.add_argument("--photometry", metavar="TABLE", help="parallaxes and magnitudes, by identifier or position")
    parser.add_argument(
        "--prior", default="flat", help="; ".join(f"{p.name}: {p.description}" for p in PRIORS.values())
    )
    parser.add_argument("--raw", action="store_true", help="labels before calibration")
    parser.add_argument("--compare", metavar="SET", help="a second set: its ages beside the first")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that exists")
    parser.add_argument("--no-report", action="store_true", help="no page")


def run(args: argparse.Namespace) -> int:
    """Infer, or describe a set."""
    if args.catalog == "info":
        say(describe(read_isochrones(args.isochrones)))
        return 0
    if args.out is None:
        raise UserError("--out says where the table of ages is to be written; it is missing")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out}: exists already; choose another --out, or add --overwrite to replace it")
    settings = AgeSettings(
        args.isochrones, args.compare, args.photometry, args.prior, args.raw, _device(args.device)
    )  # fmt: skip
    table = make_ages(args.catalog, args.out, settings)
    if not args.no_report:
        page = args.out.with_suffix(".html")
        write_page(table, page, read_isochrones(args.isochrones))
    flag = np.asarray(table["AGE_FLAG"])
    found = int(np.isfinite(np.asarray(table["AGE"])).sum())
    say(
        f"{args.out}: {len(table)} stars, {found} with an age, {int(np.asarray(table['SUBGIANT']).sum())} chosen as "
        f"subgiants, {int((flag == 0).sum())} without flags; labels: {table.meta['LABELS']}; isochrones: "
        f"{table.meta['ISOCHRON']}, {table.meta['MAGSFROM']}"
    )
    return 0


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no such device; use --device cpu")
    return name
