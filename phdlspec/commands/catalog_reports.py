"""The pages of single stars of a catalogue: fitted again, as they were, with all that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from phdlspec.catalog import CatalogJob
from phdlspec.catalog.inputs import read_reference
from phdlspec.default_emulator import load_emulator
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.flags import StarFlag
from phdlspec.provenance import provenance
from phdlspec.report import write_report
from phdlspec.spectrum import stem_of

NO_RESULT = int(StarFlag.FAILED | StarFlag.UNREADABLE)


def chosen_rows(table: Table, which: str) -> list[int]:
    """Rows of the stars that get a report: "all", "flagged" (those with results), or so many, spread over the table.

    Raises `UserError` for anything else.
    """
    flag = np.asarray(table["FLAG"])
    with_result = np.flatnonzero((flag & NO_RESULT) == 0)
    if which == "all":
        return [int(i) for i in with_result]
    if which == "flagged":
        return [int(i) for i in with_result if flag[i]]
    if not which.isdecimal() or int(which) == 0:
        raise UserError(f"--reports {which}: expected all, flagged or a number of stars")
    count = min(int(which), len(with_result))
    return [int(with_result[i]) for i in np.linspace(0, len(with_result) - 1, count).astype(int)] if count else []


def write_reports(job: CatalogJob, table: Table, rows: Sequence[int], arguments: Sequence[str]) -> dict[str, str]:
    """Write the reports into a folder beside the catalogue; the address of each, relative to the catalogue, by FILE.

    Random numbers are drawn with a star's own name, so that a star fitted again is the same.
    """
    out = Path(job.out)
    folder = out.with_suffix(".reports")
    emulator = load_emulator(job.emulator, job.device)
    made = provenance(emulator, job.settings, arguments)
    addresses: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row in tqdm(rows, unit="report"):
            reference = str(table["FILE"][row])
            spectrum = read_reference(reference, job.medium, job.resolving_power)
            result = fit_batch([spectrum], emulator, job.settings, keep=True)[0]
            name = f"{row:06d}_{stem_of(reference)}.html"
            write_report(result, folder / name, made)
            addresses[reference] = f"{folder.name}/{name}"
    except OSError as error:
        raise UserError(f"{folder}: reports cannot be written ({error.strerror}); the catalogue is complete") from error
    return addresses
