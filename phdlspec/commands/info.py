"""Say what is installed, and what made a checkpoint, a grid or a catalogue.

  phdlspec info                    versions, devices, the shipped emulator
  phdlspec info FILE               a checkpoint, a grid, a catalogue or a fit
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from astropy.io import fits

from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.errors import UserError, first_line
from phdlspec.gridfile import Grid
from phdlspec.gridfile.parts import Parts
from phdlspec.io.fits_files import DAMAGED
from phdlspec.products import FORMAT
from phdlspec.provenance import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="checkpoint, grid, catalogue or fit")


def run(args: argparse.Namespace) -> int:
    if args.file is None:
        print(installation())
    else:
        print(describe(Path(args.file)))
    return 0


def installation() -> str:
    """Versions, devices and the shipped emulator."""
    lines = [f"{name:12s}{version}" for name, version in versions().items()]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    lines += [f"{'GPU':12s}{gpu}", f"{'threads':12s}{torch.get_num_threads()}"]
    try:
        emulator = load_emulator(device="cpu")
        lines.append(_checkpoint(emulator.metadata, emulator.checkpoint_hash))
    except UserError as error:
        lines.append(str(error))
    return "\n".join(lines)


def describe(path: Path) -> str:
    """What a file is and what made it."""
    if Parts(path).exists():  # a grid in the making: its file is made last
        return _grid(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if h5py.is_hdf5(path) or path.name.lower().endswith((".h5", ".hdf5")):
        return _hdf5(path)
    if path.name.lower().endswith((".fits", ".fits.gz")):
        return _catalogue(path)
    checkpoint = load_checkpoint(path)
    return _checkpoint(checkpoint.metadata, checkpoint.sha256)


def _checkpoint(metadata: Mapping[str, Any], sha256: str) -> str:
    training, validation = metadata["training"], metadata["validation"]
    derivatives = " ".join(f"{n} {100 * e:.0f}" for n, e in validation["derivative_error_median"].items())
    return "\n".join(
        [
            f"emulator    {sha256[:16]}, {metadata['solar_scale']}, made by phdlspec {metadata['code_version']}",
            f"trained on  {training['models']} models, {training['steps_done']} steps, seed {training['seed']}",
            f"grid        {metadata['grid'].get('created', '?')}, line list "
            f"{str(metadata['grid'].get('line_list_checksum', '?'))[:12]}",
            f"validation  {validation['models']} models: flux rms {validation['flux_rms_median']:.1e} (median), "
            f"{validation['flux_rms_p95']:.1e} (95%)",
            f"            derivatives, per cent: {derivatives}",
            f"trusted     {metadata['trusted']}",
        ]
    )


def _hdf5(path: Path) -> str:
    try:
        with h5py.File(path) as file:
            attrs = dict(file.attrs)
        if attrs.get("format") != FORMAT:
            return _grid(path)
        made = json.loads(attrs["provenance"])
        lines = [f"fit of {attrs['file']}, {attrs['mode']}"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged, half-written or not HDF5 ({first_line(error)}); make it again") from error
    return "\n".join([*lines, *(f"{key:16s}{value}" for key, value in made.items())])


def _grid(path: Path) -> str:
    grid = Grid(path)
    lines = [f"grid of {grid.n_done} complete models of {len(grid)}"]
    return "\n".join([*lines, *(f"{key:24s}{value}" for key, value in grid.attrs.items())])


def _catalogue(path: Path) -> str:
    try:
        header = fits.getheader(path, "CATALOG")
    except DAMAGED as error:
        raise UserError(
            f"{path}: no catalogue of phdlspec, or a damaged one ({first_line(error)}); expected the extension CATALOG"
        ) from error
    lines = [f"catalogue of {header['NAXIS2']} stars"]
    lines += [f"{key:12s}{header[key]}" for key in ("EMUHASH", "SOLSCALE", "SEED", "CALIBID") if key in header]
    return "\n".join([*lines, *(str(line) for line in header["HISTORY"])])
