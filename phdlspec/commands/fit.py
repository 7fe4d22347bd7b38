"""Fit single spectra: about thirty labels with errors, flags and one page to look at.

  phdlspec fit spec-55859-F5902_sp01-001.fits.gz --out results
  phdlspec fit *.fits.gz --out results --mode fast --no-report
  phdlspec fit star.csv --medium vacuum --resolving-power 1900 --out results

For each spectrum DIR/<stem>.ecsv (one row per label), DIR/<stem>.h5 (draws, best model, masks) and DIR/<stem>.html are
written. A file that cannot be read or fitted is one line on standard error and an ECSV with its reason; the rest
goes on. Two files with one stem are refused: give each folder an --out of its own.
--mode fast takes seconds, full samples the posterior with emcee or HMC. Masks: --mask-off NAME switches a group of the
default masks off, --mask-file adds intervals. What is known from elsewhere: --fix TEFF=5772 LOGG=4.44,
--gaussian FE_H=-0.5±0.1, --known TABLE; the results say what the spectrum alone would have said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from phdlspec.catalog.progress import StarBar
from phdlspec.commands.reading import add_reading_arguments
from phdlspec.console import say
from phdlspec.default_emulator import load_emulator
from phdlspec.direct_synthesis import load_direct_synthesis
from phdlspec.emulator.bridge import DEFAULT, bridged
from phdlspec.errors import UserError, printable
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.known import GivenValue, parse_fixed, parse_gaussian
from phdlspec.fitting.known_table import read_known
from phdlspec.fitting.progress import listening
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.io import read_spectrum, reading
from phdlspec.masks import mask_table, read_intervals
from phdlspec.provenance import provenance
from phdlspec.results import FitResult
from phdlspec.spectrum import stem_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spectra", nargs="+", metavar="SPECTRUM", help="LAMOST, SDSS or DESI FITS, or a table")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--no-report", action="store_true", help="no HTML page")
    check = parser.add_mutually_exclusive_group()
    check.add_argument("--verify", action="store_true", help="synthesise the best model, say the difference")
    check.add_argument("--refine", action="store_true", help="end the fit on ab initio spectra and derivatives")
    parser.add_argument("--atmospheres", help="for --verify and --refine, as in `phdlspec grid build`")
    parser.add_argument(
        "--line-list", nargs="+", action="extend", metavar="PATH",
        help="for --verify and --refine, files and folders, as in `phdlspec grid build`",
    )  # fmt: skip
    add_fit_arguments(parser, mode="full")


def add_fit_arguments(parser: argparse.ArgumentParser, mode: str) -> None:
    """The options that fitting one star and fitting a catalogue share."""
    parser.add_argument("--emulator", metavar="CKPT", help="checkpoint of `phdlspec train` (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--mode", choices=("full", "fast"), default=mode, help=f"default {mode}")
    parser.add_argument("--sampler", choices=("emcee", "hmc"), default="emcee", help="of the full mode (default emcee)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--prior", action="append", default=[], metavar="NAME", help="an astrophysical prior, see docs")
    parser.add_argument("--fix", nargs="+", action="extend", default=[], metavar="LABEL=VALUE",
                        help="labels that are known exactly, as TEFF=5772 LOGG=4.44")  # fmt: skip
    parser.add_argument("--gaussian", nargs="+", action="extend", default=[], metavar="LABEL=VALUE±ERR",
                        help="labels that are known with an error, as FE_H=-0.5±0.1 (or -0.5+-0.1)")  # fmt: skip
    parser.add_argument("--known", metavar="TABLE",
                        help="what is known of each star, by OBSID, FILE or position: <LABEL>, <LABEL>_ERR, or "
                        "PARALLAX, PARALLAX_ERR (mas), magnitudes G, BP, RP, KS and AV")  # fmt: skip
    parser.add_argument("--bridge", default=DEFAULT, metavar="default|none|PATH",
                        help="what real stars taught, see `phdlspec bridge` (default: the shipped one)")  # fmt: skip
    parser.add_argument("--resolution-width", type=float, metavar="SIGMA",
                        help="prior on ln(factor on the resolving power); 0 trusts the file (default 0.15 for LAMOST, "
                        "0.05 for SDSS and DESI, else 0.1)")  # fmt: skip
    add_reading_arguments(parser)
    parser.add_argument("--mask-off", action="append", default=[], metavar="NAME", help="a default mask to switch off")
    parser.add_argument("--mask-file", metavar="TABLE", help="more intervals: columns low, high (vacuum Å)")


def settings_of(args: argparse.Namespace) -> FitSettings:
    """`FitSettings` of the options."""
    extra = read_intervals(args.mask_file) if args.mask_file else ()
    return FitSettings(
        mode=args.mode, sampler=args.sampler, seed=args.seed, priors=tuple(args.prior),
        masks=mask_table(args.mask_off, extra), resolution_width=args.resolution_width,
        known=known_of(args), known_table=args.known, bridge=args.bridge,
    )  # fmt: skip


def known_of(args: argparse.Namespace) -> dict[str, GivenValue]:
    """What --fix and --gaussian say, by label; `UserError` where one is given twice, or --known cannot be read."""
    told: dict[str, GivenValue] = {}
    pairs: list[tuple[str, GivenValue]] = [parse_fixed(text) for text in args.fix]
    pairs += [parse_gaussian(text) for text in args.gaussian]
    for name, given in pairs:
        if name in told:
            raise UserError(f"{name} is given twice, expected once")
        told[name] = given
    if args.known is not None:
        read_known(args.known)  # what is wrong with it is told before anything is fitted
    return told


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    stems = stems_of(args.spectra, out)
    settings = replace(settings_of(args), refine=args.refine)
    emulator = bridged(load_emulator(args.emulator, args.device), settings.bridge)
    direct = None
    if args.verify or args.refine:
        direct = load_direct_synthesis(args.atmospheres, args.line_list, emulator.metadata["grid"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    bar = StarBar(len(stems))
    for path, stem in stems.items():
        try:
            with reading(path):
                spectrum = read_spectrum(path, medium=args.medium, resolving_power=args.resolving_power)
        except UserError as error:
            fitted = Fitted.failed(str(path), str(error), StarFlag.UNREADABLE)
        else:
            with listening(bar.under_way, settings.mode):
                fitted = fit_batch([spectrum], emulator, settings, keep=True, direct=direct)[0]
        bar.finished(1)
        result = FitResult.of(fitted, provenance(emulator, settings, sys.argv[1:]))
        _remove_earlier(out, stem)
        result.write(out / f"{stem}.ecsv")
        if result.reason:
            bar.clear()
            say(f"phdlspec fit: {result.reason}", file=sys.stderr)
            continue
        result.write(out / f"{stem}.h5")
        if not args.no_report:
            result.report(out / f"{stem}.html")
        bar.clear()
        say(f"\n{printable(path)}\n{result}")
    bar.close()
    return 0


def stems_of(paths: Sequence[str], out: Path) -> dict[str, str]:
    """The stem of the results of each path, without repetition. Raises `UserError` where one would overwrite another's
    or a spectrum."""
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(stem_of(path), path)
        if other != path:
            raise UserError(
                f"{other} and {path}: the results of both would be {stem_of(path)}.ecsv; give each folder an --out of "
                "its own, or rename one of them"
            )
        if (out / f"{stem_of(path)}.ecsv").resolve() == Path(path).resolve():
            raise UserError(f"{path}: its result would overwrite it; choose another --out")
    return {path: stem for stem, path in first.items()}


def _remove_earlier(out: Path, stem: str) -> None:
    # What this run does not write again (a failed star, --no-report) must not pass for a part of its result.
    for path in (out / f"{stem}.h5", out / f"{stem}.html"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{path}: left by an earlier run, cannot be removed ({error.strerror}); choose another --out"
            ) from error
