"""Grids of Kurucz spectra with their derivatives with respect to every label.

  phdlspec grid fetch                       model atmospheres and line lists, from Kurucz's site
  phdlspec grid build --n 4000 --out grid.h5 --atmospheres A --line-list L
                                            synthesise; stop it (or let it crash) at any time, the same
                                            command goes on; a greater --n extends a finished grid
  phdlspec grid info grid.h5                what made it, what is in it; also while it is being made
  phdlspec grid check grid.h5               holes, outliers and physics; exit code 1 if rows are wrong
  phdlspec grid import spectra.npz --medium air --resolving-power 300000 --origin "Korg, MARCS" --out g.h5
                                            spectra computed elsewhere

`phdlspec grid build --help` and so on explain each of them. The layout of the file is drawn in
`phdlspec.gridfile.layout`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import torch

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.build import build
from kurucz_grids.checking import check_grid
from kurucz_grids.fetch import HOME, choose, default_cache, fetch
from kurucz_grids.grid_writer import collect
from kurucz_grids.importing import import_grid
from kurucz_grids.synthesizers import KuruczFactory
from phdlspec.console import say
from phdlspec.errors import UserError, first_line
from phdlspec.gridfile import Grid

_BUILD = """Synthesise a grid of spectra with all their differential spectra.

  phdlspec grid build --n 4000 --out grid.h5 --atmospheres ck03.npz --line-list optical.npz --workers 2

Labels are quasi-random: they fill the range and are denser where stars are; the same --seed gives the same
models, and a greater --n more of them. One model takes some seconds on a core. Each finished model is a file
of its own in grid.h5.parts/ until all are done and grid.h5 is written: stop with Ctrl-C, or lose the machine,
and give the same command again. `phdlspec train` and `phdlspec grid check` read a grid that is being made.
--form survey (R = 3500) is what the emulator trains on, about 0.4 MB a model; full (R = 12,000, about 1.4 MB)
can be convolved to R = 1300-6000; both writes grid.h5 and grid_full.h5."""

_LINES = """line lists (npz, Kurucz, VALD, MOOG, also gzipped), files or folders; what several have in common counts
once: atoms as the first one named has them, a molecule from a list of its own rather than from a compilation"""

_FETCH = """Download model atmospheres (ATLAS9 ODFNEW) and line lists (Kurucz) into a cache folder.

  phdlspec grid fetch --list                 what there is, and what of it is in the cache
  phdlspec grid fetch                        all of it
  phdlspec grid fetch atmospheres            or lines, or single files by name
  phdlspec grid build --atmospheres ~/.cache/phdlspec/atmospheres --line-list ~/.cache/phdlspec/lines ...

Stop it at any time: the same command goes on in the middle of a file. The SHA-256 of every file is recorded in
SHA256SUMS at its first download and verified by later calls, which download only what is missing. The home
publishes no checksums: whether a first download was right can only be told by comparing SHA256SUMS with a colleague's,
or by putting theirs into an empty cache first.
Exit code 0 if every file is there and whole, 1 otherwise."""

_IMPORT = """Bring spectra computed elsewhere into a grid file.

  phdlspec grid import spectra.npz --medium vacuum --resolving-power inf --origin "SYNTHE, gfall" --out g.h5
  phdlspec grid import folder/ --labels models.csv --medium air --resolving-power 5e5 --origin ... --out g.h5

A npz or HDF5 file holds wave (M,), flux (N, M), if it is not normalised continuum (N, M), if known jacobian
(N, 32, M) with jacobian_names (or label_names of all 32), and labels (N, L) with label_names (L,). A folder holds
one text or npy file a spectrum, of two or three columns (wave, flux, continuum), named in the column FILE of the
label table. Labels need TEFF, LOGG and FE_H; missing abundances are scaled solar; units of a table are honoured.
Air or vacuum and the resolving power must be said: they cannot be guessed. An import that was interrupted goes on
with the same command; a spectrum that cannot be taken becomes a row with the reason."""

_CHECK = """Look for holes in the label coverage, for flux that is not normalised, wavelengths in air, spectra that
are there twice, rows and derivatives that depart from their neighbours, and for bad physics.

  phdlspec grid check grid.h5
  phdlspec grid check grid.h5 --atmospheres ck03_odfnew_grid.npz     holes only where atmospheres exist

Exit code 1 if rows are wrong; rows that are only unusual are warnings."""

_INFO = """Say what made a grid and what is in it.

  phdlspec grid info grid.h5"""

_LISTED = "take line data as listed; by default they are corrected, and weak lines added, as real stars want it"
_COLLECT = "only write the HDF5 file from the models done so far; a build goes on later"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands of `phdlspec grid`."""
    actions = parser.add_subparsers(dest="grid_command", metavar="ACTION", required=True)

    def action(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    fetch = action("fetch", "download atmospheres and line lists", _FETCH)
    fetch.add_argument("names", nargs="*", metavar="NAME", help="atmospheres, lines, or files (default: all)")
    fetch.add_argument("--list", action="store_true", help="only show what there is")
    fetch.add_argument("--cache", type=Path, help="folder (default $XDG_CACHE_HOME/phdlspec or ~/.cache/phdlspec)")
    fetch.add_argument("--base-url", metavar="URL", help="a mirror with the folders of Kurucz's site")

    build = action("build", "synthesise a grid", _BUILD)
    _add_build_arguments(build)

    importing = action("import", "spectra computed elsewhere", _IMPORT)
    importing.add_argument("source", type=Path, help="npz or HDF5 file, or folder of spectra")
    importing.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    importing.add_argument("--labels", type=Path, help="table of labels (ECSV, CSV, FITS)")
    importing.add_argument("--medium", choices=("air", "vacuum"), required=True, help="of the wavelengths")
    importing.add_argument("--resolving-power", type=float, required=True, help="of the spectra, or inf")
    importing.add_argument("--origin", required=True, help="code, atmospheres and lines in words")
    importing.add_argument("--form", choices=("survey", "full"), default="survey", help="default survey")
    importing.add_argument("--seed", type=int, default=0, help="of the split (default 0)")

    check = action("check", "holes, outliers and physics", _CHECK)
    check.add_argument("grid", type=Path)
    check.add_argument("--atmospheres", help="grid of model atmospheres, to know where there are none")

    info = action("info", "what made a grid and what is in it", _INFO)
    info.add_argument("grid", type=Path)


def _add_build_arguments(build: argparse.ArgumentParser) -> None:
    build.add_argument("--n", type=int, required=True, help="number of models")
    build.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    build.add_argument("--atmospheres", help="grid of model atmospheres (npz, Kurucz file or folder)")
    build.add_argument("--line-list", nargs="+", action="extend", metavar="PATH", help=_LINES)
    build.add_argument("--medium", choices=("air", "vacuum"), help="of a line list that does not tell (MOOG)")
    build.add_argument("--listed-gf", action="store_true", help=_LISTED)
    build.add_argument("--seed", type=int, default=0, help="of the labels and the split (default 0)")
    build.add_argument("--workers", type=int, help="processes (default: one a core; one for a GPU)")
    build.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that works instead of processes here")
    build.add_argument("--threads", type=int, default=1, help="threads a process (default 1)")
    build.add_argument("--device", default="cpu", help="cpu or cuda, for lines and transfer (default cpu)")
    build.add_argument("--form", choices=("survey", "full", "both"), default="survey", help="default survey")
    build.add_argument("--retry-failed", action="store_true", help="try models again that failed before")
    build.add_argument(
        "--teff", type=float, nargs=2, default=(-math.inf, math.inf), metavar=("LOW", "HIGH"),
        help="make only models within this range (K) now; the others are left for a later call",
    )  # fmt: skip
    build.add_argument("--collect", action="store_true", help=_COLLECT)


def run(args: argparse.Namespace) -> int:
    """Run one of the subcommands; the exit code."""
    runs = {
        "fetch": _run_fetch,
        "build": _run_build,
        "import": _run_import,
        "check": _run_check,
        "info": _run_info,
    }
    return runs[args.grid_command](args)


def _run_fetch(args: argparse.Namespace) -> int:
    cache, base_url = args.cache or default_cache(), args.base_url or HOME
    sources = choose(args.names)
    if args.list:
        say(f"{base_url} -> {cache}")
        for source in sources:
            path = cache / source.folder / source.name
            state = f"{path.stat().st_size / 1e6:.1f} MB" if path.exists() else "-"
            say(f"  {source.folder:12s} {source.name:18s} {state:>9s}  {source.what}")
        return 0
    whole = True
    for outcome in fetch(sources, cache, base_url, progress=sys.stderr.isatty()):
        if outcome.problem:
            whole = False
            say(outcome.problem, file=sys.stderr)
        else:
            say(f"{outcome.path}: {'downloaded' if outcome.downloaded else 'verified'}")
    return 0 if whole else 1


def _run_build(args: argparse.Namespace) -> int:
    outputs = {args.form: args.out}
    if args.form == "both":
        outputs = {"survey": args.out, "full": args.out.with_name(f"{args.out.stem}_full{args.out.suffix}")}
    if args.collect:
        for path in outputs.values():
            with Grid(collect(path, keep_parts=True)) as grid:
                say(f"{path}: {grid.n_done} of {len(grid)} models")
        return 0
    for option, values in (("--atmospheres", [args.atmospheres]), ("--line-list", args.line_list or [None])):
        for value in values:
            if value is None:
                raise UserError(
                    f"{option} is missing; name the file (`phdlspec grid fetch` gets those of Kurucz's site)"
                )
            if not Path(value).exists():
                raise UserError(f"{value}: there is no such file for {option}")
    _refuse_unknown_device(args.device)
    workers = args.workers
    if workers is None:
        workers = 1 if args.device.startswith("cuda") else os.cpu_count() or 1
    say("reading model atmospheres; what is finished is kept, also when this is stopped", file=sys.stderr)
    report = build(
        outputs,
        args.n,
        args.seed,
        KuruczFactory(
            args.atmospheres, tuple(args.line_list), args.device, medium=args.medium, calibrated=not args.listed_gf
        ),
        workers=workers,
        scheduler=args.scheduler,
        threads=args.threads,
        contains=AtmosphereGrid.load(args.atmospheres).contains,
        retry_failed=args.retry_failed,
        teff_range=tuple(args.teff),
    )
    rate = f", {report.seconds / report.made:.2f} s a model" if report.made else ""
    say(
        f"{', '.join(str(p) for p in outputs.values())}: {report.total} models, {report.before} were there, "
        f"{report.made} made{rate}, {report.failed} failed"
    )
    if report.failed:
        say("`phdlspec grid info` tells why models failed, --retry-failed tries them again")
    return 0


def _refuse_unknown_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not to be had here ({first_line(error)}); expected cpu or cuda") from error


def _run_import(args: argparse.Namespace) -> int:
    path = import_grid(
        args.source,
        args.out,
        medium=args.medium,
        resolving_power=args.resolving_power,
        origin=args.origin,
        label_table=args.labels,
        form=args.form,
        seed=args.seed,
        progress=sys.stderr.isatty(),
    )
    with Grid(path) as grid:
        say(f"{path}: {grid.n_done} of {len(grid)} spectra imported")
        for i in range(len(grid)):
            if not grid.done[i]:
                say(f"  row {i}: {grid.reason[i]}")
    return 0


def _run_check(args: argparse.Namespace) -> int:
    contains = None
    if args.atmospheres:
        contains = AtmosphereGrid.load(args.atmospheres).contains
    with Grid(args.grid) as grid:
        results = check_grid(grid, contains, progress=sys.stderr.isatty())
    for result in results:
        say(f"{result.level:8s} {result.check:22s} {result.text}")
    return 1 if any(result.level == "error" for result in results) else 0


def _run_info(args: argparse.Namespace) -> int:
    with Grid(args.grid) as grid:
        state = "" if grid.finished else " (being made)"
        counts = ", ".join(f"{len(grid.rows(name))} {name}" for name in ("train", "validation", "test"))
        failed = sum(1 for i in range(len(grid)) if not grid.done[i] and grid.reason[i])
        say(f"{args.grid}{state}")
        say(f"  models       {grid.n_done} of {len(grid)} ({counts}), {failed} failed")
        say(f"  wavelengths  {grid.wave[0]:.2f}-{grid.wave[-1]:.2f} Å vacuum, {len(grid.wave)} pixels")
        derivatives = f"for {len(grid.label_names)} labels" if grid.has_jacobian else "none"
        say(f"  derivatives  {derivatives}")
        for reason in sorted({grid.reason[i] for i in range(len(grid)) if not grid.done[i] and grid.reason[i]}):
            say(f"  failed       {sum(grid.reason == reason)} because of: {reason}")
        if grid.finished:
            say(f"  size         {args.grid.stat().st_size / 1e6:.1f} MB")
        for name, value in grid.attrs.items():
            say(f"  {name:12s} {value}")
    return 0
