"""Say what is installed, and what a file is and what made it.

  phdlspec info                    versions, devices, the shipped emulator
  phdlspec info FILE               whatever the package writes or reads

FILE is a checkpoint, another model (lux, vae, desa), a grid, a catalogue (FITS, HDF5, Parquet), what is being made
(.parts, .training), a fit (.ecsv, .h5, .html), a calibration and its evidence, a table of ages or labels, model
spectra, a page, or a spectrum.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from safetensors import SafetensorError, safe_open

from phdlspec.catalog.formats import ENDINGS
from phdlspec.catalog.formats import TABLE as CATALOG_TABLE
from phdlspec.catalog.reading import read_catalog
from phdlspec.console import say
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.checkpoint import KIND, load_checkpoint
from phdlspec.emulator.trust import distrust
from phdlspec.errors import UserError, first_line
from phdlspec.fits_files import DAMAGED, open_fits
from phdlspec.flags import star_words, usable
from phdlspec.foreign import one_sentence
from phdlspec.gridfile import Grid
from phdlspec.gridfile.parts import GridParts
from phdlspec.hdf5_check import check_hdf5
from phdlspec.io import read_spectrum, reading
from phdlspec.io.model_spectra import PACKED_FORMAT
from phdlspec.products import FORMAT as FIT_FORMAT
from phdlspec.products import read_hdf5
from phdlspec.provenance import versions
from phdlspec.tables import read_any_table

_PART = re.compile(r"[A-Za-z]\w*\.(?:npz|safetensors)")
_LONGEST = 300  # characters of a value
_CALIBRATION = "phdlspec-calibration"
# Tables of results by columns that no other has; the first that fits counts.
_TABLES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"AGE", "AGE_FLAG"}), "ages of {} stars, of phdlspec ages"),
    (frozenset({"DATUM", "FITTED", "HELD_OUT"}), "evidence of a calibration: {} comparisons, which its report draws"),
    (frozenset({"PHYSICS", "DATA", "PULL"}), "second opinion on a calibration: {} labels of physics and of data"),
    (frozenset({"EMBEDDING", "DISTANCE"}), "embedding of {} stars, of phdlspec desa embed"),
    (frozenset({"LATENTS", "ANOMALY_PCT"}), "how strange {} spectra are, of phdlspec vae apply"),
    (frozenset({"LATENTS", "FLAG"}), "labels of {} spectra, of phdlspec lux apply"),
)
_HDF5 = {  # by the attribute `format`
    "phdlspec-light-curves": "light curves of {} stars, of phdlspec desa --save-light-curves",
    "phdlspec-pulls": "diagnostics of fits, for phdlspec calibrate report --diagnostics",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="anything that phdlspec writes, or a spectrum")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    say(installation() if args.file is None else describe(Path(args.file)))
    return 0


def installation() -> str:
    """Versions, devices and the shipped emulator."""
    lines = [f"{name:12s}{version}" for name, version in versions().items()]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    lines += [f"{'GPU':12s}{gpu}", f"{'threads':12s}{torch.get_num_threads()}"]
    try:
        emulator = load_emulator(device="cpu")
        lines.append(_emulator(emulator.metadata, emulator.checkpoint_hash))
    except UserError as error:
        lines.append(str(error))
    return "\n".join(lines)


@one_sentence
def describe(path: Path) -> str:
    """What a file is and what made it. Raises `UserError` where it is nothing that the package knows, or damaged."""
    if GridParts(path).exists():  # a grid in the making: its file is made last
        return _grid(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if path.is_dir():
        return _folder(path)
    name = path.name.lower()
    form = next((form for ending, form in _BY_ENDING.items() if name.endswith(ending)), None)
    if form is None:
        form = _hdf5 if h5py.is_hdf5(path) else _other
    return form(path)


# --- models ----------------------------------------------------------------------------------------------------


def _emulator(metadata: Mapping[str, Any], sha256: str) -> str:
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
            f"trusted     {_where_trusted(metadata)}",
        ]
    )


def _where_trusted(metadata: Mapping[str, Any]) -> str:
    reason = distrust(metadata["validation"])
    if reason:
        return f"nowhere: {reason}"
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in metadata["trusted"].items())


def _safetensors(path: Path) -> str:
    try:
        with safe_open(path, framework="pt") as file:
            headers = [json.loads(text) for text in (file.metadata() or {}).values() if text.startswith("{")]
            n_tensors = len(list(file.keys()))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({first_line(error)})") from error
    header = next((item for item in headers if isinstance(item, dict)), {})
    if header.get("format") == KIND.format:
        checkpoint = load_checkpoint(path)
        return _emulator(checkpoint.metadata, checkpoint.sha256)
    kind = str(header.get("format", "")).removeprefix("phdlspec-")
    if not kind:
        raise UserError(f"{path}: safetensors, but no model of phdlspec")
    return "\n".join([f"model of phdlspec {kind}, {n_tensors} arrays", *_values(_flat(header), skip=("format",))])


def _training(path: Path) -> str:
    return f"state of a training that was stopped: `phdlspec train GRID --out {path.with_suffix('').name}` goes on"


# --- HDF5 ------------------------------------------------------------------------------------------------------


def _hdf5(path: Path) -> str:
    check_hdf5(path, whole=False)
    try:
        with h5py.File(path) as file:
            attrs, names = dict(file.attrs), set(file)
            shape = file["flux"].shape if "flux" in file else (0, 0)
            rows = len(next((d for d in file.values() if isinstance(d, h5py.Dataset) and d.ndim), ()))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged, half-written or not HDF5 ({first_line(error)}); make it again") from error
    kind = attrs.get("format")
    if kind == FIT_FORMAT:
        return _fit(path)
    if kind == PACKED_FORMAT:
        text = f"{shape[0]} spectra of {shape[1]} pixels in one file, for phdlspec catalog and fit ('{path.name}[0]')"
        return "\n".join([text, *_values(attrs, skip=("format", "arms"))])
    if kind in _HDF5:
        return "\n".join([_HDF5[kind].format(rows), *_values(attrs, skip=("format",))])
    return _catalogue(path) if CATALOG_TABLE in names else _grid(path)


def _fit(path: Path) -> str:
    values, made = read_hdf5(path)
    return _of_fit(values["path"], values["mode"], values["flag"], values["reason"], made)


def _of_fit(file: str, mode: str, flag: int, reason: str, made: Mapping[str, Any]) -> str:
    told = [f"no result: {reason}"] if reason else [f"flag {flag}: {words}" for words in star_words(flag)]
    return "\n".join([f"fit of {file}, {mode}", *told, *_values(made)])


def _grid(path: Path) -> str:
    grid = Grid(path)
    lines = [f"grid of {grid.n_done} complete models of {len(grid)}"]
    return "\n".join([*lines, *(f"{key:24s}{value}" for key, value in grid.attrs.items())])


# --- tables ----------------------------------------------------------------------------------------------------


def _catalogue(path: Path) -> str:
    table = read_catalog(path)
    lines = [f"catalogue of {len(table)} stars"]
    if "FLAG" in table.colnames:
        flag = np.asarray(table["FLAG"])
        lines[0] += f", {int(usable(flag).sum())} that may be used, {int((flag == 0).sum())} without any flag"
    if "CALIBID" in table.meta:
        lines.append("calibrated: values before stand in the columns _RAW")
    keys = ("EMUHASH", "SOLSCALE", "SEED", "CALIBID")
    lines += [f"{key:12s}{table.meta[key]}" for key in keys if key in table.meta]
    return "\n".join([*lines, *_history(map(str, np.atleast_1d(table.meta.get("HISTORY", []))))])


def _history(cards: Iterable[str]) -> list[str]:
    """What a header tells as KEY: text, each in one line; the cards of a header are cut at 72 characters."""
    told: list[str] = []
    for card in cards:
        if re.match(r"[A-Z]+: ", card) or not told:
            told.append(card)
        else:
            told[-1] += card
    return [text.replace("\\u0020", " ") for text in told]


def _fits(path: Path) -> str:
    try:
        with open_fits(path) as hdus:
            names = {unit.name.upper(): unit for unit in hdus}
            columns = {name for unit in hdus if isinstance(unit, fits.BinTableHDU) for name in unit.columns.names}
            header = {**hdus[0].header, **(hdus[1].header if len(hdus) > 1 else {})}
            rows = hdus[1].header.get("NAXIS2", 0) if len(hdus) > 1 else 0
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or half-written ({first_line(error)}); make it again") from error
    if "CATALOG" in names:
        return _catalogue(path)
    keys = ("EMUHASH", "SOLSCALE", "RESPOWER", "MEDIUM", "LABELS", "ISOCHRON", "OBJECT")
    told = _values({key: header[key] for key in keys if key in header})
    if "SPECTRUM" in names or "SPECTRA" in names:
        return "\n".join([f"{rows if 'SPECTRA' in names else 1} model spectra of phdlspec emulate", *told])
    what = _known_table(columns)
    return "\n".join([what.format(rows), *told]) if what else _spectrum(path)


def _ecsv(path: Path) -> str:
    table = read_any_table(path)
    meta, columns = dict(table.meta), set(table.colnames)
    if {"label", "value", "crlb"} <= columns:
        made = {k: v for k, v in meta.items() if k in ("versions", "checkpoint", "configuration", "command", "date")}
        told = (str(meta.get("file")), str(meta.get("mode")), int(meta.get("flag", 0)), str(meta.get("reason") or ""))
        return _of_fit(*told, made)
    if "labels" in meta and "wave" in columns:
        return "\n".join(["model spectra of phdlspec emulate", *_values(meta, skip=("labels",))])
    what = _known_table(columns)
    if what:
        return "\n".join([what.format(len(table)), *_values(meta)])
    if {"TEFF", "FLAG", "CHI2"} <= columns or "CALIBID" in meta:
        return _of_table("catalogue", table)
    return _spectrum(path, table)


def _known_table(columns: set[str]) -> str:
    """What a table with these columns is, with {} for the number of its rows; "" for one that none of ours has."""
    return next((text for names, text in _TABLES if names <= columns), "")


def _of_table(what: str, table: Table) -> str:
    return "\n".join([f"{what} of {len(table)} rows", *_values(table.meta)])


def _spectrum(path: Path, table: Table | None = None) -> str:
    try:
        with reading(str(path)):
            spectrum = read_spectrum(path)
    except UserError as error:
        if table is not None:
            return _of_table("table", table) + "\n" + f"columns     {' '.join(table.colnames)}"
        raise UserError(f"{path}: no product of phdlspec, and no spectrum either: {error}") from error
    kept = {key: value for key, value in spectrum.meta.items() if key not in ("WARNINGS", "SNR")}
    warnings = [f"  ! {text}" for text in spectrum.warnings]
    return "\n".join([repr(spectrum).strip("<>"), *warnings, *_values(kept)])


# --- the rest --------------------------------------------------------------------------------------------------


def _json(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict) or content.get("format") != _CALIBRATION:
        raise UserError(f"{path}: JSON, but no calibration of phdlspec (format {_CALIBRATION!r} expected)")
    labels, skipped = content.get("labels"), content.get("skipped")
    lines = [f"calibration of {len(labels or ())} labels: {' '.join(map(str, labels or ()))}"]
    lines += [f"not calibrated: {name}, {reason}" for name, reason in (skipped or {}).items()]
    lines += _values(content, skip=("format", "labels", "skipped", "basis", "references"))
    for item in content.get("references") or ():
        if isinstance(item, dict):
            told = ", ".join(f"{k} {v}" for k, v in item.items() if k != "name" and v)
            lines.append(f"{'reference':16s}{item.get('name')}: {told}")
    return "\n".join(lines)


def _html(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")[:200_000]
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    heads = [_plain(head) for head in re.findall(r"<h2[^>]*>(.*?)</h2>", text, re.DOTALL)]
    if title is None:
        raise UserError(f"{path}: HTML without a title, no page of phdlspec")
    return "\n".join([f"page: {html.unescape(title[1])}", *(f"  {head}" for head in heads), "open it in a browser"])


def _plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def _folder(path: Path) -> str:
    job = path / "job.json"
    if not job.is_file():
        raise UserError(f"{path}: is a folder, expected a file, or the .parts of what is being made")
    try:
        made_of = json.loads(job.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{job}: damaged ({first_line(error)})") from error
    parts = [name for name in sorted(item.name for item in path.iterdir()) if _PART.fullmatch(name)]
    chunks = [name for name in parts if name.startswith("chunk_")]
    if chunks or "--chunk" in made_of:
        what = f"catalogue in the making: {len(chunks)} chunks are done; the same command with --resume goes on"
    else:
        what = (
            f"{path.name.removesuffix('.parts')} in the making: {len(parts)} parts are kept; the same command goes on"
        )
    return "\n".join([what, *_values(made_of if isinstance(made_of, dict) else {})])


def _other(path: Path) -> str:
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError):
        return _spectrum(path)
    return _safetensors(path)


def _flat(header: Mapping[str, Any]) -> dict[str, Any]:
    """Of a nested description what is a number or a word, one level deep."""
    found: dict[str, Any] = {}
    for key, value in header.items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in found.items() if isinstance(value, (str, int, float, bool))}


def _values(values: Mapping[str, Any], skip: Iterable[str] = ()) -> list[str]:
    left_out = set(skip)
    return [f"{key!s:15s} {_short(value)}" for key, value in values.items() if key not in left_out]


def _short(value: Any) -> str:
    try:
        text = " ".join(str(value).split())
    except RecursionError:
        return "..."
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


_BY_ENDING: dict[str, Callable[[Path], str]] = {
    **dict.fromkeys((".fits", ".fits.gz", ".fit", ".fit.gz"), _fits),
    **dict.fromkeys((".hdf5", ENDINGS["hdf5"]), _hdf5),
    ENDINGS["parquet"]: _catalogue, ".ecsv": _ecsv, ".safetensors": _safetensors, ".json": _json, ".html": _html,
    ".training": _training,
}  # fmt: skip
