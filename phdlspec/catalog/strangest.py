"""The strangest spectra of a catalogue, for its quality page."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from phdlspec.pages import Block, Heading, PageTable, text

SHOWN = 10


def strangest_section(table: Table) -> list[Block]:
    """The ten spectra that are least like others, with the windows that deviate most; empty where none was judged."""
    score = np.asarray(table["ANOMALY"], dtype=float) if "ANOMALY" in table.colnames else np.empty(0)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:SHOWN]
    order = order[np.isfinite(score[order])]
    if not len(order):
        return []
    rows = [
        (table["FILE"][i], f"{table['SNR'][i]:.0f}", f"{score[i]:.2f}", f"{table['ANOMALY_PCT'][i]:.1f}",
         table["ANOMALY_IN"][i])
        for i in order
    ]  # fmt: skip
    return [
        Heading("The strangest spectra"),
        text("The score is -log10 of the probability of the strangest sign among ordinary stars; + is light that no "
             "star like this one has."),
        PageTable(("file", "S/N", "score", "stranger than, %", "sign: worst windows (sigma)"), rows),
    ]  # fmt: skip
